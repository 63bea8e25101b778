"""Each part is killed in the middle of its work and started again: nothing is missing, and nothing counts twice."""

import base64
import json
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest
from e2e.recompute import recompute
from integration.conftest import Device, Part, consume, free_port, produce, until
from sensorpipeline_api.configuration import (
    BridgeConfiguration,
    Configuration,
    KafkaConnection,
    MqttConnection,
    SinkConfiguration,
    StoreConfiguration,
    StoreConnection,
    Topics,
    WorkerConfiguration,
)
from sensorpipeline_api.spec import Fleet
from sensorpipeline_workers.store.agent import StoreAgent
from sensorpipeline_workers.store.collections import compute_collections

Make = Callable[[str, Configuration], Part]
MINUTE = 60_000


def fleet(topic: str = "f") -> Fleet:
    window = {"name": "Minute", "metric": "m", "function": "Sum", "periodSeconds": 60, "allowedLatenessSeconds": 120}
    return Fleet.model_validate({
        "name": "f", "topic": f"{topic}/{{device}}/m", "metrics": [{"name": "m", "maximum": "1000000"}],
        "windows": [window], "partitions": 2, "idleSeconds": 86400,
    })  # fmt: skip


def test_a_killed_bridge_loses_no_acknowledged_message_and_dead_letters_bad_ones(
    kafka: str, mosquitto: int, topics: Topics, part: Make
) -> None:
    prefix = uuid.uuid4().hex[:8]
    bridge = part("bridge", BridgeConfiguration(
        pipeline="p", mqtt=MqttConnection(host="127.0.0.1", port=mosquitto), metrics_port=free_port(),
        kafka=KafkaConnection(bootstrap_servers=[kafka]), topics=topics, fleets=[fleet(prefix)], share_name=prefix,
    ))  # fmt: skip
    bridge.start()
    device = Device(mosquitto)
    until(lambda: _heard(device, prefix, kafka, topics), what="the bridge to subscribe")
    total = 6000
    for number in range(total):
        if number in (1500, 3000, 4500):
            bridge.kill()
            bridge.start()
        value = number if number % 100 else -1e400  # every hundredth is no finite number
        body = json.dumps({"ts": number, "value": value}).encode()
        device.publish(f"{prefix}/d{number % 7}/m", body, number)
    until(lambda: len(device.acknowledged) >= total, what="all PUBACKs")

    def arrived() -> tuple[set[int], set[int]] | None:
        stored = {reading["time"] for batch in consume(kafka, topics.readings["f"]) for reading in batch}
        # Both are at least once; of letters, too, a message that came again after a kill has two (decision 28).
        payloads = [base64.b64decode(letter["payload"]) for letter in consume(kafka, topics.dead_letter)]
        dead = {int(re.findall(rb'"ts": (\d+)', payload)[0]) for payload in payloads}
        return (stored, dead) if len(stored | dead) >= total else None

    stored, dead = until(arrived, what="all messages in Kafka")
    bad = {number for number in range(total) if number % 100 == 0}
    assert stored >= device.acknowledged - bad - {-1}
    assert dead == bad
    assert bridge.stop() == 0
    device.close()


def _heard(device: Device, prefix: str, kafka: str, topics: Topics) -> bool:
    """Publishes a first message until the broker says that somebody has subscribed."""
    device.publish(f"{prefix}/d0/m", json.dumps({"ts": 1, "value": 1}).encode(), -1)
    time.sleep(0.2)
    return -1 in device.acknowledged


@pytest.fixture
def store(mongodb: str, tmp_path: Path) -> Iterator[tuple[StoreConnection, Any]]:
    """A database of its own with the pipeline's collections."""
    name = f"db{uuid.uuid4().hex[:8]}"
    file = tmp_path / "uri"
    file.write_text(mongodb)
    description = StoreConfiguration(
        pipeline=name, replica_set="rs0", members=[], database=name, admin_username="", admin_password_file="",
        users=[], reading_retention_days=0, aggregate_retention_days=0,
    )  # fmt: skip
    agent = StoreAgent(description, ordinal=0)
    with pymongo.MongoClient[dict[str, Any]](mongodb, tz_aware=True) as client:
        for collection in compute_collections(description):
            agent.keep_collection(client[name], collection)
        yield StoreConnection(uri_file=str(file), database=name), client[name]
        client.drop_database(name)


