"""Ingest side by side on 127.0.0.1: a plain C subscriber as the physical limit, our bridge with one and two members,
and Telegraf. QoS 1, 110 bytes of JSON; each acknowledges after Kafka has the message, but for the C subscriber, which
only counts.

live      the publisher sends as fast as it gets acknowledgements; messages per second until Kafka has the last
draining  the messages wait in the broker before the subject starts
latency   at a moderate rate, from the time in the message to the time at which Kafka appended it

Kafka says when it appended a record (LogAppendTime), so nothing is measured by polling. Everything shares this
machine's cores, so only figures of one run are to be compared.
"""

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from integration.conftest import IMAGES, Part, free_port, run_kafka, run_mosquitto, until
from sensorpipeline_api.configuration import BridgeConfiguration, KafkaConnection, MqttConnection, Topics
from sensorpipeline_api.spec import Fleet

from bench.report import update_section

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sensorpipeline"
TELEGRAF = "1.37.0"
TELEGRAF_TAGS = "custom,inputs.mqtt_consumer,outputs.kafka,parsers.json_v2,serializers.json"
PARTITIONS = 6
WINDOW = 2000
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """Processor seconds so far and peak memory (bytes) of processes."""

    cpu: float
    memory: int


def usage(pids: list[int]) -> Usage:
    """Asks the kernel."""
    cpu, memory = 0.0, 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        cpu += (int(fields[11]) + int(fields[12])) / CLOCK_TICKS
        peak = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
        memory += int(peak.split()[1]) * 1024
    return Usage(cpu, memory)


@dataclass
class Figures:
    """What was measured of one subject; rates per second, CPU in seconds per million messages, latency in ms."""

    live: float = 0.0
    live_cpu: float = 0.0
    draining: float = 0.0
    draining_cpu: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    memory: int = 0


