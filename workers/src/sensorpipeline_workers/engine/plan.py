"""A fleet's windows and thresholds, compiled for one metric: numbers in milliseconds and floats, functions chosen."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

from sensorpipeline_api.model import as_float
from sensorpipeline_api.spec import Fleet, Threshold, Window, WindowFunction
from sensorpipeline_api.units import window_unit

from sensorpipeline_workers.engine.state import Pane


def total(pane: Pane) -> float:
    """Returns the compensated sum; one that is beyond what a float holds is the largest float of its sign."""
    value = pane.total + pane.compensation
    return value if math.isfinite(value) else math.copysign(sys.float_info.max, pane.total)


RESULTS: dict[WindowFunction, Callable[[Pane], float]] = {
    WindowFunction.SUM: total,
    WindowFunction.MEAN: lambda pane: total(pane) / pane.count,
    WindowFunction.MINIMUM: lambda pane: pane.minimum,
    WindowFunction.MAXIMUM: lambda pane: pane.maximum,
    WindowFunction.COUNT: lambda pane: float(pane.count),
    WindowFunction.FIRST: lambda pane: pane.first,
    WindowFunction.LAST: lambda pane: pane.last,
}
"""How a pane becomes a value; Difference needs two panes and stands in windows.py."""


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """One window; `result` is None for Difference, `unit` is that of the results."""

    name: str
    period: int
    lateness: int
    result: Callable[[Pane], float] | None
    unit: str = ""


@dataclass(frozen=True, slots=True)
class ThresholdPlan:
    """One threshold. `sign` is 1 for above and -1 for below: the condition is sign * value > sign * bound."""

    name: str
    sign: float
    bound: float
    clear: float
    hold: int
    severity: str


@dataclass(frozen=True, slots=True)
class MetricPlan:
    """What is computed from each series of one metric. `horizon` is how far back, from the newest reading, a window
    can still be open; duplicates are recognised within it."""

    fleet: str
    metric: str
    windows: tuple[WindowPlan, ...]
    thresholds: tuple[ThresholdPlan, ...]
    out_of_orderness: int
    idle: int
    horizon: int


def compile_metric(fleet: Fleet, metric: str) -> MetricPlan:
    """Returns the plan for one metric of a fleet."""
    unit = next((m.unit for m in fleet.metrics if m.name == metric), "")
    windows = tuple(_window(window, unit) for window in fleet.windows if window.metric == metric)
    out_of_orderness = fleet.out_of_orderness_seconds * 1000
    return MetricPlan(
        fleet=fleet.name,
        metric=metric,
        windows=windows,
        thresholds=tuple(_threshold(threshold) for threshold in fleet.thresholds if threshold.metric == metric),
        out_of_orderness=out_of_orderness,
        idle=fleet.idle_seconds * 1000,
        horizon=max((w.period + w.lateness + out_of_orderness for w in windows), default=0),
    )


def compile_fleet(fleet: Fleet) -> dict[str, MetricPlan]:
    """Returns the plans of a fleet by metric."""
    return {metric.name: compile_metric(fleet, metric.name) for metric in fleet.metrics}


def _window(window: Window, unit: str) -> WindowPlan:
    return WindowPlan(
        name=window.name,
        period=window.period_seconds * 1000,
        lateness=window.allowed_lateness_seconds * 1000,
        result=RESULTS.get(window.function),
        unit=window_unit(window.function, unit),
    )


def _threshold(threshold: Threshold) -> ThresholdPlan:
    text = threshold.above if threshold.above is not None else threshold.below
    if text is None:
        raise ValueError(f"threshold {threshold.name}: exactly one of above and below must be set")
    bound = as_float(text)
    return ThresholdPlan(
        name=threshold.name,
        sign=1.0 if threshold.above is not None else -1.0,
        bound=bound,
        clear=as_float(threshold.clear) if threshold.clear is not None else bound,
        hold=threshold.for_seconds * 1000,
        severity=threshold.severity.value,
    )
