"""Units of window results."""

import msgspec
import pytest
from sensorpipeline_api.records import Aggregate
from sensorpipeline_api.spec import WindowFunction
from sensorpipeline_api.units import window_unit


@pytest.mark.parametrize("function", WindowFunction)
def test_every_function_says_what_it_makes_of_a_unit(function: WindowFunction) -> None:
    assert window_unit(function, "Wh") in {"Wh", "Wh/s", ""}


def test_a_count_has_no_unit_and_a_sum_has_that_of_its_readings() -> None:
    assert window_unit(WindowFunction.COUNT, "Wh") == ""
    assert window_unit(WindowFunction.SUM, "Wh") == "Wh"
    assert window_unit(WindowFunction.DIFFERENCE, "l") == "l"


def test_a_record_from_before_units_has_none() -> None:
    whole = msgspec.to_builtins(Aggregate("W", "f", "d", "m", 0, 1, 1.0, 1, 0, True))
    old = {name: value for name, value in whole.items() if name != "unit"}
    assert msgspec.json.decode(msgspec.json.encode(old), type=Aggregate).unit == ""
