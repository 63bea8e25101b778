"""Records to documents. `_id`s are made from the records, so writing a record again changes nothing; readings, which a
time-series collection cannot deduplicate, carry the Kafka position they came from."""

import base64
from datetime import UTC, datetime
from typing import Any

import msgspec
from sensorpipeline_api.records import Aggregate, Alert, DeadLetter, DeadLetterReason, Late, Reading

Document = dict[str, Any]

readings_decoder = msgspec.json.Decoder(list[Reading])
aggregate_decoder = msgspec.json.Decoder(Aggregate)
late_decoder = msgspec.json.Decoder(Late)
alert_decoder = msgspec.json.Decoder(Alert)
dead_letter_decoder = msgspec.json.Decoder(DeadLetter)


def moment(milliseconds: int) -> datetime:
    """Returns the UTC time of milliseconds since the epoch."""
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC)


def reading_documents(value: bytes, *, fleet: str, partition: int, offset: int) -> list[Document]:
    """Returns a document per reading of a record; `p`, `o`, `i` are its partition, offset and place in the record.
    Raises msgspec.MsgspecError."""
    return [
        {
            "time": moment(reading.time),
            "series": {"fleet": fleet, "device": reading.device, "metric": reading.metric},
            "value": reading.value,
            "p": partition,
            "o": offset,
            "i": index,
        }
        for index, reading in enumerate(readings_decoder.decode(value))
    ]


def aggregate_document(value: bytes) -> Document:
    """Returns the document of an aggregate. Raises msgspec.MsgspecError."""
    record = aggregate_decoder.decode(value)
    document: Document = msgspec.to_builtins(record)
    document["_id"] = f"{record.window}|{record.device}|{record.metric}|{record.start}"
    return document | {"start": moment(record.start), "end": moment(record.end)}


def late_document(value: bytes) -> Document:
    """Returns the document of a late reading. Raises msgspec.MsgspecError."""
    record = late_decoder.decode(value)
    document: Document = msgspec.to_builtins(record)
    document["_id"] = f"{record.window}|{record.device}|{record.metric}|{record.time}"
    return document | {"time": moment(record.time)}


def alert_document(value: bytes) -> Document:
    """Returns the document of an alert transition. Raises msgspec.MsgspecError."""
    record = alert_decoder.decode(value)
    document: Document = msgspec.to_builtins(record)
    document["_id"] = f"{record.threshold}|{record.device}|{record.metric}|{record.time}|{record.state}"
    return document | {"time": moment(record.time)}


def dead_letter_document(value: bytes, *, position: str) -> Document:
    """Returns the document of a dead letter; `position` is where in Kafka it stands. Raises msgspec.MsgspecError."""
    record = dead_letter_decoder.decode(value)
    document: Document = msgspec.to_builtins(record)
    return document | {"_id": position, "receivedTime": moment(record.received_time)}


def poison_document(value: bytes, *, position: str, now: int, error: str) -> Document:
    """Returns a dead letter for a record that is not what its topic should hold."""
    return {
        "_id": position,
        "source": f"kafka:{position}",
        "fleet": "",
        "receivedTime": moment(now),
        "payload": base64.b64encode(value).decode(),
        "reason": DeadLetterReason.INVALID_JSON.value,
        "message": error,
    }
