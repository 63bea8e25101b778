"""The join of windows of equal start: when all inputs of a derived metric are there, its value; again whenever one of
them is revised.

The revision of a result is the sum of its inputs' revisions: it grows whenever an input is revised, and the same
inputs give the same revision, however often they are read.
"""

import math
from dataclasses import dataclass, field

from sensorpipeline_api.configuration import DerivedPlan
from sensorpipeline_api.expressions import Evaluate, ExpressionError, compile_expression
from sensorpipeline_api.records import Aggregate

FLEET = "derived"
MAXIMUM_STARTS = 10_000

Input = tuple[str, str]
"""A window and a device."""


@dataclass
class _Metric:
    name: str
    inputs: tuple[Input, ...]
    evaluate: Evaluate
    starts: dict[int, dict[Input, Aggregate]] = field(default_factory=dict)


class Join:
    """The inputs seen so far, at most `MAXIMUM_STARTS` window starts of each derived metric, the newest."""

    def __init__(self, pipeline: str, plans: list[DerivedPlan]) -> None:
        self._pipeline = pipeline
        self._metrics = [
            _Metric(
                name=plan.metric.name,
                inputs=tuple((i.window, i.device) for i in plan.inputs),
                evaluate=compile_expression(plan.metric.expression),
            )
            for plan in plans
        ]
        self._changed: set[tuple[int, int]] = set()

    def add(self, aggregate: Aggregate) -> None:
        """Takes an input in; of one window the highest revision counts, and the later one of equal revisions."""
        if aggregate.fleet == FLEET:
            return
        key = aggregate.window, aggregate.device
        for number, metric in enumerate(self._metrics):
            if key not in metric.inputs:
                continue
            inputs = metric.starts.setdefault(aggregate.start, {})
            known = inputs.get(key)
            if known is None or aggregate.revision >= known.revision:
                inputs[key] = aggregate
                self._changed.add((number, aggregate.start))
            if len(metric.starts) > MAXIMUM_STARTS:
                del metric.starts[min(metric.starts)]

    def results(self) -> tuple[list[Aggregate], list[str]]:
        """Returns the results that have changed since the last call, and what could not be computed and why."""
        out: list[Aggregate] = []
        problems: list[str] = []
        changed, self._changed = self._changed, set()
        for number, start in sorted(changed):
            metric = self._metrics[number]
            inputs = metric.starts.get(start, {})
            if len(inputs) < len(metric.inputs):
                continue
            try:
                value = metric.evaluate({key: aggregate.value for key, aggregate in inputs.items()})
            except ExpressionError as error:
                problems.append(f"{metric.name} at {start}: {error}")
                continue
            if not math.isfinite(value):
                problems.append(f"{metric.name} at {start}: the result is {value}")
                continue
            out.append(self._aggregate(metric.name, start, value, list(inputs.values())))
        return out, problems

    def forget_changes(self) -> None:
        """Says that what has changed so far was emitted before."""
        self._changed.clear()

    def _aggregate(self, name: str, start: int, value: float, inputs: list[Aggregate]) -> Aggregate:
        return Aggregate(
            window=name,
            fleet=FLEET,
            device=self._pipeline,
            metric=name,
            start=start,
            end=max(aggregate.end for aggregate in inputs),
            value=value,
            count=sum(aggregate.count for aggregate in inputs),
            revision=sum(aggregate.revision for aggregate in inputs),
            final=all(aggregate.final for aggregate in inputs),
        )
