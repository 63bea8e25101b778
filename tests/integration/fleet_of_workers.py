"""Workers of one fleet as processes, the readings they get, and the results they must come to."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from e2e.recompute_sums import Sums, recompute_sums
from integration.conftest import consume, free_port, make_producer, until
from prometheus_client.parser import text_string_to_metric_families
from sensorpipeline_api.configuration import CONFIGURATION_VARIABLE, KafkaConnection, Topics, WorkerConfiguration
from sensorpipeline_api.spec import Fleet

PERIOD, LATENESS = 60_000, 120_000
PARTITIONS = 4
READINGS_PER_RECORD = 500
COMMAND = ("-m", "sensorpipeline_workers.cli", "worker")


def make_fleet(**changes: Any) -> Fleet:
    """Returns a fleet with a sum per minute and two minutes of lateness."""
    window = {"name": "Minute", "metric": "m", "function": "Sum", "periodSeconds": PERIOD // 1000,
              "allowedLatenessSeconds": LATENESS // 1000}  # fmt: skip
    return Fleet.model_validate({
        "name": "f", "topic": "f/{device}/m", "metrics": [{"name": "m", "maximum": "1000000"}],
        "windows": [window], "partitions": PARTITIONS, "idleSeconds": 86400,
    } | changes)  # fmt: skip


def make_disorderly(*, devices: int, total: int, seed: int) -> pd.DataFrame:
    """Returns readings (device, time, value) in the order of sending: each device sends one per second of event time;
    one in ten comes a minute late, one in fifty ten minutes late, and one in nine twice."""
    generator = np.random.default_rng(seed)
    step, device = np.divmod(np.arange(total), devices)
    time_ms = step * 1000
    behind = generator.choice([0, 60_500, 600_700], total, p=[0.88, 0.1, 0.02])
    time_ms = np.where(time_ms > behind, time_ms - behind, time_ms)
    frame = pd.DataFrame({"device": [f"d{n}" for n in device], "time": time_ms, "number": device})
    frame["value"] = generator.integers(0, 1000, total).astype(float)
    twice = np.sort(np.concatenate([np.arange(total), np.arange(0, total, 9)]))
    return frame.iloc[twice].reset_index(drop=True)


class Workers:
    """A pipeline's topics and the workers of its fleet. `state` keeps what each worker wrote about itself."""

    def __init__(self, kafka: str, directory: Path, fleet: Fleet | None = None, **settings: Any) -> None:
        name = f"p{uuid.uuid4().hex[:8]}"
        self.kafka, self.fleet, self.application = kafka, fleet or make_fleet(), f"{name}-worker"
        self.topics = Topics(
            readings={"f": f"{name}.f.readings"}, aggregates=f"{name}.aggregates", late=f"{name}.late",
            alerts=f"{name}.alerts", dead_letter=f"{name}.dead-letter",
        )  # fmt: skip
        self._directory, self._settings = directory, settings
        self.admin = AdminClient({"bootstrap.servers": kafka, "log_level": 0})
        outputs = (self.topics.aggregates, self.topics.late, self.topics.alerts, self.topics.dead_letter)
        new = [NewTopic(topic, 1, 1, config={"max.message.bytes": "4194304"}) for topic in outputs]
        for future in self.admin.create_topics([NewTopic(self.source, PARTITIONS, 1), *new]).values():
            future.result()
        self.running: list[Worker] = []

    @property
    def source(self) -> str:
        """The readings topic."""
        return self.topics.readings["f"]

    @property
    def changelog(self) -> str:
        """The changelog topic of the workers' states."""
        return f"{self.application}-state-changelog"

    def start(self, *command: str, **environment: str) -> "Worker":
        """Starts one more worker, by another command than its own if one is given."""
        configuration = WorkerConfiguration(
            pipeline="p", kafka=KafkaConnection(bootstrap_servers=[self.kafka]), topics=self.topics, fleet=self.fleet,
            application_id=self.application, metrics_port=free_port(), **({"flush_milliseconds": 200} | self._settings),
        )  # fmt: skip
        directory = self._directory / f"worker-{len(self.running)}-{uuid.uuid4().hex[:6]}"
        worker = Worker(configuration, directory, command or COMMAND, environment)
        self.running.append(worker)
        return worker

    def produce(self, readings: pd.DataFrame, *, seconds: float = 0) -> None:
        """Writes readings in records of many, each partition's in order, spread over so many seconds, and waits until
        Kafka has them."""
        producer = make_producer(self.kafka, **{"linger.ms": 20, "compression.type": "lz4"})
        partitions = (readings["number"] % PARTITIONS).to_numpy()
        records: list[tuple[float, int, str]] = []
        for partition in range(PARTITIONS):
            mine = readings[partitions == partition]
            texts = [
                f'{{"device":"{device}","metric":"m","time":{time_ms},"value":{value}}}'
                for device, time_ms, value in zip(mine["device"], mine["time"], mine["value"], strict=True)
            ]
            for begin in range(0, len(texts), READINGS_PER_RECORD):
                record = f"[{','.join(texts[begin : begin + READINGS_PER_RECORD])}]"
                records.append((begin / len(texts) if seconds else 0, partition, record))
        begun = time.monotonic()
        for share, partition, record in sorted(records, key=lambda item: item[0]):
            time.sleep(max(0.0, begun + share * seconds - time.monotonic()))
            producer.produce(self.source, record, partition=partition)
        assert producer.flush(60) == 0

    def committed(self) -> int:
        """Returns how many records the group has committed. The first question about a group has Kafka look for its
        coordinator, and it refuses to answer until that has read what it knows."""
        consumer = Consumer({"bootstrap.servers": self.kafka, "group.id": self.application, "log_level": 0})
        try:
            partitions = [TopicPartition(self.source, number) for number in range(PARTITIONS)]
            found = until(lambda: consumer.committed(partitions, timeout=10), what="the group's coordinator")
            return sum(max(0, p.offset) for p in found)
        finally:
            consumer.close()

    def end(self) -> int:
        """Returns how many records the readings topic holds."""
        consumer = Consumer({"bootstrap.servers": self.kafka, "group.id": "none", "log_level": 0})
        try:
            partitions = [TopicPartition(self.source, number) for number in range(PARTITIONS)]
            return sum(consumer.get_watermark_offsets(p, timeout=10)[1] for p in partitions)
        finally:
            consumer.close()

    def wait_until_done(self, seconds: float = 180) -> None:
        """Waits until the group has committed all there is."""
        until(lambda: self.committed() >= self.end(), what="all records to be committed", seconds=seconds)

    def wait_for(self, share: float, seconds: float = 120) -> None:
        """Waits until the group has committed a share of what there is."""
        until(lambda: self.committed() >= share * self.end(), what=f"{share:.0%} to be committed", seconds=seconds)

    def members(self) -> int:
        """Returns how many members the group has."""
        (future,) = self.admin.describe_consumer_groups([self.application]).values()
        return len(future.result(10).members)

    def results(self) -> dict[tuple[str, int], tuple[float, int]]:
        """Returns (device, start) -> (sum, count) of the highest revision, the later of equal ones."""
        best: dict[tuple[str, int], dict[str, Any]] = {}
        for item in consume(self.kafka, self.topics.aggregates):
            key = item["device"], item["start"]
            if key not in best or item["revision"] >= best[key]["revision"]:
                best[key] = item
        return {key: (item["value"], item["count"]) for key, item in best.items()}

    def late(self) -> set[tuple[str, int]]:
        """Returns (device, time) of what is listed as late."""
        return {(item["device"], item["time"]) for item in consume(self.kafka, self.topics.late)}

    def check(self, readings: pd.DataFrame) -> Sums:
        """Compares results and late list with the recompute."""
        expected = recompute_sums(readings, period=PERIOD, lateness=LATENESS)
        found = self.results()
        wrong = {key: (found.get(key), wanted) for key, wanted in expected.final.items() if found.get(key) != wanted}
        assert not wrong, f"{len(wrong)} of {len(expected.final)} windows: {list(wrong.items())[:3]}"
        assert found.keys() == expected.final.keys()
        assert self.late() == expected.late
        return expected

    def close(self) -> None:
        """Makes sure that all workers are gone."""
        for worker in self.running:
            worker.close()


