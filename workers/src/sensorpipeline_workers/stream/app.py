"""The Faust application: reads the fleet's readings, and flushes outputs, states and acknowledgements, in this order.

Whatever happens between two flushes is done again from the committed offset; states remember the offset they hold, so
doing it again changes nothing.
"""

import asyncio
import logging
import os
import time
from typing import Any

import faust
from faust.types import EventT
from sensorpipeline_api.configuration import WorkerConfiguration
from sensorpipeline_api.records import Aggregate, Alert, AlertState, DeadLetter, Late

from sensorpipeline_workers.runtime import metrics
from sensorpipeline_workers.runtime.health import Health
from sensorpipeline_workers.runtime.kafka import read_secret
from sensorpipeline_workers.stream.processor import Processor
from sensorpipeline_workers.stream.table import StateTable

log = logging.getLogger(__name__)

MAXIMUM_UNFLUSHED_RECORDS = 2000
IDLE_CHECK_SECONDS = 1.0
MAXIMUM_STATE_BYTES = 4 * 1024 * 1024
STALL_SECONDS = 60.0


def build_app(configuration: WorkerConfiguration) -> faust.App:
    """Returns the Faust application of a fleet's worker, without its agents."""
    kafka = configuration.kafka
    credentials = None
    if kafka.username is not None and kafka.password_file is not None:
        credentials = faust.SASLCredentials(
            username=kafka.username, password=read_secret(kafka.password_file), mechanism="PLAIN"
        )
    return faust.App(
        configuration.application_id,
        broker=[f"kafka://{server}" for server in kafka.bootstrap_servers],
        broker_credentials=credentials,
        broker_commit_interval=0.5,
        producer_max_request_size=MAXIMUM_STATE_BYTES,
        # A killed worker's partitions are given to another one after this long.
        broker_session_timeout=10.0,
        broker_heartbeat_interval=3.0,
        consumer_auto_offset_reset="earliest",
        datadir="/tmp/faust",
        store="memory://",
        Table=StateTable,
        stream_wait_empty=True,
        topic_disable_leader=True,
        topic_partitions=configuration.fleet.partitions,
        topic_replication_factor=configuration.replication_factor,
        web_enabled=False,
        worker_redirect_stdouts=False,
    )


