"""The engines of the worker benchmark, each as one process: ours, Kafka Streams, quixstreams."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import NewTopic
from integration.conftest import free_port
from sensorpipeline_api.configuration import CONFIGURATION_VARIABLE, KafkaConnection, Topics, WorkerConfiguration
from sensorpipeline_api.spec import Fleet
from sensorpipeline_dev.paths import CACHE

from bench import workload as work

HERE = Path(__file__).parent
KAFKA_VERSION = tomllib.loads((HERE.parent / "versions.toml").read_text())["images"]["kafka"].rpartition(":")[2]
QUIXSTREAMS = "quixstreams==3.28.1"
LATENESS_SECONDS = 2 * 86_400
RUN_SECONDS = 420


@dataclass(frozen=True)
class Run:
    """One engine on one workload: where it reads and writes. `application` names its consumer group."""

    server: str
    workload: work.Workload
    readings: int
    source: str
    target: str
    application: str
    directory: Path

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
        path = run.directory / "worker.json"
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
        state = run.directory / "state"
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
            str(run.directory / "state"), "partition" if run.workload.clock == "Fleet" else "key",
        ]  # fmt: skip


PEERS: tuple[Peer, ...] = (Ours(), KafkaStreams(), Quixstreams())


class Process:
    """One engine at work; what it used is known when it has ended."""

    def __init__(self, peer: Peer, run: Run) -> None:
        self._peer, self._run = peer, run
        self._log = run.directory / "log"
        with self._log.open("ab") as log:
            # Compiled modules are kept, as they are in an image.
            inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
            environment = inherited | peer.environment(run)
            self._process = subprocess.Popen(peer.command(run), stdout=log, stderr=log, env=environment)
        self._started = time.monotonic()
        self._ended = False
        self._peak = 0

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def wait_until_done(self) -> float:
        """Waits until all readings are done; returns the seconds since the start."""
        end = end_offsets(self._run.server, self._run.source)
        while not self._done(end):
            self._look_at_memory()
            if time.monotonic() - self._started > RUN_SECONDS:
                self.end(signal.SIGKILL)
                raise TimeoutError(f"{self._peer.name} took more than {RUN_SECONDS} s: {self.log()}")
            time.sleep(0.1)
        return time.monotonic() - self._started

    def wait_for_progress(self, since: int) -> float:
        """Waits until readings are taken in again; returns the seconds since the start."""
        while not self._progressed(since):
            if self._gone():
                raise RuntimeError(f"{self._peer.name} ended: {self.log()}")
            time.sleep(0.05)
        return time.monotonic() - self._started

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[float, int]:
        """Ends the process and returns its CPU-seconds and peak memory in bytes."""
        self._look_at_memory()
        if not self._ended:
            self._process.send_signal(number)
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if number == signal.SIGTERM and self._process.returncode != 0:
            raise RuntimeError(f"{self._peer.name} ended with {self._process.returncode}: {self.log()}")
        # What the operating system counts for the whole process, its ended children included.
        return usage.ru_utime + usage.ru_stime, self._peak

    def close(self) -> None:
        """Makes sure that it is gone."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _look_at_memory(self) -> None:
        """Its own peak: what is counted for it in the end includes the process that it was forked from."""
        _, found, rest = Path(f"/proc/{self._process.pid}/status").read_text().partition("VmHWM:")
        if found:
            self._peak = max(self._peak, int(rest.split()[0]) * 1024)

    def log(self) -> str:
        """Returns the end of what the process wrote."""
        return self._log.read_text(errors="replace")[-3000:]

    def _gone(self) -> bool:
        flags = os.WEXITED | os.WNOWAIT | os.WNOHANG
        self._ended = self._ended or os.waitid(os.P_PID, self._process.pid, flags) is not None
        return self._ended

    def _done(self, end: int) -> bool:
        if self._peer.stops:
            return self._gone()
        if self._gone():
            raise RuntimeError(f"{self._peer.name} ended: {self.log()}")
        return committed(self._run.server, self._run.application, self._run.source) >= end

    def _progressed(self, since: int) -> bool:
        if self._peer.stops:
            return self._log.read_text(errors="replace").count("first reading") > since
        return committed(self._run.server, self._run.application, self._run.source) > since


def make_target(server: str, target: str) -> None:
    """Makes the output topics of an engine."""
    names = [target, f"{target}.late", f"{target}.alerts", f"{target}.dead-letter"]
    new = [NewTopic(name, 1, 1) for name in names]
    for future in work.admin(server).create_topics(new).values():
        future.result()


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
