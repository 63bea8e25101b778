"""What a builder may know: the resource, the images, the Secrets that exist, and a source of new passwords.

Builders are pure: whatever they need of the world is here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sensorpipeline_api.configuration import DerivedPlan
from sensorpipeline_api.spec import SensorPipelineSpec

Manifest = dict[str, Any]
"""A Kubernetes object as plain data."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """Image references of the components, from the operator's settings."""

    workers: str
    simulators: str
    mosquitto: str
    kafka: str
    mongodb: str
    prometheus: str
    alertmanager: str
    grafana: str


@dataclass(frozen=True, kw_only=True)
class Context:
    """Everything a builder may look at.

    `secrets` maps the name of each existing Secret of the namespace that is ours, or that the spec refers to, to its
    decoded data. `entropy` returns a fresh random password, hexadecimal so that it fits everywhere; it is asked
    only for what `secrets` does not hold yet. `derived` holds the parsed derived metrics. `ingest_suspended` says that
    Kafka has no room for more readings.
    """

    name: str
    namespace: str
    uid: str
    spec: SensorPipelineSpec
    derived: tuple[DerivedPlan, ...]
    images: Images
    secrets: Mapping[str, Mapping[str, str]]
    entropy: Callable[[], str]
    ingest_suspended: bool = False
