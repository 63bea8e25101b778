"""Times for readings that carry none: about when they came in, and never one time of a device twice, since equal times
of one series are one reading.

That holds whoever reads the messages (docs/decisions/0020): carriers of one process share a table; each member of the
bridge has the milliseconds of its own remainder by `MEMBERS`; and a time is never further ahead of the clock than
`AHEAD_MILLISECONDS`, by which the first time that a process gives is after its start, so none is given that its
predecessor gave.
"""

import threading
import time
from collections.abc import Callable

MEMBERS = 16
"""How many members the bridge has at most."""
AHEAD_MILLISECONDS = 10_000
KNOWN_DEVICES = 100_000

Arrive = Callable[[], int]
"""Returns the time, in ms, of the next reading of a device; waits while that would be too far ahead of the clock."""


class SteadyClock:
    """The wall clock in ms, but one that never goes back: when it is set back, this one goes on."""

    def __init__(
        self, wall: Callable[[], int] = time.time_ns, monotonic: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._difference = wall() - monotonic()

    def __call__(self) -> int:
        monotonic = self._monotonic()
        self._difference = max(self._difference, self._wall() - monotonic)
        return (monotonic + self._difference) // 1_000_000


class Arrivals:
    """The times that a process has given; one for all of its threads. `ordinal` is the member's."""

    def __init__(self, ordinal: int, clock: Callable[[], int] | None = None) -> None:
        if not 0 <= ordinal < MEMBERS:
            raise ValueError(f"the member's number must be between 0 and {MEMBERS - 1}, got {ordinal}")
        self._ordinal = ordinal
        self._clock = clock or SteadyClock()
        self._lock = threading.Lock()
        self._last: dict[tuple[str, str], int] = {}
        self._after = self._clock() + AHEAD_MILLISECONDS
        self._prune_at = KNOWN_DEVICES

    def next(self, fleet: str, device: str) -> int | None:
        """Returns the time (ms) of a device's next reading, or None: that would be too far ahead, ask again soon."""
        with self._lock:
            now = self._clock()
            earliest = max(now, 1 + max(self._after, self._last.get((fleet, device), 0)))
            found = earliest + (self._ordinal - earliest) % MEMBERS
            if found > now + AHEAD_MILLISECONDS:
                return None
            self._last[fleet, device] = found
            if len(self._last) >= self._prune_at:
                self._prune(now)
            return found

    def _prune(self, now: int) -> None:
        """Forgets devices whose times have passed: the next would be later anyway."""
        self._last = {key: last for key, last in self._last.items() if last >= now}
        self._prune_at = max(KNOWN_DEVICES, 2 * len(self._last))
