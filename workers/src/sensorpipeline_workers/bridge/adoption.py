"""Sessions that nobody will come back for: what waits in them is carried to Kafka, and then they end.

A member that has been killed and does not come back leaves a session to which the broker keeps giving its share of the
messages; so does one that is told to stop at a broker that is not ours. When the group has become smaller, the first
member takes the sessions beyond it over, one after another, by their client ids: it ends the subscription, so that the
queue grows no more, carries the queue to Kafka, and ends the session. Members whose pods still exist are left alone.

Guards are sessions of another kind: a managed broker makes one at each start, subscribed to everything, and it keeps
what devices send before the bridge has subscribed. The bridge ends their subscriptions; here they are emptied and
ended, the oldest first, so that those which are left are the last ones.
"""

import logging
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from pydantic import ValidationError
from sensorpipeline_api.configuration import BridgeConfiguration

from sensorpipeline_workers.bridge.arrivals import MEMBERS, Arrivals
from sensorpipeline_workers.bridge.carrier import RECEIVE_MAXIMUM, Carrier
from sensorpipeline_workers.bridge.connection import Connection, ConnectionLostError
from sensorpipeline_workers.bridge.emptying import empty
from sensorpipeline_workers.bridge.sending import Counters, KafkaRefusedError
from sensorpipeline_workers.bridge.topics import subscriptions

log = logging.getLogger(__name__)

RETRY_SECONDS = 5
CLOSE_SECONDS = 10.0
_NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


class Adoption:
    """Looks for sessions to adopt until `stop`. `group` is the part of the client ids before the ordinal; `load`
    reads the configuration document anew, since the number of members may change."""

    def __init__(
        self, group: str, partitions: dict[str, int], counters: Counters, arrivals: Arrivals,
        load: Callable[[], BridgeConfiguration] = BridgeConfiguration.load,
    ) -> None:  # fmt: skip
        self._group = group
        self._partitions = partitions
        self._counters = counters
        self._arrivals = arrivals
        self._load = load
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._guards: list[str] = []

    def stop(self) -> None:
        """Asks to end; a session that is not empty stays as it is."""
        self._stop.set()
        self._wake.set()

    def empty_guards(self, client_ids: list[str]) -> Callable[[], bool]:
        """Asks to empty and end guards, which have no subscriptions any more, now; returns what says whether it is
        done. `client_ids` is used up."""
        self._guards = client_ids
        self._wake.set()
        return lambda: not client_ids

    def run(self) -> None:
        """Looks now and then; whatever goes wrong is tried again at the next look."""
        while not self._stop.is_set():
            seconds = 60
            self._wake.clear()
            try:
                configuration = self._load()
                seconds = configuration.adoption_seconds
                self._look(configuration)
            except (ConnectionLostError, KafkaRefusedError, OSError, ValidationError) as error:
                log.warning("looking for sessions to adopt: %s", error)
                seconds = min(seconds, RETRY_SECONDS)
            except Exception:  # a mistake of ours must not end the looking for good
                log.exception("looking for sessions to adopt")
                seconds = min(seconds, RETRY_SECONDS)
            self._wake.wait(seconds)

    def _look(self, configuration: BridgeConfiguration) -> None:
        unknown = set(configuration.topics.readings.values()) - self._partitions.keys()
        if unknown:  # fleets that are newer than this process, which is about to be replaced
            log.info("no session is adopted: topics %s are not known yet", ", ".join(sorted(unknown)))
            return
        guards = self._guards
        while guards:
            self._adopt(guards[0], configuration)
            del guards[0]
        for ordinal in range(configuration.replicas, MEMBERS):
            client_id = f"{self._group}-{ordinal}"
            if not self._stop.is_set() and not _exists(client_id, configuration.member_domain):
                self._adopt(client_id, configuration)

    def _adopt(self, client_id: str, configuration: BridgeConfiguration) -> None:
        with Connection(configuration.mqtt, client_id=client_id, receive_maximum=RECEIVE_MAXIMUM) as connection:
            if connection.session_present:
                log.info("adopting the session of %s", client_id)
                connection.unsubscribe(subscriptions(configuration.fleets, configuration.share_name))
                self._empty(configuration, connection)
                log.info("the session of %s is empty", client_id)
            connection.disconnect(end_session=True)

    def _empty(self, configuration: BridgeConfiguration, connection: Connection) -> None:
        def go_on() -> bool:
            if self._stop.is_set():
                raise KafkaRefusedError("the bridge was told to stop")
            return True

        def wait() -> None:
            go_on()
            with suppress(ConnectionLostError):  # which the next use of the connection says again
                connection.keep_alive()

        carrier = Carrier(configuration, self._partitions, self._counters, self._arrivals, wait)
        try:
            empty(carrier, connection, go_on)
        except ConnectionLostError:
            carrier.take(connection.rest())
            raise
        finally:
            carrier.close(CLOSE_SECONDS)


def _exists(pod: str, domain: str | None) -> bool:
    """Whether a member's pod exists, or may: the DNS did not answer. Without a domain no member's pod has a name, and
    none is taken to exist."""
    if domain is None:
        return False
    try:
        socket.getaddrinfo(f"{pod}.{domain}", None)
    except socket.gaierror as error:
        return error.errno not in _NO_SUCH_NAME
    return True
