"""Visits: one at a time for each pipeline, after bursts once, again after errors, and only by the leader."""

import asyncio
import time

import pytest
from sensorpipeline_operator.dispatcher import Dispatcher, Key
from sensorpipeline_operator.errors import ApiError
from sensorpipeline_operator.reconcile import Notice, Outcome

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
        self.reports: list[str] = []
        self.reported = asyncio.Event()
        self.reportable = True
        self.told: list[Outcome] = []

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
        self.told.append(outcome)

    async def report(self, key: Key, message: str) -> Outcome:
        if not self.reportable:
            raise ApiError("refused, too")
        self.reports.append(message)
        self.reported.set()
        return Outcome(notices=[Notice("Warning", "VisitFailed", message)])

    async def until(self, count: int) -> None:
        while self.count < count:
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 10)


def dispatcher(visits: Visits, *, leads: bool = True, interval: float = 1000) -> tuple[Dispatcher, asyncio.Event]:
    event = asyncio.Event()
    if leads:
        event.set()
    return Dispatcher(visits.visit, visits.tell, visits.report, event, interval=interval), event


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


MISTAKE = KeyError("resources")
OTHER = ("default", "farm")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed visits are made again, and reported, soon."""
    for name, value in (("FIRST_RETRY", 0.005), ("LAST_RETRY", 0.02), ("REPORT_AFTER", 0.0), ("SETTLE", 0.0)):
        monkeypatch.setattr(f"sensorpipeline_operator.dispatcher.{name}_SECONDS", value)


@pytest.mark.usefixtures("quick")
async def test_the_status_says_what_failed_and_since_when_and_says_the_same_each_time() -> None:
    visits = Visits(failures=3, error=MISTAKE)
    subject, _ = dispatcher(visits)
    subject.trigger(KEY)
    await visits.until(4)
    subject.forget(KEY)
    assert len(visits.reports) == 3
    (report,) = set(visits.reports)  # a status that changed each time would call the next visit at once
    assert "since" in report
    assert "KeyError: 'resources'" in report
    assert [outcome.notices[0].reason for outcome in visits.told[:3]] == ["VisitFailed"] * 3


@pytest.mark.usefixtures("quick")
async def test_the_status_says_that_a_visit_was_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensorpipeline_operator.dispatcher.VISIT_SECONDS", 0.02)
    visits = Visits()
    visits.gate.clear()
    subject, _ = dispatcher(visits)
    subject.trigger(KEY)
    await asyncio.wait_for(visits.reported.wait(), 10)
    subject.forget(KEY)
    assert "given up after 0 s" in visits.reports[0]


@pytest.mark.usefixtures("quick")
async def test_a_hiccup_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensorpipeline_operator.dispatcher.REPORT_AFTER_SECONDS", 60.0)
    visits = Visits(failures=2)
    subject, _ = dispatcher(visits)
    subject.trigger(KEY)
    await visits.until(3)
    subject.forget(KEY)
    assert visits.reports == []


async def failing(visits: Visits, *keys: Key, count: int) -> tuple[Dispatcher, float]:
    """A dispatcher after some visits to pipelines, and when its last progress was before them."""
    subject, _ = dispatcher(visits)
    subject.last_progress = begin = time.monotonic() - 1000
    for key in keys:
        subject.trigger(key)
    await visits.until(count)
    await asyncio.sleep(0.005)
    for key in keys:
        subject.forget(key)
    return subject, begin


@pytest.mark.usefixtures("quick")
async def test_mistakes_with_every_pipeline_are_no_progress() -> None:
    subject, begin = await failing(Visits(failures=100, error=MISTAKE), KEY, OTHER, count=6)
    assert subject.last_progress == begin


@pytest.mark.usefixtures("quick")
async def test_one_pipeline_that_fails_and_says_so_does_not_look_like_a_process_that_hangs() -> None:
    subject, begin = await failing(Visits(failures=100, error=MISTAKE), KEY, count=3)
    assert subject.last_progress > begin


@pytest.mark.usefixtures("quick")
async def test_one_pipeline_that_fails_where_nothing_can_be_written_is_no_progress() -> None:
    visits = Visits(failures=100, error=MISTAKE)
    visits.reportable = False
    subject, begin = await failing(visits, KEY, count=3)
    assert subject.last_progress == begin


@pytest.mark.usefixtures("quick")
async def test_an_api_server_that_refuses_is_no_reason_to_restart_the_operator() -> None:
    visits = Visits(failures=100)
    visits.reportable = False
    subject, begin = await failing(visits, KEY, OTHER, count=6)
    assert subject.last_progress > begin


async def test_the_operator_is_stalled_only_while_there_is_something_to_visit() -> None:
    visits = Visits()
    visits.gate.clear()
    subject, leads = dispatcher(visits)
    subject.last_progress -= 1000
    assert not subject.stalled(300)
    subject.trigger(KEY)
    assert subject.stalled(300)
    leads.clear()
    assert not subject.stalled(300)
    subject.forget(KEY)


async def test_a_visitor_that_is_no_longer_registered_ends_though_its_visit_does_not_heed_that() -> None:
    """Libraries swallow a cancellation now and then; a second visitor must not run beside the new one for ever."""
    visits = Visits()
    seen = 0

    async def stubborn(key: Key) -> Outcome:
        nonlocal seen
        seen += 1
        try:
            await visits.gate.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return Outcome()

    event = asyncio.Event()
    event.set()
    visits.gate.clear()
    subject = Dispatcher(stubborn, visits.tell, visits.report, event, interval=0.01)
    subject.trigger(KEY)
    await asyncio.sleep(0.01)
    subject.forget(KEY)
    await asyncio.sleep(0.1)
    assert seen == 1


async def test_a_visit_is_broken_off_when_this_replica_leads_no_more_and_made_when_it_leads_again() -> None:
    visits = Visits()
    visits.gate.clear()
    subject, leads = dispatcher(visits)
    subject.trigger(KEY)
    await asyncio.sleep(0.01)
    leads.clear()
    subject.abandon()
    visits.gate.set()
    await asyncio.sleep(0.05)
    assert visits.count == 0
    leads.set()
    await visits.until(1)
    subject.forget(KEY)
