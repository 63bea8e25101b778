"""Sparkplug B: births and data of devices, or of edge nodes that are devices themselves.

The messages are those of the Sparkplug specification 3.0 (6.4, Payload Component Definition), the fields that are used
here, declared at run time. A birth names its metrics and may give each an alias; data may then name the alias alone. So
what births said is remembered, and data whose alias nobody has explained is refused. Metrics that the fleet does not
list, such as `Node Control/Rebirth`, are passed over.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from sensorpipeline_api.records import DeadLetterReason, Reading
from sensorpipeline_api.spec import TimeUnit

from sensorpipeline_workers.bridge.decode import Decode, Decoded
from sensorpipeline_workers.bridge.topics import Origin
from sensorpipeline_workers.ingest.validation import RefusedError, check_time, check_value

_FIELD = descriptor_pb2.FieldDescriptorProto
_UINT32, _UINT64, _BOOL = _FIELD.TYPE_UINT32, _FIELD.TYPE_UINT64, _FIELD.TYPE_BOOL
_STRING, _FLOAT, _DOUBLE = _FIELD.TYPE_STRING, _FIELD.TYPE_FLOAT, _FIELD.TYPE_DOUBLE
_METRIC: list[tuple[str, int, Any]] = [
    ("name", 1, _STRING), ("alias", 2, _UINT64), ("timestamp", 3, _UINT64), ("datatype", 4, _UINT32),
    ("is_null", 7, _BOOL), ("int_value", 10, _UINT32), ("long_value", 11, _UINT64), ("float_value", 12, _FLOAT),
    ("double_value", 13, _DOUBLE), ("boolean_value", 14, _BOOL), ("string_value", 15, _STRING),
]  # fmt: skip
_SIGNED = {1: 8, 2: 16, 3: 32, 4: 64}
"""Bits of the signed integer types, by their number; they travel as two's complement in unsigned fields."""
_VALUES = ("double_value", "float_value", "int_value", "long_value", "boolean_value", "string_value")


def _declare() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="sparkplug.proto", package="sparkplug", syntax="proto2")
    metric = file.message_type.add(name="Metric")
    for name, number, kind in _METRIC:
        metric.field.add(name=name, number=number, label=_FIELD.LABEL_OPTIONAL, type=kind)
    payload = file.message_type.add(name="Payload")
    payload.field.add(name="timestamp", number=1, label=_FIELD.LABEL_OPTIONAL, type=_UINT64)
    payload.field.add(
        name="metrics", number=2, label=_FIELD.LABEL_REPEATED, type=_FIELD.TYPE_MESSAGE,
        type_name=".sparkplug.Metric",
    )  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("sparkplug.Payload"))


Payload: Any = _declare()


class Births:
    """What births said: by device, the name of each alias and the type of each name. Bounded: beyond `maximum` devices
    it begins anew, and data with aliases is refused until the next birth."""

    def __init__(self, *, maximum: int = 100_000) -> None:
        self._devices: dict[tuple[str, str], tuple[dict[int, str], dict[str, int]]] = {}
        self._maximum = maximum

    def learn(self, fleet: str, device: str, metrics: Any) -> None:
        """Takes in the metrics of a birth, in the place of the last one's."""
        if len(self._devices) >= self._maximum:
            self._devices.clear()
        aliases = {m.alias: m.name for m in metrics if m.HasField("alias") and m.name}
        self._devices[fleet, device] = aliases, {m.name: m.datatype for m in metrics if m.HasField("datatype")}

    def name(self, fleet: str, device: str, alias: int) -> str | None:
        """Returns the name behind an alias."""
        return self._devices.get((fleet, device), ({}, {}))[0].get(alias)

    def datatype(self, fleet: str, device: str, name: str) -> int:
        """Returns the type of a metric, 0 when it is not known."""
        return self._devices.get((fleet, device), ({}, {}))[1].get(name, 0)


def compile_sparkplug(origin: Origin, births: Births) -> Decode:
    """Returns the decoder for the births or the data of a device."""
    fleet, device = origin.fleet, origin.device
    metrics = {name: m for m in fleet.metrics for name in (m.field, m.field.replace(".", "/"))}

    def named(item: Any) -> str:
        if item.name:
            return str(item.name)
        known = births.name(fleet.name, device, item.alias) if item.HasField("alias") else None
        if known is None:
            what = f"alias {item.alias}" if item.HasField("alias") else "a metric without name and alias"
            message = f"{what} must be explained by a birth of {device}, none was seen since the bridge started"
            raise RefusedError(DeadLetterReason.UNKNOWN_METRIC, message)
        return known

    def decode(payload: bytes, now: int) -> Decoded:
        body = _parse(payload)
        if origin.birth:
            births.learn(fleet.name, device, body.metrics)
        readings = []
        for item in body.metrics:
            name = named(item)
            metric = metrics.get(name)
            if metric is None or item.is_null:
                continue
            stamp = item.timestamp if item.HasField("timestamp") else body.timestamp
            if not stamp:
                message = f"timestamp of {name} (event time) is missing"
                raise RefusedError(DeadLetterReason.MISSING_FIELD, message)
            time = check_time(fleet, "timestamp", stamp, unit=TimeUnit.MILLISECONDS, now=now)
            datatype = item.datatype or births.datatype(fleet.name, device, name)
            readings.append(Reading(device, metric.name, time, check_value(metric, name, _value(item, datatype))))
        if not readings:
            fields = ", ".join(metric.field for metric in fleet.metrics)
            raise RefusedError(DeadLetterReason.MISSING_FIELD, f"metric {fields} is missing")
        return readings, ()

    return decode


def _parse(payload: bytes) -> Any:
    try:
        return Payload.FromString(payload)
    except (DecodeError, RecursionError) as error:
        raise RefusedError(DeadLetterReason.INVALID_SPARKPLUG, f"message must be Sparkplug B: {error}") from None


def _value(item: Any, datatype: int) -> Any:
    """Returns the value of a metric: a number, or whatever it is, for the check that names it."""
    kind = next((kind for kind in _VALUES if item.HasField(kind)), None)
    if kind is None:
        return None
    value = getattr(item, kind)
    if isinstance(value, bool):
        return int(value)
    bits = _SIGNED.get(datatype, 0)
    if bits and kind in {"int_value", "long_value"}:
        value &= (1 << bits) - 1
        return value - (1 << bits) if value >> (bits - 1) else value
    return value
