"""When pipelines are visited: after events, at an interval, and never twice at the same time.

Any number of events while a visit is under way lead to one more visit.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp

from sensorpipeline_operator import metrics
from sensorpipeline_operator.errors import SensorPipelineError
from sensorpipeline_operator.reconcile import Outcome

log = logging.getLogger(__name__)

Key = tuple[str, str]
"""Namespace and name of a pipeline."""

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 1.0, 60.0
VISIT_SECONDS = 45.0
SETTLE_SECONDS = 0.2
"""Events come in bursts; a visit waits this long for the rest of one."""


@dataclass
class _Visitor:
    task: asyncio.Task[None]
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Dispatcher:
    """One visitor task per pipeline. `visit` and `tell` are called with a key; `leads` gates visits."""

    def __init__(
        self, visit: Callable[[Key], Awaitable[Outcome]], tell: Callable[[Key, Outcome], Awaitable[None]],
        leads: asyncio.Event, *, interval: float,
    ) -> None:  # fmt: skip
        self._visit = visit
        self._tell = tell
        self._leads = leads
        self._interval = interval
        self._visitors: dict[Key, _Visitor] = {}
        self.last_progress = time.monotonic()

    def trigger(self, key: Key) -> None:
        """Asks for a visit soon."""
        visitor = self._visitors.get(key)
        if visitor is None:
            wake = asyncio.Event()
            visitor = _Visitor(asyncio.create_task(self._run(key, wake)), wake)
            self._visitors[key] = visitor
            metrics.PIPELINES.set(len(self._visitors))
        visitor.wake.set()

    def trigger_known(self, key: Key) -> None:
        """Asks for a visit if the pipeline is known."""
        if key in self._visitors:
            self.trigger(key)

    def forget(self, key: Key) -> None:
        """Ends the visits to a pipeline that is gone."""
        visitor = self._visitors.pop(key, None)
        if visitor is not None:
            visitor.task.cancel()
        metrics.PIPELINES.set(len(self._visitors))

    def stalled(self, seconds: float) -> bool:
        """Whether there are pipelines to visit, and none was visited for so long."""
        busy = bool(self._visitors) and self._leads.is_set()
        return busy and time.monotonic() - self.last_progress > seconds

    async def _run(self, key: Key, wake: asyncio.Event) -> None:
        retry = FIRST_RETRY_SECONDS
        while True:
            await self._leads.wait()
            wake.clear()
            again, good = await self._once(key)
            self.last_progress = time.monotonic()
            retry = FIRST_RETRY_SECONDS if good else min(retry * 2, LAST_RETRY_SECONDS)
            try:
                await asyncio.wait_for(wake.wait(), timeout=again if good else retry)
                await asyncio.sleep(SETTLE_SECONDS)
            except TimeoutError:
                pass

    async def _once(self, key: Key) -> tuple[float, bool]:
        """Makes one visit; returns when to come again (s) and whether it went well."""
        begin = time.monotonic()
        try:
            async with asyncio.timeout(VISIT_SECONDS):
                outcome = await self._visit(key)
                await self._tell(key, outcome)
        except TimeoutError as error:
            log.warning("%s/%s: the visit did not end within %s s %s", *key, VISIT_SECONDS, error)
            metrics.RECONCILE.labels("error").inc()
            return self._interval, False
        except (SensorPipelineError, aiohttp.ClientError, OSError) as error:
            log.warning("%s/%s: %s", *key, error)
            metrics.RECONCILE.labels("error").inc()
            return self._interval, False
        except Exception:
            # A mistake of ours, or an error that a library does not declare: it must not end the visits for ever.
            log.exception("%s/%s: the visit failed", *key)
            metrics.RECONCILE.labels("error").inc()
            return self._interval, False
        finally:
            metrics.RECONCILE_DURATION.observe(time.monotonic() - begin)
        metrics.RECONCILE.labels("success").inc()
        return outcome.again if outcome.again is not None else self._interval, True
