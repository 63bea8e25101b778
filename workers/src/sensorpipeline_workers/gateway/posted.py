"""The body of a POST to readings, and to what is refused of them and why. Pure.

A reading is `{"device", "metric", "time", "value"}` and, where it cannot be told otherwise, `"fleet"`; a body is one of
them or an array. Each reading is judged alone. What is right is read in one go; a body in which something is
wrong is read again, piece by piece, to say what.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
from sensorpipeline_api.model import as_float
from sensorpipeline_api.records import DeadLetterReason, Reading
from sensorpipeline_api.spec import Fleet, TimeUnit

from sensorpipeline_workers.gateway.devices import Grant
from sensorpipeline_workers.ingest.validation import RefusedError, check_device, check_time, check_value, short

UNKNOWN_FLEET = "unknown"


class ForbiddenError(Exception):
    """A reading is of a device or fleet that the client's token does not permit."""

    def __init__(self, index: int, field: str, message: str) -> None:
        super().__init__(message)
        self.index = index
        self.field = field


class RefusedBodyError(Exception):
    """A body holds no reading that could be judged alone."""

    def __init__(self, reason: DeadLetterReason, message: str, *, parses: bool) -> None:
        super().__init__(message)
        self.reason = reason
        self.parses = parses


@dataclass(frozen=True, slots=True)
class Rejection:
    """A reading that cannot be read: its place in the body, the field at fault, why, and its bytes."""

    index: int
    field: str
    reason: DeadLetterReason
    detail: str
    fleet: str
    payload: bytes


@dataclass(slots=True)
class Verdict:
    """What a body holds: readings by fleet, and what is refused."""

    accepted: dict[str, list[Reading]] = field(default_factory=dict)
    rejected: list[Rejection] = field(default_factory=list)


class _Posted(msgspec.Struct, gc=False):
    device: str
    metric: str
    time: int | float | str
    value: float
    fleet: str | None = None


_ONE = msgspec.json.Decoder(_Posted)
_MANY = msgspec.json.Decoder(list[_Posted])
_RAW = msgspec.json.Decoder(list[msgspec.Raw])
_ANY = msgspec.json.Decoder()
REQUIRED = ("device", "metric", "time", "value")


class _FaultError(Exception):
    """A field of a reading is at fault. `fleet` is the reading's, as far as it is known."""

    def __init__(self, field: str, reason: DeadLetterReason, message: str, fleet: str) -> None:
        super().__init__(message)
        self.field = field
        self.reason = reason
        self.fleet = fleet


