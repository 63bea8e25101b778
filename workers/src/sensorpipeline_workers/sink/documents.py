"""Records to BSON documents.

Readings make up nearly all of the traffic, so their documents are put together as bytes: all that a series' readings
have in common is encoded once. They have no `_id` (a time-series collection does without, and it would double their
size); what identifies them is series and time. All other documents have an `_id` made from their content, so that
writing one again changes nothing.
"""

import base64
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import bson
import msgspec
from bson.raw_bson import RawBSONDocument
from sensorpipeline_api.records import Aggregate, Alert, DeadLetter, DeadLetterReason, Late

Series = tuple[str, str, str]
"""Fleet, device and metric."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAXIMUM_DOCUMENT_BYTES = 16 * 1024 * 1024
MAXIMUM_PAYLOAD_BYTES = 8 * 1024 * 1024
MAXIMUM_CACHED_SERIES = 200_000

_aggregate_decoder = msgspec.json.Decoder(Aggregate)
_late_decoder = msgspec.json.Decoder(Late)
_alert_decoder = msgspec.json.Decoder(Alert)
_dead_letter_decoder = msgspec.json.Decoder(DeadLetter)

# The end of a reading's document: its time, its value with type and name, and the final zero.
_TAIL = struct.Struct("<q7sdx")
_SIZE = struct.Struct("<i")
_VALUE = b"\x01value\0"


class EncodedDocument(RawBSONDocument):
    """A document that is BSON already, without the checks that its base makes of bytes from elsewhere."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytes) -> None:
        self.raw = raw  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class Upsert:
    """A document to be written over the one of the same `_id`; of an aggregate, if that has no higher revision."""

    collection: str
    key: str
    revision: int
    document: EncodedDocument

    @property
    def statement(self) -> dict[str, Any]:
        """The statement of an `update` command that writes it."""
        query: dict[str, Any] = {"_id": self.key}
        if self.collection == "aggregates":
            query["revision"] = {"$lte": self.revision}
        return {"q": query, "u": self.document, "upsert": True}


class ReadingEncoder:
    """Makes the documents of readings and keeps what is the same in all documents of a series."""

    def __init__(self) -> None:
        self._heads: dict[Series, bytes] = {}

    def documents(self, series: Series, readings: Mapping[int, float]) -> list[EncodedDocument]:
        """Returns a document for each time (ms) and value."""
        head = self._heads.get(series)
        if head is None:
            if len(self._heads) >= MAXIMUM_CACHED_SERIES:
                self._heads.clear()
            head = self._heads[series] = _head(series)
        pack = _TAIL.pack
        return [EncodedDocument(head + pack(time, _VALUE, value)) for time, value in readings.items()]


def _head(series: Series) -> bytes:
    fleet, device, metric = series
    inner = bson.encode({"fleet": fleet, "device": device, "metric": metric})
    fields = b"\x03series\0" + inner + b"\x09time\0"
    return _SIZE.pack(_SIZE.size + len(fields) + _TAIL.size) + fields


def moment(milliseconds: int) -> datetime:
    """Returns the UTC time of milliseconds since the epoch. Raises OverflowError beyond the years 1 to 9999: the store
    could hold it, but no client that reads its dates."""
    try:
        return EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        raise OverflowError(f"{milliseconds} ms since the epoch is not in the years 1 to 9999") from None


def aggregate_upsert(value: bytes) -> Upsert:
    """Returns the write of an aggregate. Raises msgspec.MsgspecError, ValueError or OverflowError, as do its kin."""
    record = _aggregate_decoder.decode(value)
    key = f"{record.window}|{record.device}|{record.metric}|{record.start}"
    times = {"start": moment(record.start), "end": moment(record.end)}
    return _upsert("aggregates", key, msgspec.to_builtins(record) | times, revision=record.revision)


def late_upsert(value: bytes) -> Upsert:
    """Returns the write of a late reading."""
    record = _late_decoder.decode(value)
    key = f"{record.window}|{record.device}|{record.metric}|{record.time}"
    return _upsert("late", key, msgspec.to_builtins(record) | {"time": moment(record.time)})


def alert_upsert(value: bytes) -> Upsert:
    """Returns the write of an alert transition."""
    record = _alert_decoder.decode(value)
    key = f"{record.threshold}|{record.device}|{record.metric}|{record.time}|{record.state}"
    return _upsert("alerts", key, msgspec.to_builtins(record) | {"time": moment(record.time)})


def dead_letter_upsert(value: bytes, *, position: str) -> Upsert:
    """Returns the write of a dead letter; `position` is where in Kafka it stands. Dead letters of one Kafka record are
    one, whoever found it to be unreadable."""
    record = _dead_letter_decoder.decode(value)
    key = record.source if record.source.startswith("kafka:") else position
    times = {"receivedTime": moment(record.received_time)}
    return _upsert("dead_letters", key, msgspec.to_builtins(record) | times)


def poison_upsert(value: bytes, *, source: str, fleet: str, now: int, error: str) -> Upsert:
    """Returns the write of a dead letter of our own, for what cannot be stored; `source` identifies it."""
    reason, payload = DeadLetterReason.INVALID_JSON, value
    if len(value) > MAXIMUM_PAYLOAD_BYTES:
        reason, payload = DeadLetterReason.TOO_LARGE, value[:MAXIMUM_PAYLOAD_BYTES]
        error = f"{error[:1000]} (the record has {len(value)} bytes, the payload is cut)"
    document = {
        "source": source[:1000],
        "fleet": fleet,
        "receivedTime": moment(now),
        "payload": base64.b64encode(payload).decode(),
        "reason": reason.value,
        "message": error[:2000],
    }
    return _upsert("dead_letters", source, document)


def _upsert(collection: str, key: str, document: dict[str, Any], *, revision: int = 0) -> Upsert:
    raw = bson.encode({"_id": key} | document)
    if len(raw) > MAXIMUM_DOCUMENT_BYTES:
        raise ValueError(f"the document has {len(raw)} bytes, must be at most {MAXIMUM_DOCUMENT_BYTES}")
    return Upsert(collection, key, revision, EncodedDocument(raw))
