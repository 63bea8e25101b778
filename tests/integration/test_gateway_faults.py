"""Faults around the gateway, with a ledger of what it answered: what it accepted is in Kafka, whatever happens."""

import json
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pymongo
import requests
from integration.conftest import Device, free_port, run_kafka, until
from integration.gateway import NOW, Client, Make, fleets, is_problem, make_topics, reading, running
from sensorpipeline_api.configuration import (
    BridgeConfiguration,
    KafkaConnection,
    MqttConnection,
    SinkConfiguration,
    StoreConfiguration,
    StoreConnection,
)
from sensorpipeline_workers.store.agent import StoreAgent
from sensorpipeline_workers.store.collections import compute_collections


class Ledger:
    """Devices that post batches one after the other, each again until it is accepted, and write down the answers."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self.sent: set[int] = set()
        self.accepted: set[int] = set()
        self.answers: list[tuple[float, int]] = []
        self.slowest = 0.0
        self._number = 0
        self._ended = threading.Event()

    def _next(self, size: int) -> list[int]:
        with self._lock:
            numbers = list(range(self._number, self._number + size))
            self._number += size
            self.sent.update(numbers)
            return numbers

    def _post(self, size: int) -> None:
        session = requests.Session()
        while not self._ended.is_set():
            numbers = self._next(size)
            while not self._once(session, numbers) and not self._ended.is_set():
                time.sleep(0.05)

    def _once(self, session: requests.Session, numbers: list[int]) -> bool:
        begin = time.monotonic()
        try:
            answer = self._client.post([reading(number) for number in numbers], session=session)
        except requests.ConnectionError:
            return False
        with self._lock:
            self.slowest = max(self.slowest, time.monotonic() - begin)
            self.answers.append((time.monotonic(), answer.status_code))
            if answer.status_code == 202:
                assert answer.json()["accepted"] == len(numbers)
                self.accepted.update(numbers)
        return answer.status_code == 202

    @contextmanager
    def posting(self, *, clients: int, size: int) -> Iterator[None]:
        """Posts while the context is open."""
        threads = [threading.Thread(target=self._post, args=(size,)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in threads:
                thread.join(30)
            assert not any(thread.is_alive() for thread in threads)


def numbers_in_kafka(client: Client) -> set[int]:
    return {item["time"] - NOW for item in client.stored()}


def test_while_kafka_stands_still_nothing_is_accepted_and_afterwards_nothing_is_missing(
    mongodb: str, part: Make, tmp_path: Path
) -> None:
    with run_kafka() as (container, kafka), running(kafka, mongodb, part, tmp_path) as (client, _):
        ledger = Ledger(client)
        with ledger.posting(clients=8, size=20):
            until(lambda: len(ledger.accepted) > 2000, what="a first 2000 readings")
            subprocess.run(["docker", "pause", container], check=True, capture_output=True)
            paused = time.monotonic()
            until(lambda: any(code == 503 for _, code in ledger.answers), what="a 503", seconds=20)
            begin = time.monotonic()
            answer = client.post(reading(-1))
            problem = is_problem(answer, 503)
            assert "Kafka" in problem["detail"]
            assert int(answer.headers["Retry-After"]) >= 1
            assert time.monotonic() - begin < 11
            resumed = time.monotonic()
            subprocess.run(["docker", "unpause", container], check=True, capture_output=True)
            before = len(ledger.accepted)
            until(lambda: len(ledger.accepted) > before + 2000, what="readings to be accepted again")
        during = [code for moment, code in ledger.answers if paused + 0.5 < moment < resumed]
        assert set(during) == {503}
        assert ledger.slowest < 11.5
        found = numbers_in_kafka(client) - {-1}
        assert ledger.accepted <= found <= ledger.sent


def test_what_a_killed_gateway_had_accepted_is_in_kafka(kafka: str, mongodb: str, part: Make, tmp_path: Path) -> None:
    with running(kafka, mongodb, part, tmp_path) as (client, gateway):
        ledger = Ledger(client)
        with ledger.posting(clients=8, size=7):
            for _ in range(3):
                before = len(ledger.accepted)
                until(lambda b=before: len(ledger.accepted) > b + 1000, what="1000 more readings accepted")
                gateway.kill()
                gateway.start()
            before = len(ledger.accepted)
            until(lambda: len(ledger.accepted) > before + 1000, what="the last 1000 readings accepted")
        assert ledger.accepted <= numbers_in_kafka(client) <= ledger.sent


def test_a_gateway_that_is_told_to_end_answers_what_it_has_begun(
    kafka: str, mongodb: str, part: Make, tmp_path: Path
) -> None:
    with running(kafka, mongodb, part, tmp_path) as (client, gateway):
        ledger = Ledger(client)
        with ledger.posting(clients=8, size=7):
            until(lambda: len(ledger.accepted) > 500, what="500 readings accepted")
            assert gateway.stop() == 0
        assert {code for _, code in ledger.answers} == {202}
        assert ledger.accepted <= numbers_in_kafka(client)


def test_readings_over_http_and_mqtt_come_to_the_same_partition(
    kafka: str, mongodb: str, mosquitto: int, part: Make, tmp_path: Path
) -> None:
    topics, prefix = make_topics(kafka), uuid.uuid4().hex[:8]
    barn = next(fleet for fleet in fleets() if fleet.name == "barn")
    bridged = barn.model_copy(update={"topic": f"{prefix}/{{device}}/temperature"})
    devices = [f"B{number}" for number in range(30)]
    bridge = part("bridge", BridgeConfiguration(
        pipeline="p", mqtt=MqttConnection(host="127.0.0.1", port=mosquitto), topics=topics, fleets=[bridged],
        kafka=KafkaConnection(bootstrap_servers=[kafka]), share_name=prefix,
    ))  # fmt: skip
    bridge.start()
    with running(kafka, mongodb, part, tmp_path, topics=topics) as (client, _):
        body = [{"device": device, "metric": "temperature", "time": NOW, "value": 1} for device in devices]
        assert client.post(body, "token-of-barn").json()["accepted"] == len(devices)
        over_http = client.partitions("barn")
        sender = Device(mosquitto)

        def heard() -> bool:
            """Whether somebody has subscribed: then a message is acknowledged with success."""
            sender.publish(f"{prefix}/B0/temperature", json.dumps({"ts": NOW, "value": 1}).encode(), 0)
            time.sleep(0.2)
            return 0 in sender.acknowledged

        until(heard, what="the bridge to subscribe")
        for number, device in enumerate(devices):
            sender.publish(f"{prefix}/{device}/temperature", json.dumps({"ts": NOW, "value": 2}).encode(), number + 1)
        over_mqtt: dict[str, set[int]] = {}

        def arrived() -> bool:
            for device, partitions in client.partitions("barn").items():
                over_mqtt.setdefault(device, set()).update(partitions)
            return len(over_mqtt) == len(devices)

        until(arrived, what="all readings over MQTT")
        sender.close()
        assert over_mqtt == over_http
        assert all(len(partitions) == 1 for partitions in over_http.values())
        assert len(set().union(*over_http.values())) > 1


def test_a_reading_that_is_posted_again_is_stored_once(kafka: str, mongodb: str, part: Make, tmp_path: Path) -> None:
    with (
        running(kafka, mongodb, part, tmp_path) as (client, gateway),
        pymongo.MongoClient[dict[str, Any]](mongodb) as store,
    ):
        description = StoreConfiguration(
            pipeline="p", replica_set="rs0", members=[], database=client.database, admin_username="",
            admin_password_file="", users=[], reading_retention_days=0, aggregate_retention_days=0,
        )  # fmt: skip
        agent = StoreAgent(description, ordinal=0)
        for collection in compute_collections(description):
            agent.keep_collection(store[client.database], collection)
        sink = part("sink", SinkConfiguration(
            pipeline="p", kafka=KafkaConnection(bootstrap_servers=[kafka]), topics=client.topics,
            store=StoreConnection(uri_file=str(tmp_path / "uri"), database=client.database), group_id=client.database,
            metrics_port=free_port(),
        ))  # fmt: skip
        sink.start()
        readings = [reading(number) for number in range(50)]
        assert client.post(readings).status_code == 202
        assert client.post(readings[:30]).status_code == 202, "the answer was lost: once more"
        gateway.kill()
        gateway.start()
        until(lambda: client.ready(), what="the gateway to be ready again")
        assert client.post([*readings, reading(50)]).status_code == 202
        query = {"device": "S1", "limit": "1000"}
        until(lambda: len(client.get("/v1/readings", **query)) >= 51, what="the last reading to be stored")
        times = Counter(item["time"] for item in client.get("/v1/readings", **query))
        assert len(times) == 51
        assert set(times.values()) == {1}
        assert len(client.stored()) == 131, "Kafka has them all, and the sink has seen that they are the same"