class StreamWorker:
    """The worker around one Faust application: its table, its agent and its flush loop."""

    def __init__(self, configuration: WorkerConfiguration, health: Health) -> None:
        self._fleet = configuration.fleet.name
        self._severities = {t.name: t.severity.value for t in configuration.fleet.thresholds}
        self._health = health
        self._interval = configuration.flush_milliseconds / 1000
        self.app = build_app(configuration)
        self._source = self.app.topic(
            configuration.topics.readings[self._fleet], key_type=bytes, value_type=bytes, value_serializer="raw",
            key_serializer="raw", partitions=configuration.fleet.partitions,
        )  # fmt: skip
        topics = configuration.topics
        self._outputs = {
            name: self.app.topic(name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
            for name in (topics.aggregates, topics.late, topics.alerts, topics.dead_letter)
        }
        self._table: Any = self.app.Table(
            "state",
            partitions=configuration.fleet.partitions,
            key_type=bytes,
            value_type=bytes,
            extra_topic_configs={"max.message.bytes": MAXIMUM_STATE_BYTES},
        )
        self._processor = Processor(configuration, self._table.data)
        self._unflushed: list[EventT[Any]] = []
        self._lock = asyncio.Lock()
        self._positions: dict[int, tuple[int, float]] = {}
        self._last_progress = time.monotonic()
        self._last_idle_check = 0.0
        self._recovered = self._restored = False
        self._late = metrics.late()
        self._aggregates = metrics.aggregates_emitted()
        self._dead_letters = metrics.dead_letters()
        self._processing = metrics.processing_seconds()
        self._lag = metrics.consumer_lag_seconds().labels(self._fleet)
        self._alert = metrics.device_alert()
        self.app.agent(self._source, name="work")(self._work)
        self.app.task(self._flush_loop)
        self.app.on_partitions_assigned.connect(self._on_assigned, weak=False)
        self.app.on_rebalance_complete.connect(self._on_recovered, weak=False)

    async def _on_assigned(self, *_: Any, **__: Any) -> None:
        self._processor.forget()
        self._unflushed.clear()
        self._positions.clear()
        self._recovered = self._restored = False

    async def _on_recovered(self, *_: Any, **__: Any) -> None:
        """Faust sends this signal when the tables have been restored after a rebalance."""
        self._recovered = True

    async def _work(self, stream: Any) -> None:
        async for event in stream.noack().events():
            message = event.message
            try:
                self._processor.record(
                    topic=message.topic, partition=message.partition, offset=message.offset, value=event.value,
                    now=_now(),
                )  # fmt: skip
            except Exception:
                # Faust would start the agent anew behind this record, and it would be lost.
                log.critical("%s/%s/%s", message.topic, message.partition, message.offset, exc_info=True)
                logging.shutdown()
                os._exit(1)
            self._unflushed.append(event)
            self._positions[message.partition] = (message.offset, message.timestamp)
            self._last_progress = time.monotonic()
            if len(self._unflushed) >= MAXIMUM_UNFLUSHED_RECORDS:
                await self._flush()

    async def _flush_loop(self) -> None:
        """Flushes at an interval, in a rebalance, too: Faust gives partitions up once all is acknowledged."""
        while not self.app.should_stop:
            await asyncio.sleep(self._interval)
            settled = self._settled()
            if settled:
                self._after_recovery()
                self._close_idle()
            await self._flush()
            if settled:
                self._observe_lag()
            else:
                self._health.set_waiting("assignment and recovery")
                self._health.beat()

    def _settled(self) -> bool:
        """Whether partitions are assigned and their states recovered."""
        return self.app.consumer is not None and self._recovered and not self.app.rebalancing

    def _after_recovery(self) -> None:
        self._health.set_ready()
        if self._restored:
            return
        self._restored = True
        self._alert.clear()
        for (threshold, device), active in self._processor.alerts(self._partitions()).items():
            self._set_alert(threshold, device, active=active)

    def _close_idle(self) -> None:
        if time.monotonic() - self._last_idle_check < IDLE_CHECK_SECONDS or self._behind():
            return
        self._last_idle_check = time.monotonic()
        self._processor.close_idle(self._partitions(), _now())

    async def _flush(self) -> None:
        """Outputs, then states, then acknowledgements; each waited for."""
        async with self._lock:
            begin = time.monotonic()
            events, self._unflushed = self._unflushed, []
            flush = self._processor.flush()
            sent = [await self._outputs[topic].send(key=key, value=value) for topic, key, value in flush.outputs]
            await asyncio.gather(*sent)
            await self._table.write(flush.states)
            for event in events:
                event.ack()
            self._count(flush.emissions)
            if events:
                self._processing.observe(time.monotonic() - begin)

    def _count(self, emissions: list[Aggregate | Late | Alert | DeadLetter]) -> None:
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

    def _partitions(self) -> set[int]:
        return {tp.partition for tp in self.app.consumer.assignment() if tp.topic == self._source.get_topic_name()}

    def _behind(self) -> dict[int, float]:
        """Returns, for each of our partitions with unread records, the time of the last record read (or 0)."""
        out: dict[int, float] = {}
        for tp in self.app.consumer.assignment():
            if tp.topic == self._source.get_topic_name():
                end = self.app.consumer.highwater(tp)
                offset, timestamp = self._positions.get(tp.partition, (-1, 0.0))
                committed = self.app.consumer._committed_offset.get(tp) or 0  # type: ignore[attr-defined]
                if end and max(offset + 1, committed) < end:
                    out[tp.partition] = timestamp
        return out

    def _observe_lag(self) -> None:
        behind = self._behind()
        oldest = min((timestamp for timestamp in behind.values() if timestamp), default=None)
        self._lag.set(max(0.0, time.time() - oldest) if oldest is not None else 0.0)
        if not behind or time.monotonic() - self._last_progress < STALL_SECONDS:
            self._health.beat()


def _now() -> int:
    return time.time_ns() // 1_000_000
