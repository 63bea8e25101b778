"""Prometheus' remote read protocol over the store: sensor history as time series, event time and all.

    sensorpipeline_reading{fleet, device, metric}             one sample per reading, at its event time
    sensorpipeline_aggregate{window, fleet, device, metric, unit}
                                                              one sample per window, at its start; no unit, no label

The messages are those of Prometheus' prompb/remote.proto (protocol documentation, "Remote Read API"), the fields that
are used here, declared at run time.
"""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import cramjam
from bson import Regex
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from sensorpipeline_workers.gateway.problems import ProblemError

MAXIMUM_SAMPLES = 5_000_000
MAXIMUM_BYTES = 1024 * 1024
"""Of a request, compressed and not."""
READING, AGGREGATE = "sensorpipeline_reading", "sensorpipeline_aggregate"
LABELS = {
    READING: {"fleet": "series.fleet", "device": "series.device", "metric": "series.metric"},
    AGGREGATE: {"window": "window", "fleet": "fleet", "device": "device", "metric": "metric", "unit": "unit"},
}
COLLECTIONS = {READING: ("readings", "time"), AGGREGATE: ("aggregates", "start")}

_FIELD = descriptor_pb2.FieldDescriptorProto
_INT64, _DOUBLE, _STRING, _ENUM = _FIELD.TYPE_INT64, _FIELD.TYPE_DOUBLE, _FIELD.TYPE_STRING, _FIELD.TYPE_INT32
_MESSAGES: dict[str, list[tuple[str, int, int | str, bool]]] = {
    "LabelMatcher": [("type", 1, _ENUM, False), ("name", 2, _STRING, False), ("value", 3, _STRING, False)],
    "Query": [
        ("start_timestamp_ms", 1, _INT64, False),
        ("end_timestamp_ms", 2, _INT64, False),
        ("matchers", 3, "LabelMatcher", True),
    ],
    "ReadRequest": [("queries", 1, "Query", True), ("accepted_response_types", 2, _ENUM, True)],
    "Label": [("name", 1, _STRING, False), ("value", 2, _STRING, False)],
    "Sample": [("value", 1, _DOUBLE, False), ("timestamp", 2, _INT64, False)],
    "TimeSeries": [("labels", 1, "Label", True), ("samples", 2, "Sample", True)],
    "QueryResult": [("timeseries", 1, "TimeSeries", True)],
    "ReadResponse": [("results", 1, "QueryResult", True)],
}


def _declare() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="remote.proto", package="prometheus", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, repeated in fields:
            label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            if isinstance(kind, str):
                message.field.add(
                    name=field_name, number=number, label=label, type=_FIELD.TYPE_MESSAGE,
                    type_name=f".prometheus.{kind}",
                )  # fmt: skip
            else:
                message.field.add(name=field_name, number=number, label=label, type=kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {n: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"prometheus.{n}")) for n in _MESSAGES}


_CLASSES = _declare()
EQUAL, NOT_EQUAL, MATCH, NO_MATCH = range(4)


@dataclass(frozen=True)
class Selection:
    """One query: the metric's name, a MongoDB query, and the collection with its time field."""

    metric: str
    query: dict[str, Any]
    collection: str
    time: str


def decode_request(body: bytes) -> Any:
    """Returns the ReadRequest of a request body. Raises ProblemError (400)."""
    try:
        size = cramjam.snappy.decompress_raw_len(body)
        if size > MAXIMUM_BYTES:
            message = f"body has {size} bytes without compression, must be at most {MAXIMUM_BYTES}"
            raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
        raw = bytes(cramjam.snappy.decompress_raw(body))
        request = _CLASSES["ReadRequest"]()
        request.ParseFromString(raw)
    except (cramjam.DecompressionError, DecodeError) as error:
        raise ProblemError(HTTPStatus.BAD_REQUEST, f"body must be a snappy-compressed ReadRequest: {error}") from error
    return request


def encode_response(results: list[list[tuple[dict[str, str], list[tuple[int, float]]]]]) -> bytes:
    """Returns the response body for results by query: labels and (ms, value) samples of each series."""
    response = _CLASSES["ReadResponse"]()
    for series in results:
        result = response.results.add()
        for labels, samples in series:
            entry = result.timeseries.add()
            for name, value in sorted(labels.items()):
                entry.labels.add(name=name, value=value)
            for time, number in samples:
                entry.samples.add(value=number, timestamp=time)
    return bytes(cramjam.snappy.compress_raw(response.SerializeToString()))


