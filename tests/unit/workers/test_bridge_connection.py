"""A connection to the broker that ends."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import mqtt5
import pytest
from sensorpipeline_api.configuration import MqttConnection
from sensorpipeline_workers.bridge.connection import Connection, ConnectionLostError


@contextmanager
def broker_that_is_killed_after(packets: list[mqtt5.PublishPacket]) -> Iterator[tuple[int, threading.Event]]:
    """Takes one connection, sends packets when it has been pinged, and ends it when the event is set, as the kernel
    does for a process that is killed with unread data. Gives its port and the event."""
    kill = threading.Event()

    def serve() -> None:
        connection, _ = server.accept()
        connection.recv(4096)
        connection.sendall(mqtt5.ConnAckPacket(session_present=True).write())
        connection.recv(4096)
        connection.sendall(b"".join(packet.write() for packet in packets))
        kill.wait(10)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], kill
        finally:
            kill.set()
            thread.join()


def test_what_had_arrived_from_a_broker_that_was_killed_can_still_be_had() -> None:
    sent = [mqtt5.PublishPacket("t", b"%d" % n, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=n) for n in range(1, 6)]
    with broker_that_is_killed_after(sent) as (port, kill):
        settings = MqttConnection(host="127.0.0.1", port=port)
        with Connection(settings, client_id="c", receive_maximum=10) as connection:
            connection.ping()
            assert connection._readable(5)
            kill.set()
            with pytest.raises(ConnectionLostError, match="sending to the broker"):
                acknowledge_for_ever(connection)
            assert [packet.packet_id for packet in connection.rest()] == [1, 2, 3, 4, 5]
            assert connection.rest() == []


def acknowledge_for_ever(connection: Connection) -> None:
    """Writes until a write meets the end of the connection, at the latest the second after it."""
    while True:
        connection.acknowledge([1])
