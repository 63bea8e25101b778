"""Readings to records: one record holds many readings of one partition, so that what a record costs is paid once."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec
from aiokafka.partitioner import murmur2
from sensorpipeline_api.records import Reading

Token = TypeVar("Token")


@dataclass(slots=True)
class Batch(Generic[Token]):
    """Readings of one partition, with the tokens of the messages they came in, since `begin` (s, monotonic). A token
    stands here once for each piece of its message that is in the batch."""

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


class Lane(Generic[Token]):
    """The way of one device's readings into a partition: found once, used for every message."""

    __slots__ = ("key", "partition", "place", "topic")

    def __init__(self, topic: str, device: str, partitions: int) -> None:
        self.topic = topic
        self.key = device.encode()
        self.partition = partition_of(device, partitions)
        self.place = topic, self.partition


class Batcher(Generic[Token]):
    """Collects readings by topic and partition until a batch is full or old enough."""

    def __init__(self, partitions: dict[str, int], *, maximum_readings: int, maximum_seconds: float) -> None:
        self._partitions = partitions
        self._maximum_readings = maximum_readings
        self._maximum_seconds = maximum_seconds
        self._open: dict[tuple[str, int], Batch[Token]] = {}

    def lane(self, topic: str, device: str) -> Lane[Token]:
        """Returns the way of a device's readings."""
        return Lane(topic, device, self._partitions[topic])

    def put(self, lane: Lane[Token], readings: list[Reading], token: Token, *, now: float) -> Batch[Token] | None:
        """Takes the readings of one message of one device in, no more than a batch holds; returns the batch when it
        is full."""
        place = lane.place
        batch = self._open.get(place)
        if batch is None:
            batch = self._open[place] = Batch(lane.topic, lane.partition, lane.key, now)
        batch.readings += readings
        batch.tokens.append(token)
        if len(batch.readings) < self._maximum_readings:
            return None
        return self._open.pop(place)

    def pieces(self, readings: list[Reading]) -> Iterator[list[Reading]]:
        """Cuts the readings of a message into pieces that a batch can hold."""
        for begin in range(0, len(readings), self._maximum_readings):
            yield readings[begin : begin + self._maximum_readings]

    def due(self, *, now: float, everything: bool = False) -> list[Batch[Token]]:
        """Returns the batches that are old enough, or all of them."""
        ready = [k for k, batch in self._open.items() if everything or now - batch.begin >= self._maximum_seconds]
        return [self._open.pop(key) for key in ready]

    def clear(self) -> None:
        """Forgets the open batches."""
        self._open.clear()

    def wait_seconds(self, *, now: float, default: float) -> float:
        """Returns how long until the next batch is due, at most `default`."""
        begin = min((batch.begin for batch in self._open.values()), default=None)
        return default if begin is None else max(0.0, min(default, begin + self._maximum_seconds - now))
