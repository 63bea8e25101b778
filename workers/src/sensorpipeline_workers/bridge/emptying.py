"""A session, read until nothing waits in it any more, or for as long as the caller says when new messages come, too."""

import time
from collections.abc import Callable

from sensorpipeline_workers.bridge.carrier import Carrier
from sensorpipeline_workers.bridge.connection import Connection

SILENCE_SECONDS = 1.0


def empty(carrier: Carrier, connection: Connection, go_on: Callable[[], bool]) -> None:
    """Carries a session's messages until the broker, asked after the last acknowledgement, has no more, or `go_on`,
    which is called often, says no."""
    last_heard, answer = time.monotonic(), None
    while go_on() and (answer is None or connection.pongs < answer):
        if carrier.full:
            connection.keep_alive()
            carrier.poll(0.05)
        elif packets := connection.receive(carrier.wait_seconds(0.2)):
            carrier.take(packets)
            last_heard, answer = time.monotonic(), None
        carrier.turn(connection)
        if answer is None and carrier.idle and time.monotonic() - last_heard > SILENCE_SECONDS:
            connection.ping()
            answer = connection.pongs + 1
