"""A series' state stays far below the largest record that Kafka takes, whatever a resource and its readings ask for."""

import math
import random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sensorpipeline_api.bounds import MAXIMUM_BYTES, open_windows, window_bytes
from sensorpipeline_api.spec import Fleet
from sensorpipeline_workers.engine import panes
from sensorpipeline_workers.engine.panes import SketchPane
from sensorpipeline_workers.engine.plan import MetricPlan, compile_metric
from sensorpipeline_workers.engine.seen import MAXIMUM_RUNS, MAXIMUM_SINGLES
from sensorpipeline_workers.engine.series import close_idle, process
from sensorpipeline_workers.engine.state import SeriesState, decode, encode
from unit.engine.pipelines import FUNCTIONS, NOW, Reading, View, fleets, readings, sizes, split

LARGEST_RECORD = 4 * 1024 * 1024
LATE = 253_000_000_000_000
"""A time that takes all of its nine bytes."""
MANY = 2**32 - 1
"""The largest count that a number of five bytes holds."""

wide = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([1.0, -1.0, 2.0, 0.0, 1e-310, 1e300]),
    st.integers(-20, 20).map(lambda power: 10.0**power),
)
signs = st.sampled_from([[1], [-1], [1, -1], [1, 1, 1, -1], [-1, -1, -1, 1]])
values_of_a_window = st.builds(
    lambda values, signs: [math.copysign(value, signs[place % len(signs)]) for place, value in enumerate(values)],
    st.lists(wide, min_size=1, max_size=60),
    signs,
)


def fleet_of(*windows: dict[str, Any], **extra: Any) -> Fleet:
    filled = [{"name": f"W{place}", "metric": "m", "function": "Sum"} | window for place, window in enumerate(windows)]
    spec = {"name": "f", "topic": "f/{device}/m", "metrics": [{"name": "m"}], "windows": filled}
    return Fleet.model_validate(spec | extra)


def quantile(**extra: Any) -> dict[str, Any]:
    return {"function": "Quantile", "quantile": "0.5"} | extra


@given(fleets(), readings, sizes, st.sampled_from(["Series", "Fleet"]))
def test_no_more_windows_are_open_than_the_definition_says(
    spec: dict[str, Any], rows: list[Reading], sizes: list[int], clock: str
) -> None:
    fleet = Fleet.model_validate(spec | {"lateness": {"clock": clock}})
    plan = compile_metric(fleet, "m")
    most = {window.name: open_windows(fleet, window) for window in fleet.windows}
    state, newest = SeriesState(plan), -1
    for _, batch in split(rows, sizes):
        times, clocks = [time for time, _ in batch], []
        for time in times:
            clocks.append(newest)
            newest = max(newest, time)
        process(
            plan, state, device="d", times=times, values=[value for _, value in batch], now=NOW,
            clocks=clocks if clock == "Fleet" else None,
        )  # fmt: skip
        for window in state.windows:
            assert len(window.panes) <= most[window.plan.name]


def test_as_many_windows_are_open_as_the_definition_says() -> None:
    fleet = fleet_of({"periodSeconds": 60, "allowedLatenessSeconds": 600}, outOfOrdernessSeconds=30)
    plan = compile_metric(fleet, "m")
    state = SeriesState(plan)
    times = list(range(0, 1_200_000, 60_000))
    process(plan, state, device="d", times=times, values=[1.0] * len(times), now=NOW)
    assert len(state.windows[0].panes) == open_windows(fleet, fleet.windows[0]) == 12


def sketch(values: list[float], most: int) -> SketchPane:
    pane = SketchPane(0, 1, most=most)
    pane.extend([0] * len(values), values)
    return pane


@given(values_of_a_window, st.integers(2, 12), sizes, st.randoms(use_true_random=False))
def test_a_bounded_sketch_is_the_same_for_any_order_and_any_merging(
    values: list[float], most: int, sizes: list[int], chance: random.Random
) -> None:
    wanted = sketch(values, most)
    wanted.collapse()
    shuffled = list(values)
    chance.shuffle(shuffled)
    parts = [sketch([value for _, value in part], most) for _, part in split([(0, value) for value in shuffled], sizes)]
    while len(parts) > 1:
        one, other = parts.pop(chance.randrange(len(parts))), parts.pop(chance.randrange(len(parts)))
        one.merge(other)
        assert len(one.positive) + len(one.negative) <= most
        parts.append(one)
    parts[0].collapse()
    assert parts == [wanted]


