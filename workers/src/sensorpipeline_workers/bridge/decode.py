"""A message's bytes to readings, or to the reason why it cannot be read. A message is read whole or not at all."""

import json
import math
from datetime import datetime
from typing import Any

import msgspec
from pydantic import TypeAdapter, ValidationError
from sensorpipeline_api.model import DeviceName, as_float
from sensorpipeline_api.records import DeadLetterReason, Reading
from sensorpipeline_api.spec import Fleet, Metric, TimeUnit

from sensorpipeline_workers.bridge.topics import Origin

_device: TypeAdapter[str] = TypeAdapter(DeviceName)
_decoder = msgspec.json.Decoder()


class RefusedError(Exception):
    """A message cannot be read; the text names the field and the limit."""

    def __init__(self, reason: DeadLetterReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def decode(origin: Origin, payload: bytes, *, now: int) -> list[Reading]:
    """Returns the readings of a message, at least one. `now` is the clock in ms. Raises RefusedError."""
    fleet = origin.fleet
    if len(payload) > fleet.payload.maximum_bytes:
        limit = fleet.payload.maximum_bytes
        raise RefusedError(DeadLetterReason.TOO_LARGE, f"message has {len(payload)} bytes, must be at most {limit}")
    _check_device(origin)
    body = _parse(payload)
    time = _time(fleet, body, now=now)
    return [Reading(origin.device, metric.name, time, _value(metric, raw)) for metric, raw in _metrics(origin, body)]


def _check_device(origin: Origin) -> None:
    if origin.fleet.devices and origin.device not in origin.fleet.devices:
        message = f"device {origin.device!r} must be one of the devices of fleet {origin.fleet.name}"
        raise RefusedError(DeadLetterReason.UNKNOWN_DEVICE, message)
    try:
        _device.validate_python(origin.device)
    except ValidationError:
        message = f"device {origin.device!r} must be 1 to 128 letters, digits, '.', '_' or '-'"
        raise RefusedError(DeadLetterReason.UNKNOWN_DEVICE, message) from None


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


def _number(name: str, raw: Any) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise RefusedError(DeadLetterReason.NOT_A_NUMBER, f"{name} must be a number, got {_short(raw)}")
    try:
        value = float(raw)
    except OverflowError:
        raise RefusedError(DeadLetterReason.OUT_OF_RANGE, f"{name} is too large for a 64-bit float") from None
    if not math.isfinite(value):
        raise RefusedError(DeadLetterReason.NOT_A_NUMBER, f"{name} must be a finite number, got {value}")
    return value


def _time(fleet: Fleet, body: dict[str, Any], *, now: int) -> int:
    """Returns the event time in ms."""
    name = fleet.payload.time_field
    raw = _field(body, name)
    if raw is _MISSING:
        raise RefusedError(DeadLetterReason.MISSING_FIELD, f"field {name} (event time) is missing")
    match fleet.payload.time_unit:
        case TimeUnit.RFC3339:
            time = _rfc3339(name, raw)
        case TimeUnit.SECONDS:
            time = _number(name, raw) * 1000
        case TimeUnit.MILLISECONDS:
            time = _number(name, raw)
    limit = now + fleet.maximum_future_seconds * 1000
    if time > limit:
        ahead = (time - now) / 1000
        message = f"{name} is {ahead:.0f} s ahead of the clock, must be at most {fleet.maximum_future_seconds} s"
        raise RefusedError(DeadLetterReason.FUTURE_TIMESTAMP, message)
    if time < 0:
        raise RefusedError(DeadLetterReason.OUT_OF_RANGE, f"{name} must not be before 1970-01-01T00:00:00Z")
    return round(time)


def _rfc3339(name: str, raw: Any) -> float:
    try:
        moment = datetime.fromisoformat(raw)
    except (TypeError, ValueError):
        moment = None
    if moment is None or moment.tzinfo is None:
        message = f"{name} must be an RFC 3339 time with a zone, got {_short(raw)}"
        raise RefusedError(DeadLetterReason.NOT_A_NUMBER, message)
    return moment.timestamp() * 1000


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


def _value(metric: Metric, raw: Any) -> float:
    value = _number(metric.field, raw)
    if metric.minimum is not None and value < as_float(metric.minimum):
        message = f"{metric.field} is {value:g}, must be greater than or equal to {metric.minimum}"
        raise RefusedError(DeadLetterReason.OUT_OF_RANGE, message)
    if metric.maximum is not None and value > as_float(metric.maximum):
        message = f"{metric.field} is {value:g}, must be less than or equal to {metric.maximum}"
        raise RefusedError(DeadLetterReason.OUT_OF_RANGE, message)
    return value


def _short(raw: Any) -> str:
    text = repr(raw)
    return text if len(text) <= 60 else text[:57] + "..."
