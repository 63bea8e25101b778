"""The running content of one window of one series: for each function the least that it needs.

Contents are mergeable: that of two disjoint sets of readings is merged from the contents of each, which rollups and
sessions rely on. Readings come one by one (`add`, in any order) or as a slice that is newer than all before (`extend`).
"""

import math
from array import array
from bisect import bisect_left
from itertools import pairwise
from typing import Any, cast

import msgspec
from ddsketch.mapping import LogarithmicMapping

QUANTILE_ERROR = 0.01
"""A quantile is at most this far, relatively, from the value of that rank (DDSketch, Masson et al., VLDB 2019)."""

MAXIMUM_SAMPLES = 10_000
"""How many readings a pane keeps where all are needed: about one in 8 s for a day."""

_SHORT = 8
_mapping = LogarithmicMapping(QUANTILE_ERROR)
_SMALLEST = 1e-300
"""What is smaller in size counts as zero in a sketch."""


def _value(key: int) -> float:
    value: float = _mapping.value(key)
    return value


class Times(array):  # type: ignore[type-arg]
    """An array of 64-bit integers, told apart from one of floats by its type when it is read."""


class Values(array):  # type: ignore[type-arg]
    """An array of floats."""


class Pane(msgspec.Struct, array_like=True, gc=False, tag=0):
    """What every function needs, and all that Count needs.

    `revision` is the last one emitted, -1 for none. `closed` says that the window was emitted as final and has not been
    continued since; `merged`, that its content has gone into the rollups that read it; `reported` is the count at the
    last emission.
    """

    start: int
    end: int
    count: int = 0
    revision: int = -1
    closed: bool = False
    merged: bool = False
    reported: int = 0

    def add(self, time: int, value: float) -> None:
        """Takes one reading in."""
        self.count += 1

    def extend(self, times: list[int], values: list[float]) -> None:
        """Takes readings in, in the order of time and newer than all before."""
        self.count += len(times)

    def merge(self, other: Any) -> None:
        """Takes the content of a pane of the same function, with other readings, in."""
        self.count += other.count


class SumPane(Pane, tag=1):
    """Sum and Mean. The sum is compensated (two floats), so its error does not grow with the count."""

    total: float = 0.0
    compensation: float = 0.0

    def add(self, time: int, value: float) -> None:
        self.count += 1
        before = self.total
        total = self.total = before + value
        grown = total - before
        self.compensation += (before - (total - grown)) + (value - grown)

    def extend(self, times: list[int], values: list[float]) -> None:
        self.count += len(values)
        if len(values) >= _SHORT:
            try:
                parts = [self.total, self.compensation, *values]
                total = math.fsum(parts)
                parts.append(-total)
                self.compensation = math.fsum(parts)
                self.total = total
                return
            except (OverflowError, ValueError):
                pass  # beyond what a float holds: the loop ends with an infinite sum
        total, compensation = self.total, self.compensation
        for value in values:
            before = total
            total = before + value
            grown = total - before
            compensation += (before - (total - grown)) + (value - grown)
        self.total, self.compensation = total, compensation

    def merge(self, other: Any) -> None:
        count = self.count + other.count
        self.add(0, other.total)
        self.compensation += other.compensation
        self.count = count

    def sum(self) -> float:
        """Returns the compensated sum; infinite beyond what a float holds."""
        value = self.total + self.compensation
        return value if math.isfinite(value) else self.total


class MinimumPane(Pane, tag=2):
    """Minimum."""

    value: float = math.inf

    def add(self, time: int, value: float) -> None:
        self.count += 1
        if value < self.value:
            self.value = value

    def extend(self, times: list[int], values: list[float]) -> None:
        self.count += len(values)
        value = min(values)
        if value < self.value:
            self.value = value

    def merge(self, other: Any) -> None:
        self.count += other.count
        self.value = min(self.value, other.value)


class MaximumPane(Pane, tag=3):
    """Maximum."""

    value: float = -math.inf

    def add(self, time: int, value: float) -> None:
        self.count += 1
        if value > self.value:
            self.value = value

    def extend(self, times: list[int], values: list[float]) -> None:
        self.count += len(values)
        value = max(values)
        if value > self.value:
            self.value = value

    def merge(self, other: Any) -> None:
        self.count += other.count
        self.value = max(self.value, other.value)


class SpanPane(Pane, tag=4):
    """First, Last, Difference and Rate: the first and the last reading by event time."""

    first_time: int = 0
    first: float = 0.0
    last_time: int = 0
    last: float = 0.0

    def add(self, time: int, value: float) -> None:
        if self.count == 0 or time < self.first_time:
            self.first_time, self.first = time, value
        if self.count == 0 or time > self.last_time:
            self.last_time, self.last = time, value
        self.count += 1

    def extend(self, times: list[int], values: list[float]) -> None:
        if self.count == 0:
            self.first_time, self.first = times[0], values[0]
        self.last_time, self.last = times[-1], values[-1]
        self.count += len(times)

    def merge(self, other: Any) -> None:
        count = self.count + other.count
        self.add(other.first_time, other.first)
        self.add(other.last_time, other.last)
        self.count = count


class MomentsPane(Pane, tag=5):
    """StandardDeviation: mean and sum of squared deviations (Welford; merged after Chan et al.)."""

    mean: float = 0.0
    squares: float = 0.0

    def add(self, time: int, value: float) -> None:
        self.count += 1
        off = value - self.mean
        self.mean += off / self.count
        self.squares += off * (value - self.mean)

    def extend(self, times: list[int], values: list[float]) -> None:
        count, mean, squares = self.count, self.mean, self.squares
        for value in values:
            count += 1
            off = value - mean
            mean += off / count
            squares += off * (value - mean)
        self.count, self.mean, self.squares = count, mean, squares

    def merge(self, other: Any) -> None:
        count = self.count + other.count
        off = other.mean - self.mean
        self.mean += off * other.count / count
        self.squares += other.squares + off * off * self.count * other.count / count
        self.count = count


