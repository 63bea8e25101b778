"""The worker: reads the fleet's readings, and flushes results, states and acknowledgements, in this order.

Whatever happens between two flushes is done again from the offset that is stored with the states; each state
remembers the offset that it holds, so doing it again changes nothing. Results are sent at every interval; states, which
a fleet of many series would otherwise write all the time, as seldom as keeps their share of the time small, within
bounds (see `_Pace`).
"""

import asyncio
import logging
import os
import time
from collections import defaultdict
from typing import Any

from confluent_kafka import KafkaException
from faust.types import TP, EventT
from sensorpipeline_api.configuration import WorkerConfiguration
from sensorpipeline_api.records import Aggregate, Alert, AlertState, DeadLetter, Late

from sensorpipeline_workers.runtime import metrics
from sensorpipeline_workers.runtime.health import Health
from sensorpipeline_workers.stream.application import build_app
from sensorpipeline_workers.stream.offsets import Offsets
from sensorpipeline_workers.stream.processor import Emission, Processor
from sensorpipeline_workers.stream.progress import Progress
from sensorpipeline_workers.stream.writer import MAXIMUM_MESSAGE_BYTES, WriteError, Writer

log = logging.getLogger(__name__)

MAXIMUM_UNFLUSHED_RECORDS = 20_000
MAXIMUM_UNSENT_RESULTS = 20_000
LOOK_SECONDS = 0.02
LOOK_SERIES = 500
ASK_SECONDS = 2.0
STALL_SECONDS = 60.0
SEEK_SECONDS = 1.0
REBALANCE_SECONDS = 300.0


class _Pace:
    """When states are written: not before `shortest` seconds after the last time, and, so that writing them takes no
    more than `SHARE` of the time, later when it has taken long; but never later than `longest` seconds."""

    SHARE = 0.1

    def __init__(self, *, shortest: float, longest: float) -> None:
        self._shortest, self._longest = shortest, max(shortest, longest)
        self._due = 0.0

    def is_due(self) -> bool:
        """Whether states are to be written now."""
        return time.monotonic() >= self._due

    def wrote(self, seconds: float) -> None:
        """Takes in how long it has taken to prepare and send them."""
        self._due = time.monotonic() + min(self._longest, max(self._shortest, seconds / self.SHARE))


