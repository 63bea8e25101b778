"""JSON messages: an object with the time and one or more metrics, or an array of such objects (a backlog).

Two ways lead to the same readings. The short one decodes straight into a struct made for the fleet and takes a message
only if everything about it is as it should be. Whatever it does not take goes the long way, which names what is wrong;
the long way alone decides what is refused.
"""

import json
from collections.abc import Callable
from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
from sensorpipeline_api.model import as_float
from sensorpipeline_api.records import DeadLetterReason, Reading
from sensorpipeline_api.spec import Metric, TimeUnit

from sensorpipeline_workers.bridge.arrivals import Arrive
from sensorpipeline_workers.bridge.decode import Decode, Decoded, Refusal, carried_metrics
from sensorpipeline_workers.bridge.topics import Origin
from sensorpipeline_workers.ingest.validation import RefusedError, check_time, check_value

_plain = msgspec.json.Decoder()
_MISSING = object()
_WHOLE: tuple[Refusal, ...] = ()


def compile_json(origin: Origin, arrive: Arrive) -> Decode:
    """Returns the decoder for JSON messages of a topic. Raises RefusedError (UnknownMetric)."""
    long = LongWay(origin, carried_metrics(origin), arrive)
    short = compile_short(origin, long.metrics)
    if short is None:
        return long.decode
    take, take_many = short

    def decode(payload: bytes, now: int) -> Decoded:
        try:
            return take(payload, now), _WHOLE
        except _NOT_AS_IT_SHOULD_BE:
            if payload[:1] != b"[":
                return long.decode(payload, now)
        try:
            return take_many(payload, now), _WHOLE
        except _NOT_AS_IT_SHOULD_BE:
            return long.decode(payload, now)

    return decode


_NOT_AS_IT_SHOULD_BE = (
    msgspec.MsgspecError, ValueError, AttributeError, TypeError, RecursionError, OverflowError,
)  # fmt: skip


class LongWay:
    """Reads field by field, and says what is wrong."""

    def __init__(self, origin: Origin, metrics: list[Metric], arrive: Arrive) -> None:
        self.metrics = metrics
        self._device = origin.device
        self._fleet = origin.fleet
        self._arrive = arrive

    def decode(self, payload: bytes, now: int) -> Decoded:
        body = parse(payload)
        if not isinstance(body, list):
            return self._item(body, now), _WHOLE
        if not body:
            raise RefusedError(DeadLetterReason.MISSING_FIELD, "message must hold at least one reading, got []")
        readings: list[Reading] = []
        refused: list[Refusal] = []
        for number, item in enumerate(body):
            try:
                readings += self._item(item, now)
            except RefusedError as error:
                refused.append(Refusal(error.reason, f"item {number}: {error}", json.dumps(item).encode()))
        return readings, refused

    def _item(self, body: Any, now: int) -> list[Reading]:
        if not isinstance(body, dict):
            message = f"message must be a JSON object, got {type(body).__name__}"
            raise RefusedError(DeadLetterReason.INVALID_JSON, message)
        payload = self._fleet.payload
        raw: Any = None
        if payload.time_unit is not TimeUnit.RECEIVE_TIME:
            raw = field(body, payload.time_field)
            if raw is _MISSING:
                raise RefusedError(
                    DeadLetterReason.MISSING_FIELD, f"field {payload.time_field} (event time) is missing"
                )
        time = check_time(self._fleet, payload.time_field, raw, unit=payload.time_unit, now=now)
        found = [(m, value) for m in self.metrics if (value := field(body, m.field)) is not _MISSING]
        if not found:
            fields = ", ".join(metric.field for metric in self.metrics)
            raise RefusedError(DeadLetterReason.MISSING_FIELD, f"field {fields} (value) is missing")
        values = [(metric.name, check_value(metric, metric.field, value)) for metric, value in found]
        if payload.time_unit is TimeUnit.RECEIVE_TIME:
            time = self._arrive()
        return [Reading(self._device, name, time, value) for name, value in values]


def parse(payload: bytes) -> Any:
    """Parses JSON. NaN and Infinity, which JSON has not, are let through to be named for what they are."""
    try:
        return _plain.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        try:
            return json.loads(payload)
        except (ValueError, RecursionError):
            raise RefusedError(DeadLetterReason.INVALID_JSON, f"message must be JSON: {error}") from None


def field(body: dict[str, Any], path: str) -> Any:
    """Returns the value at a dotted path, or `_MISSING`."""
    node: Any = body
    for name in path.split("."):
        if not isinstance(node, dict) or name not in node:
            return _MISSING
        node = node[name]
    return node


class _Target(NamedTuple):
    """A metric for the short way: how to get its value, and between what limits it must be."""

    name: str
    get: Callable[[Any], Any]
    low: float
    high: float


