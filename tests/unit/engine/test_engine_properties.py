"""Random pipelines and readings, any order, batching, repetition and crash: the results equal a plain recompute.

What is compared is what a consumer ends up with: of each window the highest revision, and the later one of equal
revisions; windows with count 0 were taken back. How often a test runs is the profile's affair (tests/conftest.py).
"""

from pathlib import Path
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sensorpipeline_api.records import Aggregate, Alert
from sensorpipeline_workers.engine.plan import MetricPlan
from sensorpipeline_workers.engine.series import close_idle, process
from sensorpipeline_workers.engine.state import SeriesState, decode, encode
from unit.engine.pipelines import (
    NOW,
    Batch,
    Reading,
    about,
    check,
    compiled,
    entries,
    fits,
    fleets,
    readings,
    sizes,
    split,
)  # fmt: skip


def run(plan: MetricPlan, batches: list[tuple[int, Batch]], state: SeriesState) -> list[Any]:
    """Runs records (offset, readings) through the engine as the worker does, skipping what the state holds."""
    out: list[Any] = []
    for offset, batch in batches:
        if state.offset < offset:
            state.offset = offset
            moments, found = [time for time, _ in batch], [value for _, value in batch]
            out += process(plan, state, device="d", times=moments, values=found, now=NOW)
    return out


@given(fleets(), readings, sizes)
def test_any_order_and_any_batching_equal_the_recompute(
    spec: dict[str, Any], rows: list[Reading], sizes: list[int]
) -> None:
    plan = compiled(spec)
    check(spec, run(plan, split(rows, sizes), SeriesState(plan)), entries(rows))


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
    check(spec, out, entries(rows))


@given(fleets(), readings, sizes)
def test_sending_everything_twice_changes_no_window(
    spec: dict[str, Any], rows: list[Reading], sizes: list[int]
) -> None:
    plan = compiled(spec)
    state = SeriesState(plan)
    run(plan, split(rows, sizes), state)
    again = [(offset + 1000, batch) for offset, batch in split(rows, sizes)]
    assert [e for e in run(plan, again, state) if isinstance(e, Aggregate | Alert)] == []


@given(fleets(), readings, sizes, st.randoms(use_true_random=False))
def test_with_enough_lateness_the_order_does_not_matter(
    spec: dict[str, Any], rows: list[Reading], sizes: list[int], chance: Any
) -> None:
    """In any order, with repetitions, and every window closed at the end."""
    rows = list(dict(rows).items())
    for window in spec["windows"]:
        if "source" not in window:
            window["allowedLatenessSeconds"] = (max(rows)[0] - min(rows)[0]) // 1000 + 1
    spec = spec | {"thresholds": []}
    assume(fits(spec))
    plan = compiled(spec)
    state = SeriesState(plan)
    shuffled = rows + chance.sample(rows, len(rows) // 3)
    chance.shuffle(shuffled)
    out = run(plan, split(shuffled, sizes), state)
    out += close_idle(plan, state, device="d", now=NOW + plan.idle)
    check(spec, out, entries(sorted(rows)), closed=True)


def test_the_properties_are_tried_on_ten_thousand_examples() -> None:
    """In the profile of continuous integration, over the property tests of the engine."""
    here = Path(__file__).parent
    count = sum(path.read_text().count("\n@given(") for path in here.glob("test_*_properties.py"))
    assert count * settings.get_profile("thorough").max_examples >= 10_000
