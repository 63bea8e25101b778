"""What tests of the workers share."""

from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY
from sensorpipeline_workers.bridge.sending import Counters


@pytest.fixture(autouse=True)
def no_metric_stays() -> Iterator[None]:
    """Takes back the metrics that a test's part declares: a process has those of one part, and each once."""
    before = set(REGISTRY._collector_to_names)
    yield
    for collector in set(REGISTRY._collector_to_names) - before:
        REGISTRY.unregister(collector)


@pytest.fixture
def counters(no_metric_stays: None) -> Counters:
    """The bridge's metrics."""
    return Counters()
