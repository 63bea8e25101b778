"""No finite reading and no time that a record may hold stops the engine, and no result or alert is ever infinite.

The expected values are worked out in fractions, which do not overflow, and cut off at the largest float.
"""

import json
import math
import sys
from fractions import Fraction
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sensorpipeline_api.records import LAST_TIME, Aggregate, Alert
from sensorpipeline_api.spec import Fleet
from sensorpipeline_workers.engine.calendars import CalendarBounds
from sensorpipeline_workers.engine.plan import compile_metric
from sensorpipeline_workers.engine.series import close_idle, process
from sensorpipeline_workers.engine.state import SeriesState, decode, encode
from unit.engine.pipelines import FUNCTIONS, NOW, Reading

LARGEST = sys.float_info.max
extreme = st.one_of(
    st.sampled_from([LARGEST, -LARGEST, 1.7e308, -1.7e308, 1e308, -1e308, 1e200, -1e200, 1.0, 0.0, -5e-324]),
    st.floats(allow_nan=False, allow_infinity=False),
)
rows_of_a_window = st.lists(
    st.tuples(st.integers(0, 99_999), extreme), min_size=1, max_size=20, unique_by=lambda r: r[0]
)
sizes = st.integers(1, 20)


def window(function: str, **extra: Any) -> dict[str, Any]:
    out = {"name": "W", "metric": "m", "function": function, "periodSeconds": 100}
    if function == "Quantile":
        out["quantile"] = "0.5"
    if function == "Availability":
        out["expectedEverySeconds"] = 7
    return out | extra


def run(windows: list[dict[str, Any]], rows: list[Reading], size: int, **extra: Any) -> list[Any]:
    """Returns what is emitted for readings in records of a size, the state stored and read in between."""
    spec = {"name": "f", "topic": "f/{device}/m", "metrics": [{"name": "m"}], "windows": windows} | extra
    plan = compile_metric(Fleet.model_validate(spec), "m")
    state = SeriesState(plan)
    out: list[Any] = []
    for begin in range(0, len(rows), size):
        times, values = zip(*rows[begin : begin + size], strict=True)
        out += process(plan, state, device="d", times=list(times), values=list(values), now=NOW)
        state = decode(plan, encode(plan, state))
    return out + close_idle(plan, state, device="d", now=NOW + plan.idle)


def cut(value: Fraction) -> float:
    """Returns the nearest float, or the largest of the sign."""
    try:
        return float(value)
    except OverflowError:
        return LARGEST if value > 0 else -LARGEST


def expected(function: str, rows: list[Reading], before: float, *, counter: bool) -> float | None:
    times, values = zip(*sorted(rows), strict=True)
    exact = [Fraction(value) for value in values]
    seconds = Fraction(times[-1] - times[0], 1000)
    since = [Fraction(before), *exact] if function == "Difference" else exact
    grown = since[-1] - since[0] + (sum(a for a, b in pairwise(since) if b < a) if counter else 0)
    match function:
        case "Sum":
            return cut(sum(exact, Fraction(0)))
        case "Mean":
            return cut(sum(exact, Fraction(0)) / len(exact))
        case "Difference":
            return cut(grown)
        case "Rate":
            return cut(grown / seconds) if seconds else None
        case "StandardDeviation":
            mean = sum(exact, Fraction(0)) / len(exact)
            variance = sum(((value - mean) ** 2 for value in exact), Fraction(0)) / len(exact)
            return math.sqrt(variance / Fraction(2**1200)) * 2.0**600 if variance > 2**200 else None
        case "Quantile":
            return sorted(values)[int(0.5 * (len(values) - 1))]
        case "TimeWeightedMean":
            spans = zip(exact, pairwise([*times, 100_000]), strict=True)
            return cut(sum((value * (b - a) for value, (a, b) in spans), Fraction(0)) / (100_000 - times[0]))
    return None


