"""Series that are retired and come back, fleets that are changed, devices that fall silent: for any readings, what was
final stays, nothing is counted twice, and nothing is dropped without being listed."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from sensorpipeline_api.records import Aggregate, Alert, Late
from sensorpipeline_workers.engine import panes
from sensorpipeline_workers.engine.plan import Kind, compile_metric
from sensorpipeline_workers.stream.processor import Processor
from unit.engine.pipelines import Reading, View, fleets, readings, windows
from unit.engine.worker import Worker

TTL = 90 * 86400
ALWAYS = {panes.Pane, panes.SumPane, panes.MinimumPane, panes.MaximumPane, panes.MomentsPane, panes.SketchPane}
"""Of functions that have a result for any readings."""


def plans(processor: Processor) -> dict[str, Any]:
    return {window.name: window for window in processor._plans["m"].windows}


def send(worker: Worker, rows: list[Reading]) -> None:
    worker.send([("d", time, value) for time, value in rows])


def close_all(worker: Worker) -> None:
    worker.flush()
    worker.fall_silent()
    worker.flush()


def hold_against(worker: Worker, before: list[Any], rows: list[Reading], more: list[Reading], names: set[str]) -> None:
    """The windows of these names had given `before`, all final, for `rows`; then `more` came, and all was closed."""
    stood = {key: result for key, result in View(before).windows.items() if key[0] in names}
    found = View(worker.out)
    assert {key: found.windows.get(key) for key in stood} == stood
    later = worker.out[len(before) :]
    new = {time for time, _ in more} - {time for time, _ in rows}
    for name, plan in plans(worker.processor).items():
        if (
            name in names
            and plan.kind in {Kind.FIXED, Kind.SESSION}
            and getattr(plan.make, "func", plan.make) in ALWAYS
        ):
            counted = {e.start: e for e in later if isinstance(e, Aggregate) and e.window == name and e.final}
            listed = {e.time for e in later if isinstance(e, Late) and e.window == name}
            assert not any(e.count and start <= max(t for t, _ in rows) for start, e in counted.items())
            held = {time for time in new for e in counted.values() if e.start <= time < e.end and e.count}
            assert new <= held | listed


@given(fleets(), readings, readings, st.booleans(), st.booleans())
def test_what_was_final_stays_when_a_retired_series_comes_back(
    spec: dict[str, Any], rows: list[Reading], more: list[Reading], restarted: bool, updates: bool
) -> None:
    worker = Worker(spec | {"seriesTtlSeconds": TTL})
    send(worker, rows)
    close_all(worker)
    worker.fall_silent(TTL)
    worker.flush()
    before = list(worker.out)
    if restarted:
        worker.start()
    send(worker, more)
    close_all(worker)
    hold_against(worker, before, rows, more, {window["name"] for window in spec["windows"]})


@given(fleets(), windows("W0"), readings, readings)
def test_what_was_final_stays_when_a_window_is_changed(
    spec: dict[str, Any], other: dict[str, Any], rows: list[Reading], more: list[Reading]
) -> None:
    worker = Worker(spec)
    former = plans(worker.processor)
    send(worker, rows)
    close_all(worker)
    before = list(worker.out)
    reads = {"W0", *(window["name"] for window in spec["windows"] if window["name"].startswith("W0x"))}
    kept = [window for window in spec["windows"] if window["name"] not in reads]
    worker.deploy(spec | {"windows": [other, *kept]})
    send(worker, more)
    close_all(worker)
    if plans(worker.processor)["W0"].signature != former["W0"].signature:
        hold_against(worker, before, rows, more, {"W0"})


steps = st.lists(st.tuples(st.integers(0, 90), st.lists(st.integers(0, 50), max_size=3)), min_size=1, max_size=12)


@given(steps, st.integers(1, 60))
def test_silence_is_said_once_and_ends_with_any_reading(steps: list[tuple[int, list[int]]], hold: int) -> None:
    """Each step waits for some seconds and then reads a record of some times, or none."""
    threshold = {"name": "T", "metric": "m", "silentForSeconds": hold}
    spec = {"name": "f", "topic": "f/{device}/m", "metrics": [{"name": "m"}], "windows": [], "thresholds": [threshold]}
    worker = Worker(spec)
    wanted: list[tuple[str, int]] = []
    newest, silent, active = -1, 0, False
    for seconds, moments in steps:
        worker.fall_silent(seconds)
        silent += seconds
        if newest >= 0 and not active and silent >= hold:
            active = True
            wanted.append(("Firing", newest))
        if moments:
            worker.send([("d", moment, 1.0) for moment in moments])
            if active:
                wanted.append(("Resolved", max(newest, moments[0])))
            newest, silent, active = max(newest, *moments), 0, False
        else:
            worker.now += 1000
            silent += 1
        worker.flush()
    assert [(e.state, e.time) for e in worker.out if isinstance(e, Alert)] == wanted
    assert compile_metric(worker.fleet, "m").watches_silence