class Subject(Protocol):
    """What carries messages into Kafka."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def pids(self) -> list[int]: ...


@dataclass(frozen=True)
class Bench:
    """The broker, Kafka and the compiled peer."""

    mqtt_port: int
    kafka: str
    peer: Path
    directory: Path

    def publish(self, count: int, rate: float = 0) -> float:
        """Publishes; returns when it began."""
        command = [str(self.peer), "publish", str(self.mqtt_port), str(count), str(WINDOW), str(rate)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=240)
        return float(answer.stdout.split()[0])

    def create_topics(self, name: str) -> Topics:
        """Creates topics of a subject of its own."""
        topics = Topics(
            readings={"f": f"{name}.readings"}, aggregates="-", late="-", alerts="-", dead_letter=f"{name}.dead-letter"
        )
        stamped = {"message.timestamp.type": "LogAppendTime"}
        new = [
            NewTopic(topics.readings["f"], PARTITIONS, 1, config=stamped), NewTopic(topics.dead_letter, 1, 1)
        ]  # fmt: skip
        admin = AdminClient({"bootstrap.servers": self.kafka})
        for future in admin.create_topics(new).values():
            future.result()
        return topics


@dataclass(frozen=True)
class Arrival:
    """When Kafka appended a message (ms), and when it had been published (ms)."""

    appended: int
    published: int


class Log:
    """Reads a topic to its end, again and again."""

    def __init__(self, server: str, topic: str) -> None:
        self._consumer = Consumer({"bootstrap.servers": server, "group.id": uuid.uuid4().hex,
                                   "enable.auto.commit": False, "check.crcs": False})  # fmt: skip
        self._consumer.assign([TopicPartition(topic, n, 0) for n in range(PARTITIONS)])

    def read(self, count: int, seconds: float = 300) -> list[Arrival]:
        """Waits for so many messages more and returns them. Fails when they do not come, or a message came twice as
        another."""
        out: list[Arrival] = []
        deadline = time.monotonic() + seconds
        while len(out) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(out)} of {count} messages in {seconds:.0f} s")
            for record in self._consumer.consume(5000, 0.2):
                if record.error():
                    raise RuntimeError(record.error())
                appended = record.timestamp()[1]
                body: Any = msgspec.json.decode(record.value() or b"")
                if isinstance(body, list):
                    out += [Arrival(appended, reading["time"]) for reading in body]
                else:
                    out.append(Arrival(appended, body["timestamp"]))
        return out

    def close(self) -> None:
        """Leaves."""
        self._consumer.close()


class Bridges:
    """Our bridge, as so many processes."""

    def __init__(self, bench: Bench, topics: Topics, members: int) -> None:
        fleet = Fleet.model_validate({
            "name": "f", "topic": "bench/{device}/m", "partitions": PARTITIONS,
            "metrics": [{"name": "m", "minimum": "0", "maximum": "1000"}],
        })  # fmt: skip
        share = topics.dead_letter.split(".")[0]
        self._parts = [
            Part(
                "bridge",
                BridgeConfiguration(
                    pipeline="p", mqtt=MqttConnection(host="127.0.0.1", port=bench.mqtt_port), topics=topics,
                    kafka=KafkaConnection(bootstrap_servers=[bench.kafka]), fleets=[fleet], share_name=share,
                    metrics_port=free_port(), replicas=16, adoption_seconds=3600,
                ),
                bench.directory, f"{share}-{n}",
            )
            for n in range(members)
        ]  # fmt: skip

    def start(self) -> None:
        for part in self._parts:
            part.start()
        until(lambda: all(part.ready for part in self._parts), what="the bridge")

    def stop(self) -> None:
        for part in self._parts:
            part.stop()

    def pids(self) -> list[int]:
        return [part.pid for part in self._parts]


class Telegraf:
    """Telegraf with its mqtt_consumer and its Kafka output."""

    def __init__(self, bench: Bench, topics: Topics, program: Path) -> None:
        self._log = bench.directory / "telegraf.log"
        self._command = [str(program), "--config", str(HERE / "telegraf.toml")]
        self._environment = os.environ | {
            "MQTT_PORT": str(bench.mqtt_port), "KAFKA": bench.kafka, "TOPIC": topics.readings["f"]
        }  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)
        until(lambda: "Connected [tcp" in self._log.read_text(), what="Telegraf")
        time.sleep(1)

    def stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(180)  # it sends what it holds first

    def pids(self) -> list[int]:
        assert self._process is not None
        return [self._process.pid]


def measure(bench: Bench, subject: Subject, topics: Topics, *, count: int, rate: float) -> Figures:
    """Measures a subject."""
    figures = Figures()
    log = Log(bench.kafka, topics.readings["f"])
    subject.start()
    time.sleep(1)
    idle = usage(subject.pids())
    begin = bench.publish(count)
    arrived = log.read(count)
    after = usage(subject.pids())
    figures.live = count / (max(a.appended for a in arrived) / 1000 - begin)
    figures.live_cpu = (after.cpu - idle.cpu) / count * 1e6
    paced = int(rate * 8)
    bench.publish(paced, rate)
    delays = sorted(a.appended - a.published for a in log.read(paced))
    figures.p50, figures.p99 = statistics.median(delays), delays[int(len(delays) * 0.99)]
    figures.memory = usage(subject.pids()).memory
    subject.stop()
    bench.publish(count)
    subject.start()
    drained = log.read(count)
    appended = [a.appended for a in drained]
    time.sleep(1)
    figures.draining = count / max(0.001, (max(appended) - min(appended)) / 1000)
    figures.draining_cpu = (usage(subject.pids()).cpu - idle.cpu) / count * 1e6
    figures.memory = max(figures.memory, usage(subject.pids()).memory)
    subject.stop()
    log.close()
    return figures


def plain_subscriber(bench: Bench, count: int) -> Figures:
    """Measures the C subscriber."""
    command = [str(bench.peer), "subscribe", str(bench.mqtt_port), str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        begin = bench.publish(count)
        end = float(process.stdout.readline())
        _, _, spent = os.wait4(process.pid, 0)
        process.returncode = 0
    cpu = (spent.ru_utime + spent.ru_stime) / count * 1e6
    return Figures(live=count / (end - begin), live_cpu=cpu, memory=spent.ru_maxrss * 1024)


def telegraf_program() -> Path | None:
    """Returns Telegraf with the two plugins, built from its Go module; None where it cannot be built."""
    folder = CACHE / f"telegraf-{TELEGRAF}"
    if not (folder / "telegraf").exists():
        if shutil.which("go") is None:
            return None
        module = f"github.com/influxdata/telegraf/cmd/telegraf@v{TELEGRAF}"
        command = ["go", "install", "-tags", TELEGRAF_TAGS, module]
        print("building Telegraf from its Go module; this takes some minutes once", flush=True)
        if subprocess.run(command, env=os.environ | {"GOBIN": str(folder)}, check=False).returncode:
            return None
    return folder / "telegraf"


def table(rows: dict[str, Figures], *, count: int, rate: float) -> str:
    """Returns the section of the documentation."""
    lines = [
        "## Ingest",
        "",
        f"`make bench-ingest`: {count:,} messages of 110 bytes of JSON, QoS 1, 200 devices, on 127.0.0.1; publisher, "
        f"{IMAGES['mosquitto']}, subject and {IMAGES['kafka']} share {os.cpu_count()} cores. CPU is the subject's, in "
        f"seconds per million messages; latency is from publication to Kafka's append at {rate:,.0f} messages/s. The "
        f"bridge decodes, validates and batches; Telegraf {TELEGRAF} (mqtt_consumer, json_v2, kafka) decodes.",
        "",
        "| subject | live, messages/s | CPU | draining, messages/s | CPU | p50 ms | p99 ms | peak memory, MiB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, f in rows.items():
        cells = [f"{f.live:,.0f}", f"{f.live_cpu:.2f}"]
        cells += (
            [f"{f.draining:,.0f}", f"{f.draining_cpu:.2f}", f"{f.p50:.0f}", f"{f.p99:.0f}"] if f.draining else ["–"] * 4
        )
        lines.append(f"| {name} | {' | '.join(cells)} | {f.memory / 2**20:.0f} |")
    return "\n".join(lines)


def summary(rows: dict[str, Figures]) -> str:
    """Returns the goals in one line."""
    bridge, plain = rows["bridge, 1 member"], rows["plain C subscriber"]
    telegraf = rows.get("Telegraf")
    ratio = f"{bridge.live_cpu / telegraf.live_cpu:.2f}" if telegraf else "not built"
    return (
        f"ratio to Telegraf (CPU): {ratio}, live throughput of the plain C subscriber: {bridge.live / plain.live:.0%}"
    )


def main() -> None:
    """Runs everything and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=400_000, help="messages of each run")
    parser.add_argument("--rate", type=float, default=5000, help="messages per second for the latency")
    parser.add_argument("--no-telegraf", action="store_true")
    parser.add_argument("--no-page", action="store_true", help="leave the documentation as it is")
    options = parser.parse_args()
    count, rate = options.messages, options.rate
    program = None if options.no_telegraf else telegraf_program()
    rows: dict[str, Figures] = {}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        peer = directory / "mqtt_peer"
        subprocess.run(["gcc", "-O2", "-o", str(peer), str(HERE / "mqtt_peer.c")], check=True)
        _, kafka = stack.enter_context(run_kafka())

        def run(name: str, make: Callable[[Bench, Topics], Subject]) -> None:
            """Measures a subject with a broker of its own, so that no session of another costs it anything."""
            with run_mosquitto(directory) as port:
                bench = Bench(port, kafka, peer, directory)
                topics = bench.create_topics(name.replace(", ", "-").replace(" ", "-"))
                rows[name] = measure(bench, make(bench, topics), topics, count=count, rate=rate)
            print(name, rows[name], flush=True)

        def bridges(members: int) -> Callable[[Bench, Topics], Subject]:
            return lambda bench, topics: Bridges(bench, topics, members)

        def plain() -> Figures:
            with run_mosquitto(directory) as port:
                return plain_subscriber(Bench(port, kafka, peer, directory), count)

        run("warm-up", bridges(1))  # Kafka's first half minute goes into compiling itself
        del rows["warm-up"]
        first = plain()
        run("bridge, 1 member", bridges(1))
        run("bridge, 2 members", bridges(2))
        if program is not None:
            run("Telegraf", lambda bench, topics: Telegraf(bench, topics, program))
        last = plain()
    rows = {
        "plain C subscriber": Figures(
            live=(first.live + last.live) / 2, live_cpu=(first.live_cpu + last.live_cpu) / 2, memory=last.memory
        )
    } | rows
    text = f"{table(rows, count=count, rate=rate)}\n\n{summary(rows)}"
    if not options.no_page:
        update_section(PAGE, "ingest", text)
    print(text)


if __name__ == "__main__":
    main()
