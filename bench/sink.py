"""How much of what MongoDB takes from a bare client the sink carries, from Kafka, effectively-once included.

One Kafka and one mongod, each in a container. The bare client inserts the same readings first and last, the sink in
between, so that a machine that becomes slower or faster favours neither. The bare client is pymongo's `insert_many` of
1,000 documents, unordered and journaled, grouped by device over as many readings as the sink takes together; it knows
nothing of Kafka, of duplicates or of crashes. For aggregates it is `bulk_write` of 1,000 replace-upserts.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pymongo
from confluent_kafka.admin import AdminClient, NewTopic
from integration.conftest import Part, free_port, make_producer, run_kafka
from integration.stores import Mongod, database, metric, mongods
from pymongo.operations import ReplaceOne
from pymongo.write_concern import WriteConcern
from sensorpipeline_api.configuration import KafkaConnection, SinkConfiguration, StoreConnection, Topics
from sensorpipeline_api.records import Aggregate, Reading

from bench.report import update_section

PAGE = Path("docs/performance.md")
DEVICES, PARTITIONS, PER_RECORD, HORIZON = 200, 4, 500, 20_000
START, PERIOD = 1_577_836_800_000, 900_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EMPTY = "b.empty"
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
Document = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """One run: how many, in how many seconds, with how many processor seconds of the client and of mongod, and the
    client's peak memory (MB)."""

    count: int
    seconds: float
    client_cpu: float
    mongod_cpu: float
    memory: float = 0.0

    @property
    def rate(self) -> float:
        """Per second."""
        return self.count / self.seconds

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(
            self.count + other.count, self.seconds + other.seconds, self.client_cpu + other.client_cpu,
            self.mongod_cpu + other.mongod_cpu, max(self.memory, other.memory),
        )  # fmt: skip


def reading(number: int) -> Reading:
    """Returns the n-th reading in event order: every device reports once per period."""
    tick, device = divmod(number, DEVICES)
    return Reading(f"device-{device:03}", "energy", START + tick * PERIOD, (number * 7919 % 100_000) / 10)


def aggregate(number: int) -> Aggregate:
    """Returns the n-th window result."""
    day, device = divmod(number, DEVICES)
    start = START + day * 86_400_000
    value = (number * 7919 % 100_000) / 10
    fields = {
        "window": "Day", "fleet": "f", "device": f"device-{device:03}", "metric": "energy", "start": start,
        "end": start + 86_400_000, "value": value, "count": 96, "revision": 0, "final": True,
    }  # fmt: skip
    return msgspec.convert(fields, Aggregate)


def fill(server: str, topics: Topics, readings: int, aggregates: int) -> None:
    """Writes the records as the bridge and the worker do: many readings of one partition in a record, one aggregate."""
    producer = make_producer(server, **{"linger.ms": 50, "compression.type": "lz4"})

    def send(topic: str, partition: int, value: bytes) -> None:
        while True:
            try:
                producer.produce(topic, value, partition=partition)
                return
            except BufferError:
                producer.poll(0.1)

    waiting: list[list[Reading]] = [[] for _ in range(PARTITIONS)]
    for number in range(readings):
        group = waiting[number % DEVICES % PARTITIONS]
        group.append(reading(number))
        if len(group) == PER_RECORD:
            send(topics.readings["f"], number % DEVICES % PARTITIONS, msgspec.json.encode(group))
            group.clear()
    for partition, group in enumerate(waiting):
        send(topics.readings["f"], partition, msgspec.json.encode(group))
    for number in range(aggregates):
        send(topics.aggregates, 0, msgspec.json.encode(aggregate(number)))
    assert producer.flush(60) == 0


def bare_readings(collection: Any, first: int, last: int, seconds: float) -> int:
    """Inserts readings until all are there or the time is over; returns how many it inserted."""
    deadline = time.monotonic() + seconds
    for begin in range(first, last, HORIZON):
        group = sorted((reading(n) for n in range(begin, min(begin + HORIZON, last))), key=lambda r: r.device)
        for start in range(0, len(group), 1000):
            documents = [
                {
                    "time": EPOCH + timedelta(milliseconds=r.time),
                    "series": {"fleet": "f", "device": r.device, "metric": r.metric},
                    "value": r.value,
                }
                for r in group[start : start + 1000]
            ]
            collection.insert_many(documents, ordered=False)
        if time.monotonic() > deadline:
            return min(begin + HORIZON, last) - first
    return last - first


