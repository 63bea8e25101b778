"""Readings posted to a real gateway with a real Kafka: who may, what is refused, and what an answer promises."""

import base64
import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from integration.conftest import Part, free_port, until
from sensorpipeline_api.configuration import (
    Configuration,
    GatewayConfiguration,
    IngestLimits,
    KafkaConnection,
    StoreConnection,
    Topics,
)
from sensorpipeline_api.spec import Fleet

Make = Callable[[str, Configuration], Part]
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
        settings = {"bootstrap.servers": kafka, "group.id": "tail", "enable.auto.commit": False, "log_level": 0}
        self._consumer = Consumer(settings)
        self._topic = topic
        ends = until(self._ends, what=f"{topic} to have a leader")  # a topic that was just made may have none yet
        self._next = dict.fromkeys(ends, 0)

    def _ends(self) -> dict[int, int]:
        partitions = self._consumer.list_topics(self._topic, timeout=10).topics[self._topic].partitions
        return {p: self._consumer.get_watermark_offsets(TopicPartition(self._topic, p), 10)[1] for p in partitions}

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

    def letters(self) -> list[dict[str, Any]]:
        """Returns the dead letters that came to Kafka since the last call."""
        return [letter for _, letter in self._letters.read()]

    def post(self, body: Any, token: str | None = "token-of-s1", **headers: str) -> requests.Response:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        credentials = {"Authorization": f"Bearer {token}"} if token is not None else {}
        sent = {"Content-Type": "application/json"} | credentials | headers
        return self.session.post(f"{self.url}/v1/readings", data=data, headers=sent, timeout=30)

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
    **limits: int,
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
    ))  # fmt: skip
    gateway.start()
    client = Client(port, made, kafka)
    try:
        until(lambda: requests.get(f"{client.url}/readyz", timeout=5).ok, what="the gateway to be ready")
        yield client, gateway
    finally:
        gateway.close()


