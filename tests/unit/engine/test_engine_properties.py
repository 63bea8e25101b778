"""Random pipelines and readings, any order, batching, repetition and crash: the results equal a plain recompute.

What is compared is what a consumer ends up with: of each window the highest revision, and the later one of equal
revisions; windows with count 0 were taken back. How often a test runs is the profile's affair (tests/conftest.py).
"""

from collections.abc import Callable
from typing import Any

import pytest
from e2e.recompute import compute
from hypothesis import given
from hypothesis import strategies as st
from sensorpipeline_api.records import Aggregate, Alert, Late
from sensorpipeline_api.spec import Fleet
from sensorpipeline_workers.engine.plan import MetricPlan, compile_metric
from sensorpipeline_workers.engine.series import process
from sensorpipeline_workers.engine.state import SeriesState, decode, encode

NOW = 1_700_000_000_000
FUNCTIONS = ["Sum", "Mean", "Minimum", "Maximum", "Count", "First", "Last", "Difference", "Rate", "StandardDeviation",
             "Quantile", "TimeWeightedMean", "Availability"]  # fmt: skip
Reading = tuple[int, float]
Batch = list[Reading]
Draw = Callable[..., Any]


@st.composite
def windows(draw: Draw, name: str) -> dict[str, Any]:
    shape = draw(st.sampled_from(["period", "period", "slide", "gap", "calendar"]))
    window: dict[str, Any] = {"name": name, "metric": "m", "allowedLatenessSeconds": draw(st.integers(0, 40))}
    functions = FUNCTIONS
    match shape:
        case "period":
            window["periodSeconds"] = draw(st.integers(1, 20))
        case "slide":
            window["periodSeconds"] = draw(st.integers(1, 20))
            window["slideSeconds"] = draw(st.integers(1, window["periodSeconds"]))
            functions = [name for name in FUNCTIONS if name != "Difference"]
        case "gap":
            window["gapSeconds"] = draw(st.integers(1, 20))
            functions = [name for name in FUNCTIONS if name not in {"Difference", "Availability"}]
        case "calendar":
            window |= {"calendar": "Day", "timeZone": "Europe/Athens"}
    function = window["function"] = draw(st.sampled_from(functions))
    if function == "Quantile":
        window["quantile"] = draw(st.sampled_from(["0", "0.5", "0.95", "1"]))
    if function == "Availability":
        window["expectedEverySeconds"] = draw(st.integers(1, 7)) * (1 if shape != "calendar" else 3600)
    if function in {"Difference", "Rate"}:
        window["resetPolicy"] = draw(st.sampled_from(["Negative", "Reset"]))
    if draw(st.booleans()):
        window |= {"emit": "Updates", "emitSeconds": draw(st.integers(1, 30))}
    return window


@st.composite
def thresholds(draw: Draw, name: str) -> dict[str, Any]:
    kind = draw(st.sampled_from(["above", "below", "risingFasterThan", "fallingFasterThan"]))
    threshold = {"name": name, "metric": "m", kind: str(draw(st.integers(-60, 60)))}
    if draw(st.booleans()):
        threshold["clear"] = str(draw(st.integers(-60, 60)))
    return threshold | {"forSeconds": draw(st.sampled_from([0, 0, 5, 20]))}


@st.composite
def fleets(draw: Draw) -> dict[str, Any]:
    bases = [draw(windows(f"W{number}")) for number in range(draw(st.integers(1, 3)))]
    rollups = []
    for base in bases:
        if "periodSeconds" in base and "slideSeconds" not in base and draw(st.booleans()):
            rollups += draw(rolled_up(base))
    return {
        "name": "f",
        "topic": "f/{device}/m",
        "metrics": [{"name": "m"}],
        "outOfOrdernessSeconds": draw(st.sampled_from([0, 0, 3, 10])),
        "windows": rollups[::-1] + bases,
        "thresholds": [draw(thresholds(f"T{number}")) for number in range(draw(st.integers(0, 2)))],
    }


@st.composite
def rolled_up(draw: Draw, base: dict[str, Any]) -> list[dict[str, Any]]:
    """A window over another one, and perhaps one over that."""
    out: list[dict[str, Any]] = []
    source = base
    for _ in range(draw(st.integers(1, 2))):
        kept = ("metric", "function", "quantile", "resetPolicy", "expectedEverySeconds")
        window = {key: source[key] for key in kept if key in source} | {"source": source["name"]}
        window["name"] = f"{source['name']}x"
        window["periodSeconds"] = source["periodSeconds"] * draw(st.integers(1, 4))
        if "expectedEverySeconds" in window:
            source["expectedEverySeconds"] = window["expectedEverySeconds"] = 1
        out.append(window)
        source = window
    return out


times = [
    st.integers(0, 100).map(lambda second: second * 1000),
    st.integers(0, 100_000),
    st.integers(0, 72).map(lambda hour: 1_603_404_000_000 + hour * 3_600_000),
]
"""Many repetitions and much disorder; and days around a change of Athens' offset."""

values = st.integers(-100, 100).map(float)
"""Small whole values, so that sums are exact in any order."""


@st.composite
def regular(draw: Draw) -> list[Reading]:
    """A device that sends at equal steps, with some readings missing, late or repeated."""
    step = draw(st.sampled_from([1000, 1000, 2000, 700]))
    count = draw(st.integers(1, 50))
    rows = [(number * step, float(draw(st.integers(-100, 100)))) for number in range(count)]
    for _ in range(draw(st.integers(0, 4))):
        moved = rows.pop(draw(st.integers(0, len(rows) - 1))) if len(rows) > 1 else rows[0]
        rows.insert(draw(st.integers(0, len(rows))), moved)
    return rows


