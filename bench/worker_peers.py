"""The engines of the worker benchmark, each as one process: ours, Kafka Streams, quixstreams."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from sensorpipeline_api.configuration import CONFIGURATION_VARIABLE, KafkaConnection, Topics, WorkerConfiguration
from sensorpipeline_api.spec import Fleet
from sensorpipeline_dev.paths import CACHE

from bench import workload as work
from bench.broker import free_port

HERE = Path(__file__).parent
KAFKA_VERSION = tomllib.loads((HERE.parent / "versions.toml").read_text())["images"]["kafka"].rpartition(":")[2]
QUIXSTREAMS = "quixstreams==3.28.1"
LATENESS_SECONDS = 2 * 86_400


@dataclass(frozen=True)
class Run:
    """One engine on one workload: where it reads and writes. `application` names its consumer group."""

    server: str
    workload: work.Workload
    readings: int
    source: str
    target: str
    application: str
    directory: "TemporaryDirectory[str]"

    @property
    def path(self) -> Path:
        """The directory."""
        return Path(self.directory.name)

    @property
    def periods(self) -> str:
        """The windows' periods in ms, comma separated."""
        return ",".join(map(str, self.workload.windows))


class Peer:
    """An engine. `batched` says which of the two topics it reads; `stops` that it ends by itself after its readings,
    otherwise it has done its work when its group has committed the end of the topic."""

    name: str
    version: str
    batched = False
    stops = True

    def prepare(self) -> None:
        """Builds or installs what the engine needs, once."""

    def command(self, run: Run) -> list[str]:
        """Returns the command line of the process."""
        raise NotImplementedError

    def environment(self, run: Run) -> dict[str, str]:
        """Returns what the process finds in its environment besides ours."""
        return {}

    def result(self, run: Run, record: dict[str, Any]) -> tuple[int, tuple[str, int], float, int, int]:
        """Returns (period, (device, start), value, count, revision) from a record of the output topic."""
        return record["period"], (record["device"], record["start"]), record["value"], record["count"], 0


class Ours(Peer):
    """The stream worker with everything on: validation, windows, late list, thresholds, durable state."""

    name = "sensorpipeline"
    version = version("sensorpipeline-workers")
    batched = True
    stops = False
    profile: str | None = None

    def command(self, run: Run) -> list[str]:
        profile = ["-m", "cProfile", "-o", self.profile] if self.profile else []
        return [sys.executable, *profile, "-m", "sensorpipeline_workers.cli", "worker"]

    def environment(self, run: Run) -> dict[str, str]:
        path = run.path / "worker.json"
        windows = [
            {"name": f"W{period}", "metric": work.METRIC, "function": "Sum", "periodSeconds": period // 1000,
             "allowedLatenessSeconds": LATENESS_SECONDS} for period in run.workload.windows
        ]  # fmt: skip
        fleet = Fleet.model_validate({
            "name": "f", "topic": f"f/{{device}}/{work.METRIC}", "partitions": work.PARTITIONS, "windows": windows,
            "metrics": [{"name": work.METRIC, "minimum": "0", "maximum": "100"}],
            "lateness": {"clock": run.workload.clock},
            "thresholds": [{"name": "High", "metric": work.METRIC, "above": "99.95", "clear": "90"}],
        })  # fmt: skip
        topics = Topics(
            readings={"f": run.source}, aggregates=run.target, late=f"{run.target}.late", alerts=f"{run.target}.alerts",
            dead_letter=f"{run.target}.dead-letter",
        )  # fmt: skip
        path.write_text(WorkerConfiguration(
            pipeline="bench", kafka=KafkaConnection(bootstrap_servers=[run.server]), topics=topics, fleet=fleet,
            application_id=run.application, metrics_port=free_port(),
        ).dump())  # fmt: skip
        return {CONFIGURATION_VARIABLE: str(path), "POD_NAME": "bench-0"}

    def result(self, run: Run, record: dict[str, Any]) -> tuple[int, tuple[str, int], float, int, int]:
        period = int(record["window"].removeprefix("W"))
        return period, (record["device"], record["start"]), record["value"], record["count"], record["revision"]


class KafkaStreams(Peer):
    """Kafka Streams on RocksDB, at-least-once, results when a window closes. Built with Maven outside the tree."""

    name = "Kafka Streams"
    version = KAFKA_VERSION
    _build = CACHE / "bench" / f"kafka-streams-{KAFKA_VERSION}"

    def prepare(self) -> None:
        shutil.copytree(HERE / "kafka-streams", self._build, dirs_exist_ok=True)
        goals = ["package", "dependency:copy-dependencies", "-DoutputDirectory=target/libs", f"-Dkafka={KAFKA_VERSION}"]
        subprocess.run(["mvn", "-q", "-B", *goals], cwd=self._build, check=True)

    def command(self, run: Run) -> list[str]:
        path = f"{self._build}/target/kafka-streams-bench-1.jar:{self._build}/target/libs/*"
        state = run.path / "state"
        return [
            "java", "-Xmx2g", "-cp", path, "io.sensorpipeline.bench.DayWindows", run.server, run.application,
            run.source, run.target, str(run.readings), run.periods, str(state),
        ]  # fmt: skip


class Quixstreams(Peer):
    """quixstreams on RocksDB, at-least-once, results when a window closes, in a Python environment of its own."""

    name = "quixstreams"
    version = QUIXSTREAMS.rpartition("=")[2]
    _environment = CACHE / "bench" / QUIXSTREAMS.replace("==", "-")

    def prepare(self) -> None:
        if not self._environment.exists():
            subprocess.run(["uv", "venv", "-q", "--python", "3.11", str(self._environment)], check=True)
        environment = os.environ | {"VIRTUAL_ENV": str(self._environment)}
        subprocess.run(["uv", "pip", "install", "-q", QUIXSTREAMS], check=True, env=environment)

    def command(self, run: Run) -> list[str]:
        return [
            str(self._environment / "bin" / "python"), "-W", "ignore", str(HERE / "quixstreams_day_windows.py"),
            run.server, run.application, run.source, run.target, str(run.readings), run.periods,
            str(run.path / "state"), "partition" if run.workload.clock == "Fleet" else "key",
        ]  # fmt: skip


PEERS: tuple[Peer, ...] = (Ours(), KafkaStreams(), Quixstreams())


@cache
def _observer(server: str, group: str) -> Consumer:
    return Consumer({"bootstrap.servers": server, "group.id": group, "log_level": 0})


def committed(server: str, group: str, topic: str) -> int:
    """Returns how many records of a topic a group has committed, over all partitions; 0 while Kafka does not know."""
    partitions = [TopicPartition(topic, number) for number in range(work.PARTITIONS)]
    try:
        return sum(max(0, p.offset) for p in _observer(server, group).committed(partitions, timeout=10))
    except KafkaException:  # the coordinator loads the group
        return 0


def end_offsets(server: str, topic: str) -> int:
    """Returns how many records a topic holds, over all partitions."""
    partitions = [TopicPartition(topic, number) for number in range(work.PARTITIONS)]
    return sum(_observer(server, "none").get_watermark_offsets(p, timeout=10)[1] for p in partitions)


def parse(value: bytes) -> dict[str, Any]:
    """Returns a record of an output topic."""
    parsed: dict[str, Any] = json.loads(value)
    return parsed
