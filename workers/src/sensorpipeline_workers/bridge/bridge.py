"""The bridge's loop: receive, decode, batch, produce, and acknowledge what Kafka has, in the order of receipt."""

import base64
import logging
import time
from collections import deque
from typing import Any

import mqtt5
import msgspec
from confluent_kafka import KafkaError, Message, Producer
from sensorpipeline_api.configuration import BridgeConfiguration
from sensorpipeline_api.records import DeadLetter, DeadLetterReason

from sensorpipeline_workers.bridge.connection import Connection, ConnectionLostError
from sensorpipeline_workers.bridge.decode import decode
from sensorpipeline_workers.bridge.topics import Origin, TopicTable, topic_filter
from sensorpipeline_workers.ingest.batch import Batch, Batcher
from sensorpipeline_workers.ingest.validation import RefusedError
from sensorpipeline_workers.runtime import metrics
from sensorpipeline_workers.runtime.health import Health
from sensorpipeline_workers.runtime.kafka import librdkafka_settings

log = logging.getLogger(__name__)

RECEIVE_MAXIMUM = 5000
POLL_SECONDS = 0.5
DRAIN_SECONDS = 15.0
UNKNOWN_FLEET = "unknown"


class Pending:
    """A message that is not acknowledged yet. `packet_id` is None for one that needs no acknowledgement."""

    __slots__ = ("done", "packet_id")

    def __init__(self, packet_id: int | None) -> None:
        self.packet_id = packet_id
        self.done = False


class Bridge:
    """Carries messages from the broker to Kafka. `partitions` is the number of partitions of each readings topic."""

    def __init__(self, configuration: BridgeConfiguration, partitions: dict[str, int], health: Health) -> None:
        self._configuration = configuration
        self._health = health
        self._table = TopicTable(configuration.fleets)
        self._batcher: Batcher[Pending] = Batcher(
            partitions,
            maximum_readings=configuration.batch_maximum_readings,
            maximum_seconds=configuration.batch_maximum_milliseconds / 1000,
        )
        self._producer = Producer(
            librdkafka_settings(configuration.kafka)
            | {
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 2,
                "compression.type": "lz4",
                "message.max.bytes": 4 * 1024 * 1024,
                "message.timeout.ms": 0,
                "queue.buffering.max.messages": RECEIVE_MAXIMUM * 2,
            }
        )
        self._pending: deque[Pending] = deque()
        self._stopping = False
        self._received = metrics.messages_received()
        self._readings = metrics.readings()
        self._dead_letters = metrics.dead_letters()

    def stop(self) -> None:
        """Asks the loop to drain and end."""
        self._stopping = True

    def run(self, client_id: str) -> None:
        """Runs until `stop`; connects again whenever the connection is lost."""
        share = self._configuration.share_name
        filters = [f"$share/{share}/{topic_filter(fleet.topic)}" for fleet in self._configuration.fleets]
        while not self._stopping:
            try:
                with Connection(
                    self._configuration.mqtt, client_id=client_id, filters=filters, receive_maximum=RECEIVE_MAXIMUM
                ) as connection:
                    self._health.set_ready()
                    self._carry(connection)
                    self._drain(connection)
            except ConnectionLostError as error:
                self._health.beat()
                self._health.set_waiting(f"MQTT: {error}")
                self._pending.clear()  # the broker sends them again; records on their way are harmless duplicates
                if not self._stopping:
                    time.sleep(1)
        self._producer.flush(DRAIN_SECONDS)

    def _carry(self, connection: Connection) -> None:
        while not self._stopping:
            timeout = self._batcher.wait_seconds(now=time.monotonic(), default=POLL_SECONDS)
            if self._pending:
                timeout = min(timeout, 0.002)
            for packet in connection.receive(timeout):
                self._take(packet)
            self._produce_due()
            self._producer.poll(0)
            self._acknowledge(connection)
            self._health.beat()

    def _drain(self, connection: Connection) -> None:
        """Waits until Kafka has what was received, acknowledges it, and takes leave."""
        self._produce_due(everything=True)
        deadline = time.monotonic() + DRAIN_SECONDS
        while self._pending and time.monotonic() < deadline:
            self._producer.poll(0.1)
            self._acknowledge(connection)
        connection.disconnect()

    def _take(self, packet: mqtt5.PublishPacket) -> None:
        pending = Pending(packet.packet_id)
        self._pending.append(pending)
        now = time.time_ns() // 1_000_000
        origin = self._table.find(packet.topic)
        if origin is None:
            self._received.labels(UNKNOWN_FLEET).inc()
            message = f"topic {packet.topic!r} fits no fleet"
            self._bury(packet, UNKNOWN_FLEET, DeadLetterReason.UNKNOWN_DEVICE, message, pending, now)
            return
        self._received.labels(origin.fleet.name).inc()
        try:
            readings = decode(origin, packet.payload, now=now)
        except RefusedError as error:
            self._bury(packet, origin.fleet.name, error.reason, str(error), pending, now)
            return
        topic = self._configuration.topics.readings[origin.fleet.name]
        batch = self._batcher.add(topic, readings, pending, now=time.monotonic())
        if batch is not None:
            self._produce_batch(batch, origin)

    def _produce_due(self, *, everything: bool = False) -> None:
        for batch in self._batcher.due(now=time.monotonic(), everything=everything):
            self._produce_batch(batch, None)

    def _produce_batch(self, batch: Batch[Pending], origin: Origin | None) -> None:
        fleet = origin.fleet.name if origin else self._fleet_of(batch.topic)

        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is None:
                self._readings.labels(fleet).inc(len(batch.readings))
                for pending in batch.tokens:
                    pending.done = True
            else:
                log.error("Kafka refused a record of %s: %s", batch.topic, error.str())

        self._produce(
            topic=batch.topic, partition=batch.partition, key=batch.key, value=batch.value(), on_delivery=delivered
        )

    def _bury(
        self,
        packet: mqtt5.PublishPacket,
        fleet: str,
        reason: DeadLetterReason,
        message: str,
        pending: Pending,
        now: int,
    ) -> None:
        payload = base64.b64encode(packet.payload).decode()
        letter = DeadLetter(f"mqtt:{packet.topic}", fleet, now, payload, reason.value, message)

        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is None:
                self._dead_letters.labels(fleet, reason.value).inc()
                pending.done = True
            else:
                log.error("Kafka refused a dead letter: %s", error.str())

        self._produce(
            topic=self._configuration.topics.dead_letter, key=fleet.encode(), value=msgspec.json.encode(letter),
            on_delivery=delivered,
        )  # fmt: skip

    def _produce(self, **record: Any) -> None:
        """Hands a record to the producer; when its queue is full, waits, and so stops reading from the broker."""
        while True:
            try:
                self._producer.produce(**record)
                return
            except BufferError:
                self._health.beat()
                self._producer.poll(0.1)

    def _acknowledge(self, connection: Connection) -> None:
        """Acknowledges the messages that Kafka has, up to the first that it has not."""
        ready: list[int] = []
        while self._pending and self._pending[0].done:
            packet_id = self._pending.popleft().packet_id
            if packet_id is not None:
                ready.append(packet_id)
        if ready:
            connection.acknowledge(ready)

    def _fleet_of(self, topic: str) -> str:
        return next(fleet for fleet, name in self._configuration.topics.readings.items() if name == topic)
