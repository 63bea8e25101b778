"""Records on their way to Kafka: the readings of requests that come at the same time share records, and each request
learns when Kafka has all of its own.

Kafka being away is told within a bounded time, and what waits for it is bounded by what the requests may hold.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from sensorpipeline_api.configuration import GatewayConfiguration
from sensorpipeline_api.records import DeadLetter, Reading

from sensorpipeline_workers.ingest.batch import Batch, Batcher, Lane
from sensorpipeline_workers.runtime import metrics
from sensorpipeline_workers.runtime.kafka import librdkafka_settings

log = logging.getLogger(__name__)

BATCH_READINGS = 500
BATCH_SECONDS = 0.004
DELIVERY_SECONDS = 8.0
ANSWER_SECONDS = 10.0
KNOWN_DEVICES = 100_000


class KafkaAwayError(Exception):
    """Kafka does not have the records, or has not said so in time; the text says what is known."""


class Delivery:
    """What one request waits for: its records, until Kafka has them all or one has failed."""

    __slots__ = ("_future", "_open")

    def __init__(self) -> None:
        self._future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._open = 0

    def expect(self) -> None:
        """Adds one thing to wait for."""
        self._open += 1

    def settle(self, error: str | None) -> None:
        """Says what came of one thing."""
        self._open -= 1
        if not self._future.done() and (error is not None or self._open == 0):
            self._future.set_result(error)

    async def wait(self, seconds: float) -> None:
        """Waits for all of them. Raises KafkaAwayError."""
        try:
            error = await asyncio.wait_for(self._future, seconds)
        except TimeoutError:
            error = f"no acknowledgement within {seconds:.0f} s"
        if error is not None:
            raise KafkaAwayError(error)


class Outbox:
    """Produces readings and dead letters, and says when Kafka has them."""

    def __init__(self, configuration: GatewayConfiguration) -> None:
        self._topics = configuration.topics
        self._settings = librdkafka_settings(configuration.kafka) | {
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 1,
            "compression.type": "lz4",
            "message.max.bytes": 4 * 1024 * 1024,
            "message.timeout.ms": int(DELIVERY_SECONDS * 1000),
            "queue.buffering.max.kbytes": 256 * 1024,
            "reconnect.backoff.max.ms": 1000,
        }
        self._producer = Producer(self._settings)
        self._lanes: dict[tuple[str, str], Lane[Delivery]] = {}
        self._batcher: Batcher[Delivery] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reports: deque[tuple[Batch[Delivery] | DeadLetter, list[Delivery], KafkaError | None]] = deque()
        self._scheduled = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._readings = metrics.readings()
        self._dead_letters = metrics.dead_letters()
        self._fleets = {topic: fleet for fleet, topic in configuration.topics.readings.items()}

    @property
    def ready(self) -> bool:
        """Whether Kafka has answered and has the topics."""
        return self._batcher is not None

    async def run(self) -> None:
        """Learns the topics' partitions, then carries reports until cancelled."""
        self._thread = threading.Thread(
            target=self._poll, args=(asyncio.get_running_loop(),), name="outbox", daemon=True
        )
        self._thread.start()
        try:
            partitions = await self._learn_partitions()
            self._batcher = Batcher(partitions, maximum_readings=BATCH_READINGS, maximum_seconds=BATCH_SECONDS)
            await asyncio.Event().wait()
        finally:
            self._flush(everything=True)
            await asyncio.to_thread(self._producer.flush, DELIVERY_SECONDS)
            self._stopping.set()
            await asyncio.to_thread(self._thread.join)
            self._settle()

    async def send(self, readings: dict[str, list[Reading]], letters: list[DeadLetter]) -> None:
        """Returns when Kafka has all readings (by fleet) and dead letters. Raises KafkaAwayError, within
        `ANSWER_SECONDS`; some of them may then be in Kafka all the same."""
        if self._batcher is None:
            raise KafkaAwayError("Kafka has not answered yet, or has not all topics yet")
        delivery = Delivery()
        for fleet, items in readings.items():
            topic = self._topics.readings[fleet]
            for lane, group in self._groups(self._batcher, topic, items):
                for piece in self._batcher.pieces(group):
                    delivery.expect()
                    batch = self._batcher.put(lane, piece, delivery, now=time.monotonic())
                    if batch is not None:
                        self._produce_batch(batch)
        for letter in letters:
            delivery.expect()
            self._produce(
                letter, [delivery], topic=self._topics.dead_letter, key=letter.fleet.encode(),
                value=msgspec.json.encode(letter),
            )  # fmt: skip
        self._arm()
        await delivery.wait(ANSWER_SECONDS)

    def _groups(
        self, batcher: Batcher[Delivery], topic: str, items: list[Reading]
    ) -> Iterable[tuple[Lane[Delivery], list[Reading]]]:
        """Returns the readings by partition, each with the lane of a device of it."""
        groups: dict[int, tuple[Lane[Delivery], list[Reading]]] = {}
        for reading in items:
            lane = self._lanes.get((topic, reading.device))
            if lane is None:
                if len(self._lanes) >= KNOWN_DEVICES:
                    self._lanes.clear()
                lane = self._lanes[topic, reading.device] = batcher.lane(topic, reading.device)
            groups.setdefault(lane.partition, (lane, []))[1].append(reading)
        return groups.values()

    def _arm(self) -> None:
        """Makes sure that open batches are produced in time."""
        if self._timer is None and self._batcher is not None:
            wait = self._batcher.wait_seconds(now=time.monotonic(), default=-1)
            if wait >= 0:
                self._timer = asyncio.get_running_loop().call_later(wait, self._flush)

    def _flush(self, *, everything: bool = False) -> None:
        self._timer = None
        if self._batcher is not None:
            for batch in self._batcher.due(now=time.monotonic(), everything=everything):
                self._produce_batch(batch)
        if not everything:
            self._arm()

    def _produce_batch(self, batch: Batch[Delivery]) -> None:
        self._produce(
            batch, batch.tokens, topic=batch.topic, partition=batch.partition, key=batch.key, value=batch.value()
        )

    def _produce(self, what: Batch[Delivery] | DeadLetter, deliveries: list[Delivery], **record: Any) -> None:
        def delivered(error: KafkaError | None, _: Message) -> None:
            self._reports.append((what, deliveries, error))

        try:
            self._producer.produce(on_delivery=delivered, **record)
        except (BufferError, KafkaException) as error:
            for delivery in deliveries:
                delivery.settle(str(error))

    def _poll(self, loop: asyncio.AbstractEventLoop) -> None:
        """The thread that waits for delivery reports, and hands what came together over together."""
        while not self._stopping.is_set():
            self._producer.poll(0.2)
            if self._reports and not self._scheduled:
                self._scheduled = True
                loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        self._scheduled = False
        while self._reports:
            what, deliveries, error = self._reports.popleft()
            if error is not None:
                log.error("Kafka does not have a record: %s", error.str())
                if error.fatal():  # this producer will never deliver again
                    self._producer = Producer(self._settings)
            elif isinstance(what, DeadLetter):
                self._dead_letters.labels(what.fleet, what.reason).inc()
            else:
                self._readings.labels(self._fleets[what.topic]).inc(len(what.readings))
            for delivery in deliveries:
                delivery.settle(error.str() if error is not None else None)

    async def _learn_partitions(self) -> dict[str, int]:
        """Waits until all topics exist; returns the number of partitions of each topic of readings."""
        wanted = set(self._topics.readings.values())
        while True:
            try:
                known = (await asyncio.to_thread(self._producer.list_topics, timeout=3)).topics
            except KafkaException as error:
                log.info("waiting for Kafka: %s", error.args[0].str())
            else:
                missing = (wanted | {self._topics.dead_letter}) - known.keys()
                if not missing:
                    return {topic: len(known[topic].partitions) for topic in wanted}
                log.info("waiting for topics %s", ", ".join(sorted(missing)))
            await asyncio.sleep(1)
