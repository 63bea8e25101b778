"""The sink's loop: read a batch, write it, commit it. When MongoDB is away it waits, and Kafka keeps."""

import logging
import time
from collections import defaultdict

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from pymongo.errors import PyMongoError
from sensorpipeline_api.configuration import SinkConfiguration

from sensorpipeline_workers.runtime import metrics
from sensorpipeline_workers.runtime.health import Health
from sensorpipeline_workers.runtime.kafka import librdkafka_settings
from sensorpipeline_workers.sink import documents
from sensorpipeline_workers.sink.documents import Document
from sensorpipeline_workers.sink.writer import Writer

log = logging.getLogger(__name__)

BATCH_RECORDS = 1000
POLL_SECONDS = 0.5
DAY_MILLISECONDS = 24 * 3600 * 1000


class Sink:
    """Carries every topic of the pipeline into its collection."""

    def __init__(self, configuration: SinkConfiguration, writer: Writer, health: Health) -> None:
        self._topics = configuration.topics
        self._fleets = {topic: fleet for fleet, topic in configuration.topics.readings.items()}
        self._writer = writer
        self._health = health
        self._stopping = False
        self._consumer = Consumer(
            librdkafka_settings(configuration.kafka)
            | {
                "group.id": configuration.group_id,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                # Waiting for MongoDB is no reason to lose the partitions; liveness is watched by Kubernetes.
                "max.poll.interval.ms": DAY_MILLISECONDS,
                "fetch.message.max.bytes": 4 * 1024 * 1024,
            }
        )
        self._stored = metrics.stored_readings()
        self._lag = metrics.consumer_lag_seconds()
        self._processing = metrics.processing_seconds()
        self._end_to_end = metrics.end_to_end_seconds()
        self._dead_letters = metrics.dead_letters()

    def stop(self) -> None:
        """Asks the loop to end after the batch at hand."""
        self._stopping = True

    def run(self) -> None:
        """Runs until `stop`."""
        topics = [*self._fleets, self._topics.aggregates, self._topics.late, self._topics.alerts,
                  self._topics.dead_letter]  # fmt: skip
        self._consumer.subscribe(topics, on_assign=self._assigned)
        self._wait_for_store()
        try:
            while not self._stopping:
                messages = self._consumer.consume(BATCH_RECORDS, POLL_SECONDS)
                self._health.beat()
                good = [message for message in messages if self._good(message)]
                if good:
                    self._carry(good)
                else:
                    self._observe_lag(good)
        finally:
            self._consumer.close()

    def _assigned(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """After a crash or a rebalance, more may be stored than was committed."""
        self._writer.doubt((self._fleets[p.topic], p.partition) for p in partitions if p.topic in self._fleets)

    def _good(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            return True
        if error.code() != KafkaError._PARTITION_EOF:
            log.warning("Kafka: %s", error.str())
        return False

    def _carry(self, messages: list[Message]) -> None:
        begin = time.monotonic()
        groups = self._documents(messages)
        while not self._stopping:
            try:
                stored = self._write(groups)
                break
            except PyMongoError as error:
                log.warning("MongoDB: %s", error)
                self._wait_for_store()
        else:
            return
        self._commit(messages)
        for fleet, count in stored.items():
            self._stored.labels(fleet).inc(count)
        now = time.time() * 1000
        for message in messages:
            if message.topic() in self._fleets:
                self._end_to_end.observe(max(0.0, now - message.timestamp()[1]) / 1000)
        self._processing.observe(time.monotonic() - begin)
        self._observe_lag(messages)

    def _documents(self, messages: list[Message]) -> dict[str, list[Document]]:
        """Returns the documents of a batch by collection; a record that is none becomes a dead letter."""
        groups: dict[str, list[Document]] = defaultdict(list)
        for message in messages:
            topic, value = message.topic() or "", message.value() or b""
            partition, offset = message.partition() or 0, message.offset() or 0
            position = f"{topic}/{partition}/{offset}"
            try:
                if topic in self._fleets:
                    fleet = self._fleets[topic]
                    groups["readings"] += documents.reading_documents(
                        value, fleet=fleet, partition=partition, offset=offset
                    )
                elif topic == self._topics.aggregates:
                    groups["aggregates"].append(documents.aggregate_document(value))
                elif topic == self._topics.late:
                    groups["late"].append(documents.late_document(value))
                elif topic == self._topics.alerts:
                    groups["alerts"].append(documents.alert_document(value))
                else:
                    groups["dead_letters"].append(documents.dead_letter_document(value, position=position))
            except (msgspec.MsgspecError, OverflowError, ValueError) as error:
                if topic in self._fleets:
                    continue  # the stream worker, which reads the same record, dead-letters it
                now = time.time_ns() // 1_000_000
                poison = documents.poison_document(value, position=position, now=now, error=str(error))
                groups["dead_letters"].append(poison)
                self._dead_letters.labels("", poison["reason"]).inc()
        return groups

    def _write(self, groups: dict[str, list[Document]]) -> dict[str, int]:
        """Writes all documents; returns the number of readings stored by fleet."""
        stored: dict[str, int] = defaultdict(int)
        by_fleet: dict[str, list[Document]] = defaultdict(list)
        for document in groups.get("readings", []):
            by_fleet[document["series"]["fleet"]].append(document)
        for fleet, readings in by_fleet.items():
            stored[fleet] = self._writer.readings(readings)
        self._writer.aggregates(groups.get("aggregates", []))
        for collection in ("late", "alerts", "dead_letters"):
            self._writer.replace(collection, groups.get(collection, []))
        return stored

    def _commit(self, messages: list[Message]) -> None:
        positions: dict[tuple[str, int], int] = {}
        for message in messages:
            positions[message.topic() or "", message.partition() or 0] = (message.offset() or 0) + 1
        offsets = [TopicPartition(topic, partition, offset) for (topic, partition), offset in positions.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            log.warning("offsets were not committed, the next commit or owner covers it: %s", error.args[0].str())

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

    def _observe_lag(self, messages: list[Message]) -> None:
        """A full batch says that more waits; then the age of its oldest record is the lag."""
        oldest: dict[str, int] = {}
        if len(messages) >= BATCH_RECORDS:
            for message in messages:
                fleet = self._fleets.get(message.topic() or "")
                if fleet is not None:
                    oldest[fleet] = min(oldest.get(fleet, message.timestamp()[1]), message.timestamp()[1])
        now = time.time() * 1000
        for fleet in self._fleets.values():
            self._lag.labels(fleet).set(max(0.0, now - oldest.get(fleet, now)) / 1000)