@pytest.mark.parametrize("function", FUNCTIONS)
@given(st.sampled_from(["plain", "rolled up", "counter"]), extreme, rows_of_a_window, sizes)
@example("plain", 0.0, [(0, -1.7e308), (1_000, 1.7e308), (50_000, 1.7e308)], 20)
@example("counter", -1.7e308, [(0, 1.7e308), (1_000, -1.7e308), (50_000, 1.7e308)], 1)
@example("rolled up", LARGEST, [(number * 1000, (-1) ** number * LARGEST) for number in range(20)], 20)
def test_every_function_has_a_finite_result_for_any_readings(
    function: str, shape: str, before: float, rows: list[Reading], size: int
) -> None:
    counter = shape == "counter"
    reset = {"resetPolicy": "Reset"} if counter else {}
    windows = [window(function, **reset)]
    if shape == "rolled up":
        windows = [window(function, source="S"), window(function, name="S", periodSeconds=10)]
        for one in windows:
            one |= {"expectedEverySeconds": 5} if function == "Availability" else {}
    late = {"outOfOrdernessSeconds": 200}
    shifted = [(100_000 + time, value) for time, value in rows]
    found = run(windows, [(0, before), *shifted], size, **late)
    assert all(math.isfinite(emission.value) for emission in found)
    assert msgspec.json.decode(msgspec.json.encode(found)) == json.loads(msgspec.json.encode(found))
    results = {e.start: e for e in found if isinstance(e, Aggregate) and e.window == "W"}
    wanted = expected(function, rows, before, counter=counter)
    if wanted is None:
        return
    result = results[100_000].value
    largest = max(abs(value) for _, value in [*rows, (0, before)])
    # Rounding is relative to the readings; a sketch promises 1 %.
    near = 0.0101 * abs(wanted) if function == "Quantile" else 1e-12 * min(largest, LARGEST / 2) * (len(rows) + 1)
    assert abs(result / 2 - wanted / 2) <= max(near, 1e-290), (result, wanted)


@given(st.lists(extreme, min_size=1, max_size=12), st.lists(st.integers(1, 2_000), min_size=12, max_size=12), sizes)
@example([-1.7e308, 1.7e308], [1] * 12, 2)
def test_an_alert_is_never_infinite(values: list[float], steps: list[int], size: int) -> None:
    rows = [(sum(steps[:number]), value) for number, value in enumerate(values)]
    conditions = [{"above": "1000"}, {"below": "-1000"}, {"risingFasterThan": "1"}, {"fallingFasterThan": "1"}]
    thresholds = [{"name": f"T{number}", "metric": "m", "forSeconds": 0} | one for number, one in enumerate(conditions)]
    found = run([], rows, size, thresholds=thresholds)
    assert all(math.isfinite(alert.value) for alert in found if isinstance(alert, Alert))


def test_a_rise_of_more_than_a_float_holds_fires() -> None:
    rising = {"name": "T", "metric": "m", "risingFasterThan": "1"}
    (alert,) = run([], [(0, -1.7e308), (1_000_000, 1.7e308)], 2, thresholds=[rising])
    assert alert.value == pytest.approx(3.4e305)


ZONES = ["UTC", "Europe/Athens", "Pacific/Kiritimati", "America/St_Johns"]
SHAPES: list[dict[str, Any]] = [
    {"calendar": "Day"},
    {"calendar": "Month"},
    {"periodSeconds": 7},
    {"periodSeconds": 9, "slideSeconds": 2},
    {"gapSeconds": 5},
]
moments_of_a_series = st.lists(
    st.one_of(st.integers(LAST_TIME - 200_000_000, LAST_TIME), st.integers(0, LAST_TIME)), min_size=1, max_size=8
)


@given(st.sampled_from(SHAPES), st.sampled_from(ZONES), moments_of_a_series, sizes)
@example({"calendar": "Day"}, "Pacific/Kiritimati", [LAST_TIME], 1)
@example({"calendar": "Month"}, "America/St_Johns", [0, LAST_TIME], 2)
def test_every_kind_of_window_takes_any_time_that_a_record_may_hold(
    shape: dict[str, Any], zone: str, moments: list[int], size: int
) -> None:
    calendar = {"timeZone": zone} if "calendar" in shape else {}
    windows = [{"name": "W", "metric": "m", "function": "Count"} | shape | calendar]
    found = run(windows, [(time, 1.0) for time in moments], size, idleSeconds=60)
    last = max(moments)
    assert any(e.start <= last < e.end for e in found if isinstance(e, Aggregate))


@pytest.mark.parametrize("unit", ["Day", "Month"])
@pytest.mark.parametrize("zone", ZONES)
def test_calendar_windows_go_on_over_the_end_of_the_calendar(unit: str, zone: str) -> None:
    time, last = 249_990_000_000_000 if unit == "Month" else LAST_TIME - 40 * 86_400_000, 0
    while time <= LAST_TIME:
        start, end = CalendarBounds(unit, zone)(time)
        assert start <= time < end
        assert last in (0, start)
        time = last = end


def test_a_calendar_far_ahead_has_the_summer_time_of_its_zone() -> None:
    """9999-07-01 in Athens begins at 21:00 UTC the day before, as the rules of today have it."""
    july = LAST_TIME + 1 - 184 * 86_400_000
    assert CalendarBounds("Day", "Europe/Athens")(july) == (july - 3 * 3_600_000, july + 21 * 3_600_000)
