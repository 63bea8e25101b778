"""From one MQTT session to Kafka: decode, batch, produce, and acknowledge what Kafka has, in the order of receipt.

What is on its way is bounded in messages and in bytes, whatever Kafka does; when it is full, nothing is read from the
broker, which keeps the rest.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import mqtt5
from sensorpipeline_api.configuration import BridgeConfiguration
from sensorpipeline_api.records import DeadLetterReason, Reading

from sensorpipeline_workers.bridge.arrivals import Arrivals
from sensorpipeline_workers.bridge.connection import Connection
from sensorpipeline_workers.bridge.decode import Decode, Refusal
from sensorpipeline_workers.bridge.formats import Births, compile_decoder
from sensorpipeline_workers.bridge.sending import Counters, KafkaRefusedError, Pending, Sender
from sensorpipeline_workers.bridge.topics import Origin, TopicTable
from sensorpipeline_workers.ingest.batch import Batcher, Lane
from sensorpipeline_workers.ingest.validation import RefusedError

log = logging.getLogger(__name__)

RECEIVE_MAXIMUM = 10_000
MAXIMUM_BYTES = 32 * 1024 * 1024
GATHER_SECONDS = 0.002
"""What arrives within so long of the last messages is taken in together: a turn costs as much as many messages."""
UNKNOWN_FLEET = "unknown"


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
        self._sender = Sender(configuration, counters, wait)
        self._arrivals = arrivals
        self._wait = wait
        self._maximum_readings = configuration.batch_maximum_readings
        self._births = Births()
        self._tallies = {f.name: Tally(f.name) for f in configuration.fleets} | {UNKNOWN_FLEET: Tally(UNKNOWN_FLEET)}
        self._batcher: Batcher[Pending] = Batcher(
            partitions,
            maximum_readings=configuration.batch_maximum_readings,
            maximum_seconds=configuration.batch_maximum_milliseconds / 1000,
        )
        self._table: TopicTable[Route] = TopicTable(configuration.fleets, self._route)
        self._pending: deque[Pending] = deque()
        self._last_progress = self._next_receipt = time.monotonic()

    @property
    def full(self) -> bool:
        """Whether enough is on its way."""
        return self._sender.load.size >= MAXIMUM_BYTES

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
        if self._sender.begin():
            self._batcher.clear()

    def take(self, packets: Sequence[mqtt5.PublishPacket]) -> None:
        """Takes messages in."""
        now, clock = time.time_ns() // 1_000_000, time.monotonic()
        known, put, append = self._table.known.get, self._batcher.put, self._pending.append
        maximum, load = self._maximum_readings, self._sender.load
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
                self._sender.bury(packet.topic, UNKNOWN_FLEET, Refusal(error.reason, str(error), payload), pending, now)
                continue
            route.tally.received += 1
            try:
                readings, refused = route.decode(payload, now)
            except RefusedError as error:
                refusal = Refusal(error.reason, str(error), payload)
                self._sender.bury(packet.topic, route.fleet, refusal, pending, now)
                continue
            except KafkaRefusedError:  # raised while a time that is not too far ahead was waited for
                raise
            except Exception as error:  # a mistake of ours must not stop all messages behind this one
                log.exception("a message of %s cannot be decoded", packet.topic)
                refusal = Refusal(DeadLetterReason.UNREADABLE, f"the decoder failed: {error!r}", payload)
                self._sender.bury(packet.topic, route.fleet, refusal, pending, now)
                continue
            if refused or len(readings) > maximum:
                self._take_items(packet.topic, route, readings, refused, pending, now)
                continue
            batch = put(route.lane, readings, pending, now=clock)
            if batch is not None:
                self._sender.send(batch)

    def step(self, connection: Connection, seconds: float) -> bool:
        """Takes in what arrives within `seconds`, unless enough is on its way, then turns; returns whether anything
        arrived. Raises KafkaRefusedError, ConnectionLostError."""
        packets: list[mqtt5.PublishPacket] = []
        if self.full:
            connection.keep_alive()
            self.poll(0.05)
        else:
            time.sleep(max(0.0, self._next_receipt - time.monotonic()))
            if packets := connection.receive(self.wait_seconds(seconds)):
                self._next_receipt = time.monotonic() + GATHER_SECONDS
                self.take(packets)
        self.turn(connection)
        return bool(packets)

    def turn(self, connection: Connection, *, everything: bool = False) -> None:
        """Produces the batches that are due, or all, and acknowledges the messages that Kafka has, up to the first
        that it has not. Raises KafkaRefusedError, ConnectionLostError."""
        self._send_due(everything=everything)
        self._sender.poll(0)
        self._sender.settle()
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
        self._sender.poll(seconds)

    def close(self, seconds: float) -> None:
        """Waits, so long and no longer, until Kafka has what was taken; what it then has not comes again."""
        with suppress(KafkaRefusedError):
            self._send_due(everything=True)
        self._sender.close(seconds)

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
            self._sender.poll(0.005)
        return found

    def _send_due(self, *, everything: bool = False) -> None:
        for batch in self._batcher.due(now=time.monotonic(), everything=everything):
            self._sender.send(batch)

    def _take_items(
        self, topic: str, route: Route, readings: list[Reading], refused: Sequence[Refusal], pending: Pending, now: int
    ) -> None:
        """Takes a message of many items: it is done when each of its records is."""
        pieces = list(self._batcher.pieces(readings))
        pending.open = len(pieces) + len(refused)
        for piece in pieces:
            batch = self._batcher.put(route.lane, piece, pending, now=time.monotonic())
            if batch is not None:
                self._sender.send(batch)
        for refusal in refused:
            self._sender.bury(topic, route.fleet, refusal, pending, now)