class Worker:
    """One worker process."""

    def __init__(
        self, configuration: WorkerConfiguration, directory: Path, command: tuple[str, ...], environment: dict[str, str]
    ) -> None:
        directory.mkdir(parents=True)
        self._log = directory / "log"
        self.port = configuration.metrics_port
        path = directory / "worker.json"
        path.write_text(configuration.dump())
        environment = os.environ | {CONFIGURATION_VARIABLE: str(path)} | environment
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([sys.executable, *command], env=environment, stdout=log, stderr=log)

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        assert self.running, self.log()
        self._process.send_signal(number)

    def kill(self) -> None:
        """Ends it as a power cut would."""
        self.signal(signal.SIGKILL)
        self._process.wait()

    def stop(self, seconds: float = 30) -> float:
        """Asks it to end, and returns how long that took."""
        begin = time.monotonic()
        self.signal(signal.SIGTERM)
        assert self._process.wait(seconds) == 0, self.log()
        return time.monotonic() - begin

    def healthy(self) -> bool:
        """Whether it says that it is alive. Raises OSError when it does not answer."""
        return self._ask("/healthz") == "alive"

    def waiting_for(self) -> str:
        """Returns what it says of its readiness. Raises OSError when it does not answer."""
        return self._ask("/readyz")

    def _ask(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return str(answer.read().decode().strip())
        except urllib.error.HTTPError as error:
            return error.read().decode().strip()

    def metric(self, name: str, **labels: str) -> float | None:
        """Returns a metric of it; None when it has none with these labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        samples = [sample for family in families for sample in family.samples]
        return next((s.value for s in samples if s.name == f"sensorpipeline_{name}" and s.labels == labels), None)

    def resident_bytes(self) -> int:
        """Returns how much memory it holds."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def log(self) -> str:
        """Returns the end of what it wrote."""
        return self._log.read_text(errors="replace")[-3000:]

    def close(self) -> None:
        """Makes sure that it is gone."""
        if self.running:
            self._process.kill()
            self._process.wait()


@contextmanager
def fleet_of_workers(kafka: str, directory: Path, fleet: Fleet | None = None, **settings: Any) -> Iterator[Workers]:
    """Gives the workers of a pipeline of its own; all are gone when the context ends."""
    workers = Workers(kafka, directory, fleet, **settings)
    try:
        yield workers
    finally:
        workers.close()