@pytest.fixture(scope="module")
def shared(kafka: str, mongodb: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A gateway for the tests that neither change its configuration nor end it."""
    directory = tmp_path_factory.mktemp("gateway")
    with running(kafka, mongodb, lambda *of: Part(*of, directory), directory) as (made, _):
        yield made


@pytest.fixture
def client(shared: Client) -> Client:
    shared.skip()
    return shared


def reading(number: int = 0, device: str = "S1", **change: Any) -> dict[str, Any]:
    return {"device": device, "metric": "moisture", "time": NOW + number, "value": 5.5} | change


def is_problem(response: requests.Response, status: int) -> dict[str, Any]:
    """Checks that an answer is a problem document, and returns it."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    return document


def test_what_is_accepted_is_in_kafka_when_the_answer_comes(client: Client) -> None:
    before = client.metric("sensorpipeline_readings_total", fleet="field")
    answer = client.post(reading())
    assert (answer.status_code, answer.json()) == (202, {"accepted": 1, "rejected": []})
    many = [reading(number) for number in range(1, 1300)]
    assert client.post(many).json()["accepted"] == 1299
    assert sorted(item["time"] - NOW for item in client.stored()) == list(range(1300))
    assert client.metric("sensorpipeline_readings_total", fleet="field") == before + 1300


def test_a_time_may_be_text(client: Client) -> None:
    assert client.post(reading(time="2026-01-01T08:00:00+02:00")).status_code == 202
    assert [item["time"] for item in client.stored()] == [1_767_247_200_000]


@pytest.mark.parametrize("token", [None, "", "wrong", QUERY_TOKEN, "token-of-s"])
def test_a_wrong_token_is_refused(client: Client, token: str | None) -> None:
    answer = client.post(reading(), token)
    is_problem(answer, 401)
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert not client.stored()


def test_a_devices_token_permits_no_query(client: Client) -> None:
    answer = requests.get(f"{client.url}/v1/devices", headers={"Authorization": "Bearer token-of-s1"}, timeout=10)
    is_problem(answer, 401)


def test_a_device_cannot_post_as_another_device_or_fleet(client: Client) -> None:
    other = is_problem(client.post([reading(), reading(1, device="S2")]), 403)
    assert (other["index"], other["field"]) == (1, "device")
    fleet = is_problem(client.post(reading(fleet="barn")), 403)
    assert (fleet["index"], fleet["field"]) == (0, "fleet")
    assert not client.stored()
    assert not client.letters()


def test_a_fleets_token_permits_any_device_of_the_fleet(client: Client) -> None:
    body = [{"device": f"B{n}", "metric": "temperature", "time": NOW, "value": n} for n in range(20)]
    assert client.post(body, "token-of-barn").json()["accepted"] == 20
    assert {item["device"] for item in client.stored("barn")} == {f"B{n}" for n in range(20)}
    is_problem(client.post(body[0] | {"fleet": "field"}, "token-of-barn"), 403)


def test_a_changed_password_counts_within_seconds(kafka: str, mongodb: str, part: Make, tmp_path: Path) -> None:
    with running(kafka, mongodb, part, tmp_path) as (client, _):
        assert client.post(reading()).status_code == 202
        (tmp_path / "devices" / "field" / "S1").write_text("another")
        until(lambda: client.post(reading(), "another").status_code == 202, what="the new password", seconds=5)
        is_problem(client.post(reading()), 401)


def test_without_authentication_the_fleet_is_told_by_device_or_name(
    kafka: str, mongodb: str, part: Make, tmp_path: Path
) -> None:
    barn = {"device": "B1", "metric": "temperature", "time": NOW, "value": 1}
    with running(kafka, mongodb, part, tmp_path, tokens=False) as (client, _):
        assert client.post([reading(), barn | {"fleet": "barn"}], None).json()["accepted"] == 2
        problem = is_problem(client.post(barn, None), 422)
        assert (problem["field"], problem["reason"]) == ("fleet", "MissingField")
        assert len(client.stored()) == len(client.stored("barn")) == 1


def test_of_a_partial_failure_each_reading_is_told_and_kept(client: Client) -> None:
    bad = [reading(1, value=101), reading(2, time=NOW + 10**7), reading(3, metric="wind"), {"device": "S1"}]
    before = client.metric("sensorpipeline_dead_letters_total", fleet="field", reason="OutOfRange")
    answer = client.post([reading(0), *bad, reading(5)])
    assert answer.status_code == 202
    assert answer.json()["accepted"] == 2
    told = [(item["index"], item["field"], item["reason"]) for item in answer.json()["rejected"]]
    assert told == [
        (1, "value", "OutOfRange"), (2, "time", "FutureTimestamp"), (3, "metric", "UnknownMetric"),
        (4, "metric", "MissingField"),
    ]  # fmt: skip
    letters = client.letters()
    assert [json.loads(base64.b64decode(letter["payload"])) for letter in letters] == bad
    assert [letter["reason"] for letter in letters] == [reason for _, _, reason in told]
    assert {(letter["source"], letter["fleet"]) for letter in letters} == {("http:/v1/readings", "field")}
    assert client.metric("sensorpipeline_dead_letters_total", fleet="field", reason="OutOfRange") == before + 1


def test_when_no_reading_is_accepted_the_answer_is_a_problem_that_lists_them(client: Client) -> None:
    problem = is_problem(client.post([reading(value="x"), reading(metric="wind")]), 422)
    assert (problem["index"], problem["field"], problem["reason"]) == (0, "value", "NotANumber")
    assert [item["reason"] for item in problem["rejected"]] == ["NotANumber", "UnknownMetric"]
    assert len(client.letters()) == 2


@pytest.mark.parametrize(("body", "status"), [(b"{", 400), (b"\xff", 400), (b"", 400), (b"7", 422), (b"[]", 422)])
def test_a_body_without_readings_is_a_dead_letter_whole(client: Client, body: bytes, status: int) -> None:
    is_problem(client.post(body), status)
    (letter,) = client.letters()
    assert base64.b64decode(letter["payload"]) == body
    assert letter["reason"] == ("MissingField" if body == b"[]" else "InvalidJson")


def test_a_body_that_is_declared_as_something_else_is_refused(client: Client) -> None:
    is_problem(client.post(reading(), **{"Content-Type": "text/csv"}), 415)
    is_problem(client.post(reading(), **{"Content-Encoding": "gzip"}), 415)


def test_limits_are_named_and_what_is_too_large_is_kept_in_part(
    kafka: str, mongodb: str, part: Make, tmp_path: Path
) -> None:
    with running(kafka, mongodb, part, tmp_path, maximum_body_bytes=2000, maximum_readings_per_request=5) as (
        client,
        _,
    ):
        large = json.dumps([reading(n) for n in range(100)]).encode()
        problem = is_problem(client.post(large), 413)
        assert "2000" in problem["detail"]
        assert str(len(large)) in problem["detail"]
        many = is_problem(client.post([reading(n) for n in range(6)]), 413)
        assert "at most 5" in many["detail"]
        assert client.post(reading()).status_code == 202
        assert client.metric("sensorpipeline_messages_received_total", fleet="field") == 3
        letters = client.letters()
        assert [letter["reason"] for letter in letters] == ["TooLarge", "TooLarge"]
        assert base64.b64decode(letters[0]["payload"]) == large[:2000]
        assert "first 2000 bytes" in letters[0]["message"]
        huge = client.post(b"[" + b" " * 20_000_000)
        assert is_problem(huge, 413)["reason"] == "TooLarge"


def test_a_token_that_posts_too_much_is_told_when_to_come_again(
    kafka: str, mongodb: str, part: Make, tmp_path: Path
) -> None:
    with running(kafka, mongodb, part, tmp_path, maximum_readings_per_second=20) as (client, _):
        assert client.post([reading(n) for n in range(50)]).status_code == 202
        answer = client.post(reading(50))
        problem = is_problem(answer, 429)
        assert "20 readings/s" in problem["detail"]
        wait = int(answer.headers["Retry-After"])
        assert 1 <= wait <= 2
        assert client.post(reading(0, "S2"), "token-of-s2").status_code == 202, "another token has its own rate"
        time.sleep(wait)
        assert client.post(reading(50)).status_code == 202
        assert len(client.stored()) == 52
