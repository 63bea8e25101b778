"""Results carry the unit of their metric, as the window's function makes it."""

import pytest
from sensorpipeline_api.records import Aggregate
from sensorpipeline_api.spec import Fleet
from sensorpipeline_workers.engine.plan import compile_metric
from sensorpipeline_workers.engine.series import process
from sensorpipeline_workers.engine.state import SeriesState


@pytest.mark.parametrize(("function", "unit"), [("Sum", "Wh"), ("Count", "")])
def test_a_result_carries_its_unit(function: str, unit: str) -> None:
    window = {"name": "W", "metric": "m", "function": function, "periodSeconds": 100}
    metrics = [{"name": "other", "unit": "l"}, {"name": "m", "unit": "Wh"}]
    spec = Fleet.model_validate({"name": "f", "topic": "f/{device}/m", "metrics": metrics, "windows": [window]})
    plan = compile_metric(spec, "m")
    found = process(plan, SeriesState(plan), device="d", times=[0, 100_000], values=[1.0, 1.0], now=0)
    assert [(e.start, e.unit) for e in found if isinstance(e, Aggregate)] == [(0, unit)]
