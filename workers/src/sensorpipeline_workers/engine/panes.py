"""The running content of one window of one series: for each function the least that it needs.

Contents are mergeable: that of two disjoint sets of readings is merged from the contents of each, which rollups and
sessions rely on. Readings come one by one (`add`, in any order) or as a slice that is newer than all before (`extend`).
"""

import math
import sys
from array import array
from bisect import bisect_left
from itertools import pairwise
from typing import Any, cast

import msgspec
from ddsketch.mapping import LogarithmicMapping

from sensorpipeline_workers.engine.numbers import DOWN, UP, finite, summed, weighted_mean

QUANTILE_ERROR = 0.01
"""A quantile is at most this far, relatively, from the value of that rank (DDSketch, Masson et al., VLDB 2019)."""

MAXIMUM_BUCKETS = 2048
"""How many buckets a pane has at most; 2,048 next to each other span values that differ by a factor of 6e17."""

MAXIMUM_SAMPLES = 10_000
"""How many readings a pane keeps at most where all are needed: about one in 8 s for a day."""

MAXIMUM_SHARED_SAMPLES = 30_000
"""How many the live panes of one window keep together at most when another one is opened."""

_SHORT = 8
_mapping = LogarithmicMapping(QUANTILE_ERROR)
_SMALLEST = 1e-300
"""What is smaller in size counts as zero in a sketch."""


_LARGE = 2.0**1022
"""A sum from here on is kept on a smaller scale: what is added to it must not overflow."""

_WIDE = 2.0**500
"""Deviations from here on, too: their squares must not overflow."""

_NARROWER, _WIDER = 2.0**-600, 2.0**600


def _value(key: int) -> float:
    try:
        value: float = _mapping.value(key)
    except OverflowError:  # the bucket of the largest floats: its middle is none
        return sys.float_info.max
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
    """Sum and Mean. The sum is compensated (two floats), so its error does not grow with the count. `scaled` says that
    it has been beyond `_LARGE` and that both are on the smaller scale since."""

    total: float = 0.0
    compensation: float = 0.0
    scaled: bool = False

    def add(self, time: int, value: float) -> None:
        self.count += 1
        before = self.total
        total = before + value
        if self.scaled or not -_LARGE < total < _LARGE:
            self._add_scaled(value * DOWN)
            return
        self.total = total
        grown = total - before
        self.compensation += (before - (total - grown)) + (value - grown)

    def extend(self, times: list[int], values: list[float]) -> None:
        if not self.scaled:
            total, compensation = self._summed(values)
            if -_LARGE < total < _LARGE and -_LARGE < compensation < _LARGE:
                self.count += len(values)
                self.total, self.compensation = total, compensation
                return
            self._scale()
        for value in values:
            self.add(0, value)

    def _summed(self, values: list[float]) -> tuple[float, float]:
        """Returns total and compensation with more values; beyond `_LARGE` or not a number if they do not fit."""
        total, compensation = self.total, self.compensation
        if len(values) >= _SHORT:
            parts = [total, compensation, *values]
            try:
                total = math.fsum(parts)
                parts.append(-total)
                return total, math.fsum(parts)
            except (OverflowError, ValueError):
                return math.inf, math.inf
        for value in values:
            before = total
            total = before + value
            grown = total - before
            compensation += (before - (total - grown)) + (value - grown)
        return total, compensation

    def merge(self, other: Any) -> None:
        count = self.count + other.count
        if other.scaled:
            self._add_scaled(other.total)
            self._add_scaled(other.compensation)
        else:
            self.add(0, other.total)
            self.add(0, other.compensation)
        self.count = count

    def _add_scaled(self, part: float) -> None:
        self._scale()
        before = self.total
        total = self.total = before + part
        grown = total - before
        self.compensation += (before - (total - grown)) + (part - grown)

    def _scale(self) -> None:
        if not self.scaled:
            self.scaled = True
            self.total *= DOWN
            self.compensation *= DOWN

    def sum(self) -> float:
        """Returns the compensated sum."""
        return self._over(1)

    def mean(self) -> float:
        """Returns the mean."""
        return self._over(self.count)

    def _over(self, count: int) -> float:
        value = self.total + self.compensation
        if math.isnan(value):  # an infinite sum that was stored before there was the smaller scale
            value = self.total
        return finite(value / count * UP if self.scaled else value / count)


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
    """StandardDeviation: mean and sum of squared deviations (Welford; merged after Chan et al.). `scaled` says that a
    deviation was beyond `_WIDE` and that both are on a smaller scale since."""

    mean: float = 0.0
    squares: float = 0.0
    scaled: bool = False

    def add(self, time: int, value: float) -> None:
        self.extend([time], [value])

    def extend(self, times: list[int], values: list[float]) -> None:
        count, mean, squares = self.count, self.mean, self.squares
        for value in values:
            if self.scaled:
                value *= _NARROWER
            off = value - mean
            if not -_WIDE < off < _WIDE and not self.scaled:
                self.scaled = True
                value, mean, squares = value * _NARROWER, mean * _NARROWER, squares * _NARROWER * _NARROWER
                off = value - mean
            count += 1
            mean += off / count
            squares += off * (value - mean)
        self.count, self.mean, self.squares = count, mean, squares

    def merge(self, other: Any) -> None:
        count = self.count + other.count
        others_mean, others_squares = other.mean, other.squares
        if not self.scaled and (other.scaled or not -_WIDE < others_mean - self.mean < _WIDE):
            self.scaled = True
            self.mean, self.squares = self.mean * _NARROWER, self.squares * _NARROWER * _NARROWER
        if self.scaled and not other.scaled:
            others_mean, others_squares = others_mean * _NARROWER, others_squares * _NARROWER * _NARROWER
        off = others_mean - self.mean
        self.mean += off * other.count / count
        self.squares += others_squares + off * off * self.count * other.count / count
        self.count = count

    def deviation(self) -> float:
        """Returns the standard deviation of the readings as a whole population."""
        deviation = math.sqrt(max(0.0, self.squares) / self.count)
        return finite(deviation * _WIDER if self.scaled else deviation)


