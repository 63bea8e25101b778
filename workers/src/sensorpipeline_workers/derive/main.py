"""Runs derive: one instance reads the whole topic of aggregates.

Its state is what the topic holds, so nothing else has to be kept: at the start everything before the committed offsets
is read again without emitting, then it goes on from there.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from pydantic import TypeAdapter
from sensorpipeline_api.configuration import DERIVED_PATH, DeriveConfiguration
from sensorpipeline_api.records import Aggregate
from sensorpipeline_api.status import DerivedMetricStatus

from sensorpipeline_workers.derive.join import FLEET, Join
from sensorpipeline_workers.derive.waiting import Waiting
from sensorpipeline_workers.runtime import metrics
from sensorpipeline_workers.runtime.health import Health
from sensorpipeline_workers.runtime.kafka import librdkafka_settings
from sensorpipeline_workers.runtime.topics import wait_for_topics

log = logging.getLogger(__name__)

BATCH_RECORDS = 2000
POLL_SECONDS = 0.2
REPORT_SECONDS = 5.0
_decoder = msgspec.json.Decoder(Aggregate)
_states = TypeAdapter(list[DerivedMetricStatus])


class Derive:
    """Reads aggregates, writes derived ones to the same topic."""

    def __init__(self, configuration: DeriveConfiguration, partitions: int, health: Health) -> None:
        self._topic = configuration.topics.aggregates
        self._partitions = partitions
        self._health = health
        self._join = Join(configuration.pipeline, configuration.derived)
        self._waiting = Waiting(self._join)
        self._next_report = 0.0
        settings = librdkafka_settings(configuration.kafka)
        reading = {
            "group.id": configuration.application_id,
            "enable.auto.commit": False,
            # A position that the topic no longer has: go on with the oldest that it has, and skip nothing.
            "auto.offset.reset": "earliest",
        }
        self._consumer = Consumer(settings | reading)
        self._producer = Producer(settings | {"enable.idempotence": True, "acks": "all", "message.timeout.ms": 0})
        self._emitted = metrics.aggregates_emitted()

    def run(self, stop: threading.Event) -> None:
        """Runs until `stop`."""
        committed = self._replay(stop)
        self._consumer.assign([TopicPartition(self._topic, p, offset) for p, offset in committed.items()])
        self._health.set_ready()
        while not stop.is_set():
            messages = self._read()
            self._health.beat()
            if messages:
                self._emit()
                self._commit(messages)
            self._report(time.monotonic())
        self._consumer.close()

    def _replay(self, stop: threading.Event) -> dict[int, int]:
        """Reads everything before the committed offsets in; returns those offsets by partition."""
        committed: dict[int, int] = {}
        remaining: dict[int, int] = {}
        for partition, (offset, low, high) in self._positions(stop).items():
            committed[partition] = max(low, offset) if offset >= 0 else low
            if committed[partition] > low:
                remaining[partition] = min(committed[partition], high)
        self._health.set_waiting("the replay of the aggregates topic")
        self._consumer.assign([TopicPartition(self._topic, p, OFFSET_BEGINNING) for p in remaining])
        while remaining and not stop.is_set():
            self._health.beat()
            for message in self._read(before=committed):
                partition, offset = message.partition() or 0, message.offset() or 0
                if offset + 1 >= remaining.get(partition, 0):
                    remaining.pop(partition, None)
        self._join.forget_changes()
        return committed

    def _positions(self, stop: threading.Event) -> dict[int, tuple[int, int, int]]:
        """Returns committed offset, low and high watermark of each partition; a starting broker is waited for."""
        wanted = [TopicPartition(self._topic, partition) for partition in range(self._partitions)]
        while not stop.is_set():
            self._health.beat()
            try:
                return {
                    found.partition: (found.offset, *self._consumer.get_watermark_offsets(found, timeout=30))
                    for found in self._consumer.committed(wanted, timeout=30)
                }
            except KafkaException as error:
                self._health.set_waiting(f"Kafka: {error.args[0].str()}")
                stop.wait(1)
        return {}

    def _read(self, *, before: dict[int, int] | None = None) -> list[Message]:
        """Reads messages into the join, those at or after `before` of their partition aside; returns all."""
        messages = [m for m in self._consumer.consume(BATCH_RECORDS, POLL_SECONDS) if m.error() is None]
        for message in messages:
            if before is not None and (message.offset() or 0) >= before[message.partition() or 0]:
                continue
            try:
                self._join.add(_decoder.decode(message.value() or b""))
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # ValueError: what is not UTF-8
                log.warning("%s/%s/%s: %s", message.topic(), message.partition(), message.offset(), error)
        return messages

    def _emit(self) -> None:
        """Writes the results that have changed and waits until Kafka has them. Raises KafkaException when it refuses
        one for good: what they come from is then not committed, and the next process emits them again."""
        results, problems = self._join.results()
        for problem in problems:
            log.warning("%s", problem)
        refused: list[KafkaError] = []

        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                refused.append(error)

        for result in results:
            self._produce(result, delivered)
        while self._producer.flush(1):
            self._health.beat()
        if refused:
            raise KafkaException(refused[0])
        for result in results:
            self._emitted.labels(FLEET, result.window).inc()

    def _produce(self, result: Aggregate, delivered: Callable[[KafkaError | None, Message], None]) -> None:
        key, value = f"{result.window}|{result.device}|{result.metric}".encode(), msgspec.json.encode(result)
        while True:
            try:
                self._producer.produce(self._topic, key=key, value=value, on_delivery=delivered)
                return
            except BufferError:  # the producer's queue is full
                self._producer.poll(0.1)
                self._health.beat()

    def _report(self, now: float) -> None:
        """Publishes, every few seconds, how the metrics are."""
        if now >= self._next_report:
            self._next_report = now + REPORT_SECONDS
            report = _states.dump_json(self._waiting.report(now), by_alias=True, exclude_none=True)
            self._health.publish(DERIVED_PATH, report)

    def _commit(self, messages: list[Message]) -> None:
        positions = {message.partition() or 0: (message.offset() or 0) + 1 for message in messages}
        offsets = [TopicPartition(self._topic, partition, offset) for partition, offset in positions.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            log.warning("offsets were not committed, the next commit covers it: %s", error.args[0].str())


def run() -> None:
    """Runs until SIGTERM."""
    configuration = DeriveConfiguration.load()
    health = Health()
    health.serve(configuration.metrics_port)
    topic = configuration.topics.aggregates
    partitions = wait_for_topics(configuration.kafka, {topic}, health)[topic]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    Derive(configuration, partitions, health).run(stop)
