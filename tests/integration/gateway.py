"""A gateway with a Kafka and a mongod, a client that posts to it, and what it writes."""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec
from integration.conftest import Part, free_port, until
from sensorpipeline_api.configuration import (
    GatewayConfiguration,
    IngestLimits,
    KafkaConnection,
    StoreConnection,
    Topics,
)
from sensorpipeline_api.spec import Fleet

Make = Callable[..., Part]
TOKENS = {"field": {"S1": "token-of-s1", "S2": "token-of-s2"}, "barn": {"_fleet": "token-of-barn"}}
QUERY_TOKEN = "token-of-queries"
NOW = int(time.time() * 1000)


def fleets() -> list[Fleet]:
    return [
        Fleet.model_validate({
            "name": "field", "topic": "field/{device}/moisture", "devices": ["S1", "S2"], "partitions": 3,
            "metrics": [{"name": "moisture", "minimum": "0", "maximum": "100"}],
        }),
        Fleet.model_validate({
            "name": "barn", "topic": "barn/{device}/temperature", "metrics": [{"name": "temperature"}],
            "partitions": 3,
        }),
    ]  # fmt: skip


class Tail:
    """Reads what is added to a topic."""

    def __init__(self, kafka: str, topic: str) -> None:
        settings = {"bootstrap.servers": kafka, "log_level": 0}
        self._consumer = Consumer(settings | {"group.id": "tail", "enable.auto.commit": False})
        self._admin = AdminClient(settings)
        self._topic = topic
        ends = until(self._ends, what=f"{topic} to have a leader")  # a topic that was just made may have none yet
        self._next = dict.fromkeys(ends, 0)

    def _ends(self) -> dict[int, int]:
        partitions = self._admin.list_topics(self._topic, timeout=10).topics[self._topic].partitions
        asked = {TopicPartition(self._topic, number): OffsetSpec.latest() for number in partitions}
        return {of.partition: future.result().offset for of, future in self._admin.list_offsets(asked).items()}

    def skip(self) -> None:
        """Passes over what is there."""
        self._next = self._ends()

    def read(self) -> list[tuple[int, Any]]:
        """Returns what has been added since the last call: partition and parsed value."""
        ends = self._ends()
        self._consumer.assign([TopicPartition(self._topic, p, offset) for p, offset in self._next.items()])
        out: list[tuple[int, Any]] = []
        deadline = time.monotonic() + 30
        while self._next != ends:
            assert time.monotonic() < deadline, f"{self._topic} was not read to its end in 30 s"
            for message in self._consumer.consume(1000, 0.1):
                assert message.error() is None
                if message.offset() < ends[message.partition()]:
                    self._next[message.partition()] = message.offset() + 1
                    out.append((message.partition(), json.loads(message.value())))
        return out


