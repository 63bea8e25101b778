"""The bridge: one member of the shared subscription, from start to the last acknowledgement."""

import logging
import time
from collections.abc import Callable

from sensorpipeline_api.configuration import BridgeConfiguration

from sensorpipeline_workers.bridge.carrier import RECEIVE_MAXIMUM, Carrier, Counters, KafkaRefusedError
from sensorpipeline_workers.bridge.connection import Connection, ConnectionLostError
from sensorpipeline_workers.bridge.topics import subscriptions, topic_filter
from sensorpipeline_workers.runtime.health import Health

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
DRAIN_SECONDS = 15.0
STALL_SECONDS = 10.0
RETRY_SECONDS = 1.0


class Bridge:
    """Carries messages from the broker to Kafka. `partitions` is the number of partitions of each readings topic.
    `guard_released` is called when the guard (see adoption.py) has no subscriptions any more; left out, another member
    sees to the guard."""

    def __init__(
        self, configuration: BridgeConfiguration, partitions: dict[str, int], counters: Counters, health: Health,
        guard_released: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self._configuration = configuration
        self._health = health
        self._carrier = Carrier(configuration, partitions, counters, self._wait)
        self._guard_released = guard_released
        self._stopping_since: float | None = None

    def stop(self) -> None:
        """Asks the loop to drain and end."""
        if self._stopping_since is None:
            self._stopping_since = time.monotonic()

    def run(self, client_id: str) -> None:
        """Runs until `stop`; connects again whenever the connection is lost or Kafka refuses a record for good."""
        filters = subscriptions(self._configuration.fleets, self._configuration.share_name)
        while self._stopping_since is None:
            self._health.beat()
            self._carrier.begin()
            try:
                with Connection(
                    self._configuration.mqtt, client_id=client_id, receive_maximum=RECEIVE_MAXIMUM
                ) as connection:
                    connection.subscribe(filters)
                    self._release_guard(connection)
                    self._health.set_ready()
                    self._carry(connection)
                    self._drain(connection)
            except ConnectionLostError as error:
                self._retry(f"MQTT: {error}")
            except KafkaRefusedError as error:
                self._retry(f"Kafka: {error}")
        self._carrier.close(max(1.0, self._drain_seconds()))

    def _release_guard(self, connection: Connection) -> None:
        """Ends the subscriptions of the guard, now that ours exist. The guard may be that of a broker that has started
        since we subscribed; a sign of life on our connection says that it is not."""
        guard_client_id = self._configuration.guard_client_id
        if self._guard_released is None or guard_client_id is None:
            return
        filters = [topic_filter(t) for fleet in self._configuration.fleets for t in fleet.topic_templates]
        with Connection(self._configuration.mqtt, client_id=guard_client_id, receive_maximum=1) as guard:
            connection.await_pong()
            if guard.session_present:
                guard.unsubscribe(filters)
            guard.disconnect()
        self._guard_released()

    def _retry(self, what: str) -> None:
        """Waits a little before the broker is asked to send again what was not acknowledged."""
        self._health.set_waiting(what)
        if self._stopping_since is None:
            time.sleep(RETRY_SECONDS)

    def _carry(self, connection: Connection) -> None:
        carrier, health = self._carrier, self._health
        full_since: float | None = None
        while self._stopping_since is None:
            if carrier.full:
                full_since = full_since or time.monotonic()
                if time.monotonic() - full_since > STALL_SECONDS:
                    health.set_waiting("Kafka: it acknowledges nothing")
                connection.keep_alive()
                carrier.poll(0.05)
            else:
                if full_since is not None:
                    full_since = None
                    health.set_ready()
                packets = connection.receive(carrier.wait_seconds(POLL_SECONDS))
                if packets:
                    carrier.take(packets)
            carrier.turn(connection)
            health.beat()

    def _drain(self, connection: Connection) -> None:
        """Waits until Kafka has what was received and the broker has seen the acknowledgements, then takes leave.
        What it sends meanwhile is not taken: it stays in the session."""
        self._carrier.turn(connection, everything=True)
        while not self._carrier.idle and self._drain_seconds() > 0:
            self._carrier.poll(0.05)
            self._carrier.turn(connection)
            connection.keep_alive()
        connection.await_pong()
        connection.disconnect()

    def _drain_seconds(self) -> float:
        """Returns what is left of the time to drain."""
        since = self._stopping_since
        return DRAIN_SECONDS if since is None else since + DRAIN_SECONDS - time.monotonic()

    def _wait(self) -> None:
        """Called while the carrier waits for Kafka in the middle of a message."""
        self._health.beat()
        if self._drain_seconds() <= 0:
            raise KafkaRefusedError("the bridge was told to stop, and Kafka does not answer")