readings = st.one_of(regular(), *(st.lists(st.tuples(kind, values), min_size=1, max_size=40) for kind in times))
sizes = st.lists(st.integers(1, 9), min_size=1, max_size=5)


def run(plan: MetricPlan, batches: list[tuple[int, Batch]], state: SeriesState) -> list[Any]:
    """Runs records (offset, readings) through the engine as the worker does, skipping what the state holds."""
    out: list[Any] = []
    for offset, batch in batches:
        if state.offset < offset:
            state.offset = offset
            moments, found = [time for time, _ in batch], [value for _, value in batch]
            out += process(plan, state, device="d", times=moments, values=found, now=NOW)
    return out


class View:
    """What a consumer of all emissions ends up with, in the recompute's form."""

    def __init__(self, emissions: list[Any]) -> None:
        windows: dict[tuple[str, int], Aggregate] = {}
        self.late: dict[tuple[str, int], float] = {}
        alerts: dict[tuple[str, str, int], None] = {}
        for emission in emissions:
            match emission:
                case Aggregate():
                    known = windows.get((emission.window, emission.start))
                    if known is None or emission.revision >= known.revision:
                        windows[emission.window, emission.start] = emission
                case Late():
                    self.late[emission.window, emission.time] = emission.late_by_seconds
                case Alert():
                    alerts[emission.threshold, emission.state, emission.time] = None
        self.windows = {key: (a.value, a.count) for key, a in windows.items() if a.count and a.final}
        self.alerts = sorted(alerts)


def check(spec: dict[str, Any], emissions: list[Any], rows: list[Reading]) -> None:
    """Holds emissions against the recompute."""
    entries = [{"fleet": "f", "device": "d", "metric": "m", "time": t, "value": v} for t, v in rows]
    wanted = compute([spec], entries)
    found = View(emissions)
    functions = {window["name"]: window["function"] for window in spec["windows"]}
    assert found.windows.keys() == {(window, start) for window, _, start, _, _ in wanted.aggregates}
    for window, _, start, value, count in wanted.aggregates:
        # The sketch promises 1 %; everything else differs by rounding at most.
        near = 0.0101 if functions[window] == "Quantile" else 1e-9
        assert found.windows[window, start] == (pytest.approx(value, rel=near, abs=1e-6), count), (window, start)
    assert found.late == {(window, time): by for window, _, time, by in wanted.late}
    assert found.alerts == sorted((name, state, time) for name, _, state, time in wanted.alerts)


def about(emission: Any) -> str:
    """Which window or threshold an emission is of: each has an order of its own."""
    return emission.threshold if isinstance(emission, Alert) else f"window {emission.window}"


def split(rows: list[Reading], sizes: list[int]) -> list[tuple[int, Batch]]:
    """Cuts readings into records of the given sizes, again and again."""
    batches: list[tuple[int, Batch]] = []
    position = 0
    while position < len(rows):
        size = sizes[len(batches) % len(sizes)]
        batches.append((len(batches), rows[position : position + size]))
        position += size
    return batches


def compiled(spec: dict[str, Any]) -> MetricPlan:
    return compile_metric(Fleet.model_validate(spec), "m")


@given(fleets(), readings, sizes)
def test_any_order_and_any_batching_equal_the_recompute(
    spec: dict[str, Any], rows: list[Reading], sizes: list[int]
) -> None:
    plan = compiled(spec)
    check(spec, run(plan, split(rows, sizes), SeriesState(plan)), rows)


@given(fleets(), readings, sizes, sizes)
def test_emissions_do_not_depend_on_how_readings_are_cut_into_records(
    spec: dict[str, Any], rows: list[Reading], sizes: list[int], others: list[int]
) -> None:
    plan = compiled(spec)
    one, other = SeriesState(plan), SeriesState(plan)
    found, wanted = (run(plan, split(rows, cut), state) for cut, state in ((sizes, one), (others, other)))
    assert sorted(found, key=about) == sorted(wanted, key=about)


@given(fleets(), readings, sizes, st.data())
def test_any_crash_between_flushes_changes_nothing(
    spec: dict[str, Any], rows: list[Reading], sizes: list[int], data: st.DataObject
) -> None:
    """Flush after some records; crash after some more, whose outputs went out and whose state did not; start again from
    the flushed state and an offset at or before it."""
    plan = compiled(spec)
    batches = split(rows, sizes)
    flushed = data.draw(st.integers(0, len(batches)))
    crashed = data.draw(st.integers(flushed, len(batches)))
    committed = data.draw(st.integers(0, flushed))
    state = SeriesState(plan)
    out = run(plan, batches[:flushed], state)
    saved = encode(plan, state)
    out += run(plan, batches[flushed:crashed], state)
    out += run(plan, batches[committed:], decode(plan, saved))
    check(spec, out, rows)


@given(fleets(), readings, sizes)
def test_sending_everything_twice_changes_no_window(
    spec: dict[str, Any], rows: list[Reading], sizes: list[int]
) -> None:
    plan = compiled(spec)
    state = SeriesState(plan)
    run(plan, split(rows, sizes), state)
    again = [(offset + 1000, batch) for offset, batch in split(rows, sizes)]
    assert [e for e in run(plan, again, state) if isinstance(e, Aggregate | Alert)] == []
