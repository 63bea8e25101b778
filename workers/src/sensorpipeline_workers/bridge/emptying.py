"""A session, read until nothing waits in it any more, or for as long as the caller says when new messages come, too."""

import time
from collections.abc import Callable

from sensorpipeline_workers.bridge.carrier import Carrier
from sensorpipeline_workers.bridge.connection import Connection

SILENCE_SECONDS = 1.0


def empty(carrier: Carrier, connection: Connection, go_on: Callable[[], bool]) -> bool:
    """Carries a session's messages until the broker, asked after the last acknowledgement, has no more, or `go_on`,
    which is called often, says no. Returns whether the session is empty. Raises KafkaRefusedError, ConnectionLostError.
    """
    last_heard, answer = time.monotonic(), None
    while answer is None or connection.pongs < answer:
        if not go_on():
            return False
        if carrier.step(connection, 0.2):
            last_heard, answer = time.monotonic(), None
        if answer is None and carrier.idle and time.monotonic() - last_heard > SILENCE_SECONDS:
            connection.ping()
            answer = connection.pongs + 1
    return True