class Client:
    """Posts to and asks the gateway, and reads what it writes to Kafka."""

    def __init__(self, port: int, topics: Topics, kafka: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.topics = topics
        self.database = topics.aggregates.split(".")[0]
        self.session = requests.Session()
        self._readings = {fleet: Tail(kafka, topic) for fleet, topic in topics.readings.items()}
        self._letters = Tail(kafka, topics.dead_letter)

    def skip(self) -> None:
        """Passes over what is in Kafka."""
        for tail in (*self._readings.values(), self._letters):
            tail.skip()

    def stored(self, fleet: str = "field") -> list[dict[str, Any]]:
        """Returns the readings of a fleet that came to Kafka since the last call."""
        return [item for _, record in self._readings[fleet].read() for item in record]

    def partitions(self, fleet: str) -> dict[str, set[int]]:
        """Returns in which partitions readings of each device came since the last call."""
        found: dict[str, set[int]] = {}
        for partition, record in self._readings[fleet].read():
            for item in record:
                found.setdefault(item["device"], set()).add(partition)
        return found

    def letters(self) -> list[dict[str, Any]]:
        """Returns the dead letters that came to Kafka since the last call."""
        return [letter for _, letter in self._letters.read()]

    def post(
        self, body: Any, token: str | None = "token-of-s1", *, session: requests.Session | None = None, **headers: str
    ) -> requests.Response:
        """Posts a body, by default as a device of the field."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        credentials = {"Authorization": f"Bearer {token}"} if token is not None else {}
        sent = {"Content-Type": "application/json"} | credentials | headers
        return (session or self.session).post(f"{self.url}/v1/readings", data=data, headers=sent, timeout=30)

    def get(self, path: str, **parameters: str) -> list[dict[str, Any]]:
        """Returns the items of a list's first page."""
        headers = {"Authorization": f"Bearer {QUERY_TOKEN}"}
        answer = requests.get(self.url + path, params=parameters, headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    def ready(self) -> bool:
        """Whether the gateway says that it is."""
        return requests.get(f"{self.url}/readyz", timeout=5).ok

    def metric(self, name: str, **labels: str) -> float:
        text = requests.get(f"{self.url}/metrics", headers={"Authorization": f"Bearer {QUERY_TOKEN}"}, timeout=10).text
        wanted = "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}"
        line = next((line for line in text.splitlines() if line.startswith(name + wanted)), None)
        return float(line.rsplit(" ", 1)[1]) if line else 0.0


def make_topics(kafka: str) -> Topics:
    """Makes the topics of a pipeline of its own."""
    name = f"p{uuid.uuid4().hex[:8]}"
    made = Topics(
        readings={fleet.name: f"{name}.{fleet.name}.readings" for fleet in fleets()}, aggregates=f"{name}.aggregates",
        late=f"{name}.late", alerts=f"{name}.alerts", dead_letter=f"{name}.dead-letter",
    )  # fmt: skip
    new = [NewTopic(topic, 3, 1) for topic in made.readings.values()]
    new += [NewTopic(topic, 1, 1) for topic in (made.aggregates, made.late, made.alerts, made.dead_letter)]
    admin = AdminClient({"bootstrap.servers": kafka})
    for future in admin.create_topics(new).values():
        future.result()
    return made


@contextmanager
def running(
    kafka: str, mongodb: str, part: Make, directory: Path, *, topics: Topics | None = None, tokens: bool = True,
    suspended: bool = False, **limits: int,
) -> Iterator[tuple[Client, Part]]:  # fmt: skip
    """Runs a gateway of its own, ready when the context opens."""
    made = topics or make_topics(kafka)
    (directory / "uri").write_text(mongodb)
    (directory / "token").write_text(QUERY_TOKEN)
    for fleet, keys in TOKENS.items():
        (directory / "devices" / fleet).mkdir(parents=True, exist_ok=True)
        for key, token in keys.items():
            (directory / "devices" / fleet / key).write_text(token)
    port = free_port()
    gateway = part("gateway", GatewayConfiguration(
        pipeline="p", kafka=KafkaConnection(bootstrap_servers=[kafka]), topics=made, fleets=fleets(), port=port,
        store=StoreConnection(uri_file=str(directory / "uri"), database=made.aggregates.split(".")[0]),
        token_file=str(directory / "token") if tokens else None, metrics_port=free_port(),
        device_tokens_directory=str(directory / "devices") if tokens else None, limits=IngestLimits(**limits),
        ingest_suspended=suspended,
    ))  # fmt: skip
    gateway.start()
    client = Client(port, made, kafka)
    try:
        until(client.ready, what="the gateway to be ready")
        yield client, gateway
    finally:
        gateway.close()


def reading(number: int = 0, device: str = "S1", **change: Any) -> dict[str, Any]:
    return {"device": device, "metric": "moisture", "time": NOW + number, "value": 5.5} | change


def is_problem(response: requests.Response, status: int) -> dict[str, Any]:
    """Checks that an answer is a problem document, and returns it."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    return document
