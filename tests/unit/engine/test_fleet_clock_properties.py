"""With the fleet's clock: many series of one partition, any batching and any crash, equal the plain recompute.

A flush writes key by key, and a crash may come between any two writes; the committed offset may be that of any earlier
flush.
"""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from sensorpipeline_api.records import Reading
from sensorpipeline_workers.engine.partition import PartitionClock
from sensorpipeline_workers.engine.plan import MetricPlan
from sensorpipeline_workers.engine.series import advance, next_due, process
from sensorpipeline_workers.engine.state import SeriesState, decode, encode
from unit.engine.pipelines import NOW, check, compiled, fleets, sizes, times, values

DEVICES = ["a", "b", "c"]
Stored = dict[str, bytes]


class Worker:
    """Runs records of one partition through the engine, as the worker does."""

    def __init__(self, plan: MetricPlan, stored: Stored) -> None:
        self.plan = plan
        self.states: dict[str, SeriesState] = {}
        self.clock: PartitionClock[str] = PartitionClock()
        for key, data in stored.items():
            if not key:
                self.clock.restore(data)
            else:
                state = self.states[key] = decode(plan, data)
                self.clock.wait(key, next_due(plan, state))

    def record(self, offset: int, readings: list[Reading]) -> list[Any]:
        out: list[Any] = []
        for (device, _), (moments, found, clocks) in self.clock.group(offset, readings).items():
            state = self.states.get(device)
            if state is None:
                state = self.states[device] = SeriesState(self.plan)
            if state.offset < offset:
                state.offset = offset
                out += process(self.plan, state, device=device, times=moments, values=found, now=NOW, clocks=clocks)
            self.clock.wait(device, state.clock_limit)
        for device in self.clock.due():
            state = self.states[device]
            out += advance(self.plan, state, device=device, clock=self.clock.newest)
            self.clock.wait(device, state.clock_limit)
        return out

    def flush(self) -> Stored:
        return {"": self.clock.flush()} | {key: encode(self.plan, state) for key, state in self.states.items()}


rows_of_partition = st.sampled_from(times).flatmap(
    lambda kind: st.lists(st.tuples(st.sampled_from(DEVICES), kind, values), min_size=1, max_size=40)
)


@st.composite
def in_order(draw: Any) -> list[tuple[str, int, float]]:
    """Devices that send in turns, each with its own delay."""
    delays = {device: draw(st.integers(0, 15)) * 1000 for device in DEVICES}
    seconds = range(15, draw(st.integers(16, 40)))
    rows = [(device, second * 1000, float(draw(st.integers(-100, 100)))) for second in seconds
            for device in DEVICES]  # fmt: skip
    return [(device, moment - delays[device], value) for device, moment, value in rows]


partitions = st.one_of(rows_of_partition, in_order())


def records(rows: list[tuple[str, int, float]], sizes: list[int]) -> list[list[Reading]]:
    out: list[list[Reading]] = []
    position = 0
    while position < len(rows):
        size = sizes[len(out) % len(sizes)]
        out.append([Reading(device, "m", moment, value) for device, moment, value in rows[position : position + size]])
        position += size
    return out


def as_entries(rows: list[tuple[str, int, float]]) -> list[dict[str, Any]]:
    return [{"fleet": "f", "device": d, "metric": "m", "time": t, "value": v} for d, t, v in rows]


@given(fleets(), partitions, sizes)
def test_any_order_and_batching_equal_the_recompute(
    spec: dict[str, Any], rows: list[tuple[str, int, float]], sizes: list[int]
) -> None:
    spec = spec | {"lateness": {"clock": "Fleet"}}
    worker = Worker(compiled(spec), {})
    out = [emission for offset, record in enumerate(records(rows, sizes)) for emission in worker.record(offset, record)]
    check(spec, out, as_entries(rows))


@given(fleets(), partitions, sizes, st.data())
def test_any_crash_equals_the_recompute(
    spec: dict[str, Any], rows: list[tuple[str, int, float]], sizes: list[int], data: st.DataObject
) -> None:
    spec = spec | {"lateness": {"clock": "Fleet"}}
    plan = compiled(spec)
    batches = records(rows, sizes)
    flushes = sorted(data.draw(st.sets(st.integers(0, len(batches) - 1), max_size=4)))
    crash = data.draw(st.integers(flushes[-1] if flushes else 0, len(batches) - 1))
    worker, stored, out = Worker(plan, {}), {}, []
    committed = -1
    for offset in range(crash + 1):
        out += worker.record(offset, batches[offset])
        if offset in flushes:
            written = worker.flush()
            if offset == flushes[-1]:  # the crash comes amid these writes
                kept = data.draw(st.sets(st.sampled_from(sorted(written))))
                written = {key: value for key, value in written.items() if key in kept}
            elif data.draw(st.booleans()):
                committed = offset
            stored |= written
    again = Worker(plan, stored)
    for offset in range(committed + 1, len(batches)):
        out += again.record(offset, batches[offset])
    check(spec, out, as_entries(rows))


def test_a_replay_finds_the_clock_as_it_was_at_the_committed_offset() -> None:
    """The clock is stored ahead of a series and of the commit; what was accepted then is accepted again."""
    window = {"name": "W", "metric": "m", "function": "Sum", "periodSeconds": 10}
    spec = {"name": "f", "topic": "f/{device}/m", "metrics": [{"name": "m"}], "windows": [window],
            "lateness": {"clock": "Fleet"}}  # fmt: skip
    rows = [("a", 1_000, 1.0), ("b", 2_000, 2.0), ("c", 50_000, 3.0)]
    plan, batches = compiled(spec), records(rows, [1])
    worker = Worker(plan, {})
    out = worker.record(0, batches[0])
    stored = worker.flush()
    out += worker.record(1, batches[1]) + worker.record(2, batches[2])
    stored[""] = worker.clock.flush()
    again = Worker(plan, stored)
    out = [*again.record(1, batches[1]), *again.record(2, batches[2])]
    check(spec, out, as_entries(rows))
