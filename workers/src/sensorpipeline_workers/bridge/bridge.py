"""The bridge: one member of the shared subscription, from start to the last acknowledgement."""

import logging
import time
from collections.abc import Callable
from contextlib import suppress

from sensorpipeline_api.configuration import GUARD_TOPIC, BridgeConfiguration

from sensorpipeline_workers.bridge.arrivals import Arrivals
from sensorpipeline_workers.bridge.carrier import RECEIVE_MAXIMUM, Carrier
from sensorpipeline_workers.bridge.connection import Connection, ConnectionLostError
from sensorpipeline_workers.bridge.emptying import empty
from sensorpipeline_workers.bridge.sending import Counters, KafkaRefusedError
from sensorpipeline_workers.bridge.topics import subscriptions, topic_filter
from sensorpipeline_workers.runtime.health import Health

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
DRAIN_SECONDS = 15.0
STALL_SECONDS = 10.0
GUARD_SECONDS = 120.0
OWN_QUEUE_SECONDS = 5.0
"""How long what our own session holds, and then what a guard holds, goes first at most; what cannot be carried over by
then comes later."""
RETRY_SECONDS = 1.0
STALLED = "Kafka: it acknowledges nothing"


class Bridge:
    """Carries messages from the broker to Kafka. `partitions` is the number of partitions of each readings topic.
    `guards_released` is called with the client ids of guards (see adoption.py) that have no subscriptions any more, the
    oldest first; left out, another member sees to them."""

    def __init__(
        self, configuration: BridgeConfiguration, partitions: dict[str, int], counters: Counters, arrivals: Arrivals,
        health: Health, guards_released: Callable[[list[str]], Callable[[], bool]] | None = None,
    ) -> None:  # fmt: skip
        self._configuration = configuration
        self._health = health
        self._carrier = Carrier(configuration, partitions, counters, arrivals, self._wait)
        self._guards_released = guards_released
        # The first member's subscription, or before it a guard's, gets what no other member gets.
        self._others_go_on = guards_released is None and configuration.guard is not None
        self._connection: Connection | None = None
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
                    self._connection = connection
                    try:
                        self._serve(connection, filters)
                    except ConnectionLostError:
                        self._carrier.take(connection.rest())
                        raise
            except ConnectionLostError as error:
                self._retry(f"MQTT: {error}")
            except KafkaRefusedError as error:
                self._retry(f"Kafka: {error}")
            finally:
                self._connection = None
        self._carrier.close(max(1.0, self._drain_seconds()))

    def _serve(self, connection: Connection, filters: list[str]) -> None:
        """All that is done with one connection, up to the leave that is taken of the broker."""
        if connection.session_present and self._a_guard_waits():
            self._empty_own_session(connection)
        connection.subscribe(filters)
        self._release_guards(connection)
        self._health.set_ready()
        self._carry(connection)
        if self._others_go_on:
            self._leave(connection, filters)
        else:
            self._drain(connection)

    def _a_guard_waits(self) -> bool:
        """Whether the broker has started since guards were released: our shared subscription is then gone."""
        guard = self._configuration.guard
        if self._guards_released is None or guard is None:
            return False
        number = self._last_guard(f"{guard}-reader")
        if number == 0:
            return False
        with Connection(self._configuration.mqtt, client_id=f"{guard}-{number}", receive_maximum=1) as session:
            session.disconnect(end_session=not session.session_present)
            return session.session_present

    def _empty_own_session(self, connection: Connection) -> None:
        """Carries what was queued for us before the broker started again: it is older than what the guard holds, which
        is older than what comes once we have subscribed. So no reading is made late. If our subscription has outlived
        the broker new messages come, too, and there is no end; the guard gets the same ones, and must not wait long."""
        deadline = time.monotonic() + OWN_QUEUE_SECONDS

        def go_on() -> bool:
            self._health.beat()
            return self._stopping_since is None and time.monotonic() < deadline

        empty(self._carrier, connection, go_on)

    def _release_guards(self, connection: Connection) -> None:
        """Ends the subscriptions of the broker's guards, now that ours exist. A sign of life on our connection says
        that the broker has not started again since we subscribed; should it do so now, it has a new guard."""
        guard = self._configuration.guard
        if self._guards_released is None or guard is None:
            return
        number = self._last_guard(f"{guard}-reader")
        connection.await_pong()
        filters = [topic_filter(t) for fleet in self._configuration.fleets for t in fleet.topic_templates]
        found: list[str] = []
        for client_id in (f"{guard}-{n}" for n in range(number, 0, -1)):
            with Connection(self._configuration.mqtt, client_id=client_id, receive_maximum=1) as session:
                if session.session_present:
                    session.unsubscribe(filters)
                session.disconnect(end_session=not session.session_present)
                if not session.session_present:
                    break
            found.insert(0, client_id)
        emptied = self._guards_released(found)
        # What the guards hold is older than what has come to us since: it goes first, so that no reading is made late.
        deadline = time.monotonic() + GUARD_SECONDS
        while not emptied() and self._stopping_since is None and time.monotonic() < deadline:
            self._health.beat()
            connection.keep_alive()
            time.sleep(0.02)

    def _last_guard(self, client_id: str) -> int:
        """Returns the number of the broker's last guard, 0 when it has none."""
        with Connection(self._configuration.mqtt, client_id=client_id, receive_maximum=1) as reader:
            reader.subscribe([GUARD_TOPIC])
            reader.await_pong()
            payloads = [packet.payload for packet in reader.receive(0)]
            reader.disconnect(end_session=True)
        return max((int(payload) for payload in payloads if payload.isdigit()), default=0)

    def _retry(self, what: str) -> None:
        """Waits a little before the broker is asked to send again what was not acknowledged."""
        self._health.set_waiting(what)
        if self._stopping_since is None:
            time.sleep(RETRY_SECONDS)

    def _carry(self, connection: Connection) -> None:
        while self._stopping_since is None:
            self._carrier.step(connection, POLL_SECONDS)
            self._health.beat()
            self._tell_stall()

    def _tell_stall(self) -> None:
        if self._carrier.stalled_seconds() > STALL_SECONDS:
            self._health.set_waiting(STALLED)
        else:
            self._health.set_ready()

    def _leave(self, connection: Connection, filters: list[str]) -> None:
        """Ends the subscription, so that the others get what comes from now on, carries what is queued for us, and
        ends the session: nothing waits for a member that perhaps never comes back. What cannot be carried in time
        stays in the session, for us or for who adopts it."""
        connection.unsubscribe(filters)
        emptied = empty(self._carrier, connection, lambda: self._drain_seconds() > 0)
        connection.await_pong()
        connection.disconnect(end_session=emptied)

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
        """Called while the carrier waits in the middle of a message."""
        self._health.beat()
        if self._connection is not None:
            with suppress(ConnectionLostError):  # which the next use of the connection says again
                self._connection.keep_alive()
        if self._carrier.stalled_seconds() > STALL_SECONDS:
            self._health.set_waiting(STALLED)
        if self._drain_seconds() <= 0:
            raise KafkaRefusedError("the bridge was told to stop, and Kafka does not answer")