_Take = Callable[[bytes, int], list[Reading]]
_TIMES: dict[TimeUnit, type] = {TimeUnit.SECONDS: float, TimeUnit.MILLISECONDS: int, TimeUnit.RFC3339: str}


def compile_short(origin: Origin, metrics: list[Metric]) -> tuple[_Take, _Take] | None:
    """Returns the short ways for one object and for an array. They raise one of several errors when a message is not
    as it should be. None when the fields are such that no struct can hold them: one lies within another."""
    fleet, device = origin.fleet, origin.device
    unit = fleet.payload.time_unit
    if unit is TimeUnit.RECEIVE_TIME:
        return None
    fields: dict[str, Any] = {metric.field: float for metric in metrics}
    if fleet.payload.time_field in fields:
        return None
    fields[fleet.payload.time_field] = _TIMES[unit]
    made = _struct(fields)
    if made is None:
        return None
    struct, getters = made
    get_time = getters[fleet.payload.time_field]
    milliseconds = _milliseconds(unit)
    ahead = fleet.maximum_future_seconds * 1000
    targets = [_Target(m.name, getters[m.field], *_limits(m)) for m in metrics]

    def readings(body: Any, now: int) -> list[Reading]:
        exact = milliseconds(get_time(body))
        if not 0 <= exact <= now + ahead:
            raise ValueError
        time = round(exact)
        out = []
        for name, get, low, high in targets:
            value = get(body)
            if value is msgspec.UNSET:
                continue
            if not low <= value <= high:
                raise ValueError
            out.append(Reading(device, name, time, value))
        if not out:
            raise ValueError
        return out

    one = msgspec.json.Decoder(struct).decode
    many = msgspec.json.Decoder(list[struct]).decode  # type: ignore[valid-type]

    def take_many(payload: bytes, now: int) -> list[Reading]:
        out = [reading for body in many(payload) for reading in readings(body, now)]
        if not out:
            raise ValueError
        return out

    if len(targets) > 1 or unit is not TimeUnit.MILLISECONDS or "." in "".join(fields):
        return (lambda payload, now: readings(one(payload), now)), take_many
    [(metric, _, low, high)] = targets

    def take_one(payload: bytes, now: int) -> list[Reading]:
        body: Any = one(payload)  # its members in the order of `fields`: the value and the time
        time, value = body.f1, body.f0
        if low <= value <= high and 0 <= time <= now + ahead:
            return [Reading(device, metric, time, value)]
        raise ValueError

    return take_one, take_many


def _limits(metric: Metric) -> tuple[float, float]:
    """Returns the smallest and the largest value of a metric; without bounds, of all finite numbers."""
    largest = 1.7976931348623157e308
    low = -largest if metric.minimum is None else as_float(metric.minimum)
    high = largest if metric.maximum is None else as_float(metric.maximum)
    return low, high


def _milliseconds(unit: TimeUnit) -> Callable[[Any], float]:
    """Returns what turns a decoded time into ms. It raises ValueError for what is no time."""
    if unit is TimeUnit.MILLISECONDS:
        return _same
    if unit is TimeUnit.SECONDS:
        return lambda seconds: seconds * 1000
    return _from_text


def _same(time: int) -> int:
    return time


def _from_text(text: str) -> float:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError
    return moment.timestamp() * 1000


def _struct(fields: dict[str, Any]) -> tuple[type[msgspec.Struct], dict[str, Callable[[Any], Any]]] | None:
    """Returns a struct that decodes the fields at dotted paths, and how to get each from it; a getter gives UNSET, or
    raises AttributeError, for a field that was not there. None when one field lies within another."""
    tree: dict[str, Any] = {}
    for path, kind in fields.items():
        *parents, last = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                return None
        if last in node:
            return None
        node[last] = kind
    getters: dict[str, Callable[[Any], Any]] = {}
    struct = _define(tree, "", "", getters)
    return struct, getters


def _define(tree: dict[str, Any], path: str, attributes: str, getters: dict[str, Any]) -> type[msgspec.Struct]:
    members: list[tuple[str, Any, Any]] = []
    rename: dict[str, str] = {}
    for number, (name, kind) in enumerate(tree.items()):
        attribute = f"f{number}"
        rename[attribute] = name
        at = f"{attributes}.{attribute}" if attributes else attribute
        full = f"{path}.{name}" if path else name
        if isinstance(kind, dict):
            kind = _define(kind, full, at, getters)
        else:
            getters[full] = attrgetter(at)
        members.append((attribute, kind | msgspec.UnsetType, msgspec.UNSET))
    return msgspec.defstruct("Body", members, rename=rename, gc=False)
