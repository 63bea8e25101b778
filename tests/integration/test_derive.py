"""Derive against a real Kafka: killed again and again it emits what a plain recompute gives, and says what it waits
for."""

import json
import random
import urllib.request
import uuid
from collections.abc import Callable
from typing import Any

from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from integration.conftest import Part, consume, free_port, make_producer, produce, until
from sensorpipeline_api.configuration import (
    DERIVED_PATH,
    Configuration,
    DeriveConfiguration,
    DerivedPlan,
    KafkaConnection,
    Topics,
)
from sensorpipeline_api.expressions import parse_expression
from sensorpipeline_api.spec import DerivedMetric

Make = Callable[[str, Configuration], Part]
STARTS = 400
HOUR = 3_600_000


def plan(name: str, expression: str, unit: str = "") -> DerivedPlan:
    metric = DerivedMetric(name=name, expression=expression)
    return DerivedPlan(metric=metric, inputs=parse_expression(expression), unit=unit)


def produce_raw(server: str, topic: str, values: list[bytes]) -> None:
    """Writes records of any content."""
    producer = make_producer(server)
    for value in values:
        producer.produce(topic, value=value)
    assert producer.flush(30) == 0


def configuration(kafka: str, topics: Topics) -> DeriveConfiguration:
    return DeriveConfiguration(
        pipeline="p", kafka=KafkaConnection(bootstrap_servers=[kafka]), topics=topics, metrics_port=free_port(),
        derived=[plan("Rest", 'D["E"] - A["x"] - A["y"]', "Wh"), plan("Share", 'Rest / D["E"]')],
        application_id=uuid.uuid4().hex,
    )  # fmt: skip


def window(name: str, device: str, start: int, value: float, revision: int) -> tuple[str, dict[str, Any]]:
    return f"{name}|{device}|m", {
        "window": name, "fleet": "f", "device": device, "metric": "m", "start": start * HOUR, "end": (start + 1) * HOUR,
        "value": value, "count": revision + 1, "revision": revision, "final": True,
    }  # fmt: skip


def kept(records: list[dict[str, Any]]) -> dict[tuple[str, int], tuple[float, int, str]]:
    """What the sink would keep: of each result the highest revision, of equal ones the later."""
    best: dict[tuple[str, int], dict[str, Any]] = {}
    for record in records:
        key = record["window"], record["start"]
        if record["fleet"] == "derived" and (key not in best or record["revision"] >= best[key]["revision"]):
            best[key] = record
    return {key: (r["value"], r["revision"], r["unit"]) for key, r in best.items()}


def test_a_killed_derive_emits_what_a_recompute_gives(kafka: str, topics: Topics, part: Make) -> None:
    chance = random.Random(7)
    series = [("D", "E"), ("A", "x"), ("A", "y")]
    last = {key: [(0.0, 0)] * STARTS for key in series}
    records: dict[tuple[str, str], list[tuple[str, dict[str, Any]]]] = {key: [] for key in series}
    for key in series:
        for start in range(STARTS):
            for revision in range(chance.choice((1, 1, 1, 3))):
                value = chance.randint(1, 1000) / 8
                records[key].append(window(*key, start, value, revision))
                last[key][start] = (value, revision)
        records[key].sort(key=lambda record: record[1]["start"] + record[1]["revision"] * 50 * HOUR)
    derive = part("derive", configuration(kafka, topics))
    derive.start()
    for burst in range(8):
        for key in chance.sample(series, 3):
            size = -(-len(records[key]) // (8 - burst))
            produce(kafka, topics.aggregates, records[key][:size])
            del records[key][:size]
        if burst % 2:
            until(lambda: kept(consume(kafka, topics.aggregates)), what="the first result")
            derive.kill()
            derive.start()
    wanted: dict[tuple[str, int], tuple[float, int, str]] = {}
    for start in range(STARTS):
        (e, re), (x, rx), (y, ry) = (last[key][start] for key in series)
        rest = e - x - y
        wanted["Rest", start * HOUR] = (rest, re + rx + ry, "Wh")
        wanted["Share", start * HOUR] = (rest / e, re + re + rx + ry, "")
    until(lambda: kept(consume(kafka, topics.aggregates)) == wanted, what="all results", seconds=120)
    until(lambda: derive.ready, what="the last derive, which has nothing left to do")
    assert derive.stop() == 0
    assert kept(consume(kafka, topics.aggregates)) == wanted


def test_derive_serves_what_it_waits_for(kafka: str, topics: Topics, part: Make) -> None:
    described = configuration(kafka, topics)
    derive = part("derive", described)
    derive.start()
    produce(kafka, topics.aggregates, [window("D", "E", start, 1.0, 0) for start in range(5)])
    produce(kafka, topics.aggregates, [window("A", "x", start, 1.0, 0) for start in range(5)])
    url = f"http://127.0.0.1:{described.metrics_port}{DERIVED_PATH}"

    def said() -> list[dict[str, Any]] | None:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                found: list[dict[str, Any]] = json.load(response)
        except OSError:
            return None
        return found if found[0]["missingInputs"] else None

    rest, share = until(said, what="the missing input to be named", seconds=120)
    assert (rest["name"], rest["unit"], rest["missingInputs"]) == ("Rest", "Wh", ["A[y]"])
    assert (share["name"], share["missingInputs"]) == ("Share", ["Rest"])
    assert derive.stop() == 0


def set_largest_record(kafka: str, topic: str, size: int) -> None:
    """Changes the size of a record that Kafka takes."""
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": kafka})
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()


def test_results_that_kafka_refuses_are_emitted_by_the_next_process(kafka: str, topics: Topics, part: Make) -> None:
    derive = part("derive", configuration(kafka, topics))
    derive.start()
    until(lambda: derive.ready, what="derive")
    for key in (("D", "E"), ("A", "x")):
        produce(kafka, topics.aggregates, [window(*key, start, 8.0, 0) for start in range(2)])
    produce(kafka, topics.aggregates, [window("A", "y", 0, 1.0, 0)])
    until(lambda: len(kept(consume(kafka, topics.aggregates))) == 2, what="the first results")
    derive.kill()
    produce(kafka, topics.aggregates, [window("A", "y", 1, 1.0, 0)])
    set_largest_record(kafka, topics.aggregates, 100)
    derive.start()
    until(lambda: not derive.running, what="derive to end, since Kafka refuses")
    assert derive.stop() != 0
    assert len(kept(consume(kafka, topics.aggregates))) == 2
    set_largest_record(kafka, topics.aggregates, 1_000_000)
    derive.start()
    until(lambda: kept(consume(kafka, topics.aggregates)).get(("Rest", HOUR)), what="the result that was refused")
    assert kept(consume(kafka, topics.aggregates))["Rest", HOUR] == (-1.0, 0, "Wh")
    assert derive.stop() == 0


def test_records_that_are_no_aggregates_are_passed_over(kafka: str, topics: Topics, part: Make) -> None:
    derive = part("derive", configuration(kafka, topics))
    derive.start()
    good = [window(*key, 0, 8.0, 0) for key in (("D", "E"), ("A", "x"), ("A", "y"))]
    nested = b'{"window": "D", "x": ' + b"[" * 100_000
    produce_raw(kafka, topics.aggregates, [b"\xff", b'{"window": "\xff"}', nested, b"", b"7"])
    produce(kafka, topics.aggregates, good)
    until(lambda: derive.metric("sensorpipeline_aggregates_emitted_total") >= 2, what="the results")
    assert derive.stop() == 0
