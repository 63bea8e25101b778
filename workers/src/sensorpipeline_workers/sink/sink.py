"""The sink's loop: read a batch, write it, commit it; while one batch is written, the next one is read and decoded.

When MongoDB is away it waits, and Kafka keeps: at most two batches are in memory.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition
from pymongo.errors import PyMongoError
from sensorpipeline_api.configuration import SinkConfiguration

from sensorpipeline_workers.runtime import metrics
from sensorpipeline_workers.runtime.health import Health
from sensorpipeline_workers.runtime.kafka import librdkafka_settings
from sensorpipeline_workers.sink.batch import Batch, BatchBuilder, Record
from sensorpipeline_workers.sink.writer import Outcome, Progress, Writer

log = logging.getLogger(__name__)

BATCH_SIZE = 20_000
"""Readings, or other documents, that are written together when that many are there."""
MESSAGES_AT_ONCE = 2_000
POLL_SECONDS = 0.1
WAIT_SECONDS = 0.5
STOP_SECONDS = 20.0


class Sink:
    """Carries every topic of the pipeline into its collection. `partitions` are the number of each topic.

    One sink per pipeline: the writer shuts out any other (see fence.py), and the newest one stays. So it takes all
    partitions without asking (docs/decisions/0041).
    """

    def __init__(
        self, configuration: SinkConfiguration, partitions: Mapping[str, int], writer: Writer, health: Health
    ) -> None:
        self._topics = configuration.topics
        self._partitions = partitions
        self._fleets = {topic: fleet for fleet, topic in configuration.topics.readings.items()}
        self._writer = writer
        self._health = health
        self._stopping = False
        self._builder = BatchBuilder(configuration.topics, configuration.metrics)
        self._messages: deque[Message] = deque()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._committable: dict[tuple[str, int], int] = {}
        self._consumer = Consumer(
            librdkafka_settings(configuration.kafka)
            | {
                "group.id": configuration.group_id,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "on_commit": _on_commit,
                "fetch.message.max.bytes": 4 * 1024 * 1024,
                "fetch.max.bytes": 8 * 1024 * 1024,
                "queued.max.messages.kbytes": 16 * 1024,
            }
        )
        self._stored = metrics.stored_readings()
        self._documents = metrics.stored_documents()
        self._duplicates = metrics.duplicate_readings()
        self._lag = metrics.consumer_lag_seconds()
        self._processing = metrics.processing_seconds()
        self._end_to_end = metrics.end_to_end_seconds()
        self._dead_letters = metrics.dead_letters()

    def stop(self) -> None:
        """Asks the loop to end after the batch at hand."""
        self._stopping = True

    def run(self) -> None:
        """Runs until `stop`. Raises what the writing of a batch raised, other than that MongoDB is away."""
        self._wait_for_store()
        positions = self._positions()
        self._committable = {(p.topic, p.partition): p.offset for p in positions if p.offset >= 0}
        self._consumer.assign(positions)
        self._health.set_ready()
        try:
            while not self._stopping:
                batch = self._read()
                self._finish()
                if batch is None:
                    self._observe_lag(None)
                elif not self._stopping:
                    self._begin(batch)
            self._finish()
        finally:
            self._consumer.close()

    def _positions(self) -> list[TopicPartition]:
        """Returns where to begin in each partition; a Kafka that is away is waited for."""
        wanted = [TopicPartition(topic, number) for topic, count in self._partitions.items() for number in range(count)]
        while not self._stopping:
            self._health.beat()
            try:
                found = self._consumer.committed(wanted, timeout=10)
                return [_position(partition) for partition in found]
            except KafkaException as error:
                self._health.set_waiting(f"Kafka: {error.args[0].str()}")
                time.sleep(1)
        return []

    def _read(self) -> Batch | None:
        """Returns the next batch, or None when there was nothing to read for a moment."""
        if not self._messages:
            self._messages.extend(self._consumer.consume(MESSAGES_AT_ONCE, POLL_SECONDS))
        self._health.beat()
        now = time.time_ns() // 1_000_000
        while self._messages and self._builder.batch.size < BATCH_SIZE:
            record = _record(self._messages.popleft())
            if record is not None:
                self._builder.add(record, now=now)
        return self._builder.take() if self._builder.batch.offsets else None

    def _begin(self, batch: Batch) -> None:
        self._thread = threading.Thread(target=self._carry_safely, args=(batch,), name="writer", daemon=True)
        self._thread.start()

    def _finish(self) -> None:
        """Waits until the batch at hand is written and committed, or cannot be before we must end."""
        if self._thread is None:
            return
        patience = STOP_SECONDS
        while self._thread.is_alive():
            self._thread.join(WAIT_SECONDS)
            self._health.beat()
            if self._stopping:
                patience -= WAIT_SECONDS
                if patience <= 0:
                    log.warning("MongoDB does not answer; the batch at hand is written again after the next start")
                    break
        self._thread = None
        if self._failure is not None:
            raise self._failure

    def _carry_safely(self, batch: Batch) -> None:
        try:
            self._carry(batch)
        except BaseException as error:
            self._failure = error

    def _carry(self, batch: Batch) -> None:
        begin, progress = time.monotonic(), Progress()
        while not self._stopping:
            try:
                outcome = self._writer.write(batch, progress)
                break
            except PyMongoError as error:
                log.warning("MongoDB: %s", error)
                self._observe_lag(batch)
                time.sleep(WAIT_SECONDS)  # what failed may fail again at once
                self._wait_for_store()
        else:
            return
        self._commit(batch)
        self._count(batch, outcome)
        self._processing.observe(time.monotonic() - begin)
        self._observe_lag(batch)

    def _commit(self, batch: Batch) -> None:
        """Asks Kafka to remember all offsets, those that have not moved, too: it forgets what is not said again. Nobody
        waits for the answer; the next commit covers it, and `close` waits for the last one."""
        self._committable |= batch.offsets
        offsets = [TopicPartition(*slot, offset) for slot, offset in self._committable.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            log.warning("offsets were not committed, the next commit covers it: %s", error.args[0].str())

    def _count(self, batch: Batch, outcome: Outcome) -> None:
        for fleet in batch.received:
            self._stored.labels(fleet).inc(outcome.stored[fleet])
            self._duplicates.labels(fleet).inc(outcome.duplicates[fleet])
        for collection, count in Counter(collection for collection, _ in batch.upserts).items():
            self._documents.labels(collection).inc(count)
        for fleet, count in (batch.poison + outcome.refused).items():
            self._dead_letters.labels(fleet, "InvalidJson").inc(count)
        now = time.time() * 1000
        for timestamps in batch.timestamps.values():
            for timestamp in timestamps:
                self._end_to_end.observe(max(0.0, now - timestamp) / 1000)

    def _wait_for_store(self) -> None:
        while not self._stopping:
            self._health.beat()
            try:
                if self._writer.ready():
                    self._health.set_ready()
                    return
                self._health.set_waiting("the collection readings in MongoDB")
            except PyMongoError as error:
                self._health.set_waiting(f"MongoDB: {type(error).__name__}")
            time.sleep(1)

    def _observe_lag(self, batch: Batch | None) -> None:
        """The lag is the age of the oldest reading of the batch at hand, if more waits behind it."""
        now = time.time() * 1000
        for topic, fleet in self._fleets.items():
            timestamps = batch.timestamps.get(fleet) if batch is not None else None
            behind = timestamps and batch is not None and self._more(batch, topic)
            self._lag.labels(fleet).set(max(0.0, now - min(timestamps)) / 1000 if timestamps and behind else 0.0)

    def _more(self, batch: Batch, topic: str) -> bool:
        """Whether Kafka has records of a topic behind a batch."""
        for (name, partition), offset in batch.offsets.items():
            if name == topic:
                marks = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), cached=True)
                if marks is not None and marks[1] > offset:
                    return True
        return False


def _position(committed: TopicPartition) -> TopicPartition:
    if committed.error is not None:
        raise KafkaException(committed.error)
    offset = committed.offset if committed.offset >= 0 else OFFSET_BEGINNING
    return TopicPartition(committed.topic, committed.partition, offset)


def _on_commit(error: KafkaError | None, _: list[TopicPartition]) -> None:
    if error is not None:
        log.warning("offsets were not committed, the next commit covers it: %s", error.str())


def _record(message: Message) -> Record | None:
    error = message.error()
    if error is None:
        timestamp = message.timestamp()[1]
        return Record(
            message.topic() or "", message.partition() or 0, message.offset() or 0, timestamp, message.value() or b""
        )  # fmt: skip
    if error.fatal() or error.code() == KafkaError._FATAL:
        raise KafkaException(error)
    if error.code() != KafkaError._PARTITION_EOF:
        log.warning("Kafka: %s", error.str())
    return None
