"""How far the readings have been read: until when nothing that was published is missing, and whether reading stands
still.

Whoever reads a backlog must not take for silence what it has not read yet; nor may a reader that hangs count as one
that has nothing to read. So the ends of the partitions are asked of Kafka at an interval (offsets.py): what the client
that fetches knows of them comes with what it fetches. Pure: times are arguments.
"""

from collections.abc import Mapping

GAP = 10_000
"""Of a partition of which nothing is known for so long (ms), silence is counted anew: who had something to say may have
been kept from it."""


class _Partition:
    __slots__ = ("asked", "end", "moved", "position", "since", "timestamp", "until")

    def __init__(self) -> None:
        self.position = self.end = 0
        self.timestamp = self.moved = 0.0
        self.asked: tuple[int, int] | None = None
        self.since = self.until = 0


class Progress:
    """Our partitions of one topic. `stall` is in seconds."""

    def __init__(self, *, stall: float) -> None:
        self._stall = stall
        self._partitions: dict[int, _Partition] = {}
        self._answering: float | None = None

    @property
    def answered_lately(self) -> bool:
        """Whether Kafka has answered the last question."""
        return self._answering is not None

    def drop(self, partitions: set[int]) -> None:
        """Forgets partitions: of those that come back nothing is known."""
        for partition in partitions:
            self._partitions.pop(partition, None)

    def read(self, partition: int, position: int, timestamp: float, *, now: float) -> None:
        """Takes in that all before a position has been read, the last record of it of this timestamp (s)."""
        found = self._partitions.get(partition)
        if found is None:
            found = self._partitions[partition] = _Partition()
        found.position, found.timestamp, found.moved = position, timestamp, now

    def answered(
        self, ends: Mapping[int, tuple[int, int]], positions: Mapping[int, int], *, at: int, now: float
    ) -> None:
        """Takes in the first and the end offset of partitions, asked at the time `at` (ms), and positions up to which
        others have read before us. `now` is monotonic, in seconds."""
        if self._answering is None:
            self._answering = now
        for partition, (first, end) in ends.items():
            found = self._partitions.get(partition)
            if found is None:
                found = self._partitions[partition] = _Partition()
                found.moved = now
            # What retention has deleted, nobody can read.
            found.position = max(found.position, first, positions.get(partition, 0))
            found.end = end
            if found.asked is not None and found.position >= found.asked[1]:
                self._confirm(found, found.asked[0])
                found.asked = None
            if found.asked is None:
                found.asked = at, end
                if found.position >= end:
                    self._confirm(found, at)
                    found.asked = None
            if found.position >= end:
                found.moved = now

    @staticmethod
    def _confirm(partition: _Partition, at: int) -> None:
        if not partition.until or at - partition.until > GAP:
            partition.since = at
        partition.until = at

    def unanswered(self) -> None:
        """Takes in that Kafka does not answer: nobody can make progress."""
        self._answering = None

    def excuse(self, *, now: float) -> None:
        """Takes in that reading had to wait for what is written."""
        for partition in self._partitions.values():
            partition.moved = now

    def known(self) -> dict[int, tuple[int, int]]:
        """Returns for each partition from when, without a gap, until when (ms) all that was published has been read;
        of one that is missing, nothing is known."""
        return {number: (p.since, p.until) for number, p in self._partitions.items() if p.until}

    def behind(self) -> dict[int, float]:
        """Returns for each partition with unread records the time (s) of the last record read, or 0."""
        return {number: p.timestamp for number, p in self._partitions.items() if p.position < p.end}

    def stalled(self, *, now: float) -> set[int]:
        """Returns the partitions whose unread records have seen no progress for too long, though Kafka answers."""
        since = self._answering
        if since is None:
            return set()
        return {
            number for number, p in self._partitions.items()
            if p.position < p.end and now - max(p.moved, since) > self._stall
        }  # fmt: skip
