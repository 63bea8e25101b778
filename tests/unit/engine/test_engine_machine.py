"""A worker that is fed, falls silent, writes and crashes in any sequence, as a state machine.

It drives the real processor with three devices, by each series' own clock or the fleet's. At the end every window is
closed, and what a consumer of all emissions has must equal the plain recompute: a window that was closed by silence,
once or several times, before or after a crash, ends with all its readings.
"""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from unit.engine.pipelines import check, fleets, rows_of_devices
from unit.engine.worker import Row, Worker


class WorkerMachine(RuleBasedStateMachine):
    """Outputs that were not delivered before a crash are lost; a crash may come amid the writing of states."""

    @initialize(spec=fleets(), clock=st.sampled_from(["Series", "Fleet"]))
    def begin(self, spec: dict[str, Any], clock: str) -> None:
        # A check that is due for another reason than the idle time finds open windows before their state is written.
        silence = {"name": "Silence", "metric": "m", "silentForSeconds": 5000}
        self.spec = spec | {"lateness": {"clock": clock}, "thresholds": [*spec["thresholds"], silence]}
        self.worker = Worker(self.spec)
        self.rows: list[Row] = []

    @rule(rows=rows_of_devices)
    def send(self, rows: list[Row]) -> None:
        self.rows += rows
        self.worker.send(rows)

    @rule(steps=st.lists(st.integers(-30, 30), min_size=1, max_size=3), value=st.integers(-100, 100))
    def send_a_few(self, steps: list[int], value: int) -> None:
        """Around the newest reading, where windows are open."""
        newest = max((time for device, time, _ in self.rows if device == "a"), default=30_000)
        self.send([("a", max(0, newest + step * 1000), float(value)) for step in steps])

    @rule(times=st.integers(1, 2), steps=st.lists(st.integers(-30, 30), min_size=1, max_size=2))
    def fall_silent(self, times: int, steps: list[int]) -> None:
        """Once, or again after a few readings more; what is said may be delivered without a state being written."""
        self.worker.fall_silent()
        if times == 2:
            self.send_a_few(steps, 1)
            self.worker.fall_silent()

    @rule()
    def deliver(self) -> None:
        self.worker.deliver()

    @rule(commit=st.booleans())
    def flush(self, commit: bool) -> None:
        self.worker.flush(commit=commit)

    @rule(count=st.integers(0, 3))
    def crash(self, count: int) -> None:
        """The next process may have read only some of the log when the next step comes."""
        self.worker.start()
        self.worker.read(count)

    @rule(data=st.data())
    def crash_amid_writes(self, data: st.DataObject) -> None:
        self.worker.flush(commit=False, written=lambda key: data.draw(st.booleans()))
        self.worker.start()
        self.worker.read()

    def teardown(self) -> None:
        if not hasattr(self, "worker"):
            return
        self.worker.read()
        self.worker.flush()
        self.worker.fall_silent()
        self.worker.deliver()
        entries = [{"fleet": "f", "device": d, "metric": "m", "time": t, "value": v} for d, t, v in self.rows]
        check(self.spec, self.worker.out, entries, closed=True)


TestWorkerMachine = WorkerMachine.TestCase
TestWorkerMachine.settings = settings(stateful_step_count=15)
