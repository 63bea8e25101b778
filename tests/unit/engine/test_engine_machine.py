"""A series that is fed, falls silent, is flushed and crashes in any sequence, as a state machine.

At the end every window is closed, and what a consumer of all emissions has must equal the plain recompute: a window
that was closed by silence, once or several times, before or after a crash, ends with all its readings.
"""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from sensorpipeline_workers.engine.plan import MetricPlan
from sensorpipeline_workers.engine.series import close_idle, process
from sensorpipeline_workers.engine.state import SeriesState, decode, encode
from unit.engine.pipelines import NOW, Reading, check, compiled, entries, fleets, readings


class SeriesMachine(RuleBasedStateMachine):
    """The worker around one series: a log of records, a stored state, a committed offset, and outputs that are never
    taken back."""

    plan: MetricPlan

    @initialize(spec=fleets())
    def begin(self, spec: dict[str, Any]) -> None:
        self.spec, self.plan = spec, compiled(spec)
        self.state = SeriesState(self.plan)
        self.stored, self.committed = encode(self.plan, self.state), 0
        self.log: list[list[Reading]] = []
        self.out: list[Any] = []
        self.now = NOW

    def _read(self, offset: int) -> None:
        if self.state.offset < offset:
            self.state.offset = offset
            times, values = [time for time, _ in self.log[offset]], [value for _, value in self.log[offset]]
            self.out += process(self.plan, self.state, device="d", times=times, values=values, now=self.now)

    @rule(rows=readings)
    def send(self, rows: list[Reading]) -> None:
        self.now += 1000
        self.log.append(rows)
        self._read(len(self.log) - 1)

    @rule()
    def fall_silent(self) -> None:
        self.now += self.plan.idle
        self.out += close_idle(self.plan, self.state, device="d", now=self.now)

    @rule(commit=st.booleans())
    def flush(self, commit: bool) -> None:
        self.stored = encode(self.plan, self.state)
        if commit:
            self.committed = len(self.log)

    @rule()
    def crash(self) -> None:
        self.state = decode(self.plan, self.stored)
        for offset in range(self.committed, len(self.log)):
            self._read(offset)

    def teardown(self) -> None:
        if not hasattr(self, "spec"):
            return
        self.fall_silent()
        check(self.spec, self.out, entries([row for record in self.log for row in record]), closed=True)


TestSeriesMachine = SeriesMachine.TestCase
TestSeriesMachine.settings = settings(stateful_step_count=12)
