"""Readings to records: one record holds many readings of one partition, so that what a record costs is paid once."""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec
from aiokafka.partitioner import murmur2
from sensorpipeline_api.records import Reading

Token = TypeVar("Token")


@dataclass(slots=True)
class Batch(Generic[Token]):
    """Readings of one partition, with the tokens of the messages they came in, since `begin` (s, monotonic)."""

    topic: str
    partition: int
    key: bytes
    begin: float
    readings: list[Reading] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)

    def value(self) -> bytes:
        """Returns the record's value: a JSON array of readings."""
        return msgspec.json.encode(self.readings)


def partition_of(device: str, partitions: int) -> int:
    """Returns the partition that Kafka's default partitioner gives to the key `device`."""
    return int((murmur2(device.encode()) & 0x7FFFFFFF) % partitions)


class Batcher(Generic[Token]):
    """Collects readings by topic and partition until a batch is full or old enough."""

    def __init__(self, partitions: dict[str, int], *, maximum_readings: int, maximum_seconds: float) -> None:
        self._partitions = partitions
        self._maximum_readings = maximum_readings
        self._maximum_seconds = maximum_seconds
        self._open: dict[tuple[str, int], Batch[Token]] = {}

    def add(self, topic: str, readings: list[Reading], token: Token, *, now: float) -> Batch[Token] | None:
        """Takes the readings of one message of one device in; returns the batch when it is full."""
        device = readings[0].device
        partition = partition_of(device, self._partitions[topic])
        batch = self._open.get((topic, partition))
        if batch is None:
            batch = self._open[topic, partition] = Batch(topic, partition, device.encode(), now)
        batch.readings += readings
        batch.tokens.append(token)
        if len(batch.readings) < self._maximum_readings:
            return None
        return self._open.pop((topic, partition))

    def due(self, *, now: float, everything: bool = False) -> list[Batch[Token]]:
        """Returns the batches that are old enough, or all of them."""
        ready = [k for k, batch in self._open.items() if everything or now - batch.begin >= self._maximum_seconds]
        return [self._open.pop(key) for key in ready]

    def wait_seconds(self, *, now: float, default: float) -> float:
        """Returns how long until the next batch is due, at most `default`."""
        begin = min((batch.begin for batch in self._open.values()), default=None)
        return default if begin is None else max(0.0, min(default, begin + self._maximum_seconds - now))
