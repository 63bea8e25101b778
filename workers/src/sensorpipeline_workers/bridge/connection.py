"""An MQTT 5 connection for the bridge: packets by the `mqtt5` codec, one socket, no threads.

The application decides when a message is acknowledged; the broker sends no more than `receive_maximum` messages ahead
of the acknowledgements. A connection that is not read from stays alive: the broker keeps what waits.
"""

import select
import socket
import ssl
import time
from contextlib import suppress
from types import TracebackType
from typing import TypeVar

import mqtt5
from sensorpipeline_api.configuration import MqttConnection

from sensorpipeline_workers.bridge.packets import MalformedError, PacketBuffer
from sensorpipeline_workers.runtime.kafka import read_secret

KEEP_ALIVE_SECONDS = 20
SESSION_EXPIRY_SECONDS = 7 * 24 * 3600
CONNECT_TIMEOUT_SECONDS = 10
CHUNK = 256 * 1024
PING = mqtt5.PingReqPacket().write()

GRANTED = (mqtt5.SubAckReasonCode.GRANTED_QOS_AT_MOST_ONCE, mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE)

Packet = TypeVar("Packet")


class ConnectionLostError(Exception):
    """The broker refused or ended the connection, or cannot be reached; the text says how."""


class Connection:
    """A connection with a persistent session. `session_present` says that the broker knew the session."""

    def __init__(self, settings: MqttConnection, *, client_id: str, receive_maximum: int) -> None:
        self._packets = PacketBuffer()
        self._last_sent = self._last_received = time.monotonic()
        self._early: list[mqtt5.PublishPacket] = []
        self._acknowledgements: dict[int, bytes] = {}
        self.pongs = 0
        where = f"MQTT broker {settings.host}:{settings.port}"
        try:
            self._socket = _connect(settings)
        except (OSError, ValueError) as error:
            raise ConnectionLostError(f"{where}: {error}") from error
        try:
            self.session_present = self._greet(settings, client_id, receive_maximum)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> "Connection":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def subscribe(self, filters: list[str]) -> None:
        """Subscribes, at QoS 1. Raises ConnectionLostError when the broker refuses one."""
        topics = [mqtt5.TopicFilter(pattern, max_qos=mqtt5.QoS.AT_LEAST_ONCE) for pattern in filters]
        self._send(mqtt5.SubscribePacket(1, topics).write())
        codes = self._await(mqtt5.SubAckPacket).reason_codes
        refused = [f for f, code in zip(filters, codes, strict=True) if code not in GRANTED]
        if refused:
            raise ConnectionLostError(f"the broker refused the subscription to {', '.join(refused)}")

    def unsubscribe(self, filters: list[str]) -> None:
        """Ends subscriptions; what is queued for the session stays in it."""
        self._send(mqtt5.UnsubscribePacket(2, filters).write())
        self._await(mqtt5.UnsubAckPacket)

    def receive(self, timeout: float) -> list[mqtt5.PublishPacket]:
        """Returns the messages that arrive within `timeout` seconds, as soon as there are any. Keeps the connection
        alive. Raises ConnectionLostError when it has ended."""
        if self._early:
            early, self._early = self._early, []
            return early
        silence = time.monotonic() - self._last_received
        if silence > KEEP_ALIVE_SECONDS * 1.5:
            raise ConnectionLostError(f"nothing heard from the broker for {silence:.0f} s")
        self._ping_if_silent()
        return self._read() if self._readable(timeout) else []

    def rest(self) -> list[mqtt5.PublishPacket]:
        """Returns the messages that had arrived when the connection was lost. A broker that was killed does not know
        any more that it has sent them, nor that it had acknowledged them to their devices."""
        rest, self._early = self._early, []
        with suppress(ConnectionLostError):
            while self._readable(0):
                rest += self._read()
        return rest

    def keep_alive(self) -> None:
        """Keeps the connection alive without reading from it."""
        self._ping_if_silent()
        self._last_received = time.monotonic()

    def ping(self) -> None:
        """Asks for a sign of life; `pongs` counts the answers. The broker answers in order, so an answer says that it
        has seen everything sent before."""
        self._send(PING)

    def await_pong(self) -> None:
        """Waits until the broker has seen everything sent before; messages that come meanwhile are kept. Raises
        ConnectionLostError when it does not answer."""
        answer = self.pongs + 1
        self.ping()
        deadline = time.monotonic() + CONNECT_TIMEOUT_SECONDS
        while self.pongs < answer:
            if time.monotonic() > deadline:
                raise ConnectionLostError(f"no answer from the broker in {CONNECT_TIMEOUT_SECONDS} s")
            if self._readable(0.1):
                self._early += self._read()

    def acknowledge(self, packet_ids: list[int]) -> None:
        """Sends a PUBACK for each packet, in order. Raises ConnectionLostError."""
        known = self._acknowledgements
        try:
            data = b"".join([known[packet_id] for packet_id in packet_ids])
        except KeyError:
            for packet_id in packet_ids:
                known[packet_id] = mqtt5.PubAckPacket(packet_id).write()
            data = b"".join([known[packet_id] for packet_id in packet_ids])
        self._send(data)

    def disconnect(self, *, end_session: bool = False) -> None:
        """Takes leave; the session stays unless it is to end."""
        expiry = 0 if end_session else None
        self._send(mqtt5.DisconnectPacket(session_expiry_interval=expiry).write())

    def _ping_if_silent(self) -> None:
        if time.monotonic() - self._last_sent > KEEP_ALIVE_SECONDS / 2:
            self._send(PING)

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise ConnectionLostError(f"sending to the broker: {error}") from error
        self._last_sent = time.monotonic()

    def _readable(self, timeout: float) -> bool:
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return True
        return bool(select.select([self._socket], [], [], timeout)[0])

    def _read(self) -> list[mqtt5.PublishPacket]:
        out: list[mqtt5.PublishPacket] = []
        for packet in self._packets_at_hand():
            if isinstance(packet, mqtt5.PublishPacket):
                out.append(packet)
            elif isinstance(packet, mqtt5.PingRespPacket):
                self.pongs += 1
        return out

    def _packets_at_hand(self) -> list[object]:
        """Receives once and returns the packets that are complete. A DISCONNECT ends the connection."""
        try:
            data = self._socket.recv(CHUNK)
        except ssl.SSLWantReadError:
            return []
        except OSError as error:
            raise ConnectionLostError(f"receiving from the broker: {error}") from error
        if not data:
            raise ConnectionLostError("the broker closed the connection")
        self._last_received = time.monotonic()
        try:
            packets = self._packets.feed(data)
        except MalformedError as error:
            raise ConnectionLostError(f"the broker sent a malformed packet: {error}") from error
        for packet in packets:
            if isinstance(packet, mqtt5.DisconnectPacket):
                raise ConnectionLostError(f"the broker ended the connection: {packet.reason_code.name}")
        return packets

    def _greet(self, settings: MqttConnection, client_id: str, receive_maximum: int) -> bool:
        username, password = settings.username, None
        try:
            if settings.username_file is not None:
                username = read_secret(settings.username_file)
            if settings.password_file is not None:
                password = read_secret(settings.password_file).encode()
        except OSError as error:
            raise ConnectionLostError(f"credentials for the broker: {error}") from error
        connect = mqtt5.ConnectPacket(
            client_id, username=username, password=password, clean_start=False,
            keep_alive=KEEP_ALIVE_SECONDS, session_expiry_interval=SESSION_EXPIRY_SECONDS, receive_max=receive_maximum,
        )  # fmt: skip
        self._send(connect.write())
        answer = self._await(mqtt5.ConnAckPacket)
        if answer.reason_code is not mqtt5.ConnAckReasonCode.SUCCESS:
            raise ConnectionLostError(f"the broker refused the connection: {answer.reason_code.name}")
        return answer.session_present

    def _await(self, kind: type[Packet]) -> Packet:
        """Waits for an answer; messages that come before it are kept."""
        deadline = time.monotonic() + CONNECT_TIMEOUT_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            if not self._readable(left):
                break
            answer: Packet | None = None
            for packet in self._packets_at_hand():
                if isinstance(packet, kind):
                    answer = packet
                elif isinstance(packet, mqtt5.PublishPacket):
                    self._early.append(packet)
            if answer is not None:
                return answer
        raise ConnectionLostError(f"no {kind.__name__} from the broker in {CONNECT_TIMEOUT_SECONDS} s")


def _connect(settings: MqttConnection) -> socket.socket:
    """Returns a connected socket. Raises OSError (certificate errors among them) or ValueError."""
    plain = socket.create_connection((settings.host, settings.port), CONNECT_TIMEOUT_SECONDS)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not settings.tls:
        return plain
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        return context.wrap_socket(plain, server_hostname=settings.host)
    except BaseException:
        plain.close()
        raise
