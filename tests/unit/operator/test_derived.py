"""Derived metrics as derive gets them: in order, with their inputs and units."""

from typing import Any

import pytest
from sensorpipeline_api.spec import SensorPipelineSpec
from sensorpipeline_operator.derived import compute_derived


def spec(*metrics: dict[str, str]) -> SensorPipelineSpec:
    def fleet(name: str, unit: str) -> dict[str, Any]:
        windows = [{"name": f"{name.upper()}{function}", "metric": "m", "function": function, "periodSeconds": 60}
                   for function in ("Sum", "Count")]  # fmt: skip
        return {"name": name, "topic": f"{name}/{{device}}/m", "metrics": [{"name": "m", "unit": unit}],
                "windows": windows}  # fmt: skip

    fleets = [fleet("a", "Wh"), fleet("b", "Wh"), fleet("c", "l")]
    return SensorPipelineSpec.model_validate({"fleets": fleets, "derivedMetrics": list(metrics)})


def test_a_metric_comes_after_those_that_it_refers_to() -> None:
    plans = compute_derived(spec(
        {"name": "Top", "expression": "Middle + Bottom"}, {"name": "Middle", "expression": "Bottom * 2"},
        {"name": "Bottom", "expression": "ASum.x"},
    ))  # fmt: skip
    assert [plan.metric.name for plan in plans] == ["Bottom", "Middle", "Top"]
    assert [(i.window, i.device) for i in plans[2].inputs] == [("Bottom", ""), ("Middle", "")]


@pytest.mark.parametrize(
    ("expression", "unit"),
    [
        ("ASum.x + BSum.y", "Wh"),
        ("ASum.x - 5", "Wh"),
        ("ASum.x * 2", ""),
        ("ASum.x + CSum.y", ""),
        ("ASum.x + ACount.x", ""),
        ("ASum.x / BSum.y", ""),
    ],
)
def test_the_unit_is_that_of_the_inputs_when_they_share_one_and_are_only_added(expression: str, unit: str) -> None:
    (plan,) = compute_derived(spec({"name": "R", "expression": expression}))
    assert plan.unit == unit


def test_a_unit_that_is_written_down_wins_and_is_carried_along_the_chain() -> None:
    share, doubled, mixed = compute_derived(spec(
        {"name": "Share", "expression": "ASum.x / BSum.y * 100", "unit": "%"},
        {"name": "Doubled", "expression": "Share + Share"}, {"name": "Mixed", "expression": "Share + ASum.x"},
    ))  # fmt: skip
    assert (share.unit, doubled.unit, mixed.unit) == ("%", "%", "")