def selections(query: Any) -> list[Selection]:
    """Returns what a query asks of each of our metrics that its matchers on the name allow."""
    bounds = {"$gte": _moment(query.start_timestamp_ms), "$lte": _moment(query.end_timestamp_ms)}
    out = []
    for metric, fields in LABELS.items():
        collection, time = COLLECTIONS[metric]
        conditions: list[dict[str, Any]] = [{time: bounds}]
        possible = True
        for matcher in query.matchers:
            if matcher.name == "__name__":
                possible = possible and _matches(matcher, metric)
            elif matcher.name in fields:
                conditions.append({fields[matcher.name]: _condition(matcher)})
            else:  # a label that our series do not have has the empty value
                possible = possible and _matches(matcher, "")
        if possible:
            out.append(Selection(metric, {"$and": conditions}, collection, time))
    return out


async def read(database: Any, query: Any) -> list[tuple[dict[str, str], list[tuple[int, float]]]]:
    """Returns the series that a query selects. Raises ProblemError (422) when there are too many samples."""
    series: dict[tuple[tuple[str, str], ...], list[tuple[int, float]]] = {}
    count = 0
    for selection in selections(query):
        async for document in _documents(database, selection):
            count += 1
            if count > MAXIMUM_SAMPLES:
                message = f"the query selects more than {MAXIMUM_SAMPLES} samples: narrow its time range or labels"
                raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, message)
            labels = {"__name__": selection.metric} | _labels(selection.metric, document)
            key = tuple(sorted(labels.items()))
            moment = round(document[selection.time].timestamp() * 1000)
            series.setdefault(key, []).append((moment, float(document["value"])))
    return [(dict(key), _increasing(samples)) for key, samples in series.items()]


def _increasing(samples: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Drops the earlier of two samples of equal time: Prometheus wants strictly increasing times."""
    return list(dict(samples).items())


async def _documents(database: Any, selection: Selection) -> AsyncIterator[dict[str, Any]]:
    async for document in database[selection.collection].find(selection.query).sort(selection.time, 1):
        yield document


def _labels(metric: str, document: dict[str, Any]) -> dict[str, str]:
    source = document["series"] if metric == READING else document
    return {name: str(source[name]) for name in LABELS[metric] if source.get(name)}


def _matches(matcher: Any, value: str) -> bool:
    if matcher.type == EQUAL:
        return bool(matcher.value == value)
    if matcher.type == NOT_EQUAL:
        return bool(matcher.value != value)
    found = _expression(matcher).fullmatch(value) is not None
    return found if matcher.type == MATCH else not found


def _condition(matcher: Any) -> Any:
    """Returns the MongoDB condition of a matcher. What stands for the empty value also stands for no field at all."""
    exact, positive = matcher.type in {EQUAL, NOT_EQUAL}, matcher.type in {EQUAL, MATCH}
    anchored = f"^(?:{_expression(matcher).pattern})$"
    if matcher.value == "" if exact else re.fullmatch(matcher.value, "") is not None:
        wanted = [matcher.value if exact else Regex(anchored), None]
        return {"$in": wanted} if positive else {"$nin": wanted}
    if exact:
        return matcher.value if positive else {"$ne": matcher.value}
    return {"$regex": anchored} if positive else {"$not": {"$regex": anchored}}


def _expression(matcher: Any) -> re.Pattern[str]:
    """Returns a matcher's regular expression. Raises ProblemError."""
    try:
        if "\0" in matcher.value:
            raise ValueError("it holds a null character")
        return re.compile(matcher.value)
    except (ValueError, re.error, RecursionError, OverflowError) as error:
        message = f"the matcher of label {matcher.name!r} must be a regular expression: {error}"
        raise ProblemError(HTTPStatus.BAD_REQUEST, message) from error


def _moment(milliseconds: int) -> datetime:
    lowest, highest = -62_135_596_800_000, 253_402_300_799_000
    return datetime.fromtimestamp(min(max(milliseconds, lowest), highest) / 1000, tz=UTC)
