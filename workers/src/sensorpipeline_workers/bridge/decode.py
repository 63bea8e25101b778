"""A message's bytes to readings, or to the reason why it cannot be read. A message is read whole or not at all."""

import json
from typing import Any

import msgspec
from sensorpipeline_api.records import DeadLetterReason, Reading
from sensorpipeline_api.spec import Fleet, Metric

from sensorpipeline_workers.bridge.topics import Origin
from sensorpipeline_workers.ingest.validation import (
    RefusedError,
    check_device,
    check_size,
    check_time,
    check_value,
)

_decoder = msgspec.json.Decoder()


def decode(origin: Origin, payload: bytes, *, now: int) -> list[Reading]:
    """Returns the readings of a message, at least one. `now` is the clock in ms. Raises RefusedError."""
    fleet = origin.fleet
    check_size(fleet, len(payload))
    check_device(fleet, origin.device)
    body = _parse(payload)
    time = _time(fleet, body, now=now)
    return [
        Reading(origin.device, metric.name, time, check_value(metric, metric.field, raw))
        for metric, raw in _metrics(origin, body)
    ]


def _parse(payload: bytes) -> dict[str, Any]:
    """Parses a JSON object. NaN and Infinity, which JSON has not, are let through to be named for what they are."""
    try:
        body = _decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        try:
            body = json.loads(payload)
        except (ValueError, RecursionError):
            raise RefusedError(DeadLetterReason.INVALID_JSON, f"message must be JSON: {error}") from None
    if not isinstance(body, dict):
        raise RefusedError(DeadLetterReason.INVALID_JSON, f"message must be a JSON object, got {type(body).__name__}")
    return body


_MISSING = object()


def _field(body: dict[str, Any], path: str) -> Any:
    """Returns the value at a dotted path, or `_MISSING`."""
    node: Any = body
    for name in path.split("."):
        if not isinstance(node, dict) or name not in node:
            return _MISSING
        node = node[name]
    return node


def _time(fleet: Fleet, body: dict[str, Any], *, now: int) -> int:
    """Returns the event time in ms."""
    name = fleet.payload.time_field
    raw = _field(body, name)
    if raw is _MISSING:
        raise RefusedError(DeadLetterReason.MISSING_FIELD, f"field {name} (event time) is missing")
    return check_time(fleet, name, raw, unit=fleet.payload.time_unit, now=now)


def _metrics(origin: Origin, body: dict[str, Any]) -> list[tuple[Metric, Any]]:
    """Returns the metrics that a message must or does carry, with their raw values."""
    metrics = origin.fleet.metrics
    if origin.metric is not None:
        metrics = [metric for metric in metrics if metric.name == origin.metric]
        if not metrics:
            message = f"metric {origin.metric!r} of the topic must be one of the metrics of fleet {origin.fleet.name}"
            raise RefusedError(DeadLetterReason.MISSING_FIELD, message)
    found = [(metric, raw) for metric in metrics if (raw := _field(body, metric.field)) is not _MISSING]
    if not found:
        fields = ", ".join(metric.field for metric in metrics)
        raise RefusedError(DeadLetterReason.MISSING_FIELD, f"field {fields} (value) is missing")
    return found
