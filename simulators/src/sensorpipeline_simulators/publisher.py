"""One MQTT connection per device, as real devices have: own credentials, QoS 1, messages in order."""

import json
import logging
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from sensorpipeline_api.configuration import MqttConnection, SimulatorFleet
from sensorpipeline_api.spec import Fleet, PayloadFormat, SimulatedDevice, TimeUnit

log = logging.getLogger(__name__)

MAXIMUM_IN_FLIGHT = 100
NO_MATCHING_SUBSCRIBERS = 16


def credentials(settings: SimulatorFleet, device: str, broker: MqttConnection) -> tuple[str, str] | None:
    """Returns user name and password of a device: its own, its fleet's, or the one user's of a broker that is not the
    pipeline's; None when the broker asks for none."""
    if settings.credentials_directory is None:
        if broker.username_file is None or broker.password_file is None:
            return None
        return Path(broker.username_file).read_text().rstrip("\n"), Path(broker.password_file).read_text().rstrip("\n")
    directory = Path(settings.credentials_directory)
    own = directory / device
    if own.exists():
        return device, own.read_text().rstrip("\n")
    return settings.fleet.name, (directory / "_fleet").read_text().rstrip("\n")


def topic(fleet: Fleet, device: str, metric: str) -> str:
    """Returns the topic that a device publishes a metric to."""
    return fleet.topic.replace("{device}", device).replace("{metric}", metric)


def payload(fleet: Fleet, metric: str, *, time: int, value: float) -> bytes:
    """Returns the message of a reading as the fleet's payload describes it. `time` is in ms."""
    field = next(m.field for m in fleet.metrics if m.name == metric)
    stamp: Any = time
    if fleet.payload.time_unit is TimeUnit.SECONDS:
        stamp = time / 1000
    elif fleet.payload.time_unit is TimeUnit.RFC3339:
        stamp = datetime.fromtimestamp(time / 1000, tz=UTC).isoformat(timespec="milliseconds")
    if fleet.payload.format is PayloadFormat.NUMBER:
        return repr(value).encode()
    if fleet.payload.format is PayloadFormat.CSV:
        cells = {fleet.payload.time_field: stamp, field: value}
        return ",".join(str(cells.get(column, "")) for column in fleet.payload.columns).encode()
    body: dict[str, Any] = {}
    contents = [(fleet.payload.time_field, stamp), (field, value)]
    if fleet.payload.time_unit is TimeUnit.RECEIVE_TIME:
        del contents[0]
    for path, content in contents:
        *parents, last = path.split(".")
        node = body
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = content
    return json.dumps(body).encode()


class Publisher:
    """The connection of one device. `acknowledged` is called with each message's context, in order."""

    def __init__(
        self, settings: SimulatorFleet, device: SimulatedDevice, broker: MqttConnection,
        acknowledged: Callable[[dict[str, Any]], None],
    ) -> None:  # fmt: skip
        self.fleet = settings.fleet
        self.metric = device.metric or settings.fleet.metrics[0].name
        self.connected = threading.Event()
        self._acknowledged = acknowledged
        self._slots = threading.Semaphore(MAXIMUM_IN_FLIGHT)
        self._contexts: deque[dict[str, Any]] = deque()
        self._answered = threading.Event()
        self._taken = False
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=f"simulator-{device.fleet}-{device.name}", protocol=mqtt.MQTTv5
        )
        found = credentials(settings, device.name, broker)
        if found is not None:
            self._client.username_pw_set(*found)
        if broker.tls:
            self._client.tls_set(ca_certs=broker.ca_file)
        self._client.max_inflight_messages_set(MAXIMUM_IN_FLIGHT)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publish = self._on_publish
        self._client.reconnect_delay_set(1, 5)
        self._client.connect_async(broker.host, broker.port)
        self._client.loop_start()

    def publish(self, name: str, body: bytes, context: dict[str, Any]) -> None:
        """Publishes a message; waits while too many are not acknowledged."""
        self._slots.acquire()
        # A broker acknowledges in the order of publication (MQTT 5, 4.6), so a queue pairs answers with messages. A
        # lock around both would be taken in the other order by the client's own thread, and both would wait for ever.
        self._contexts.append(context)
        self._client.publish(name, body, qos=1)

    def publish_first(self, name: str, body: bytes, context: dict[str, Any]) -> None:
        """Publishes a message again and again until the broker has passed it to a subscriber.

        A broker acknowledges a message that nobody has subscribed to, and drops it; before the bridge has subscribed
        for the first time, that is every message.
        """
        while True:
            self._answered.clear()
            self.publish(name, body, context)
            self._answered.wait()
            if self._taken:
                return
            log.info("waiting for the bridge to subscribe")
            threading.Event().wait(1)

    def close(self) -> None:
        """Leaves the broker."""
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: Any, data: Any, flags: Any, code: ReasonCode, properties: Any) -> None:
        if code.is_failure:
            log.warning("the broker refused the connection: %s", code)
        else:
            self.connected.set()

    def _on_disconnect(self, client: Any, data: Any, flags: Any, code: ReasonCode, properties: Any) -> None:
        self.connected.clear()

    def _on_publish(self, client: Any, data: Any, mid: int, code: ReasonCode, properties: Properties) -> None:
        context = self._contexts.popleft()
        self._slots.release()
        self._taken = not code.is_failure and code.value != NO_MATCHING_SUBSCRIBERS
        if code.is_failure:
            log.error("the broker refused a message of %s: %s", context["device"], code)
        if self._taken:
            self._acknowledged(context)
        self._answered.set()
