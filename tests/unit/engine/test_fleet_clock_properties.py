"""With the fleet's clock: many series of one partition, any batching and any crash, equal the plain recompute.

A flush writes key by key, and a crash may come between any two writes; the committed offset may be that of any earlier
flush.
"""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from sensorpipeline_workers.stream.store import clock_key
from unit.engine.pipelines import DEVICES, check, fleets, rows_of_devices, sizes
from unit.engine.worker import Row, Worker


@st.composite
def in_order(draw: Any) -> list[tuple[str, int, float]]:
    """Devices that send in turns, each with its own delay."""
    delays = {device: draw(st.integers(0, 15)) * 1000 for device in DEVICES}
    seconds = range(15, draw(st.integers(16, 40)))
    rows = [(device, second * 1000, float(draw(st.integers(-100, 100)))) for second in seconds
            for device in DEVICES]  # fmt: skip
    return [(device, moment - delays[device], value) for device, moment, value in rows]


partitions = st.one_of(rows_of_devices, in_order())


def records(rows: list[Row], sizes: list[int]) -> list[list[Row]]:
    out: list[list[Row]] = []
    position = 0
    while position < len(rows):
        size = sizes[len(out) % len(sizes)]
        out.append(rows[position : position + size])
        position += size
    return out


def as_entries(rows: list[Row]) -> list[dict[str, Any]]:
    return [{"fleet": "f", "device": d, "metric": "m", "time": t, "value": v} for d, t, v in rows]


@given(fleets(), partitions, sizes)
def test_any_order_and_batching_equal_the_recompute(spec: dict[str, Any], rows: list[Row], sizes: list[int]) -> None:
    spec = spec | {"lateness": {"clock": "Fleet"}}
    worker = Worker(spec)
    for record in records(rows, sizes):
        worker.send(record)
    worker.deliver()
    check(spec, worker.out, as_entries(rows))


@given(fleets(), partitions, sizes, st.data())
def test_any_crash_equals_the_recompute(
    spec: dict[str, Any], rows: list[Row], sizes: list[int], data: st.DataObject
) -> None:
    spec = spec | {"lateness": {"clock": "Fleet"}}
    batches = records(rows, sizes)
    flushes = sorted(data.draw(st.sets(st.integers(0, len(batches) - 1), max_size=4)))
    crash = data.draw(st.integers(flushes[-1] if flushes else 0, len(batches) - 1))
    worker = Worker(spec)
    for offset in range(crash + 1):
        worker.send(batches[offset])
        if offset in flushes:
            if offset == flushes[-1]:  # the crash comes amid these writes
                worker.flush(commit=False, written=lambda key: data.draw(st.booleans()))
            else:
                worker.flush(commit=data.draw(st.booleans()))
    if data.draw(st.booleans()):
        worker.deliver()
    worker.start()
    worker.read()
    for batch in batches[crash + 1 :]:
        worker.send(batch)
    worker.deliver()
    check(spec, worker.out, as_entries(rows))


def test_a_replay_finds_the_clock_as_it_was_at_the_committed_offset() -> None:
    """The clock is stored ahead of a series and of the commit; what was accepted then is accepted again."""
    window = {"name": "W", "metric": "m", "function": "Sum", "periodSeconds": 10}
    spec = {"name": "f", "topic": "f/{device}/m", "metrics": [{"name": "m"}], "windows": [window],
            "lateness": {"clock": "Fleet"}}  # fmt: skip
    rows = [("a", 1_000, 1.0), ("b", 2_000, 2.0), ("c", 50_000, 3.0)]
    worker = Worker(spec)
    worker.send(rows[:1])
    worker.flush()
    worker.send(rows[1:2])
    worker.send(rows[2:])
    worker.flush(commit=False, written=lambda key: key == clock_key(0))
    worker.out.clear()
    worker.start()
    worker.read()
    worker.deliver()
    check(spec, worker.out, as_entries(rows))
