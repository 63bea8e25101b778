"""Clients of a running pipeline: its gateway, its MQTT broker, its Prometheus, each through a port-forward."""

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paho.mqtt.client as mqtt
import requests
from e2e import kube
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode


class Gateway:
    """The HTTP interface of a pipeline, with its token."""

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def get(self, path: str, **parameters: Any) -> requests.Response:
        """Asks for one page."""
        return requests.get(self.url + path, params=parameters, headers=self._headers, timeout=30)

    def all(self, path: str, **parameters: Any) -> list[dict[str, Any]]:
        """Follows the cursor and returns every item."""
        items: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            response = self.get(path, limit=1000, **parameters, **({"cursor": cursor} if cursor else {}))
            assert response.status_code == 200, response.text
            page = response.json()
            items += page["items"]
            cursor = page["next"]
            if cursor is None:
                return items


@contextmanager
def gateway(pipeline: str, *, namespace: str, token: bool = True) -> Iterator[Gateway]:
    """Opens the gateway of a pipeline."""
    secret = kube.secret_value(f"{pipeline}-gateway", "token", namespace=namespace) if token else None
    with kube.port_forward(f"svc/{pipeline}-gateway", 8080, namespace=namespace) as port:
        yield Gateway(f"http://127.0.0.1:{port}", secret)


class RefusedError(Exception):
    """The broker refused a connection or a publication; the text is its reason."""


class Publisher:
    """An MQTT 5 client that waits for the broker's answer to each message."""

    def __init__(self, port: int, *, username: str | None = None, password: str | None = None) -> None:
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        if username is not None:
            self._client.username_pw_set(username, password)
        self._connected = threading.Event()
        self._answered = threading.Event()
        self._code: ReasonCode | None = None
        self._client.on_connect = self._on_connect
        self._client.on_publish = self._on_publish
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        if not self._connected.wait(20):
            raise AssertionError("the MQTT broker did not answer in 20 s")
        if self._code is None or self._code.is_failure:
            self.close()
            raise RefusedError(str(self._code))

    def _on_connect(self, client: Any, data: Any, flags: Any, code: ReasonCode, properties: Any) -> None:
        self._code = code
        self._connected.set()

    def _on_publish(self, client: Any, data: Any, mid: int, code: ReasonCode, properties: Properties) -> None:
        self._code = code
        self._answered.set()

    def publish(self, topic: str, payload: bytes) -> None:
        """Publishes with QoS 1 and waits for the PUBACK. Raises RefusedError when its reason is a failure."""
        self._answered.clear()
        self._client.publish(topic, payload, qos=1)
        if not self._answered.wait(20):
            raise AssertionError(f"no PUBACK for {topic} in 20 s")
        if self._code is None or self._code.is_failure:
            raise RefusedError(str(self._code))

    def close(self) -> None:
        """Leaves the broker."""
        self._client.disconnect()
        self._client.loop_stop()


@contextmanager
def publisher(
    pipeline: str, *, namespace: str, username: str | None = None, password: str | None = None
) -> Iterator[Publisher]:
    """Opens a connection to the pipeline's broker."""
    with kube.port_forward(f"svc/{pipeline}-mosquitto", 1883, namespace=namespace) as port:
        client = Publisher(port, username=username, password=password)
        with contextlib.closing(client):
            yield client


@contextmanager
def prometheus(pipeline: str, *, namespace: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """Opens the pipeline's Prometheus and yields its URL and credentials."""
    password = kube.secret_value(f"{pipeline}-prometheus", "password", namespace=namespace)
    with kube.port_forward(f"svc/{pipeline}-prometheus", 9090, namespace=namespace) as port:
        yield f"http://127.0.0.1:{port}", ("admin", password)
