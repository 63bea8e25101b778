"""An MQTT 5 connection for the bridge: packets by the `mqtt5` codec, one socket, no threads.

The application decides when a message is acknowledged; the broker sends no more than `receive_maximum` messages ahead
of the acknowledgements, which bounds the memory of the bridge.
"""

import select
import socket
import time
from types import TracebackType
from typing import TypeVar

import mqtt5
from sensorpipeline_api.configuration import MqttConnection

from sensorpipeline_workers.runtime.kafka import read_secret

KEEP_ALIVE_SECONDS = 20
SESSION_EXPIRY_SECONDS = 7 * 24 * 3600
CONNECT_TIMEOUT_SECONDS = 10
CHUNK = 256 * 1024

GRANTED = (mqtt5.SubAckReasonCode.GRANTED_QOS_AT_MOST_ONCE, mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE)

Packet = TypeVar("Packet")


class ConnectionLostError(Exception):
    """The broker refused or ended the connection, or cannot be reached; the text says how."""


class Connection:
    """A connection with a persistent session and one subscription per filter."""

    def __init__(self, settings: MqttConnection, *, client_id: str, filters: list[str], receive_maximum: int) -> None:
        self._buffer = bytearray()
        self._last_sent = self._last_received = time.monotonic()
        self._early: list[mqtt5.PublishPacket] = []
        try:
            self._socket = socket.create_connection((settings.host, settings.port), CONNECT_TIMEOUT_SECONDS)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._handshake(settings, client_id, filters, receive_maximum)
        except OSError as error:
            raise ConnectionLostError(f"MQTT broker {settings.host}:{settings.port}: {error}") from error

    def __enter__(self) -> "Connection":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def receive(self, timeout: float) -> list[mqtt5.PublishPacket]:
        """Returns the messages that arrive within `timeout` seconds, as soon as there are any. Keeps the connection
        alive. Raises ConnectionLostError when it has ended."""
        if self._early:
            early, self._early = self._early, []
            return early
        now = time.monotonic()
        if now - self._last_sent > KEEP_ALIVE_SECONDS / 2:
            self._send(mqtt5.PingReqPacket().write())
        if now - self._last_received > KEEP_ALIVE_SECONDS * 1.5:
            raise ConnectionLostError(f"nothing heard from the broker for {KEEP_ALIVE_SECONDS * 1.5:.0f} s")
        readable, _, _ = select.select([self._socket], [], [], timeout)
        return self._read() if readable else []

    def acknowledge(self, packet_ids: list[int]) -> None:
        """Sends a PUBACK for each packet, in order. Raises ConnectionLostError."""
        self._send(b"".join(mqtt5.PubAckPacket(packet_id).write() for packet_id in packet_ids))

    def disconnect(self) -> None:
        """Takes leave; the session stays."""
        self._send(mqtt5.DisconnectPacket().write())

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise ConnectionLostError(f"sending to the broker: {error}") from error
        self._last_sent = time.monotonic()

    def _read(self) -> list[mqtt5.PublishPacket]:
        try:
            data = self._socket.recv(CHUNK)
        except OSError as error:
            raise ConnectionLostError(f"receiving from the broker: {error}") from error
        if not data:
            raise ConnectionLostError("the broker closed the connection")
        self._last_received = time.monotonic()
        self._buffer += data
        out: list[mqtt5.PublishPacket] = []
        for packet in self._packets():
            if isinstance(packet, mqtt5.PublishPacket):
                out.append(packet)
            elif isinstance(packet, mqtt5.DisconnectPacket):
                raise ConnectionLostError(f"the broker ended the connection: {packet.reason_code.name}")
        return out

    def _packets(self) -> list[object]:
        """Takes the complete packets off the buffer."""
        out: list[object] = []
        position = 0
        with memoryview(self._buffer) as view:
            while True:
                try:
                    with view[position:] as rest:
                        packet, size = mqtt5.read(rest)
                except IndexError:  # the packet is not complete yet
                    break
                except ValueError as error:
                    raise ConnectionLostError(f"the broker sent a malformed packet: {error}") from error
                out.append(packet)
                position += size
        del self._buffer[:position]
        return out

    def _handshake(self, settings: MqttConnection, client_id: str, filters: list[str], receive_maximum: int) -> None:
        password = read_secret(settings.password_file).encode() if settings.password_file else None
        connect = mqtt5.ConnectPacket(
            client_id, username=settings.username, password=password, clean_start=False,
            keep_alive=KEEP_ALIVE_SECONDS, session_expiry_interval=SESSION_EXPIRY_SECONDS, receive_max=receive_maximum,
        )  # fmt: skip
        self._send(connect.write())
        answer = self._await(mqtt5.ConnAckPacket)
        if answer.reason_code is not mqtt5.ConnAckReasonCode.SUCCESS:
            raise ConnectionLostError(f"the broker refused the connection: {answer.reason_code.name}")
        topics = [mqtt5.TopicFilter(pattern, max_qos=mqtt5.QoS.AT_LEAST_ONCE) for pattern in filters]
        self._send(mqtt5.SubscribePacket(1, topics).write())
        granted = self._await(mqtt5.SubAckPacket)
        refused = [f for f, code in zip(filters, granted.reason_codes, strict=True) if code not in GRANTED]
        if refused:
            raise ConnectionLostError(f"the broker refused the subscription to {', '.join(refused)}")

    def _await(self, kind: type[Packet]) -> Packet:
        deadline = time.monotonic() + CONNECT_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            readable, _, _ = select.select([self._socket], [], [], deadline - time.monotonic())
            if not readable:
                break
            data = self._socket.recv(CHUNK)
            if not data:
                raise ConnectionLostError("the broker closed the connection")
            self._buffer += data
            answer: Packet | None = None
            for packet in self._packets():
                if isinstance(packet, kind):
                    answer = packet
                elif isinstance(packet, mqtt5.PublishPacket):
                    self._early.append(packet)
            if answer is not None:
                return answer
        raise ConnectionLostError(f"no {kind.__name__} from the broker in {CONNECT_TIMEOUT_SECONDS} s")
