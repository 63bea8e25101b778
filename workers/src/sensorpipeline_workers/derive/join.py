"""The join of windows of equal start: when all inputs of a derived metric are there, its value; again whenever one of
them is revised.

A derived metric may be an input of others; it is computed here anew rather than read from its own results, so what is
emitted depends on the windows alone. The revision of a result is the sum of its inputs' revisions, derived ones
included: it grows whenever a window below is revised, and the same windows give the same revision, however often and
in whatever order they are read.
"""

import math
from dataclasses import dataclass

from sensorpipeline_api.configuration import DerivedPlan
from sensorpipeline_api.expressions import Evaluate, ExpressionError, compile_expression
from sensorpipeline_api.records import Aggregate

FLEET = "derived"
MAXIMUM_STARTS = 10_000
SLACK_STARTS = 1_000
"""How many more may be held before the oldest are dropped."""

Input = tuple[str, str]
"""A window and a device, or a derived metric and ""."""


@dataclass(frozen=True)
class Metric:
    """A derived metric: the inputs that its expression names, and the windows at the bottom of them."""

    name: str
    unit: str
    inputs: tuple[Input, ...]
    windows: frozenset[Input]
    evaluate: Evaluate


@dataclass(frozen=True)
class Failure:
    """Why a metric has no result at a start although all its inputs are there."""

    message: str


Found = Aggregate | Failure | None
"""A result, why there is none, or None: an input is missing."""


class Join:
    """The windows seen so far: of each input the newest `MAXIMUM_STARTS` starts. `plans` are in the order of
    dependency."""

    def __init__(self, pipeline: str, plans: list[DerivedPlan]) -> None:
        self._pipeline = pipeline
        self.metrics: dict[str, Metric] = {}
        for plan in plans:
            inputs = tuple((i.window, i.device) for i in plan.inputs)
            below = [{(name, device)} if device else self.metrics[name].windows for name, device in inputs]
            self.metrics[plan.metric.name] = Metric(
                name=plan.metric.name,
                unit=plan.unit,
                inputs=inputs,
                windows=frozenset[Input]().union(*below),
                evaluate=compile_expression(plan.metric.expression),
            )
        self._windows: dict[Input, dict[int, Aggregate]] = {
            window: {} for metric in self.metrics.values() for window in metric.windows
        }
        self._changed: set[tuple[Input, int]] = set()

    def add(self, aggregate: Aggregate) -> None:
        """Takes a window in; of one window the highest revision counts, and the later one of equal revisions."""
        key = aggregate.window, aggregate.device
        starts = self._windows.get(key)
        if aggregate.fleet == FLEET or starts is None:
            return
        known = starts.get(aggregate.start)
        if known is not None and (aggregate.revision < known.revision or aggregate == known):
            return
        starts[aggregate.start] = aggregate
        self._changed.add((key, aggregate.start))
        if len(starts) >= MAXIMUM_STARTS + SLACK_STARTS:
            for start in sorted(starts)[:-MAXIMUM_STARTS]:
                del starts[start]

    def results(self) -> tuple[list[Aggregate], list[str]]:
        """Returns the results that have changed since the last call, by start and in the order of dependency, and what
        could not be computed and why."""
        changed: dict[int, set[Input]] = {}
        for window, start in self._changed:
            changed.setdefault(start, set()).add(window)
        self._changed.clear()
        out: list[Aggregate] = []
        problems: list[str] = []
        for start in sorted(changed):
            found: dict[str, Found] = {}
            for name, metric in self.metrics.items():
                if metric.windows.isdisjoint(changed[start]):
                    continue
                result = self.find(name, start, found)
                if isinstance(result, Aggregate):
                    out.append(result)
                elif isinstance(result, Failure):
                    problems.append(f"{name} at {start}: {result.message}")
        return out, problems

    def forget_changes(self) -> None:
        """Says that what has changed so far was emitted before."""
        self._changed.clear()

    def starts(self, window: Input) -> set[int]:
        """Returns the starts at which a window is there."""
        return set(self._windows[window])

    def find(self, name: str, start: int, found: dict[str, Found]) -> Found:
        """Returns what there is of a metric at a start; `found` keeps it, and what there is of its inputs."""
        if name not in found:
            found[name] = self._compute(self.metrics[name], start, found)
        return found[name]

    def missing(self, name: str, start: int) -> list[Input]:
        """Returns the inputs that a metric has not got at a start."""
        found: dict[str, Found] = {}
        return [key for key in self.metrics[name].inputs if self._input(key, start, found) is None]

    def _input(self, key: Input, start: int, found: dict[str, Found]) -> Aggregate | None:
        name, device = key
        value = self._windows[key].get(start) if device else self.find(name, start, found)
        return value if isinstance(value, Aggregate) else None

    def _compute(self, metric: Metric, start: int, found: dict[str, Found]) -> Found:
        inputs: dict[Input, Aggregate] = {}
        for key in metric.inputs:
            aggregate = self._input(key, start, found)
            if aggregate is None:
                return None
            inputs[key] = aggregate
        try:
            value = metric.evaluate({key: aggregate.value for key, aggregate in inputs.items()})
        except ExpressionError as error:
            return Failure(str(error))
        if not math.isfinite(value):
            return Failure(f"the value is not finite ({value}): a division by zero or an overflow")
        return self._aggregate(metric, start, value, list(inputs.values()))

    def _aggregate(self, metric: Metric, start: int, value: float, inputs: list[Aggregate]) -> Aggregate:
        return Aggregate(
            window=metric.name,
            fleet=FLEET,
            device=self._pipeline,
            metric=metric.name,
            start=start,
            end=max(aggregate.end for aggregate in inputs),
            value=value,
            count=sum(aggregate.count for aggregate in inputs),
            revision=sum(aggregate.revision for aggregate in inputs),
            final=all(aggregate.final for aggregate in inputs),
            unit=metric.unit,
        )
