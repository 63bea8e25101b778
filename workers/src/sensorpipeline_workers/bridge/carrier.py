"""From one MQTT session to Kafka: decode, batch, produce, and acknowledge what Kafka has, in the order of receipt.

What is on its way is bounded in messages and in bytes, whatever Kafka does; when it is full, nothing is read from the
broker, which keeps the rest.
"""

import base64
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import mqtt5
import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from sensorpipeline_api.configuration import BridgeConfiguration
from sensorpipeline_api.records import DeadLetter, DeadLetterReason, Reading

from sensorpipeline_workers.bridge.arrivals import Arrivals
from sensorpipeline_workers.bridge.connection import Connection
from sensorpipeline_workers.bridge.decode import Decode, Refusal
from sensorpipeline_workers.bridge.formats import Births, compile_decoder
from sensorpipeline_workers.bridge.topics import Origin, TopicTable
from sensorpipeline_workers.ingest.batch import Batch, Batcher, Lane
from sensorpipeline_workers.ingest.validation import RefusedError
from sensorpipeline_workers.runtime import metrics
from sensorpipeline_workers.runtime.kafka import librdkafka_settings

log = logging.getLogger(__name__)

RECEIVE_MAXIMUM = 10_000
MAXIMUM_BYTES = 32 * 1024 * 1024
QUEUE_KILOBYTES = 64 * 1024
LETTER_BYTES = 2 * 1024 * 1024
SMALLEST_LETTER_BYTES = 1024
UNKNOWN_FLEET = "unknown"
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
class Tally:
    """Messages of a fleet, counted here and told to Prometheus now and then, which costs more than counting."""

    fleet: str
    received: int = 0


@dataclass(slots=True)
class Route:
    """What is to be done with the messages of one topic."""

    fleet: str
    tally: Tally
    decode: Decode
    lane: Lane[Pending]


@dataclass(slots=True)
class Load:
    """What is on its way to Kafka, in bytes of payload; records of an earlier connection count as well."""

    size: int = 0
    failed: KafkaError | None = None
    refused: list[Batch[Pending]] = field(default_factory=list)


