"""Random readings, any batching, any repetition and any crash point: the results equal a plain recompute."""

from typing import Any

from e2e.recompute import recompute
from hypothesis import given, settings
from hypothesis import strategies as st
from sensorpipeline_api.records import Aggregate, Late
from sensorpipeline_api.spec import Fleet
from sensorpipeline_workers.engine.plan import MetricPlan, compile_metric
from sensorpipeline_workers.engine.series import process
from sensorpipeline_workers.engine.state import SeriesState, decode, encode

FUNCTIONS = ["Sum", "Mean", "Minimum", "Maximum", "Count", "First", "Last", "Difference"]
NOW = 1_700_000_000_000
Reading = tuple[int, float]
Results = tuple[dict[int, tuple[float, int]], set[tuple[int, float]]]


@st.composite
def fleets(draw: Any) -> dict[str, Any]:
    window = {
        "name": "W",
        "metric": "m",
        "function": draw(st.sampled_from(FUNCTIONS)),
        "periodSeconds": draw(st.integers(1, 20)),
        "allowedLatenessSeconds": draw(st.integers(0, 40)),
    }
    return {
        "name": "f",
        "topic": "f/{device}/m",
        "metrics": [{"name": "m"}],
        "outOfOrdernessSeconds": draw(st.integers(0, 10)),
        "windows": [window],
    }


readings = st.lists(
    st.tuples(st.integers(0, 100).map(lambda s: s * 1000), st.integers(-100, 100).map(float)), min_size=1, max_size=60
)
"""Times with many repetitions and much disorder; small whole values, so that sums are exact in any order."""


def run(plan: MetricPlan, batches: list[tuple[int, list[Reading]]], state: SeriesState) -> list[Any]:
    """Runs records (offset, readings) through the engine as the worker does, skipping what the state holds."""
    out: list[Any] = []
    for offset, batch in batches:
        if state.offset < offset:
            state.offset = offset
            out += process(plan, state, device="d", readings=batch, now=NOW)
    return out


def results(emissions: list[Any]) -> Results:
    """What a consumer ends up with: of each window the highest revision, the later one of equal revisions."""
    windows: dict[int, Aggregate] = {}
    late: set[tuple[int, float]] = set()
    for emission in emissions:
        if isinstance(emission, Aggregate):
            known = windows.get(emission.start)
            if known is None or emission.revision >= known.revision:
                windows[emission.start] = emission
        elif isinstance(emission, Late):
            late.add((emission.time, emission.late_by_seconds))
    return {start: (a.value, a.count) for start, a in windows.items()}, late


def wanted(spec: dict[str, Any], rows: list[Reading]) -> Results:
    entries = [{"fleet": "f", "device": "d", "metric": "m", "time": t, "value": v} for t, v in rows]
    found = recompute({"fleets": [spec]}, entries)
    aggregates = {int(r.start): (r.value, int(r[5])) for r in found.aggregates.itertuples()}
    return aggregates, {(int(r.time), r.lateBySeconds) for r in found.late.itertuples()}


def split(rows: list[Reading], sizes: list[int]) -> list[tuple[int, list[Reading]]]:
    """Cuts readings into records of the given sizes, again and again."""
    batches: list[tuple[int, list[Reading]]] = []
    position = 0
    while position < len(rows):
        size = sizes[len(batches) % len(sizes)]
        batches.append((len(batches), rows[position : position + size]))
        position += size
    return batches


def close(found: Results, expected: Results) -> bool:
    windows, late = found
    return (
        windows.keys() == expected[0].keys()
        and late == expected[1]
        and all(abs(windows[s][0] - expected[0][s][0]) < 1e-9 and windows[s][1] == expected[0][s][1] for s in windows)
    )


@settings(max_examples=1500, deadline=None)
@given(fleets(), readings, st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_any_order_and_any_batching_equal_the_recompute(
    spec: dict[str, Any], rows: list[Reading], sizes: list[int]
) -> None:
    plan = compile_metric(Fleet.model_validate(spec), "m")
    found = results(run(plan, split(rows, sizes), SeriesState()))
    assert close(found, wanted(spec, rows))


@settings(max_examples=1500, deadline=None)
@given(fleets(), readings, st.lists(st.integers(1, 7), min_size=1, max_size=5), st.data())
def test_any_crash_between_flushes_changes_nothing(
    spec: dict[str, Any], rows: list[Reading], sizes: list[int], data: st.DataObject
) -> None:
    """Flush after some records; crash after some more, whose outputs went out and whose state did not; start again from
    the flushed state and an offset at or before it."""
    plan = compile_metric(Fleet.model_validate(spec), "m")
    batches = split(rows, sizes)
    flushed = data.draw(st.integers(0, len(batches)))
    crashed = data.draw(st.integers(flushed, len(batches)))
    committed = data.draw(st.integers(0, flushed))
    state = SeriesState()
    out = run(plan, batches[:flushed], state)
    saved = encode(state)
    out += run(plan, batches[flushed:crashed], state)
    out += run(plan, batches[committed:], decode(saved))
    assert close(results(out), wanted(spec, rows))


@settings(max_examples=300, deadline=None)
@given(fleets(), readings, st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_sending_everything_twice_changes_no_window(
    spec: dict[str, Any], rows: list[Reading], sizes: list[int]
) -> None:
    plan = compile_metric(Fleet.model_validate(spec), "m")
    state = SeriesState()
    once = results(run(plan, split(rows, sizes), state))
    again = [(offset + 1000, batch) for offset, batch in split(rows, sizes)]
    more = run(plan, again, state)
    assert [e for e in more if isinstance(e, Aggregate)] == []
    assert results(more)[0] == {}
    assert once[0].keys() == wanted(spec, rows)[0].keys()
