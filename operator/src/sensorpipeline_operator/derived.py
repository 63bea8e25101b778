"""Derived metrics from the spec: their inputs, order and units, and everything that cannot work refused. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from sensorpipeline_api.configuration import DerivedInput, DerivedPlan
from sensorpipeline_api.expressions import ExpressionError, only_adds, parse_expression
from sensorpipeline_api.spec import Fleet, SensorPipelineSpec, Window
from sensorpipeline_api.units import window_unit

from sensorpipeline_operator.errors import InvalidSpecError
from sensorpipeline_operator.window_validation import describe_length

Source = tuple[Fleet, Window]


@dataclass(frozen=True)
class _Nature:
    """What can be said of the results of a window or of a derived metric: how long they are, and their units."""

    periods: frozenset[str]
    units: frozenset[str]


def compute_derived(spec: SensorPipelineSpec) -> tuple[DerivedPlan, ...]:
    """Returns the derived metrics, each after those that it refers to. Raises InvalidSpecError."""
    places = {metric.name: number for number, metric in enumerate(spec.derived_metrics)}
    windows: dict[str, list[Source]] = {}
    for fleet in spec.fleets:
        for window in fleet.windows:
            windows.setdefault(window.name, []).append((fleet, window))
    inputs = {name: _inputs(spec, number, windows, places) for name, number in places.items()}
    natures: dict[str, _Nature] = {}
    plans: list[DerivedPlan] = []
    for name in _order(inputs, places):
        metric = spec.derived_metrics[places[name]]
        nature = _joined([natures[i.window] if not i.device else _nature(windows, i) for i in inputs[name]])
        if len(nature.periods) > 1:
            message = f"joins windows of different length, must be one: {', '.join(sorted(nature.periods))}"
            raise InvalidSpecError("DifferentPeriods", _path(places[name]), message)
        common = next(iter(nature.units)) if len(nature.units) == 1 and only_adds(metric.expression) else ""
        unit = metric.unit or common
        natures[name] = _Nature(nature.periods, frozenset({unit}))
        plans.append(DerivedPlan(metric=metric, inputs=inputs[name], unit=unit))
    return tuple(plans)


def _path(number: int) -> str:
    return f"spec.derivedMetrics[{number}].expression"


def _inputs(
    spec: SensorPipelineSpec, number: int, windows: Mapping[str, list[Source]], derived: Mapping[str, int]
) -> list[DerivedInput]:
    """Returns what an expression names; all of it exists."""
    try:
        found = parse_expression(spec.derived_metrics[number].expression)
    except ExpressionError as error:
        raise InvalidSpecError("InvalidExpression", _path(number), str(error)) from error
    for item in found:
        if item.window in derived:
            if item.device:
                message = f"names the derived metric {item.window}, must be without a device, got {item.device}"
                raise InvalidSpecError("InvalidExpression", _path(number), message)
        elif not item.device and item.window in windows:
            message = f'names the window {item.window}, must be with a device: {item.window}["<device>"]'
            raise InvalidSpecError("InvalidExpression", _path(number), message)
        elif item.window not in windows:
            known = ", ".join(sorted(windows.keys() | derived.keys()))
            kind = "window" if item.device else "derived metric"
            raise InvalidSpecError(
                "UnknownWindow", _path(number), f"names the {kind} {item.window}, must be one of {known}"
            )
        elif not _fitting(windows, item):
            message = f"names the device {item.device} of window {item.window}, which no fleet with that window lists"
            raise InvalidSpecError("UnknownDevice", _path(number), message)
        elif any(window.gap_seconds is not None for _, window in _fitting(windows, item)):
            message = f"names the window {item.window}, must be one without gapSeconds: sessions share no start"
            raise InvalidSpecError("SessionWindow", _path(number), message)
    return found


def _order(inputs: Mapping[str, list[DerivedInput]], places: Mapping[str, int]) -> list[str]:
    """Returns the derived metrics' names in the order of dependency. Raises InvalidSpecError for a cycle."""
    graph = {name: [item.window for item in found if not item.device] for name, found in inputs.items()}
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        cycle: list[str] = error.args[1][:0:-1]  # the sorter's cycle goes from an input to what is made of it
        first = min(range(len(cycle)), key=lambda position: places[cycle[position]])
        named = [*cycle[first:], *cycle[:first], cycle[first]]
        message = f"must not depend on itself: {' needs '.join(named)}"
        raise InvalidSpecError("CyclicExpression", _path(places[named[0]]), message) from error


def _fitting(windows: Mapping[str, list[Source]], item: DerivedInput) -> list[Source]:
    return [(f, w) for f, w in windows[item.window] if not f.devices or item.device in f.devices]


def _nature(windows: Mapping[str, list[Source]], item: DerivedInput) -> _Nature:
    fitting = _fitting(windows, item)
    metrics = {fleet.name: {metric.name: metric.unit for metric in fleet.metrics} for fleet, _ in fitting}
    return _Nature(
        frozenset(describe_length(window) for _, window in fitting),
        frozenset(window_unit(window.function, metrics[fleet.name][window.metric]) for fleet, window in fitting),
    )


def _joined(natures: list[_Nature]) -> _Nature:
    return _Nature(
        frozenset[str]().union(*(nature.periods for nature in natures)),
        frozenset[str]().union(*(nature.units for nature in natures)),
    )
