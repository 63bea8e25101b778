"""Records on their way to Kafka: batches of readings and dead letters, until Kafka has them or refuses them."""

import base64
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from sensorpipeline_api.configuration import BridgeConfiguration
from sensorpipeline_api.records import DeadLetter, DeadLetterReason

from sensorpipeline_workers.bridge.decode import Refusal
from sensorpipeline_workers.ingest.batch import Batch
from sensorpipeline_workers.runtime import metrics
from sensorpipeline_workers.runtime.kafka import librdkafka_settings

log = logging.getLogger(__name__)

QUEUE_KILOBYTES = 64 * 1024
LETTER_BYTES = 2 * 1024 * 1024
SMALLEST_LETTER_BYTES = 1024
ANY_PARTITION = -1

POISON = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD, KafkaError.INVALID_MSG}
"""Errors that concern a record itself: it would be refused again."""


class KafkaRefusedError(Exception):
    """Kafka refused a record for good, for a reason that lies not in the record; the text says why."""


class Counters:
    """The bridge's metrics, declared once in a process."""

    def __init__(self) -> None:
        self.received = metrics.messages_received()
        self.readings = metrics.readings()
        self.dead_letters = metrics.dead_letters()


class Pending:
    """A message that is not acknowledged yet, in `open` records that Kafka has not confirmed. `packet_id` is None for
    one that needs no acknowledgement."""

    __slots__ = ("open", "packet_id", "size")

    def __init__(self, packet_id: int | None, size: int) -> None:
        self.packet_id = packet_id
        self.size = size
        self.open = 1


@dataclass(slots=True)
class Load:
    """What is on its way to Kafka, in bytes of payload; records of an earlier connection count as well."""

    size: int = 0
    failed: KafkaError | None = None
    refused: list[Batch[Pending]] = field(default_factory=list)


class Sender:
    """Sends records. `wait` is called again and again while it has to wait, and may raise KafkaRefusedError to end
    that."""

    def __init__(self, configuration: BridgeConfiguration, counters: Counters, wait: Callable[[], None]) -> None:
        self._configuration = configuration
        self._counters = counters
        self._wait = wait
        self._fleets = {topic: fleet for fleet, topic in configuration.topics.readings.items()}
        self.load = Load()
        self._producer = self._make_producer()

    def begin(self) -> bool:
        """Starts anew after a record was refused for good: nothing is on its way any more then. Returns whether that
        was so."""
        if self.load.failed is None:
            return False
        self._producer.purge(blocking=False)
        self.load = Load()
        self._producer = self._make_producer()
        return True

    def poll(self, seconds: float) -> None:
        """Hears what Kafka has answered, and waits for that as long as it may."""
        self._producer.poll(seconds)

    def close(self, seconds: float) -> None:
        """Waits, so long and no longer, until Kafka has what is on its way, and forgets the rest."""
        self._producer.flush(seconds)
        self._producer.purge(blocking=False)

    def send(self, batch: Batch[Pending]) -> None:
        """Sends a batch of readings."""
        fleet, load = self._fleets[batch.topic], self.load

        def delivered(error: KafkaError | None, _: Message | None) -> None:
            if error is None:
                self._counters.readings.labels(fleet).inc(len(batch.readings))
                for pending in batch.tokens:  # as _done does, without a call for each
                    pending.open -= 1
                    if not pending.open:
                        load.size -= pending.size
            elif error.code() in POISON:
                load.refused.append(batch)
            else:
                load.failed = error

        self._produce(batch.topic, batch.partition, batch.key, batch.value(), delivered)

    def bury(
        self, topic: str, fleet: str, refusal: Refusal, pending: Pending | None, now: int, limit: int = LETTER_BYTES
    ) -> None:
        """Dead-letters a message or an item of one. What is larger than `limit`, or than Kafka allows, is cut."""
        item, message, load = refusal.item, refusal.message, self.load
        if len(item) > limit:
            message = f"{message} (the first {limit} of at least {len(item)} bytes are kept)"
        payload = base64.b64encode(item[:limit]).decode()
        letter = DeadLetter(f"mqtt:{topic}", fleet, now, payload, refusal.reason.value, message)

        def delivered(error: KafkaError | None, _: Message | None) -> None:
            if error is None:
                self._counters.dead_letters.labels(fleet, refusal.reason.value).inc()
                if pending is not None:
                    self._done(pending)
            elif error.code() in POISON and limit > SMALLEST_LETTER_BYTES:
                self.bury(topic, fleet, refusal, pending, now, limit // 8)
            else:
                load.failed = error

        self._produce(
            self._configuration.topics.dead_letter,
            ANY_PARTITION,
            fleet.encode(),
            msgspec.json.encode(letter),
            delivered,
        )

    def settle(self) -> None:
        """Deals with what Kafka refused. Raises KafkaRefusedError when that concerns more than single records."""
        while self.load.refused and self.load.failed is None:
            self._send_singly(self.load.refused.pop())
        if self.load.failed is not None:
            raise KafkaRefusedError(self.load.failed.str())

    def _make_producer(self) -> Producer:
        return Producer(
            librdkafka_settings(self._configuration.kafka)
            | {
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 2,
                "compression.type": "lz4",
                "message.max.bytes": 4 * 1024 * 1024,
                "message.timeout.ms": 0,
                "queue.buffering.max.messages": 100_000,
                "queue.buffering.max.kbytes": QUEUE_KILOBYTES,
            }
        )

    def _done(self, pending: Pending) -> None:
        pending.open -= 1
        if not pending.open:
            self.load.size -= pending.size

    def _produce(
        self, topic: str, partition: int, key: bytes, value: bytes,
        delivered: Callable[[KafkaError | None, Message | None], None],
    ) -> None:  # fmt: skip
        """Hands a record to the producer; when its queue is full, waits, and so stops reading from the broker."""
        while self.load.failed is None:
            try:
                self._producer.produce(topic, value, key, partition, delivered)
                return
            except BufferError:
                self._wait()
                self._producer.poll(0.1)
            except KafkaException as error:
                delivered(error.args[0], None)
                return

    def _send_singly(self, batch: Batch[Pending]) -> None:
        """Sends a record that Kafka refused again, reading by reading; one that it still refuses is a dead letter.
        Each travels alone, since Kafka's limit is for what travels together."""
        topic, fleet = batch.topic, self._fleets[batch.topic]
        log.warning("Kafka refused a record of %d readings of %s; sending them singly", len(batch.readings), topic)
        for reading in batch.readings:
            answers: list[KafkaError | None] = []
            self._flush()
            value = msgspec.json.encode([reading])
            self._produce(topic, batch.partition, batch.key, value, lambda error, _, a=answers: a.append(error))  # type: ignore[misc]
            self._flush()
            if self.load.failed is not None:
                return
            error = answers[0]
            if error is None:
                self._counters.readings.labels(fleet).inc()
            elif error.code() in POISON:
                message = f"Kafka refused the reading: {error.str()}"
                refusal = Refusal(DeadLetterReason.TOO_LARGE, message, msgspec.json.encode(reading))
                self.bury(topic, fleet, refusal, None, time.time_ns() // 1_000_000)
                self._flush()
            else:
                self.load.failed = error
                return
        for pending in batch.tokens:
            self._done(pending)

    def _flush(self) -> None:
        while self.load.failed is None and self._producer.flush(0.5):
            self._wait()