@given(values_of_a_window, st.integers(2, 12), st.floats(0, 1))
@example([1.0, *(-(10.0**power) for power in range(20))], 8, 0.5)
@example([-1.0, *(10.0**power for power in range(20))], 8, 0.5)
def test_a_bounded_sketch_is_exact_to_one_percent_above_what_it_has_collapsed(
    values: list[float], most: int, rank: float
) -> None:
    pane, whole = sketch(values, most), sketch(values, 10**6)
    buckets = len(whole.positive) + len(whole.negative)
    assert len(pane.positive) + len(pane.negative) <= most * 9 // 8
    found, exact = pane.quantile(rank), sorted(values)[int(rank * (len(values) - 1))]
    assert len(pane.positive) + len(pane.negative) == min(most, buckets)
    if abs(found - exact) <= max(0.0101 * abs(exact), 1e-300):
        return
    assert buckets > most
    sign = math.copysign(1, exact)
    assert sign * found > sign * exact
    above = [value for value in values if sign * value >= sign * found * 0.98]
    assert len(above) >= len(pane.positive if exact > 0 else pane.negative)


def test_one_stray_value_collapses_nothing() -> None:
    """What counts is how many buckets are in use, not how far apart they are."""
    values = [20 + number / 1000 for number in range(5000)]
    pane = sketch([1e300, -1e-200, *values], 64)
    assert pane.quantile(0.5) == pytest.approx(22.5, rel=0.011)


def test_the_order_of_readings_does_not_show_in_a_rollup_of_bounded_sketches() -> None:
    """In order a source closes, and is merged, with all its readings; out of order each goes into both by itself."""
    low = quantile(quantile="0.3")
    fleet = fleet_of(
        low | {"periodSeconds": 20, "source": "W1"}, low | {"periodSeconds": 10, "allowedLatenessSeconds": 10_000}
    )
    plan = compile_metric(fleet, "m")
    assert [window.most for window in plan.windows] == [77, 77]
    chance = random.Random(7)
    rows = [(number * 50, 10 ** (chance.uniform(0, 200) - 200 * (number >= 200))) for number in range(400)]
    results = []
    for order in (rows, rows[::-1], chance.sample(rows, len(rows))):
        state = SeriesState(plan)
        out = process(plan, state, device="d", times=[t for t, _ in order], values=[v for _, v in order], now=NOW)
        out += close_idle(plan, state, device="d", now=NOW + plan.idle)
        results.append(View(out).windows)
    assert results[0] == results[1] == results[2]


def widest(function: str, shape: dict[str, Any]) -> Fleet:
    """Returns a fleet whose window has the largest lateness that is accepted."""
    window = {"function": function} | shape
    if function == "Quantile":
        window["quantile"] = "0.5"
    if function == "Availability":
        window["expectedEverySeconds"] = 6
    if function == "Difference":
        window["resetPolicy"] = "Reset"
    one, far = fleet_of(window), fleet_of(window | {"allowedLatenessSeconds": 31_622_400})
    most = MAXIMUM_BYTES // window_bytes(one.windows[0])
    assert open_windows(far, far.windows[0]) > most
    low, high = 0, 31_622_400
    while high - low > 1:
        middle = (low + high) // 2
        fleet = fleet_of(window | {"allowedLatenessSeconds": middle})
        low, high = (middle, high) if open_windows(fleet, fleet.windows[0]) <= most else (low, middle)
    return fleet_of(window | {"allowedLatenessSeconds": low})


def fill(pane: Any, readings: int) -> None:
    """Makes a pane as large as it can become, with so many readings if it keeps them."""
    pane.count = pane.revision = pane.reported = MANY
    match pane:
        case panes.SumPane():
            pane.total, pane.compensation, pane.scaled = 1.5, 1.5, True
        case panes.SpanPane():
            pane.first_time = pane.last_time = LATE
        case SketchPane():
            half = pane.most * 9 // 16
            pane.positive = {35_400 - place: MANY for place in range(half)}
            pane.negative = {-32_800 - place: MANY for place in range(half)}
            pane.zeros = MANY
        case panes.PeriodsPane():
            pane.extend(list(range(pane.start, pane.end, pane.every)), [])
        case panes.SamplesPane():
            pane.times.extend(range(LATE, LATE + readings))
            pane.values.extend([1.5] * readings)


