"""A fleet's windows and thresholds, compiled for one metric: numbers in milliseconds and floats, functions chosen."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any
from zlib import crc32

from sensorpipeline_api.bounds import BUCKET_BYTES, READING_BYTES, content_bytes, keeps_readings, open_windows
from sensorpipeline_api.model import as_float
from sensorpipeline_api.spec import Clock, Emit, Fleet, ResetPolicy, Threshold, Window, WindowFunction
from sensorpipeline_api.units import window_unit

from sensorpipeline_workers.engine import panes
from sensorpipeline_workers.engine.calendars import CalendarBounds
from sensorpipeline_workers.engine.numbers import finite, slope

_LEAST_REMEMBERED = 30 * 86_400_000

Bounds = Callable[[int], tuple[int, int]]
"""From a time to start and end of the window that holds it."""


class Kind(Enum):
    """How readings are assigned to windows: each to one, each to several, by gaps, or by another window's readings."""

    FIXED = auto()
    HOPPING = auto()
    SESSION = auto()
    ROLLUP = auto()


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """One window. `make` makes an empty pane from start and end; `result` gives a pane's value, or None when it has
    none yet; for Difference it takes the last value before the pane, too, and `compared` is set. `update` is how often
    an open window is emitted, 0 for never; `keep` how long after its end a pane is kept; `source` is the place of the
    window that a rollup reads; stored panes of another `signature` cannot be gone on with (`former_signature`: of that
    one, in states of version 2, which said nothing of sources). A pane keeps `most` buckets or readings, and all panes
    of the window together `shared` readings; 0 if the function keeps none. `unit` is that of the results."""

    name: str
    kind: Kind
    make: Callable[[int, int], Any]
    result: Callable[..., float | None]
    compared: bool
    bounds: Bounds
    period: int
    slide: int
    gap: int
    lateness: int
    keep: int
    update: int
    source: int
    signature: str
    former_signature: str
    most: int
    shared: int
    unit: str


class Watch(Enum):
    """What a threshold compares."""

    LEVEL = auto()
    RATE = auto()
    SILENCE = auto()


@dataclass(frozen=True, slots=True)
class ThresholdPlan:
    """One threshold. `sign` is 1 for above and -1 for below: the condition is sign * value > sign * bound. For silence
    `hold` is its length."""

    name: str
    watch: Watch
    sign: float
    bound: float
    clear: float
    hold: int
    severity: str


@dataclass(frozen=True, slots=True)
class MetricPlan:
    """What is computed from each series of one metric. `horizon` is how far back, from the newest reading (of the
    partition, with the fleet's clock), a window can still accept a reading; duplicates are recognised within it.
    `plain` says that a reading in order concerns the panes alone: no thresholds, no sessions, not the fleet's clock.
    `forgotten` is the silence after which nothing is left of a retired series, either. Rollups stand after the windows
    they read."""

    fleet: str
    metric: str
    windows: tuple[WindowPlan, ...]
    thresholds: tuple[ThresholdPlan, ...]
    out_of_orderness: int
    idle: int
    horizon: int
    ttl: int
    forgotten: int
    fleet_clock: bool
    watches_silence: bool
    plain: bool


def compile_metric(fleet: Fleet, metric: str) -> MetricPlan:
    """Returns the plan for one metric of a fleet. Raises ValueError for what validation refuses."""
    windows = _windows(fleet, metric)
    out_of_orderness = fleet.out_of_orderness_seconds * 1000
    reach = [_longest(w) + w.lateness + out_of_orderness for w in windows if w.kind is not Kind.ROLLUP]
    return MetricPlan(
        fleet=fleet.name,
        metric=metric,
        windows=windows,
        thresholds=tuple(_threshold(threshold) for threshold in fleet.thresholds if threshold.metric == metric),
        out_of_orderness=out_of_orderness,
        idle=fleet.idle_seconds * 1000,
        horizon=max(reach, default=0),
        ttl=fleet.series_ttl_seconds * 1000,
        forgotten=max(10 * fleet.series_ttl_seconds * 1000, _LEAST_REMEMBERED),
        fleet_clock=fleet.lateness.clock is Clock.FLEET,
        plain=not (
            fleet.lateness.clock is Clock.FLEET
            or any(window.kind is Kind.SESSION for window in windows)
            or any(threshold.metric == metric for threshold in fleet.thresholds)
        ),
        watches_silence=any(
            threshold.silent_for_seconds is not None for threshold in fleet.thresholds if threshold.metric == metric
        ),
    )