class SketchPane(Pane, tag=6):
    """Quantile: how many readings fall in each of DDSketch's logarithmic buckets, by sign. Of more than `most` buckets
    those of the smallest values (in size) are collapsed into the smallest that stays; an eighth more are let come
    together first, since looking for the smallest has a cost.

    The bucket of a value does not depend on the others, and what stays is the highest buckets of all that were ever in
    use, so quantiles are the same for every order and merge."""

    positive: dict[int, int] = msgspec.field(default_factory=dict)
    negative: dict[int, int] = msgspec.field(default_factory=dict)
    zeros: int = 0
    most: int = MAXIMUM_BUCKETS

    def add(self, time: int, value: float) -> None:
        self.count += 1
        if value > _SMALLEST:
            buckets, key = self.positive, _mapping.key(value)
        elif value < -_SMALLEST:
            buckets, key = self.negative, _mapping.key(-value)
        else:
            self.zeros += 1
            return
        if key in buckets:
            buckets[key] += 1
        else:
            buckets[key] = 1
            if len(self.positive) + len(self.negative) > self.most * 9 // 8:
                self.collapse()

    def extend(self, times: list[int], values: list[float]) -> None:
        for value in values:
            self.add(0, value)

    def merge(self, other: Any) -> None:
        self.count += other.count
        self.zeros += other.zeros
        for mine, others in ((self.positive, other.positive), (self.negative, other.negative)):
            for key, count in others.items():
                mine[key] = mine.get(key, 0) + count
        self.collapse()

    def keep(self, most: int) -> None:
        """Keeps so many buckets, 2 or more, from now on."""
        self.most = most
        self.collapse()

    def collapse(self) -> None:
        """Leaves `most` buckets: where both signs have more than half of that, half of each."""
        most = self.most
        if len(self.positive) + len(self.negative) > most:
            _collapse(self.positive, most - min(len(self.negative), most // 2))
            _collapse(self.negative, most - len(self.positive))

    def quantile(self, rank: float) -> float:
        """Returns the value of rank `rank * (count - 1)`, counted from 0 and rounded down, within QUANTILE_ERROR; where
        that has been collapsed, the value of the bucket that it was collapsed into, which is farther from 0."""
        self.collapse()
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


def _collapse(buckets: dict[int, int], most: int) -> None:
    """Counts all but so many of the highest buckets with the lowest of these."""
    if len(buckets) > most:
        keys = sorted(buckets)
        buckets[keys[-most]] += sum(buckets.pop(key) for key in keys[:-most])


class SamplesPane(Pane, tag=7):
    """TimeWeightedMean, and Difference and Rate of a counter that starts anew: what lies between two readings matters,
    and a reading may still come between them, so all are kept, 16 bytes each; of more than `most` in a pane, or too
    many in the live panes of a window (`share_samples`), every second one is given up, which makes the result coarser
    and keeps the state small."""

    times: Times = msgspec.field(default_factory=lambda: Times("q"))
    values: Values = msgspec.field(default_factory=lambda: Values("d"))
    most: int = MAXIMUM_SAMPLES

    def add(self, time: int, value: float) -> None:
        self.count += 1
        if not self.times or time > self.times[-1]:
            self.times.append(time)
            self.values.append(value)
        else:
            place = bisect_left(self.times, time)
            self.times.insert(place, time)
            self.values.insert(place, value)
        self.thin_out(self.most)

    def extend(self, times: list[int], values: list[float]) -> None:
        self.count += len(times)
        self.times.extend(times)
        self.values.extend(values)
        self.thin_out(self.most)

    def keep(self, most: int) -> None:
        """Keeps so many readings, 2 or more, at most."""
        self.most = most
        self.thin_out(most)

    def thin_out(self, most: int) -> None:
        """Gives up every second reading between the first and the last until there are so many, 2 or more, at most."""
        while len(self.times) > most:
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

    def increase(self, *, since: float | None = None, seconds: float = 1.0) -> float:
        """Returns how much a counter has grown from a reading before (the first one by default) to the last reading,
        per so many seconds; a fall is a start anew at 0."""
        values = self.values if since is None else [since, *self.values]
        resets = [before for before, value in pairwise(values) if value < before]
        return summed([values[-1], -values[0], *resets], seconds)

    def time_weighted_mean(self) -> float:
        """Returns the mean of the values, each weighted with the time to the next reading or the window's end."""
        ends = [*self.times[1:], self.end]
        return weighted_mean(self.values, [end - time for time, end in zip(self.times, ends, strict=True)])


def share_samples(panes: list[SamplesPane], shared: int, *, beyond: int) -> None:
    """Thins out what the live panes of one window keep together to `shared`, when it is more than `beyond`.

    It is called when a pane is opened and when one that has more than half its share takes a single reading, so they
    keep three times `shared` at most: one and a half that it finds, half of it in panes with less than half their
    share, and what the newest panes take in slices."""
    if sum(len(pane.times) for pane in panes) > beyond:
        share = max(2, shared // len(panes))
        for pane in panes:
            pane.thin_out(share)


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