def largest(plan: MetricPlan, fleet: Fleet) -> SeriesState:
    """Returns a state with as many windows as can be open, each full, and as many times as are remembered."""
    state = SeriesState(plan)
    for window in state.windows:
        count = open_windows(fleet, next(w for w in fleet.windows if w.name == window.plan.name))
        for place in range(count):
            pane = window.plan.make(LATE + place, LATE + place + window.plan.period)
            fill(pane, 3 * max(window.plan.shared // count, 2))
            window.panes.append(pane)
    state.seen.singles.extend(range(LATE, LATE + MAXIMUM_SINGLES))
    for runs in (state.seen.firsts, state.seen.lasts, state.seen.steps):
        runs.extend([LATE] * 2 * MAXIMUM_RUNS)
    return state


SHAPES = [{"periodSeconds": 60}, {"periodSeconds": 640, "slideSeconds": 10}, {"gapSeconds": 1}]


WIDEST = [(function, shape) for function in FUNCTIONS for shape in SHAPES
          if shape == SHAPES[0] or function not in {"Difference", "Availability"}]  # fmt: skip


@pytest.mark.parametrize(("function", "shape"), WIDEST, ids=str)
def test_the_largest_state_that_is_accepted_fits_in_a_record(function: str, shape: dict[str, Any]) -> None:
    fleet = widest(function, shape)
    plan = compile_metric(fleet, "m")
    state = largest(plan, fleet)
    assert len(encode(plan, state)) < 0.93 * LARGEST_RECORD
    state.seen = SeriesState(plan).seen
    assert 0.4 * MAXIMUM_BYTES < len(encode(plan, state)) < 1.01 * MAXIMUM_BYTES


def test_sixteen_windows_that_keep_much_share_what_there_is() -> None:
    day = {"periodSeconds": 3600, "allowedLatenessSeconds": 86_400}
    keepers = [quantile(**day), {"function": "TimeWeightedMean"} | day]
    fleet = fleet_of(*[keepers[place % 2] for place in range(16)])
    plan = compile_metric(fleet, "m")
    assert {(window.most, window.shared) for window in plan.windows} == {(354, 0), (933, 1_866)}
    assert len(encode(plan, largest(plan, fleet))) < 0.93 * LARGEST_RECORD


def test_readings_that_come_late_into_all_open_windows_are_thinned_out_too() -> None:
    """No window is opened any more when they come."""
    fleet = fleet_of({"periodSeconds": 600, "function": "TimeWeightedMean"}, outOfOrdernessSeconds=86_400)
    plan = compile_metric(fleet, "m")
    state = SeriesState(plan)
    count = open_windows(fleet, fleet.windows[0])
    times = [place * 600_000 for place in range(count)]
    times += [place * 600_000 + number * 800 for number in range(1, 700) for place in range(count)]
    (window,) = state.windows
    for begin in range(0, len(times), 1000):
        batch = times[begin : begin + 1000]
        process(plan, state, device="d", times=batch, values=[1.0] * len(batch), now=NOW)
        assert sum(len(pane.times) for pane in window.panes) <= 3 * plan.windows[0].shared
    assert sum(pane.count for pane in window.panes) == len(times)


def test_what_is_stored_is_held_to_what_a_changed_fleet_lets_it_keep() -> None:
    hour = {"periodSeconds": 3600, "allowedLatenessSeconds": 86_400}
    mean = {"name": "T", "function": "TimeWeightedMean"} | hour
    more = [mean | {"name": f"M{place}"} for place in range(13)]
    before, after = (compile_metric(fleet_of(quantile(name="Q", **hour), mean, *others), "m") for others in ([], more))
    state = SeriesState(before)
    rows = [(number * 1000, 1.02 ** (number % 2000)) for number in range(3 * 3600)]
    process(before, state, device="d", times=[t for t, _ in rows], values=[v for _, v in rows], now=NOW)
    found = decode(after, encode(before, state))
    for old, new in zip(state.windows, found.windows[:2], strict=True):
        for one, other in zip(old.panes, new.panes, strict=True):
            assert (other.most, other.count) == (new.plan.most, one.count)
            kept = len(other.times) if isinstance(other, panes.SamplesPane) else len(other.positive)
            assert kept <= new.plan.most
    assert sum(len(pane.times) for pane in found.windows[1].panes) <= 3 * found.windows[1].plan.shared
