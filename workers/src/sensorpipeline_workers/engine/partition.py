"""The fleet's clock: the newest event time among all readings of a partition, by which all its series are judged.

It moves within a record, reading by reading, in the order of the partition. Each reading is judged by the clock as it
was when it came, whatever the order in which series are worked on; and series to which no reading comes are closed when
the clock reaches what they wait for (`due`).

The clock is stored beside the states, as its value after each of the last flushes: a replay begins behind one of them,
at the committed offset, and finds the clock as it was there, not as it was at the crash.
"""

import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

import msgspec
from sensorpipeline_api.records import Reading

from sensorpipeline_workers.engine.grouping import Series
from sensorpipeline_workers.engine.state import FAR, StateVersionError

KEPT_FLUSHES = 256
_VERSION = 1
_decoder = msgspec.msgpack.Decoder(tuple[int, list[tuple[int, int]]])

Key = TypeVar("Key")
Judged = tuple[list[int], list[float], list[int]]
"""Times, values, and for each reading the clock before it."""


class PartitionClock(Generic[Key]):
    """The clock of one partition, and its series by the time for which they wait. A series is known by `Key`."""

    def __init__(self) -> None:
        self.newest = -1
        self._offset = -1
        self._flushes: deque[tuple[int, int]] = deque(maxlen=KEPT_FLUSHES)
        self._waiting: list[tuple[int, int, Key]] = []
        self._entered: dict[Key, int] = {}
        self._number = 0

    def __len__(self) -> int:
        """Returns how many entries wait."""
        return len(self._waiting)

    def group(self, offset: int, readings: Iterable[Reading]) -> dict[Series, Judged]:
        """Takes a record in: moves the clock, and returns the readings of each series with the clock before each."""
        if self._offset < 0:
            self.newest = max((newest for past, newest in self._flushes if past < offset), default=-1)
        self._offset = offset
        newest = self.newest
        groups: dict[Series, Judged] = {}
        for reading in readings:
            key = reading.device, reading.metric
            found = groups.get(key)
            if found is None:
                found = groups[key] = [], [], []
            time = reading.time
            found[0].append(time)
            found[1].append(reading.value)
            found[2].append(newest)
            if time > newest:
                newest = time
        self.newest = newest
        return groups

    def wait(self, key: Key, until: int) -> None:
        """Says until when (`SeriesState.clock_limit`) a series has nothing to emit. A time that moves away, as with
        every reading of a session, costs nothing: the series is woken at the earlier one."""
        entered = self._entered.get(key)
        if until < FAR and (entered is None or until < entered):
            self._entered[key] = until
            self._number += 1
            heapq.heappush(self._waiting, (until, self._number, key))

    def due(self) -> Iterator[Key]:
        """Yields the series whose time may have come; `advance` each that has something to emit, and let each `wait`
        again."""
        while self._waiting and self._waiting[0][0] <= self.newest:
            until, _, key = heapq.heappop(self._waiting)
            if self._entered.get(key) == until:
                del self._entered[key]
                yield key

    def forget(self, key: Key) -> None:
        """Drops a series."""
        self._entered.pop(key, None)

    def flush(self) -> bytes:
        """Returns what is to be stored with the states of a flush."""
        if self._offset >= 0 and (not self._flushes or self._flushes[-1][0] != self._offset):
            self._flushes.append((self._offset, self.newest))
        return msgspec.msgpack.encode((_VERSION, list(self._flushes)))

    def restore(self, data: bytes) -> None:
        """Takes in what was stored. Raises StateVersionError for an unknown version or damaged bytes."""
        try:
            version, flushes = _decoder.decode(data)
        except msgspec.MsgspecError as error:
            raise StateVersionError(f"clock cannot be read: {error}") from error
        if version != _VERSION:
            raise StateVersionError(f"clock has version {version}, this engine reads {_VERSION}")
        self._flushes.extend(flushes)