class StreamWorker:
    """The worker around one Faust application: its table, its agent and its flush loop."""

    def __init__(self, configuration: WorkerConfiguration, health: Health) -> None:
        self._fleet = configuration.fleet.name
        self._severities = {t.name: t.severity.value for t in configuration.fleet.thresholds}
        self._health = health
        self._interval = configuration.flush_milliseconds / 1000
        self._pace = _Pace(shortest=self._interval, longest=configuration.state_flush_milliseconds / 1000)
        self.app = build_app(configuration)
        self._source = self.app.topic(
            configuration.topics.readings[self._fleet], key_type=bytes, value_type=bytes, value_serializer="raw",
            key_serializer="raw", partitions=configuration.fleet.partitions,
        )  # fmt: skip
        self._processor = Processor(configuration)
        self._writer = Writer(configuration.kafka, self._wait_for_kafka)
        self._table = self._make_table(configuration)
        self._changelog = self._table.changelog_topic_name
        self._unflushed: list[EventT[Any]] = []
        self._discarded = False
        self._lock = asyncio.Lock()
        self._progress = Progress(stall=STALL_SECONDS)
        self._offsets = Offsets(configuration.kafka, self._source.get_topic_name())
        self._unsettled_since = time.monotonic()
        self._recovered = False
        self._stalled: set[int] = set()
        self._sought: dict[int, tuple[int, float]] = {}
        self._processed_seconds = 0.0
        self._late = metrics.late()
        self._aggregates = metrics.aggregates_emitted()
        self._dead_letters = metrics.dead_letters()
        self._processing = metrics.processing_seconds()
        self._series, self._state_bytes = metrics.series(), metrics.state_bytes()
        self._lag = metrics.consumer_lag_seconds().labels(self._fleet)
        self._alert = metrics.device_alert()
        self._alerts: defaultdict[str, set[str]] = defaultdict(set)
        self.app.agent(self._source, name="work")(self._work)
        self.app.tasks_from_start = (self._flush_loop, self._ask_loop)
        self.app.on_rebalance_begun = self._on_rebalance_begun
        self.app.is_overtaken = lambda: self._table.overtaken
        self.app.position = self._position
        self.app.on_partitions_revoked.connect(self._on_revoked, weak=False)
        self.app.on_rebalance_complete.connect(self._on_recovered, weak=False)

    def _make_table(self, configuration: WorkerConfiguration) -> Any:
        table: Any = self.app.Table(
            "state",
            partitions=configuration.fleet.partitions,
            key_type=bytes,
            value_type=bytes,
            extra_topic_configs={
                "max.message.bytes": MAXIMUM_MESSAGE_BYTES,
                # The last segment is never compacted, and is read back with all that it holds.
                "segment.bytes": 8 * 1024 * 1024,
                "min.cleanable.dirty.ratio": 0.2,
            },
        )
        table.connection = configuration.kafka
        table.on_restored = self._processor.load
        table.on_lost = self._on_lost
        table.on_progress = self._health.beat
        table.unflushed = lambda: bool(self._unflushed) or self._discarded or self._lock.locked()
        return table

    def _on_rebalance_begun(self) -> None:
        self._unsettled_since = time.monotonic()

    async def _on_revoked(self, *_: Any, **__: Any) -> None:
        """Faust sends this signal when all readings have been acknowledged, before it lets the others have the
        partitions: nothing may be on its way to Kafka then."""
        async with self._lock:
            pass

    def _on_lost(self, partitions: set[int]) -> None:
        """Called in a rebalance, before anything is read again."""
        self._recovered = False
        if self._unflushed:
            self._discard()
        self._discarded = False
        self._progress.drop(partitions)
        for device in self._processor.drop(partitions) & self._alerts.keys():
            for threshold in self._alerts.pop(device):
                self._alert.remove(self._fleet, device, threshold, self._severities[threshold])

    def _discard(self) -> None:
        """Leaves what has not been flushed to the next owner: Faust must not wait for it, nor commit it."""
        for event in self._unflushed:
            event.message.acked = True
        self._unflushed.clear()
        self._processor.discard()
        self._discarded = True

    async def _on_recovered(self, *_: Any, **__: Any) -> None:
        """Faust sends this signal after a rebalance, before readings flow again. If another one has begun meanwhile
        they must not: this waits for the next assignment, which cancels it."""
        await self._table.restore()
        if self._table.overtaken:
            log.info("another rebalance has begun")
            await asyncio.Event().wait()
        self._progress.excuse(now=time.monotonic())
        self._recovered = True

    def _position(self, tp: TP) -> int | None:
        return self._processor.position(tp.partition) if tp.topic == self._source.get_topic_name() else None

    async def _follows(self, tp: TP, offset: int) -> bool:
        """Whether a record comes next, or again. If records before it were passed over they are asked for again, and
        it comes behind them; if Kafka no longer has them it is next."""
        position = self._processor.position(tp.partition)
        if position is None or offset <= position:
            return True
        sought, at = self._sought.get(tp.partition, (-1, 0.0))
        if sought == position and time.monotonic() - at < SEEK_SECONDS:
            return False  # it was on its way already
        try:
            first, _ = (await asyncio.to_thread(self._offsets.ask, {tp.partition}))[tp.partition]
        except KafkaException:
            first = 0
        if first >= offset:
            log.warning("%s/%s: Kafka has deleted the records from %s to %s", *tp, position, offset - 1)
            return True
        log.info("%s/%s: records from %s on were passed over, and are asked for again", *tp, position)
        self._sought[tp.partition] = position, time.monotonic()
        await self.app.consumer.seek(tp, max(position, first))
        return False

    async def _work(self, stream: Any) -> None:
        async for event in stream.noack().events():
            message = event.message
            if not await self._follows(message.tp, message.offset):
                message.acked = True  # so that nobody waits for it, and nobody commits it
                continue
            begin = time.monotonic()
            try:
                self._processor.record(
                    topic=message.topic, partition=message.partition, offset=message.offset, value=event.value,
                    now=_now(),
                )  # fmt: skip
            except Exception:
                # Faust would start the agent anew behind this record, and it would be lost.
                log.critical("%s/%s/%s", message.topic, message.partition, message.offset, exc_info=True)
                _exit()
            event.value = message.value = None  # only the offset is needed from here on
            self._unflushed.append(event)
            end = time.monotonic()
            self._progress.read(message.partition, message.offset + 1, message.timestamp, now=end)
            self._processed_seconds += end - begin
            if len(self._unflushed) >= MAXIMUM_UNFLUSHED_RECORDS:
                await self._flush(states=True)
            elif self._processor.unsent >= MAXIMUM_UNSENT_RESULTS:
                await self._flush(states=False)

    async def _flush_loop(self) -> None:
        """Flushes at an interval, in a rebalance, too: Faust gives partitions up once all is acknowledged."""
        while True:
            settled = self._settled()
            await asyncio.sleep(self._interval if settled else self._interval / 5)
            if self._settled():
                self._health.set_ready()
                self._look_at_restored()
                self._processor.check(_now(), self._progress.known())
                await self._flush(states=self._pace.is_due())
                self._observe()
            else:
                await self._flush(states=True)
                self._observe_recovery()

    def _settled(self) -> bool:
        """Whether partitions are assigned and their states recovered."""
        return self._recovered and not self.app.rebalancing and not self._stopping()

    def _stopping(self) -> bool:
        return bool(self.app.should_stop)

    def _look_at_restored(self) -> None:
        begin = time.monotonic()
        while self._processor.unseen and time.monotonic() - begin < LOOK_SECONDS:
            for (threshold, device), active in self._processor.look(LOOK_SERIES).items():
                if active:
                    self._set_alert(threshold, device, active=True)

    async def _flush(self, *, states: bool) -> None:
        """Results, then states, then acknowledgements; each waited for."""
        async with self._lock:
            if self._discarded:
                # States are ahead of what is stored, and results are missing: nothing may be written of them.
                self._discard()
                return
            # With nothing to write nothing may be written: not even the clock, which a successor may have moved on.
            states = states and bool(self._unflushed or self._processor.changed) and await self._is_member()
            begin = time.monotonic()
            emissions, results = self._processor.take_results()
            changes: list[tuple[int, bytes, bytes | None]] = []
            events: list[EventT[Any]] = []
            if states:
                events, self._unflushed = self._unflushed, []
                changes = [*self._processor.take_states(), *self._processor.take_positions()]
            prepared = time.monotonic() - begin
            try:
                await self._writer.write((topic, -1, key, value) for topic, key, value in results)
                await self._writer.write((self._changelog, partition, key, data) for partition, key, data in changes)
            except WriteError as error:
                log.critical("Kafka refuses what this worker writes: %s", error)
                _exit()
            for event in events:
                event.ack()
            if states:
                self._pace.wrote(prepared * 2)
            self._count(emissions)
            if events:
                self._processing.observe(self._processed_seconds + time.monotonic() - begin)
                self._processed_seconds = 0.0

    async def _is_member(self) -> bool:
        """Asks the group's coordinator whether the partitions are still ours, so that a worker that was away for longer
        than its session cannot write over the states of its successor."""
        thread = self.app.consumer._thread  # type: ignore[attr-defined]
        coordinator = thread._ensure_consumer()._coordinator
        member: bool = await thread.call_thread(coordinator._do_heartbeat)
        if not member and coordinator.generation < 0:
            log.warning("the group has gone on without this worker: what it had not flushed is left to its successor")
            self._discard()
        return member

    def _count(self, emissions: list[Emission]) -> None:
        for emission in emissions:
            match emission:
                case Aggregate():
                    self._aggregates.labels(self._fleet, emission.window).inc()
                case Late():
                    self._late.labels(self._fleet, emission.window).inc()
                case DeadLetter():
                    self._dead_letters.labels(self._fleet, emission.reason).inc()
                case Alert():
                    active = emission.state == AlertState.FIRING
                    self._set_alert(emission.threshold, emission.device, active=active)

    def _set_alert(self, threshold: str, device: str, *, active: bool) -> None:
        if threshold in self._severities:
            self._alert.labels(self._fleet, device, threshold, self._severities[threshold]).set(1 if active else 0)
            self._alerts[device].add(threshold)

    async def _ask_loop(self) -> None:
        """Asks at an interval how many readings Kafka has for us."""
        while True:
            await asyncio.sleep(ASK_SECONDS)
            if not self._settled():
                continue
            consumer, topic, at = self.app.consumer, self._source.get_topic_name(), _now()
            committed = consumer._committed_offset  # type: ignore[attr-defined]
            positions = {tp.partition: committed.get(tp) or 0 for tp in consumer.assignment() if tp.topic == topic}
            if not positions:
                continue
            try:
                ends = await asyncio.to_thread(self._offsets.ask, set(positions))
            except KafkaException:
                self._progress.unanswered()
            else:
                if self._settled():
                    self._progress.answered(ends, positions, at=at, now=time.monotonic())

    def _observe(self) -> None:
        oldest = min((timestamp for timestamp in self._progress.behind().values() if timestamp), default=None)
        self._lag.set(max(0.0, time.time() - oldest) if oldest is not None else 0.0)
        self._series.labels(self._fleet).set(len(self._processor.store))
        self._state_bytes.labels(self._fleet).set(self._processor.store.bytes)
        stalled = self._progress.stalled(now=time.monotonic())
        if not stalled:
            self._health.beat()
        elif stalled != self._stalled:
            log.error("no progress in partitions %s, though they hold readings", sorted(stalled))
        self._stalled = stalled

    def _observe_recovery(self) -> None:
        """A rebalance is alive for as long as the others may take to join, a recovery while it reads (see `table`)."""
        self._health.set_waiting("assignment and recovery")
        if time.monotonic() - self._unsettled_since < REBALANCE_SECONDS:
            self._health.beat()

    def _wait_for_kafka(self) -> None:
        """A worker that waits for Kafka is alive: starting it anew would not help."""
        self._health.set_waiting("Kafka to take results")
        self._health.beat()
        self._progress.excuse(now=time.monotonic())


def _exit() -> None:
    logging.shutdown()
    os._exit(1)


def _now() -> int:
    return time.time_ns() // 1_000_000