def bare_aggregates(collection: Any, first: int, last: int, seconds: float) -> int:
    """Writes aggregates over until all are there or the time is over; returns how many it wrote."""
    deadline = time.monotonic() + seconds
    for begin in range(first, last, 1000):
        operations = []
        for number in range(begin, min(begin + 1000, last)):
            document = msgspec.to_builtins(aggregate(number))
            key = f"{document['window']}|{document['device']}|{document['metric']}|{document['start']}"
            document |= {name: EPOCH + timedelta(milliseconds=document[name]) for name in ("start", "end")}
            operations.append(ReplaceOne({"_id": key}, document | {"_id": key}, upsert=True))
        collection.bulk_write(operations, ordered=False)
        if time.monotonic() > deadline:
            return min(begin + 1000, last) - first
    return last - first


class Bench:
    """A Kafka with its topics filled and a mongod; runs take turns on them."""

    def __init__(self, server: str, mongod: Mongod, directory: Path, seconds: float) -> None:
        self._server = server
        self._mongod = mongod
        self._directory = directory
        self._seconds = seconds

    def bare(self, work: Callable[[Any, int, int, float], int], name: str, first: int, last: int) -> Outcome:
        """Runs the bare client on a database of its own."""
        with database(self._mongod.uri, self._directory) as (connection, _):
            client: pymongo.MongoClient[Document] = pymongo.MongoClient(self._mongod.uri, retryWrites=False)
            concern = WriteConcern(w="majority", j=True)
            collection = client[connection.database].get_collection(name, write_concern=concern)
            begin, cpu, store = time.monotonic(), time.process_time(), self._mongod_cpu()
            count = work(collection, first, last, self._seconds)
            taken = time.monotonic() - begin
            client.close()
            return Outcome(count, taken, time.process_time() - cpu, self._mongod_cpu() - store)

    def sink(self, topics: Topics, connection: StoreConnection, total: int, counter: str) -> Outcome:
        """Runs the sink as a process, from the first it has counted until all are counted or the time is over."""
        configuration = SinkConfiguration(
            pipeline="bench", kafka=KafkaConnection(bootstrap_servers=[self._server]), topics=topics, store=connection,
            group_id=uuid.uuid4().hex, metrics_port=free_port(), metrics={"f": ["energy"]},
        )  # fmt: skip
        part = Part("sink", configuration, self._directory)
        part.start()
        try:
            first = self._count(configuration.metrics_port, counter, 1, 60)
            cpu, store = self._cpu(part.pid), self._mongod_cpu()
            last = self._count(configuration.metrics_port, counter, total, 2 * self._seconds)
            status = Path(f"/proc/{part.pid}/status").read_text()
            memory = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
            return Outcome(
                last[0] - first[0], last[1] - first[1], self._cpu(part.pid) - cpu, self._mongod_cpu() - store, memory
            )
        finally:
            part.stop()

    def _count(self, port: int, counter: str, wanted: int, seconds: float) -> tuple[int, float]:
        """Waits until a counter has reached a number or the time is over; returns it and the time of reading it."""
        deadline = time.monotonic() + seconds
        while True:
            count = 0
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                    count = int(metric(answer.read().decode(), counter))
            except OSError:
                pass
            now = time.monotonic()
            if count >= wanted or (count and now > deadline):
                return count, now
            assert now < deadline + 60, f"{counter} is {count}"
            time.sleep(0.05)

    def _cpu(self, pid: int) -> float:
        return _ticks(Path(f"/proc/{pid}/stat").read_text())

    def _mongod_cpu(self) -> float:
        command = ["docker", "exec", self._mongod.name, "/bin/sh", "-c", "cat /proc/$(cat /tmp/mongod.pid)/stat"]
        return _ticks(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _ticks(stat: str) -> float:
    fields = stat.rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def make_topics(server: str) -> Topics:
    """Makes the topics of a pipeline."""
    topics = Topics(
        readings={"f": "b.f.readings"}, aggregates="b.aggregates", late="b.late", alerts="b.alerts",
        dead_letter="b.dead-letter",
    )  # fmt: skip
    names = [NewTopic(topics.readings["f"], PARTITIONS, 1)]
    names += [
        NewTopic(name, 1, 1) for name in (EMPTY, topics.aggregates, topics.late, topics.alerts, topics.dead_letter)
    ]
    admin = AdminClient({"bootstrap.servers": server})
    for future in admin.create_topics(names).values():
        future.result()
    return topics


def measure(readings: int, aggregates: int, seconds: float) -> dict[str, Outcome]:
    """Returns the outcome of each run."""
    with (
        run_kafka() as (_, server), mongods() as (mongod,), tempfile.TemporaryDirectory() as folder,
    ):  # fmt: skip
        directory = Path(folder)
        bench = Bench(server, mongod, directory, seconds)
        filled = make_topics(server)
        _say(f"filling Kafka with {readings:,} readings and {aggregates:,} aggregates")
        fill(server, filled, readings, aggregates)
        out: dict[str, Outcome] = {}
        half = readings // 2
        out["bare"] = _told("bare client", bench.bare(bare_readings, "readings", 0, half))
        with database(mongod.uri, directory) as (connection, stored):
            topics = filled.model_copy(update={"aggregates": EMPTY})
            counter = "sensorpipeline_stored_readings_total"
            out["sink"] = _told("sink", bench.sink(topics, connection, readings, counter))
            counter = "sensorpipeline_duplicate_readings_total"
            out["again"] = _told("sink, all again", bench.sink(topics, connection, readings, counter))
            assert out["again"].count < readings or stored["readings"].count_documents({}) == readings
        out["bare"] += _told("bare client", bench.bare(bare_readings, "readings", half, readings))
        half = aggregates // 2
        out["bare aggregates"] = _told("bare client", bench.bare(bare_aggregates, "aggregates", 0, half))
        with database(mongod.uri, directory) as (connection, stored):
            topics = filled.model_copy(update={"readings": {}})
            counter = "sensorpipeline_stored_documents_total"
            out["sink aggregates"] = _told("sink", bench.sink(topics, connection, aggregates, counter))
        out["bare aggregates"] += _told("bare client", bench.bare(bare_aggregates, "aggregates", half, aggregates))
        return out


def _say(text: str) -> None:
    print(text, flush=True)


def _told(what: str, outcome: Outcome) -> Outcome:
    _say(f"{what}: {outcome.rate:,.0f}/s ({outcome.count:,} in {outcome.seconds:.1f} s)")
    return outcome


def _row(name: str, outcome: Outcome, against: Outcome | None = None) -> str:
    million = 1e6 / outcome.count
    ratio = f"{outcome.rate / against.rate:.0%}" if against is not None else ""
    memory = f"{outcome.memory:.0f}" if outcome.memory else ""
    cells = (
        name, f"{outcome.rate:,.0f}", ratio, f"{outcome.client_cpu * million:.1f}",
        f"{outcome.mongod_cpu * million:.1f}", memory,
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def report(out: dict[str, Outcome]) -> str:
    """Returns the section of the page."""
    rows = [
        _row("readings: bare client", out["bare"]),
        _row("readings: sink, from Kafka, each once", out["sink"], out["bare"]),
        _row("readings: sink, all of them again, each looked up", out["again"], out["bare"]),
        _row("aggregates: bare client", out["bare aggregates"]),
        _row("aggregates: sink, highest revision stays", out["sink aggregates"], out["bare aggregates"]),
    ]
    table = "\n".join(rows)
    return f"""
## The sink

{out["sink"].count:,} readings of {DEVICES} devices in records of {PER_RECORD} and {out["sink aggregates"].count:,}
aggregates, from Kafka to MongoDB with majority and journal, on {os.cpu_count()} cores that Kafka, mongod and client
share. The bare client is `insert_many` of 1,000 documents grouped by device, and `bulk_write` of 1,000 replace-upserts,
in the same run before and after the sink; it is given its documents and knows nothing of duplicates.

| | per second | of the bare client | processor seconds of the client per million | of mongod | peak memory, MB |
| --- | --- | --- | --- | --- | --- |
{table}

Repeat: `make bench-sink`.
"""


def main() -> None:
    """Measures and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readings", type=int, default=1_000_000)
    parser.add_argument("--aggregates", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=15, help="bound of each run of the bare client")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the containers go, too
    out = measure(arguments.readings, arguments.aggregates, arguments.seconds)
    update_section(PAGE, "sink", report(out))
    _say(f"aggregates at {out['sink aggregates'].rate / out['bare aggregates'].rate:.0%} of the bare client")
    _say(f"sink at {out['sink'].rate / out['bare'].rate:.0%} of the bare client")


if __name__ == "__main__":
    main()
