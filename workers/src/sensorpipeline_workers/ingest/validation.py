"""What a reading must fulfil, whatever way it came in. Each check names the field and the limit."""

import math
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError
from sensorpipeline_api.model import DeviceName, as_float
from sensorpipeline_api.records import DeadLetterReason
from sensorpipeline_api.spec import Fleet, Metric, TimeUnit

_device: TypeAdapter[str] = TypeAdapter(DeviceName)


class RefusedError(Exception):
    """A message cannot be read; the text names the field and the limit."""

    def __init__(self, reason: DeadLetterReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def check_size(fleet: Fleet, size: int) -> None:
    """Raises RefusedError (TooLarge) when a message of `size` bytes is larger than the fleet allows."""
    limit = fleet.payload.maximum_bytes
    if size > limit:
        raise RefusedError(DeadLetterReason.TOO_LARGE, f"message has {size} bytes, must be at most {limit}")


def check_device(fleet: Fleet, device: str) -> None:
    """Raises RefusedError (UnknownDevice) when the fleet lists its devices and this is none of them, or its name is
    no name of a device."""
    if fleet.devices and device not in fleet.devices:
        message = f"device {device!r} must be one of the devices of fleet {fleet.name}"
        raise RefusedError(DeadLetterReason.UNKNOWN_DEVICE, message)
    try:
        _device.validate_python(device)
    except ValidationError:
        message = f"device {device!r} must be 1 to 128 letters, digits, '.', '_' or '-'"
        raise RefusedError(DeadLetterReason.UNKNOWN_DEVICE, message) from None


def check_number(name: str, raw: Any) -> float:
    """Returns the finite number in a field. Raises RefusedError (NotANumber, OutOfRange)."""
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise RefusedError(DeadLetterReason.NOT_A_NUMBER, f"{name} must be a number, got {short(raw)}")
    try:
        value = float(raw)
    except OverflowError:
        raise RefusedError(DeadLetterReason.OUT_OF_RANGE, f"{name} is too large for a 64-bit float") from None
    if not math.isfinite(value):
        raise RefusedError(DeadLetterReason.NOT_A_NUMBER, f"{name} must be a finite number, got {value}")
    return value


def check_value(metric: Metric, name: str, raw: Any) -> float:
    """Returns the value of a metric found in the field `name`. Raises RefusedError (NotANumber, OutOfRange)."""
    value = check_number(name, raw)
    if metric.minimum is not None and value < as_float(metric.minimum):
        message = f"{name} is {value:g}, must be greater than or equal to {metric.minimum}"
        raise RefusedError(DeadLetterReason.OUT_OF_RANGE, message)
    if metric.maximum is not None and value > as_float(metric.maximum):
        message = f"{name} is {value:g}, must be less than or equal to {metric.maximum}"
        raise RefusedError(DeadLetterReason.OUT_OF_RANGE, message)
    return value


def check_time(fleet: Fleet, name: str, raw: Any, *, unit: TimeUnit, now: int) -> int:
    """Returns the event time in ms of a field in the given unit; ReceiveTime is `now`, whatever the field. `now` is the
    clock in ms. Raises RefusedError (NotANumber, FutureTimestamp, OutOfRange)."""
    match unit:
        case TimeUnit.RFC3339:
            time = _rfc3339(name, raw)
        case TimeUnit.SECONDS:
            time = check_number(name, raw) * 1000
        case TimeUnit.MILLISECONDS:
            time = check_number(name, raw)
        case TimeUnit.RECEIVE_TIME:
            return now
    limit = now + fleet.maximum_future_seconds * 1000
    if time > limit:
        ahead = (time - now) / 1000
        message = f"{name} is {ahead:.0f} s ahead of the clock, must be at most {fleet.maximum_future_seconds} s"
        raise RefusedError(DeadLetterReason.FUTURE_TIMESTAMP, message)
    if time < 0:
        raise RefusedError(DeadLetterReason.OUT_OF_RANGE, f"{name} must not be before 1970-01-01T00:00:00Z")
    return round(time)


def short(raw: Any) -> str:
    """Returns a value as text that is short enough for an error message."""
    text = repr(raw)
    return text if len(text) <= 60 else text[:57] + "..."


def _rfc3339(name: str, raw: Any) -> float:
    try:
        moment = datetime.fromisoformat(raw)
    except (TypeError, ValueError):
        moment = None
    if moment is None or moment.tzinfo is None:
        message = f"{name} must be an RFC 3339 time with a zone, got {short(raw)}"
        raise RefusedError(DeadLetterReason.NOT_A_NUMBER, message)
    return moment.timestamp() * 1000
