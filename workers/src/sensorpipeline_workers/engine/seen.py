"""The times that a series has sent, by which duplicates are recognised.

A device that reports at equal steps costs one run (start, end, step), however long it goes on; what fits no run is
kept as single times, 8 bytes each. Times older than the lateness horizon, which no window can accept any more, are
forgotten, and of more than `MAXIMUM_SINGLES` single times or `MAXIMUM_RUNS` runs the oldest: a reading that is
repeated after them all is taken for a new one, if a window still accepts its time. About 2 MB stored at most.
"""

from array import array
from bisect import bisect_left, bisect_right, insort

MAXIMUM_SINGLES = 200_000
MAXIMUM_RUNS = 10_000
SHORTEST_RUN = 4
_SLACK = 64
_MOST_SLACK = 10_000


class Seen:
    """Runs in the order of time, the last of which is open: `first`, `last`, `step` (0 while it has one time)."""

    __slots__ = ("clear_at", "first", "firsts", "last", "lasts", "singles", "step", "steps")

    def __init__(self) -> None:
        self.first = self.last = -1
        self.step = 0
        self.firsts: list[int] = []
        self.lasts: list[int] = []
        self.steps: list[int] = []
        self.singles: array[int] = array("q")
        self.clear_at = _SLACK

    def append(self, time: int) -> None:
        """Remembers a time after all others of the runs."""
        last, step = self.last, self.step
        if last < 0:
            self.first = self.last = time
        elif not step:
            self.step, self.last = time - last, time
        elif time - last == step:
            self.last = time
        elif last - self.first >= (SHORTEST_RUN - 1) * step:
            self.firsts.append(self.first)
            self.lasts.append(last)
            self.steps.append(step)
            self.first = self.last = time
            self.step = 0
        else:
            for single in range(self.first, last, step):
                self.insert(single)
            self.first, self.last, self.step = last, time, time - last

    def insert(self, time: int) -> None:
        """Remembers a time on its own."""
        if not self.singles or time > self.singles[-1]:
            self.singles.append(time)
        else:
            insort(self.singles, time)

    def __contains__(self, time: int) -> bool:
        if self.first <= time <= self.last and (not self.step or (time - self.first) % self.step == 0):
            return True
        run = bisect_right(self.firsts, time) - 1
        if run >= 0 and time <= self.lasts[run] and (time - self.firsts[run]) % self.steps[run] == 0:
            return True
        place = bisect_left(self.singles, time)
        return place < len(self.singles) and self.singles[place] == time

    def __len__(self) -> int:
        """Returns how many entries are kept, beside the open run."""
        return len(self.firsts) + len(self.singles)

    def forget(self, oldest: int) -> None:
        """Drops what is before `oldest`; worth its cost when more than `clear_at` entries have come together."""
        del self.singles[: max(bisect_left(self.singles, oldest), len(self.singles) - MAXIMUM_SINGLES)]
        runs = max(bisect_left(self.lasts, oldest), len(self.firsts) - MAXIMUM_RUNS)
        del self.firsts[:runs], self.lasts[:runs], self.steps[:runs]
        self._clear_later()

    def _clear_later(self) -> None:
        self.clear_at = len(self) + min(_SLACK + len(self), _MOST_SLACK)

    def dump(self) -> tuple[int, int, int, list[int], list[int], list[int], bytes]:
        """Returns the content in plain types."""
        return self.first, self.last, self.step, self.firsts, self.lasts, self.steps, self.singles.tobytes()

    @classmethod
    def load(cls, content: tuple[int, int, int, list[int], list[int], list[int], bytes]) -> "Seen":
        """Returns what `dump` gave. Raises ValueError for damaged bytes."""
        self = cls()
        self.first, self.last, self.step, self.firsts, self.lasts, self.steps, singles = content
        self.singles.frombytes(singles)
        self._clear_later()
        return self