class Carrier:
    """Carries the messages of one session. `partitions` is the number of partitions of each readings topic; `arrivals`
    is shared by all carriers of the process; `wait` is called again and again while the carrier has to wait in the
    middle of a message, and may raise KafkaRefusedError to end that."""

    def __init__(
        self, configuration: BridgeConfiguration, partitions: dict[str, int], counters: Counters, arrivals: Arrivals,
        wait: Callable[[], None],
    ) -> None:  # fmt: skip
        self._configuration = configuration
        self._counters = counters
        self._arrivals = arrivals
        self._wait = wait
        self._maximum_readings = configuration.batch_maximum_readings
        self._births = Births()
        self._tallies = {f.name: Tally(f.name) for f in configuration.fleets} | {UNKNOWN_FLEET: Tally(UNKNOWN_FLEET)}
        self._fleets = {topic: fleet for fleet, topic in configuration.topics.readings.items()}
        self._batcher: Batcher[Pending] = Batcher(
            partitions,
            maximum_readings=configuration.batch_maximum_readings,
            maximum_seconds=configuration.batch_maximum_milliseconds / 1000,
        )
        self._table: TopicTable[Route] = TopicTable(configuration.fleets, self._route)
        self._pending: deque[Pending] = deque()
        self._last_progress = time.monotonic()
        self._load = Load()
        self._producer = self._make_producer()

    @property
    def full(self) -> bool:
        """Whether enough is on its way."""
        return self._load.size >= MAXIMUM_BYTES

    @property
    def idle(self) -> bool:
        """Whether Kafka has everything that was taken and it is all acknowledged."""
        return not self._pending

    def stalled_seconds(self) -> float:
        """Returns for how long something has been on its way and Kafka has acknowledged nothing of it."""
        return time.monotonic() - self._last_progress if self._pending else 0.0

    def wait_seconds(self, default: float) -> float:
        """Returns how long the carrier can be left alone, at most `default`."""
        timeout = self._batcher.wait_seconds(now=time.monotonic(), default=default)
        return min(timeout, 0.002) if self._pending else timeout

    def begin(self) -> None:
        """Starts with a new connection: the broker sends again what was not acknowledged. Records on their way are
        harmless duplicates. After a record was refused for good, nothing is on its way any more."""
        self._pending.clear()
        if self._load.failed is not None:
            self._producer.purge(blocking=False)
            self._batcher.clear()
            self._load = Load()
            self._producer = self._make_producer()

    def take(self, packets: Sequence[mqtt5.PublishPacket]) -> None:
        """Takes messages in."""
        now, clock = time.time_ns() // 1_000_000, time.monotonic()
        known, put, append = self._table.known.get, self._batcher.put, self._pending.append
        maximum, load = self._maximum_readings, self._load
        if not self._pending:
            self._last_progress = clock
        for packet in packets:
            payload = packet.payload
            size = len(payload)
            pending = Pending(packet.packet_id, size)
            append(pending)
            load.size += size
            route = known(packet.topic) or self._table.find(packet.topic)
            if route is None:
                self._tallies[UNKNOWN_FLEET].received += 1
                error = RefusedError(DeadLetterReason.UNKNOWN_TOPIC, f"topic {packet.topic!r} fits no fleet")
                self._bury(packet.topic, UNKNOWN_FLEET, Refusal(error.reason, str(error), payload), pending, now)
                continue
            route.tally.received += 1
            try:
                readings, refused = route.decode(payload, now)
            except RefusedError as error:
                refusal = Refusal(error.reason, str(error), payload)
                self._bury(packet.topic, route.fleet, refusal, pending, now)
                continue
            except KafkaRefusedError:  # raised while a time that is not too far ahead was waited for
                raise
            except Exception as error:  # a mistake of ours must not stop all messages behind this one
                log.exception("a message of %s cannot be decoded", packet.topic)
                refusal = Refusal(DeadLetterReason.UNREADABLE, f"the decoder failed: {error!r}", payload)
                self._bury(packet.topic, route.fleet, refusal, pending, now)
                continue
            if refused or len(readings) > maximum:
                self._take_items(packet.topic, route, readings, refused, pending, now)
                continue
            batch = put(route.lane, readings, pending, now=clock)
            if batch is not None:
                self._send(batch)

    def turn(self, connection: Connection, *, everything: bool = False) -> None:
        """Produces the batches that are due, or all, and acknowledges the messages that Kafka has, up to the first
        that it has not. Raises KafkaRefusedError, ConnectionLostError."""
        self._send_due(everything=everything)
        self._producer.poll(0)
        self._settle()
        ready: list[int] = []
        pending = self._pending
        while pending and not pending[0].open:
            packet_id = pending.popleft().packet_id
            if packet_id is not None:
                ready.append(packet_id)
        if ready:
            self._last_progress = time.monotonic()
            connection.acknowledge(ready)
        for tally in self._tallies.values():
            if tally.received:
                self._counters.received.labels(tally.fleet).inc(tally.received)
                tally.received = 0

    def poll(self, seconds: float) -> None:
        """Waits for Kafka."""
        self._producer.poll(seconds)

    def close(self, seconds: float) -> None:
        """Waits, so long and no longer, until Kafka has what is on its way; what it then has not comes again."""
        self._producer.flush(seconds)
        self._producer.purge(blocking=False)

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

    def _route(self, origin: Origin) -> Route:
        fleet = origin.fleet.name
        lane = self._batcher.lane(self._configuration.topics.readings[fleet], origin.device)
        decode = compile_decoder(origin, self._births, partial(self._arrive, fleet, origin.device))
        return Route(fleet, self._tallies[fleet], decode, lane)

    def _arrive(self, fleet: str, device: str) -> int:
        """Returns the time of a reading that carries none. While that would be too far ahead of the clock, waits, and
        so stops reading from the broker."""
        while (found := self._arrivals.next(fleet, device)) is None:
            self._send_due()
            self._last_progress = time.monotonic()  # it is the clock that is waited for, and not Kafka
            self._wait()
            self._producer.poll(0.005)
        return found

    def _send_due(self, *, everything: bool = False) -> None:
        for batch in self._batcher.due(now=time.monotonic(), everything=everything):
            self._send(batch)

    def _take_items(
        self, topic: str, route: Route, readings: list[Reading], refused: Sequence[Refusal], pending: Pending, now: int
    ) -> None:
        """Takes a message of many items: it is done when each of its records is."""
        pieces = list(self._batcher.pieces(readings))
        pending.open = len(pieces) + len(refused)
        for piece in pieces:
            batch = self._batcher.put(route.lane, piece, pending, now=time.monotonic())
            if batch is not None:
                self._send(batch)
        for refusal in refused:
            self._bury(topic, route.fleet, refusal, pending, now)

    def _done(self, pending: Pending) -> None:
        pending.open -= 1
        if not pending.open:
            self._load.size -= pending.size

    def _send(self, batch: Batch[Pending]) -> None:
        fleet, load = self._fleets[batch.topic], self._load

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

    def _bury(
        self, topic: str, fleet: str, refusal: Refusal, pending: Pending | None, now: int, limit: int = LETTER_BYTES
    ) -> None:
        """Dead-letters a message or an item of one. What is larger than `limit`, or than Kafka allows, is cut."""
        item, message, load = refusal.item, refusal.message, self._load
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
                self._bury(topic, fleet, refusal, pending, now, limit // 8)
            else:
                load.failed = error

        self._produce(
            self._configuration.topics.dead_letter,
            ANY_PARTITION,
            fleet.encode(),
            msgspec.json.encode(letter),
            delivered,
        )

    def _produce(
        self, topic: str, partition: int, key: bytes, value: bytes,
        delivered: Callable[[KafkaError | None, Message | None], None],
    ) -> None:  # fmt: skip
        """Hands a record to the producer; when its queue is full, waits, and so stops reading from the broker."""
        while self._load.failed is None:
            try:
                self._producer.produce(topic, value, key, partition, delivered)
                return
            except BufferError:
                self._wait()
                self._producer.poll(0.1)
            except KafkaException as error:
                delivered(error.args[0], None)
                return

    def _settle(self) -> None:
        """Deals with what Kafka refused. Raises KafkaRefusedError when that concerns more than single records."""
        while self._load.refused and self._load.failed is None:
            self._send_singly(self._load.refused.pop())
        if self._load.failed is not None:
            raise KafkaRefusedError(self._load.failed.str())

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
            if self._load.failed is not None:
                return
            error = answers[0]
            if error is None:
                self._counters.readings.labels(fleet).inc()
            elif error.code() in POISON:
                message = f"Kafka refused the reading: {error.str()}"
                refusal = Refusal(DeadLetterReason.TOO_LARGE, message, msgspec.json.encode(reading))
                self._bury(topic, fleet, refusal, None, time.time_ns() // 1_000_000)
                self._flush()
            else:
                self._load.failed = error
                return
        for pending in batch.tokens:
            self._done(pending)

    def _flush(self) -> None:
        while self._load.failed is None and self._producer.flush(0.5):
            self._wait()