class Judge:
    """Reads bodies for a pipeline's fleets. A request may hold `maximum_readings` at most."""

    def __init__(self, fleets: list[Fleet], *, maximum_readings: int) -> None:
        self._fleets = {fleet.name: fleet for fleet in fleets}
        self._metrics = {fleet.name: {metric.name: metric for metric in fleet.metrics} for fleet in fleets}
        self._bounds = {
            (fleet.name, metric.name): (
                as_float(metric.minimum) if metric.minimum is not None else -math.inf,
                as_float(metric.maximum) if metric.maximum is not None else math.inf,
            )
            for fleet in fleets
            for metric in fleet.metrics
        }
        self._homes = {device: fleet.name for fleet in fleets for device in fleet.devices}
        self._maximum_readings = maximum_readings

    def judge(self, body: bytes, grant: Grant, *, now: int) -> Verdict:
        """Returns what a body holds. `now` is the clock in ms. Raises RefusedBodyError and ForbiddenError."""
        pieces: list[tuple[Any, bytes]] | None = None
        try:
            items: list[Any] = _MANY.decode(body) if _is_array(body) else [_ONE.decode(body)]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pieces = _pieces(body)
            items = [item for item, _ in pieces]
        if not items:
            raise RefusedBodyError(DeadLetterReason.MISSING_FIELD, "body must hold at least one reading", parses=True)
        if len(items) > self._maximum_readings:
            message = f"body holds {len(items)} readings, must be at most {self._maximum_readings}"
            raise RefusedBodyError(DeadLetterReason.TOO_LARGE, message, parses=True)
        verdict, known = Verdict(), set[tuple[str, str]]()
        quick = self._quick_reader(grant, known, now)
        for index, item in enumerate(items):
            if quick is not None and isinstance(item, _Posted) and (plain := quick(item)) is not None:
                verdict.accepted.setdefault(cast(str, grant.fleet), []).append(plain)
                continue
            try:
                posted = item if isinstance(item, _Posted) else _posted(item, grant.fleet)
                fleet, reading = self._reading(posted, grant, index, known, now)
            except _FaultError as fault:
                pieces = pieces or _pieces(body)
                verdict.rejected.append(
                    Rejection(index, fault.field, fault.reason, str(fault), fault.fleet, pieces[index][1])
                )
            else:
                verdict.accepted.setdefault(fleet, []).append(reading)
        return verdict

    def _quick_reader(
        self, grant: Grant, known: set[tuple[str, str]], now: int
    ) -> "Callable[[_Posted], Reading | None] | None":
        """Returns what reads most of what is right at little cost: readings of a device that was seen to be right
        before in this request, with the time in ms. None means that the reading is to be read with care."""
        fleet = grant.fleet
        if fleet is None:
            return None
        latest = now + self._fleets[fleet].maximum_future_seconds * 1000
        bounds = self._bounds

        def read(posted: _Posted) -> Reading | None:
            device, time = posted.device, posted.time
            if posted.fleet is not None or (fleet, device) not in known or type(time) is not int:
                return None
            low, high = bounds.get((fleet, posted.metric), (math.inf, -math.inf))
            if not (0 <= time <= latest and low <= posted.value <= high):
                return None
            return Reading(device, posted.metric, time, posted.value)

        return read

    def _reading(
        self, posted: "_Posted", grant: Grant, index: int, known: set[tuple[str, str]], now: int
    ) -> tuple[str, Reading]:
        # What was read piece by piece has values of any type.
        device, metric, time = cast(Any, posted.device), cast(Any, posted.metric), posted.time
        name, at = grant.fleet or UNKNOWN_FLEET, "device"
        try:
            if not isinstance(device, str):
                raise RefusedError(DeadLetterReason.UNKNOWN_DEVICE, f"device must be a text, got {short(device)}")
            at = "fleet"
            fleet = self._fleet(device, posted.fleet, grant, index)
            name, at = fleet.name, "device"
            if grant.device is not None and device != grant.device:
                message = f"device {short(device)} must be {grant.device!r}, whose token was given"
                raise ForbiddenError(index, "device", message)
            if (name, device) not in known:
                check_device(fleet, device)
                known.add((name, device))
            at = "metric"
            found = self._metrics[name].get(metric) if isinstance(metric, str) else None
            if found is None:
                message = f"metric {short(metric)} must be one of {', '.join(self._metrics[name])}"
                raise RefusedError(DeadLetterReason.UNKNOWN_METRIC, message)
            at = "time"
            unit = TimeUnit.RFC3339 if isinstance(time, str) else TimeUnit.MILLISECONDS
            moment = check_time(fleet, "time", time, unit=unit, now=now)
            at = "value"
            return name, Reading(device, found.name, moment, check_value(found, "value", posted.value))
        except RefusedError as error:
            raise _FaultError(at, error.reason, str(error), name) from None

    def _fleet(self, device: str, given: Any, grant: Grant, index: int) -> Fleet:
        """Returns the fleet of a reading: the token's, else the one named, else the one that lists the device."""
        if grant.fleet is not None:
            if given is not None and given != grant.fleet:
                message = f"fleet {short(given)} must be {grant.fleet!r}, whose token was given"
                raise ForbiddenError(index, "fleet", message)
            return self._fleets[grant.fleet]
        name = given if given is not None else self._homes.get(device)
        if name is None and len(self._fleets) == 1:
            (name,) = self._fleets
        if name is None:
            message = f"fleet must be given: no fleet lists the device {short(device)}"
            raise RefusedError(DeadLetterReason.MISSING_FIELD, message)
        if not isinstance(name, str) or name not in self._fleets:
            message = f"fleet {short(name)} must be one of {', '.join(self._fleets)}"
            raise RefusedError(DeadLetterReason.UNKNOWN_DEVICE, message)
        return self._fleets[name]


def _posted(item: Any, fleet: str | None) -> _Posted:
    """Returns a reading of a piece, whatever the types of its values are. Raises _FaultError."""
    name = fleet or UNKNOWN_FLEET
    if not isinstance(item, dict):
        message = f"a reading must be a JSON object, got {short(item)}"
        raise _FaultError("", DeadLetterReason.INVALID_JSON, message, name)
    for key in REQUIRED:
        if key not in item:
            raise _FaultError(key, DeadLetterReason.MISSING_FIELD, f"field {key} is missing", name)
    return _Posted(item["device"], item["metric"], item["time"], item["value"], item.get("fleet"))


def _is_array(body: bytes) -> bool:
    return body.lstrip()[:1] == b"["


def _pieces(body: bytes) -> list[tuple[Any, bytes]]:
    """Returns the parts of a body with the bytes of each. NaN and Infinity, which JSON has not, are let through to be
    named for what they are."""
    try:
        if not _is_array(body):
            return [(_object(_ANY.decode(body)), body)]
        return [(_ANY.decode(raw), bytes(raw)) for raw in _RAW.decode(body)]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        try:
            whole = json.loads(body.decode())
        except (ValueError, RecursionError):
            raise RefusedBodyError(DeadLetterReason.INVALID_JSON, f"body must be JSON: {error}", parses=False) from None
    if isinstance(whole, list):
        return [(item, json.dumps(item).encode()) for item in whole]
    return [(_object(whole), body)]


def _object(whole: Any) -> dict[str, Any]:
    if not isinstance(whole, dict):
        message = f"body must be a reading or an array of readings, got {short(whole)}"
        raise RefusedBodyError(DeadLetterReason.INVALID_JSON, message, parses=True)
    return whole
