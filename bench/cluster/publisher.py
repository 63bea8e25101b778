"""Publishes readings of many devices with QoS 1, as fast as the broker acknowledges them; prints one JSON line.

Runs in a pod of the workers' image, so it uses what that image holds: the standard library and the `mqtt5` codec. A few
connections stand for many devices each; every one keeps a bounded number of messages unacknowledged.
"""

import argparse
import json
import selectors
import socket
import time
from pathlib import Path

import mqtt5

IN_FLIGHT = 500
CHUNK = 65536
START = 1_735_689_600_000
"""Event time of the first reading, in ms; each device's next reading is a second later."""


class Connection:
    """One connection that carries the messages of its own devices, in order."""

    def __init__(
        self, host: str, port: int, *, number: int, username: str, password: bytes, devices: list[str]
    ) -> None:
        self.socket = socket.create_connection((host, port), 20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connect = mqtt5.ConnectPacket(f"load-{number}", username=username, password=password, keep_alive=0)
        self.socket.sendall(connect.write())
        self._buffer = bytearray()
        self._devices = devices
        self.sent = self.acknowledged = self.refused = 0
        (answer,) = self._wait()
        if not isinstance(answer, mqtt5.ConnAckPacket) or answer.reason_code is not mqtt5.ConnAckReasonCode.SUCCESS:
            raise SystemExit(f"the broker refused the connection: {answer}")
        self.socket.settimeout(20)

    def fill(self, total: int) -> None:
        """Sends messages until enough are in flight, or all are sent."""
        out = bytearray()
        while self.sent < total and self.sent - self.acknowledged < IN_FLIGHT:
            device = self._devices[self.sent % len(self._devices)]
            step = self.sent // len(self._devices)
            body = b'{"ts":%d,"value":%d.5}' % (START + step * 1000, (self.sent * 7919) % 99_999)
            topic = f"load/{device}/power"
            packet_id = self.sent % 65535 + 1
            packet = mqtt5.PublishPacket(topic, body, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=packet_id)
            out += packet.write()
            self.sent += 1
        if out:
            self.socket.sendall(out)

    def receive(self) -> None:
        """Counts the acknowledgements that have come."""
        for packet in self._wait():
            if isinstance(packet, mqtt5.PubAckPacket):
                self.acknowledged += 1
                self.refused += packet.reason_code is not mqtt5.PubAckReasonCode.SUCCESS

    def _wait(self) -> list[object]:
        out: list[object] = []
        while not out:
            data = self.socket.recv(CHUNK)
            if not data:
                raise SystemExit("the broker closed the connection")
            self._buffer += data
            position = 0
            with memoryview(self._buffer) as view:
                while True:
                    try:
                        packet, size = mqtt5.read(view[position:])
                    except IndexError:
                        break
                    out.append(packet)
                    position += size
            del self._buffer[:position]
        return out


def main() -> None:
    """Publishes `--messages` in all, then prints how many were acknowledged and between which times (s, UNIX)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--username", required=True)
    parser.add_argument("--password-file", type=Path, required=True)
    parser.add_argument("--devices", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--messages", type=int, required=True)
    options = parser.parse_args()
    password = options.password_file.read_text().strip().encode()
    names = [f"meter{n}" for n in range(options.devices)]
    connections = [
        Connection(
            options.host, options.port, number=n, username=options.username, password=password,
            devices=names[n :: options.connections],
        )
        for n in range(options.connections)
    ]  # fmt: skip
    share = options.messages // options.connections
    selector = selectors.DefaultSelector()
    begin = time.time()
    for connection in connections:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.fill(share)
    open_connections = len(connections)
    while open_connections:
        ready = selector.select(30)
        if not ready:
            raise SystemExit("no acknowledgement in 30 s")
        for key, _ in ready:
            connection = key.data
            connection.receive()
            connection.fill(share)
            if connection.acknowledged == share:
                selector.unregister(connection.socket)
                open_connections -= 1
    acknowledged, refused = (sum(getattr(c, name) for c in connections) for name in ("acknowledged", "refused"))
    print(json.dumps({"begin": begin, "end": time.time(), "acknowledged": acknowledged, "refused": refused}))


if __name__ == "__main__":
    main()
