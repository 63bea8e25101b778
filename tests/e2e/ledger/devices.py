"""Devices that keep a reading until it is acknowledged, as honest ones do: over MQTT and over HTTP."""

import json
import threading
from collections import deque
from typing import Any, Protocol

import paho.mqtt.client as mqtt
import requests
from e2e.ledger.book import Book, Entry
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

IN_FLIGHT = 20
HTTP_BATCH = 50
HTTP_TIMEOUT_SECONDS = 15
RETRY_SECONDS = 0.5


class Device(Protocol):
    """What carries a sensor's readings to the pipeline."""

    def send(self, entries: list[Entry]) -> None:
        """Takes readings in, to be delivered in this order."""

    def unanswered(self) -> int:
        """Returns how many readings are not acknowledged yet."""

    def close(self) -> None:
        """Leaves."""


class MqttDevice:
    """An MQTT 5 client with the device's own credentials and QoS 1."""

    def __init__(
        self, name: str, topic: str, *, address: tuple[str, int], credentials: tuple[str, str], book: Book
    ) -> None:
        self._topic = topic
        self._book = book
        self._sent: deque[Entry] = deque()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"ledger-{name}", protocol=mqtt.MQTTv5)
        self._client.username_pw_set(*credentials)
        self._client.max_inflight_messages_set(IN_FLIGHT)
        self._client.reconnect_delay_set(1, 2)
        self._client.on_publish = self._on_publish
        self._client.on_disconnect = lambda *_: book.note("MQTT connections lost")
        session = Properties(PacketTypes.CONNECT)
        session.SessionExpiryInterval = 3600
        self._client.connect_async(*address, keepalive=10, properties=session)
        self._client.loop_start()

    def send(self, entries: list[Entry]) -> None:
        """Publishes readings; the client keeps them until the broker has answered."""
        for entry in entries:
            # Answers come in the order of publication, also for what is sent again on a new connection (MQTT 5, 4.6).
            self._sent.append(entry)
            body: dict[str, Any] = {"ts": entry.time, "value": entry.value}
            if entry.pad:
                body["pad"] = entry.pad
            self._client.publish(self._topic, json.dumps(body).encode(), qos=1)

    def unanswered(self) -> int:
        """Returns how many readings are not acknowledged yet."""
        return len(self._sent)

    def close(self) -> None:
        """Leaves the broker."""
        self._client.disconnect()
        self._client.loop_stop()

    def _on_publish(self, client: Any, data: Any, mid: int, code: ReasonCode, properties: Properties) -> None:
        # Any reason code below 128 is an acknowledgement, "no matching subscribers" too: few devices look closer.
        if code.value != 0:
            self._book.note(f"PUBACK {code.value}: {code}")
        self._book.acknowledge(self._sent.popleft())


class HttpDevice:
    """A device that posts its readings in batches, and each batch again until it is answered."""

    def __init__(self, url: str, token: str, book: Book) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}
        self._book = book
        self._waiting: deque[Entry] = deque()
        self._work = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def send(self, entries: list[Entry]) -> None:
        """Queues readings."""
        self._waiting.extend(entries)
        self._work.set()

    def unanswered(self) -> int:
        """Returns how many readings are not acknowledged yet."""
        return len(self._waiting)

    def close(self) -> None:
        """Stops posting."""
        self._closed.set()
        self._work.set()
        self._thread.join(HTTP_TIMEOUT_SECONDS + 5)

    def _run(self) -> None:
        while not self._closed.is_set():
            self._work.wait()
            self._work.clear()
            while self._waiting and not self._closed.is_set():
                batch = [self._waiting[n] for n in range(min(HTTP_BATCH, len(self._waiting)))]
                if not self._post(batch):
                    self._closed.wait(RETRY_SECONDS)
                    continue
                for entry in batch:
                    self._book.acknowledge(entry)
                    self._waiting.popleft()

    def _post(self, batch: list[Entry]) -> bool:
        """Posts a batch; returns whether the gateway has answered for good: every reading taken, or refused by name."""
        body = [{"device": e.device, "metric": e.metric, "time": e.time, "value": e.value} for e in batch]
        try:
            response = requests.post(self._url, json=body, headers=self._headers, timeout=HTTP_TIMEOUT_SECONDS)
        except requests.RequestException as error:
            self._book.note(f"HTTP {type(error).__name__}")
            return False
        # A body of refused readings alone is answered with 422; they are dead letters like others.
        if response.status_code not in {202, 422}:
            self._book.note(f"HTTP {response.status_code}: {response.text[:200]}")
            return False
        refused = {item["index"]: item["reason"] for item in response.json()["rejected"]}
        wanted = {index: entry.refused for index, entry in enumerate(batch) if entry.refused}
        if refused != wanted:
            self._book.note(f"HTTP refused {refused}, should have refused {wanted}")
        return True
