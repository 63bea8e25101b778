"""Visits: one at a time for each pipeline, after bursts once, again after errors, and only by the leader."""

import asyncio

import pytest
from sensorpipeline_operator.dispatcher import Dispatcher, Key
from sensorpipeline_operator.errors import ApiError
from sensorpipeline_operator.reconcile import Outcome

KEY = ("default", "building")


class Visits:
    """Counts visits; fails the first `failures` with `error`."""

    def __init__(self, *, failures: int = 0, error: Exception | None = None) -> None:
        self.error = error or ApiError("refused")
        self.count = 0
        self.under_way = 0
        self.most = 0
        self.failures = failures
        self.changed = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def visit(self, key: Key) -> Outcome:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await self.gate.wait()
        self.under_way -= 1
        self.count += 1
        self.changed.set()
        if self.count <= self.failures:
            raise self.error
        return Outcome()

    async def tell(self, key: Key, outcome: Outcome) -> None:
        """Nothing to tell."""

    async def until(self, count: int) -> None:
        while self.count < count:
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 10)


def dispatcher(visits: Visits, *, leads: bool = True, interval: float = 1000) -> tuple[Dispatcher, asyncio.Event]:
    event = asyncio.Event()
    if leads:
        event.set()
    return Dispatcher(visits.visit, visits.tell, event, interval=interval), event


async def test_a_burst_of_events_during_a_visit_leads_to_one_more() -> None:
    visits = Visits()
    subject, _ = dispatcher(visits)
    visits.gate.clear()
    subject.trigger(KEY)
    await asyncio.sleep(0)
    for _ in range(50):
        subject.trigger(KEY)
    visits.gate.set()
    await visits.until(2)
    await asyncio.sleep(0.5)
    assert (visits.count, visits.most) == (2, 1)
    subject.forget(KEY)


@pytest.mark.parametrize("error", [ApiError("refused"), TimeoutError(), RuntimeError("a mistake of ours")])
async def test_a_failed_visit_is_made_again(error: Exception) -> None:
    visits = Visits(failures=1, error=error)
    subject, _ = dispatcher(visits)
    subject.trigger(KEY)
    await visits.until(2)
    subject.forget(KEY)


async def test_a_visit_that_does_not_end_is_given_up_and_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensorpipeline_operator.dispatcher.VISIT_SECONDS", 0.05)
    visits = Visits()
    visits.gate.clear()
    subject, _ = dispatcher(visits)
    subject.trigger(KEY)
    await asyncio.sleep(0.1)
    assert visits.count == 0
    visits.gate.set()
    await visits.until(1)
    subject.forget(KEY)


async def test_nobody_but_the_leader_visits() -> None:
    visits = Visits()
    subject, leads = dispatcher(visits, leads=False)
    subject.trigger(KEY)
    await asyncio.sleep(0.1)
    assert visits.count == 0
    leads.set()
    await visits.until(1)
    subject.forget(KEY)


async def test_a_pipeline_is_visited_at_the_interval_without_events() -> None:
    visits = Visits()
    subject, _ = dispatcher(visits, interval=0.05)
    subject.trigger(KEY)
    await visits.until(3)
    subject.forget(KEY)


async def test_events_of_children_of_unknown_pipelines_are_left_aside() -> None:
    visits = Visits()
    subject, _ = dispatcher(visits)
    subject.trigger_known(KEY)
    await asyncio.sleep(0.05)
    assert visits.count == 0
