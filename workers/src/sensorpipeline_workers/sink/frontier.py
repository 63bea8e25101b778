"""Which readings are surely not stored yet, and which must be looked up. Pure.

A series' frontier is a time beyond which nothing of it is stored. Devices report in order, so nearly every reading lies
beyond its series' frontier and costs a comparison. What does not (a record read again after a crash, a late reading, a
message that was delivered twice), and every reading of a series without a frontier, is looked up. A frontier is taken
away before a write and set after it, so a write of unknown outcome leaves none.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sensorpipeline_workers.sink.documents import Series

Readings = dict[Series, dict[int, float]]
"""The values of each series by time (ms)."""

MAXIMUM_SERIES = 200_000
SLOT_MILLISECONDS = 3600 * 1000
"""Times that are further apart than this are looked up separately."""


@dataclass(frozen=True, slots=True)
class LookUp:
    """Asks which of these times of each series are stored; `last` None: and what its newest time is.

    The series are of one fleet and metric; `first` and `last` (ms) enclose the times.
    """

    fleet: str
    metric: str
    times: dict[str, set[int]]
    first: int
    last: int | None

    @property
    def size(self) -> int:
        """The number of times asked for."""
        return sum(map(len, self.times.values()))

    def closed(self) -> "LookUp":
        """Returns the same question without that for the newest time."""
        last = max(max(times) for times in self.times.values())
        return LookUp(self.fleet, self.metric, self.times, self.first, last)


@dataclass(slots=True)
class Found:
    """What look-ups found: the stored times of each series, and those whose newest stored time was not found out."""

    stored: dict[Series, set[int]] = field(default_factory=dict)
    incomplete: set[Series] = field(default_factory=set)


class Frontiers:
    """The frontiers of the series of our partitions, of the most recently used ones."""

    def __init__(self, maximum: int = MAXIMUM_SERIES) -> None:
        self._newest: dict[Series, int] = {}
        self._maximum = maximum

    def forget(self) -> None:
        """Forgets everything: others may have written."""
        self._newest.clear()

    def look_ups(self, readings: Readings) -> list[LookUp]:
        """Returns what must be found out before these readings are written; series whose questions are alike share
        one."""
        groups: dict[tuple[str, str, int, int | None], dict[str, set[int]]] = {}
        for series, values in readings.items():
            fleet, device, metric = series
            newest = self._newest.get(series)
            if newest is None:
                key = fleet, metric, min(values) // SLOT_MILLISECONDS, None
                groups.setdefault(key, {})[device] = set(values)
                continue
            for run in _runs(time for time in values if time <= newest):
                closed = fleet, metric, run[0] // SLOT_MILLISECONDS, run[-1] // SLOT_MILLISECONDS
                groups.setdefault(closed, {}).setdefault(device, set()).update(run)
        out = []
        for (fleet, metric, _, end), times in groups.items():
            question = LookUp(fleet, metric, times, min(min(group) for group in times.values()), None)
            out.append(question if end is None else question.closed())
        return out

    def begin(self, readings: Readings, found: Found) -> tuple[Readings, dict[Series, int]]:
        """Returns the readings to be written, and the frontiers to be set when they are. Until then their series have
        none."""
        new: Readings = {}
        after: dict[Series, int] = {}
        for series, values in readings.items():
            stored = found.stored.get(series)
            missing = values if not stored else {t: v for t, v in values.items() if t not in stored}
            before = self._newest.pop(series, None)
            if before is not None:
                after[series] = max(before, *values)
            elif series not in found.incomplete:
                after[series] = max(*values, *(stored or values))
            if missing:
                new[series] = missing
        return new, after

    def settle(self, after: Mapping[Series, int]) -> None:
        """Sets frontiers: the readings given out by `begin` are stored."""
        self._newest.update(after)
        if len(self._newest) > self._maximum:
            for series in list(self._newest)[: len(self._newest) - self._maximum // 2]:
                del self._newest[series]


def _runs(times: Iterable[int]) -> list[list[int]]:
    """Returns times in order, split where they are further apart than a slot."""
    out: list[list[int]] = []
    for time in sorted(times):
        if out and time - out[-1][-1] <= SLOT_MILLISECONDS:
            out[-1].append(time)
        else:
            out.append([time])
    return out
