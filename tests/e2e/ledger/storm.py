"""A reconnect storm: thousands of MQTT clients that connect at once, publish, are cut off, and come back."""

import asyncio
import json
from dataclasses import dataclass

import mqtt5
from e2e.ledger.book import Book, Entry

ANSWER_SECONDS = 60
RETRY_SECONDS = 1.0


class RefusedError(Exception):
    """The broker ended the connection or refused something."""


@dataclass(frozen=True)
class Storm:
    """A storm of `clients` clients, each of which connects and publishes `rounds` times."""

    address: tuple[str, int]
    credentials: tuple[str, str]
    clients: int
    rounds: int
    time: int

    async def blow(self, book: Book) -> None:
        """Runs the storm; ends when every message is acknowledged."""
        await asyncio.gather(*(self._client(number, book) for number in range(self.clients)))

    async def _client(self, number: int, book: Book) -> None:
        for turn in range(self.rounds):
            entry = Entry("storm", f"S{number:04}", "wind", self.time + turn * 1000, number % 1000)
            while True:
                try:
                    await asyncio.wait_for(self._publish(entry), ANSWER_SECONDS)
                    break
                except (OSError, RefusedError, TimeoutError) as error:
                    book.note(f"storm: {type(error).__name__}")
                    await asyncio.sleep(RETRY_SECONDS)
            book.acknowledge(entry)

    async def _publish(self, entry: Entry) -> None:
        """Connects, publishes one message with QoS 1, and breaks the connection off once it is acknowledged."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            username, password = self.credentials
            connect = mqtt5.ConnectPacket(
                f"storm-{entry.device}", username=username, password=password.encode(), clean_start=True, keep_alive=60
            )
            writer.write(connect.write())
            answer = await _packet(reader)
            if not isinstance(answer, mqtt5.ConnAckPacket) or answer.reason_code != mqtt5.ConnAckReasonCode.SUCCESS:
                raise RefusedError(str(answer))
            body = json.dumps({"ts": entry.time, "value": entry.value}).encode()
            topic = f"{entry.fleet}/{entry.device}/{entry.metric}"
            writer.write(mqtt5.PublishPacket(topic, payload=body, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=1).write())
            answer = await _packet(reader)
            if not isinstance(answer, mqtt5.PubAckPacket) or answer.reason_code != mqtt5.PubAckReasonCode.SUCCESS:
                raise RefusedError(str(answer))
        finally:
            writer.transport.abort()


async def _packet(reader: asyncio.StreamReader) -> object:
    """Reads one packet."""
    buffer = bytearray()
    while True:
        data = await reader.read(4096)
        if not data:
            raise RefusedError("the broker closed the connection")
        buffer += data
        try:
            packet, _ = mqtt5.read(memoryview(bytes(buffer)))
        except IndexError:
            continue
        return packet
