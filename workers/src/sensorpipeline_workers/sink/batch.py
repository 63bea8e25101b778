"""Messages to one batch: readings by series, upserts by key, and the offsets to commit when all is stored. Pure."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from bson.errors import BSONError
from sensorpipeline_api.configuration import Topics
from sensorpipeline_api.records import UnreadableRecordError, decode_readings

from sensorpipeline_workers.sink import documents
from sensorpipeline_workers.sink.documents import Series, Upsert


@dataclass(frozen=True, slots=True)
class Record:
    """What the sink needs of a Kafka message; `timestamp` is in ms."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    value: bytes


@dataclass
class Batch:
    """What is written together. Of several readings of one series and time the first is kept; of upserts of one
    document the last, but of an aggregate the highest revision."""

    readings: dict[Series, dict[int, float]] = field(default_factory=dict)
    upserts: dict[tuple[str, str], Upsert] = field(default_factory=dict)
    offsets: dict[tuple[str, int], int] = field(default_factory=dict)
    received: Counter[str] = field(default_factory=Counter)
    poison: Counter[str] = field(default_factory=Counter)
    timestamps: dict[str, list[int]] = field(default_factory=dict)
    size: int = 0


class BatchBuilder:
    """Takes records in. `metrics` are those of each fleet; a fleet that is not in it may have any."""

    def __init__(self, topics: Topics, metrics: Mapping[str, list[str]]) -> None:
        self._topics = topics
        self._fleets = {topic: fleet for fleet, topic in topics.readings.items()}
        self._metrics = {fleet: frozenset(names) for fleet, names in metrics.items()}
        self.batch = Batch()

    def take(self) -> Batch:
        """Returns the batch and starts the next one."""
        batch, self.batch = self.batch, Batch()
        return batch

    def add(self, record: Record, *, now: int) -> None:
        """Takes a record in; what cannot be read or stored becomes a dead letter. `now` is the clock in ms."""
        batch = self.batch
        batch.offsets[record.topic, record.partition] = record.offset + 1
        fleet = self._fleets.get(record.topic)
        source = f"kafka:{record.topic}/{record.partition}/{record.offset}"
        try:
            if fleet is not None:
                batch.timestamps.setdefault(fleet, []).append(record.timestamp)
                batch.size += 1 + self._add_readings(fleet, record.value)
            else:
                self._add_upsert(self._upsert(record))
                batch.size += 1
        except (msgspec.MsgspecError, BSONError, ValueError, OverflowError, RecursionError) as error:
            # The worker, which reads the fleets' topics with the same function, dead-letters such a record, too, and
            # counts it; both dead letters have the same `_id`.
            if not isinstance(error, UnreadableRecordError):
                batch.poison[fleet or ""] += 1
            poison = documents.poison_upsert(
                record.value, source=source, fleet=fleet or "", now=now, error=str(error)
            )  # fmt: skip
            self._add_upsert(poison)
            batch.size += 1

    def _add_readings(self, fleet: str, value: bytes) -> int:
        decoded = decode_readings(value, metrics=self._metrics.get(fleet))
        readings = self.batch.readings
        for reading in decoded:
            series = fleet, reading.device, reading.metric
            known = readings.get(series)
            if known is None:
                readings[series] = {reading.time: reading.value}
            else:
                known.setdefault(reading.time, reading.value)
        self.batch.received[fleet] += len(decoded)
        return len(decoded)

    def _upsert(self, record: Record) -> Upsert:
        if record.topic == self._topics.aggregates:
            return documents.aggregate_upsert(record.value)
        if record.topic == self._topics.late:
            return documents.late_upsert(record.value)
        if record.topic == self._topics.alerts:
            return documents.alert_upsert(record.value)
        position = f"{record.topic}/{record.partition}/{record.offset}"
        return documents.dead_letter_upsert(record.value, position=position)

    def _add_upsert(self, upsert: Upsert) -> None:
        key = upsert.collection, upsert.key
        known = self.batch.upserts.get(key)
        if known is None or upsert.revision >= known.revision:
            self.batch.upserts[key] = upsert
