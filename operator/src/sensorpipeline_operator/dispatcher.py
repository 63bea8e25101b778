"""When pipelines are visited: after events, at an interval, and never twice at the same time.

Any number of events while a visit is under way lead to one more visit. Visits that fail are made again, less and less
often, and it is said in the status that they fail.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import aiohttp

from sensorpipeline_operator import metrics
from sensorpipeline_operator.errors import SensorPipelineError
from sensorpipeline_operator.reconcile import Outcome

log = logging.getLogger(__name__)

Key = tuple[str, str]
"""Namespace and name of a pipeline."""

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 1.0, 60.0
VISIT_SECONDS = 45.0
REPORT_SECONDS = 10.0
REPORT_AFTER_SECONDS = 5.0
"""How long visits must have failed before the status says so; an API server that restarts is back before that."""
SETTLE_SECONDS = 0.2
"""Events come in bursts; a visit waits this long for the rest of one."""


@dataclass
class _Visitor:
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    failing_since: float | None = None
    failing_from: str = ""


@dataclass
class _Failure:
    """What went wrong with a visit. `declared`: by an error that is expected of an API server or a network, so that
    nothing is wrong with this process."""

    message: str
    declared: bool


class Dispatcher:
    """One visitor task per pipeline. `visit`, `tell` and `report` are called with a key; `leads` gates visits."""

    def __init__(
        self, visit: Callable[[Key], Awaitable[Outcome]], tell: Callable[[Key, Outcome], Awaitable[None]],
        report: Callable[[Key, str], Awaitable[Outcome]], leads: asyncio.Event, *, interval: float,
    ) -> None:  # fmt: skip
        self._visit = visit
        self._tell = tell
        self._report = report
        self._leads = leads
        self._interval = interval
        self._visitors: dict[Key, _Visitor] = {}
        self.last_progress = time.monotonic()

    def trigger(self, key: Key) -> None:
        """Asks for a visit soon."""
        visitor = self._visitors.get(key)
        if visitor is None:
            visitor = self._visitors[key] = _Visitor()
            visitor.task = asyncio.create_task(self._run(key, visitor))
            metrics.PIPELINES.set(len(self._visitors))
        visitor.wake.set()

    def trigger_known(self, key: Key) -> None:
        """Asks for a visit if the pipeline is known."""
        if key in self._visitors:
            self.trigger(key)

    def forget(self, key: Key) -> None:
        """Ends the visits to a pipeline that is gone."""
        visitor = self._visitors.pop(key, None)
        if visitor is not None and visitor.task is not None:
            visitor.task.cancel()
        metrics.PIPELINES.set(len(self._visitors))

    def abandon(self) -> None:
        """Breaks off the visits that are under way, since another replica may lead now; they are begun anew once this
        one leads again."""
        for key in list(self._visitors):
            self.forget(key)
            self.trigger(key)

    def stalled(self, seconds: float) -> bool:
        """Whether there are pipelines to visit, and there was no progress with any for so long.

        A visit that ended well is progress, and so is one that the API server or the network did not let end well: a
        new process would fare no better. One that failed by a mistake or did not end is none, except where the only
        pipeline there is fails and its status could be told so: the pipeline may be the reason, and people know.
        """
        busy = bool(self._visitors) and self._leads.is_set()
        return busy and time.monotonic() - self.last_progress > seconds

    async def _run(self, key: Key, visitor: _Visitor) -> None:
        retry = FIRST_RETRY_SECONDS
        while self._visitors.get(key) is visitor:
            await self._leads.wait()
            visitor.wake.clear()
            begin = time.monotonic()
            again, failure = await self._once(key)
            if failure is None:
                self.last_progress, visitor.failing_since = time.monotonic(), None
                retry = FIRST_RETRY_SECONDS
            else:
                await self._failed(key, visitor, failure, begin)
                again = retry = min(retry * 2, LAST_RETRY_SECONDS)
            try:
                await asyncio.wait_for(visitor.wake.wait(), timeout=again)
                await asyncio.sleep(SETTLE_SECONDS)
            except TimeoutError:
                pass

    async def _once(self, key: Key) -> tuple[float, _Failure | None]:
        """Makes one visit; returns when to come again (s), and what went wrong."""
        begin = time.monotonic()
        try:
            async with asyncio.timeout(VISIT_SECONDS):
                outcome = await self._visit(key)
                await self._tell(key, outcome)
        except TimeoutError as error:
            log.warning("%s/%s: the visit did not end within %s s %s", *key, VISIT_SECONDS, error)
            failure = _Failure(f"A visit was given up after {time.monotonic() - begin:.0f} s.", declared=False)
        except (SensorPipelineError, aiohttp.ClientError, OSError) as error:
            log.warning("%s/%s: %s", *key, error)
            failure = _Failure(f"A visit failed: {type(error).__name__}: {error}", declared=True)
        except Exception as error:
            # A mistake of ours, or an error that a library does not declare: it must not end the visits for ever.
            log.exception("%s/%s: the visit failed", *key)
            text = f"A visit failed: {type(error).__name__}: {error} The operator's log has the details."
            failure = _Failure(text, declared=False)
        else:
            metrics.RECONCILE.labels("success").inc()
            return (outcome.again if outcome.again is not None else self._interval), None
        finally:
            metrics.RECONCILE_DURATION.observe(time.monotonic() - begin)
        metrics.RECONCILE.labels("error").inc()
        return self._interval, failure

    async def _failed(self, key: Key, visitor: _Visitor, failure: _Failure, begin: float) -> None:
        """Says in the status that visits fail, and since when, once they have failed for a while."""
        if visitor.failing_since is None:
            visitor.failing_since, visitor.failing_from = begin, datetime.now(UTC).strftime("%H:%M:%S UTC")
        if failure.declared:
            self.last_progress = time.monotonic()
        if time.monotonic() - visitor.failing_since < REPORT_AFTER_SECONDS:
            return
        try:
            async with asyncio.timeout(REPORT_SECONDS):
                outcome = await self._report(
                    key, f"No visit has ended well since {visitor.failing_from}. {failure.message}"
                )
                await self._tell(key, outcome)
        except Exception as error:  # as in a visit; the log has what failed, and what could not be written
            log.warning("%s/%s: the failure cannot be written into the status: %s", *key, error)
            return
        if len(self._visitors) == 1:
            self.last_progress = time.monotonic()