def compile_fleet(fleet: Fleet) -> dict[str, MetricPlan]:
    """Returns the plans of a fleet by metric."""
    return {metric.name: compile_metric(fleet, metric.name) for metric in fleet.metrics}


def _longest(window: WindowPlan) -> int:
    return window.period or window.gap


def _windows(fleet: Fleet, metric: str) -> tuple[WindowPlan, ...]:
    """Compiles the windows of a metric, each rollup after its source."""
    plans: list[WindowPlan] = []
    places: dict[str, int] = {}
    left = [window for window in fleet.windows if window.metric == metric]
    while left:
        ready = [window for window in left if window.source is None or window.source in places]
        if not ready:
            raise ValueError(f"windows {[window.name for window in left]} read each other or an unknown window")
        for window in ready:
            places[window.name] = len(plans)
            place = places[window.source] if window.source is not None else -1
            plans.append(_window(fleet, window, place, plans[place] if place >= 0 else None))
        left = [window for window in left if window not in ready]
    return tuple(plans)


def _window(fleet: Fleet, window: Window, place: int, source: WindowPlan | None) -> WindowPlan:
    """Compiles a window; `source` is the one that it reads, and `place` where that stands."""
    lateness = window.allowed_lateness_seconds * 1000
    period: int = (window.period_seconds or 0) * 1000
    slide = (window.slide_seconds or 0) * 1000
    gap = (window.gap_seconds or 0) * 1000
    kind = Kind.HOPPING if slide and slide != period else Kind.SESSION if gap else Kind.FIXED
    bounds: Bounds = partial(_aligned, period)
    shape = f"{kind.name} {period} {slide} {gap}"
    if window.calendar is not None:
        bounds = CalendarBounds(window.calendar.value, window.time_zone)
        shape = f"{window.calendar.value} {window.time_zone}"
        # The longest: 31 days and a change of the zone's offset, which can be a whole day.
        period = window.longest_seconds() * 1000
    content = f"{window.function.value} {window.reset_policy.value} {window.expected_every_seconds}"
    former_signature = signature = _signature(f"{shape} {content}")
    most, shared = _kept(fleet, window)
    if source is not None:
        kind, lateness = Kind.ROLLUP, source.lateness
        signature = _signature(f"{signature} {window.source} {source.signature}")
        # What the source has collapsed must be collapsed here, too, or the order of late readings would matter.
        most = min(most, source.most)
    make, result = _function(window, most)
    return WindowPlan(
        name=window.name,
        kind=kind,
        make=make,
        result=result,
        compared=window.function is WindowFunction.DIFFERENCE,
        bounds=bounds,
        period=period,
        slide=slide,
        gap=gap,
        lateness=lateness,
        keep=lateness + gap,
        update=(window.emit_seconds or 0) * 1000 if window.emit is Emit.UPDATES else 0,
        source=place,
        signature=signature,
        former_signature=former_signature,
        most=most,
        shared=shared,
        unit=window_unit(window.function, next((m.unit for m in fleet.metrics if m.name == window.metric), "")),
    )


def _signature(definition: str) -> str:
    return f"{crc32(definition.encode()):08x}"


def _aligned(period: int, time: int) -> tuple[int, int]:
    start = time - time % period
    return start, start + period