class SketchPane(Pane, tag=6):
    """Quantile: how many readings fall in each of DDSketch's logarithmic buckets, by sign. The bucket of a value does
    not depend on the others, so the sketch is the same for every order and merge."""

    positive: dict[int, int] = msgspec.field(default_factory=dict)
    negative: dict[int, int] = msgspec.field(default_factory=dict)
    zeros: int = 0

    def add(self, time: int, value: float) -> None:
        self.count += 1
        if value > _SMALLEST:
            key = _mapping.key(value)
            self.positive[key] = self.positive.get(key, 0) + 1
        elif value < -_SMALLEST:
            key = _mapping.key(-value)
            self.negative[key] = self.negative.get(key, 0) + 1
        else:
            self.zeros += 1

    def extend(self, times: list[int], values: list[float]) -> None:
        for value in values:
            self.add(0, value)

    def merge(self, other: Any) -> None:
        self.count += other.count
        self.zeros += other.zeros
        for mine, others in ((self.positive, other.positive), (self.negative, other.negative)):
            for key, count in others.items():
                mine[key] = mine.get(key, 0) + count

    def quantile(self, rank: float) -> float:
        """Returns the value of rank `rank * (count - 1)`, counted from 0 and rounded down, within QUANTILE_ERROR."""
        left = int(rank * (self.count - 1))
        for key in sorted(self.negative, reverse=True):
            left -= self.negative[key]
            if left < 0:
                return -_value(key)
        left -= self.zeros
        if left < 0:
            return 0.0
        value = 0.0
        for key in sorted(self.positive):
            value = _value(key)
            left -= self.positive[key]
            if left < 0:
                break
        return value


class SamplesPane(Pane, tag=7):
    """TimeWeightedMean, and Difference and Rate of a counter that starts anew: what lies between two readings matters,
    and a reading may still come between them, so all are kept, 16 bytes each; of more than `MAXIMUM_SAMPLES` every
    second one is given up, which makes the result coarser and keeps the state small."""

    times: Times = msgspec.field(default_factory=lambda: Times("q"))
    values: Values = msgspec.field(default_factory=lambda: Values("d"))

    def add(self, time: int, value: float) -> None:
        self.count += 1
        if not self.times or time > self.times[-1]:
            self.times.append(time)
            self.values.append(value)
        else:
            place = bisect_left(self.times, time)
            self.times.insert(place, time)
            self.values.insert(place, value)
        while len(self.times) > MAXIMUM_SAMPLES:
            self._thin_out()

    def extend(self, times: list[int], values: list[float]) -> None:
        self.count += len(times)
        self.times.extend(times)
        self.values.extend(values)
        while len(self.times) > MAXIMUM_SAMPLES:
            self._thin_out()

    def _thin_out(self) -> None:
        del self.times[1:-1:2]
        del self.values[1:-1:2]

    def merge(self, other: Any) -> None:
        count = self.count + other.count
        if not self.times or other.times[0] > self.times[-1]:
            self.extend(other.times, other.values)
            self.count = count
            return
        for time, value in zip(other.times, other.values, strict=True):
            self.add(time, value)
        self.count = count

    @property
    def last(self) -> float:
        """The last value by event time."""
        return cast(float, self.values[-1])

    def increase(self) -> float:
        """Returns how much a counter has grown from the first to the last reading; a fall is a start anew at 0."""
        values = self.values
        resets = [before for before, value in pairwise(values) if value < before]
        return math.fsum([values[-1], -values[0], *resets])

    def time_weighted_mean(self) -> float:
        """Returns the mean of the values, each weighted with the time to the next reading or the window's end."""
        times = self.times
        ends = [*times[1:], self.end]
        weights = [end - time for time, end in zip(times, ends, strict=True)]
        area = math.fsum(value * weight for value, weight in zip(self.values, weights, strict=True))
        return float(area / (self.end - times[0]))


class PeriodsPane(Pane, tag=8):
    """Availability: one bit for each expected period of the window in which a reading was seen."""

    every: int = 1
    seen: bytearray = msgspec.field(default_factory=bytearray)

    def add(self, time: int, value: float) -> None:
        self.extend([time], [value])

    def extend(self, times: list[int], values: list[float]) -> None:
        self.count += len(times)
        start, every, seen = self.start, self.every, self.seen
        for time in times:
            place, bit = divmod((time - start) // every, 8)
            if place >= len(seen):
                seen.extend(bytes(place + 1 - len(seen)))
            seen[place] |= 1 << bit

    def merge(self, other: Any) -> None:
        self.count += other.count
        shift = (other.start - self.start) // self.every
        bits = int.from_bytes(self.seen, "little") | int.from_bytes(other.seen, "little") << shift
        self.seen = bytearray(bits.to_bytes((bits.bit_length() + 7) // 8, "little"))

    def availability(self) -> float:
        """Returns the share of the window's periods in which a reading was seen."""
        periods = -(-(self.end - self.start) // self.every)
        return int.from_bytes(self.seen, "little").bit_count() / periods


AnyPane = Pane | SumPane | MinimumPane | MaximumPane | SpanPane | MomentsPane | SketchPane | SamplesPane | PeriodsPane
