"""A message's bytes to readings, or to the reasons why not.

A message is read whole or refused whole; of one that holds many items (a JSON array, CSV lines) each item is. A decoder
is compiled once per topic, since what a fleet says about its payloads does not change while the bridge runs.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sensorpipeline_api.records import DeadLetterReason, Reading
from sensorpipeline_api.spec import Fleet, Metric

from sensorpipeline_workers.bridge.topics import Origin
from sensorpipeline_workers.ingest.validation import RefusedError


class Refusal(NamedTuple):
    """An item of a message that cannot be read: why, and the item alone."""

    reason: DeadLetterReason
    message: str
    item: bytes


Decoded = tuple[list[Reading], Sequence[Refusal]]
"""The readings of a message and its refused items, together at least one."""

Decode = Callable[[bytes, int], Decoded]
"""Reads a message that came in at a time (ms by the clock). Raises RefusedError and nothing else."""


def carried_metrics(origin: Origin) -> list[Metric]:
    """Returns the metrics that messages of a topic may carry: the one that the topic names, or all of the fleet.
    Raises RefusedError (UnknownMetric)."""
    fleet: Fleet = origin.fleet
    if origin.metric is None:
        return list(fleet.metrics)
    found = [metric for metric in fleet.metrics if metric.name == origin.metric]
    if not found:
        message = f"metric {origin.metric!r} of the topic must be one of the metrics of fleet {fleet.name}"
        raise RefusedError(DeadLetterReason.UNKNOWN_METRIC, message)
    return found