def _kept(fleet: Fleet, window: Window) -> tuple[int, int]:
    """Returns how many buckets or readings a pane keeps, and how many readings all panes of the window together."""
    content = content_bytes(fleet, window)
    if window.function is WindowFunction.QUANTILE:
        return min(panes.MAXIMUM_BUCKETS, content // (BUCKET_BYTES * open_windows(fleet, window))), 0
    if not keeps_readings(window):
        return 0, 0
    shared = min(panes.MAXIMUM_SHARED_SAMPLES, content // (3 * READING_BYTES))
    # A reading is kept in each of the sliding windows that hold it, all of which are open at once.
    period, slide = window.period_seconds or 1, window.slide_seconds or window.period_seconds or 1
    return max(2, min(panes.MAXIMUM_SAMPLES, shared // 2, shared * slide // period)), shared


def _function(window: Window, most: int) -> tuple[Callable[[int, int], Any], Callable[..., float | None]]:
    """Returns how an empty pane is made and how a pane becomes a value."""
    resets = window.reset_policy is ResetPolicy.RESET
    samples = partial(panes.SamplesPane, most=most)
    match window.function:
        case WindowFunction.SUM:
            return panes.SumPane, lambda pane: pane.sum()
        case WindowFunction.MEAN:
            return panes.SumPane, lambda pane: pane.mean()
        case WindowFunction.MINIMUM:
            return panes.MinimumPane, lambda pane: pane.value
        case WindowFunction.MAXIMUM:
            return panes.MaximumPane, lambda pane: pane.value
        case WindowFunction.COUNT:
            return panes.Pane, lambda pane: float(pane.count)
        case WindowFunction.FIRST:
            return panes.SpanPane, lambda pane: pane.first
        case WindowFunction.LAST:
            return panes.SpanPane, lambda pane: pane.last
        case WindowFunction.DIFFERENCE:
            return (samples, _increase_since) if resets else (panes.SpanPane, _difference)
        case WindowFunction.RATE:
            return (samples, _counter_rate) if resets else (panes.SpanPane, _rate)
        case WindowFunction.STANDARD_DEVIATION:
            return panes.MomentsPane, lambda pane: pane.deviation()
        case WindowFunction.QUANTILE:
            rank = as_float(window.quantile or "0.5")
            return partial(panes.SketchPane, most=most), lambda pane: pane.quantile(rank)
        case WindowFunction.TIME_WEIGHTED_MEAN:
            return samples, lambda pane: pane.time_weighted_mean()
        case WindowFunction.AVAILABILITY:
            every = (window.expected_every_seconds or 1) * 1000
            return lambda start, end: panes.PeriodsPane(start, end, every=every), lambda pane: pane.availability()


def _difference(pane: panes.SpanPane, before: float | None) -> float | None:
    return None if before is None else finite(pane.last - before)


def _increase_since(pane: panes.SamplesPane, before: float | None) -> float | None:
    return None if before is None else pane.increase(since=before)


def _rate(pane: panes.SpanPane) -> float | None:
    milliseconds = pane.last_time - pane.first_time
    return slope(pane.first, pane.last, milliseconds) if milliseconds else None


def _counter_rate(pane: panes.SamplesPane) -> float | None:
    seconds = (pane.times[-1] - pane.times[0]) / 1000
    return pane.increase(seconds=seconds) if seconds else None


def _threshold(threshold: Threshold) -> ThresholdPlan:
    hold = threshold.for_seconds * 1000
    watch, sign = Watch.LEVEL, 1.0
    if threshold.above is not None:
        bound = as_float(threshold.above)
    elif threshold.below is not None:
        bound, sign = as_float(threshold.below), -1.0
    elif threshold.rising_faster_than is not None:
        bound, watch = as_float(threshold.rising_faster_than), Watch.RATE
    elif threshold.falling_faster_than is not None:
        bound, watch, sign = -as_float(threshold.falling_faster_than), Watch.RATE, -1.0
    elif threshold.silent_for_seconds is not None:
        bound, watch, hold = 0.0, Watch.SILENCE, threshold.silent_for_seconds * 1000
    else:
        raise ValueError(f"threshold {threshold.name}: it has no condition")
    clear = bound
    if threshold.clear is not None:
        clear = as_float(threshold.clear) * (sign if watch is Watch.RATE else 1.0)
    return ThresholdPlan(
        name=threshold.name,
        watch=watch,
        sign=sign,
        bound=bound,
        clear=clear,
        hold=hold,
        severity=threshold.severity.value,
    )