def test_a_killed_sink_writes_nothing_twice_and_skips_nothing(
    kafka: str, topics: Topics, store: tuple[StoreConnection, Any], part: Make
) -> None:
    connection, database = store
    sink = part("sink", SinkConfiguration(
        pipeline="p", kafka=KafkaConnection(bootstrap_servers=[kafka]), topics=topics, store=connection,
        group_id=uuid.uuid4().hex, metrics_port=free_port(),
    ))  # fmt: skip
    sink.start()
    total = 0
    for burst in range(8):
        records = [
            (f"d{n % 5}", [{"device": f"d{n % 5}", "metric": "m", "time": total + n * 2 + i, "value": 1.0}
                           for i in range(2)])
            for n in range(2000)
        ]  # fmt: skip
        total += 4000
        produce(kafka, topics.readings["f"], records)
        if burst % 2:
            until(lambda: database["readings"].estimated_document_count() > 0, what="the first reading")
            sink.kill()
            sink.start()
    until(lambda: database["readings"].count_documents({}) >= total, what=f"{total} readings", seconds=120)
    counts = Counter(d["time"] for d in database["readings"].find({}, {"time": 1}))
    assert len(counts) == total
    assert max(counts.values()) == 1
    assert sink.stop() == 0
    assert database["readings"].count_documents({}) == total


def test_the_highest_revision_stays_whatever_comes_after_it(
    kafka: str, topics: Topics, store: tuple[StoreConnection, Any], part: Make
) -> None:
    connection, database = store
    sink = part("sink", SinkConfiguration(
        pipeline="p", kafka=KafkaConnection(bootstrap_servers=[kafka]), topics=topics, store=connection,
        group_id=uuid.uuid4().hex, metrics_port=free_port(),
    ))  # fmt: skip
    base = {"window": "W", "fleet": "f", "device": "d", "metric": "m", "start": 0, "end": 1, "count": 1, "final": True}
    sink.start()
    for revision, value in ((0, 1.0), (2, 3.0), (1, 2.0), (2, 4.0)):
        produce(kafka, topics.aggregates, [("W|d|m", base | {"revision": revision, "value": value})])
    until(lambda: (database["aggregates"].find_one() or {}).get("value") == 4.0, what="the last revision")
    (document,) = database["aggregates"].find()
    assert (document["revision"], document["value"]) == (2, 4.0)


def test_a_killed_worker_ends_with_the_results_of_the_recompute(kafka: str, topics: Topics, part: Make) -> None:
    spec = fleet()
    worker = part("worker", WorkerConfiguration(
        pipeline="p", kafka=KafkaConnection(bootstrap_servers=[kafka]), topics=topics, fleet=spec,
        application_id=f"w{uuid.uuid4().hex[:8]}", flush_milliseconds=200, metrics_port=free_port(),
    ))  # fmt: skip
    readings = _disorderly_readings(devices=6, minutes=30)
    worker.start()
    chunks = [readings[n : n + 600] for n in range(0, len(readings), 600)]
    for number, chunk in enumerate(chunks):
        produce(kafka, topics.readings["f"], [(r["device"], [r]) for r in chunk])
        if number % 2:
            before = len(consume(kafka, topics.aggregates))
            until(lambda b=before: len(consume(kafka, topics.aggregates)) > b, what="new results", seconds=60)
            worker.kill()
            worker.start()
    rows = [r | {"fleet": "f"} for r in readings]
    wanted = recompute({"fleets": [spec.model_dump(by_alias=True, mode="json")]}, rows)
    expected = {(r.device, int(r.start)): (r.value, int(r[5])) for r in wanted.aggregates.itertuples()}
    late = {(r.device, int(r.time)) for r in wanted.late.itertuples()}
    assert late

    def results() -> dict[tuple[str, int], tuple[float, int]]:
        best: dict[tuple[str, int], dict[str, Any]] = {}
        for item in consume(kafka, topics.aggregates):
            key = item["device"], item["start"]
            if key not in best or item["revision"] >= best[key]["revision"]:
                best[key] = item
        return {key: (item["value"], item["count"]) for key, item in best.items()}

    until(lambda: results() == expected, what="the recompute's results", seconds=120)
    assert {(item["device"], item["time"]) for item in consume(kafka, topics.late)} == late
    assert worker.stop() == 0


def _disorderly_readings(*, devices: int, minutes: int) -> list[dict[str, Any]]:
    """A reading every 3 s from each device; every 10th comes 1 minute late, every 50th 10 minutes; some come twice."""
    out: list[dict[str, Any]] = []
    for n in range(minutes * 20):
        for d in range(devices):
            time_ms = n * 3000
            if n % 10 == 9 and n > 20:
                time_ms = n * 3000 - MINUTE - 500
            if n % 50 == 49 and n > 200:
                time_ms = n * 3000 - 10 * MINUTE - 700
            reading = {"device": f"d{d}", "metric": "m", "time": time_ms, "value": float(n % 13 + d)}
            out.append(reading)
            if n % 7 == 0:
                out.append(reading)
    return out
