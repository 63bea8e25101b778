"""A real Kafka, Mosquitto and mongod, each in a container on this machine's loopback, and our parts as processes."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import paho.mqtt.client as mqtt
import pymongo
import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from paho.mqtt.enums import CallbackAPIVersion
from pymongo.errors import PyMongoError
from sensorpipeline_api.configuration import CONFIGURATION_VARIABLE, Configuration, Topics

ROOT = Path(__file__).parents[2]
IMAGES = tomllib.loads((ROOT / "versions.toml").read_text())["images"]
T = TypeVar("T")

KAFKA = """
cat > /tmp/server.properties <<EOF
process.roles=broker,controller
node.id=0
controller.quorum.voters=0@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=CLIENT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=CLIENT://127.0.0.1:{port}
inter.broker.listener.name=CLIENT
listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=/tmp/kraft
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=100
message.max.bytes=4194304
auto.create.topics.enable=false
log.retention.ms=-1
log.retention.check.interval.ms=500
log.segment.delete.delay.ms=500
EOF
export CLASSPATH='/opt/kafka/libs/*'
java -Xmx128m kafka.tools.StorageTool format --cluster-id 4L6g3nShT-eMCtK--X86sw --config /tmp/server.properties
exec java -Xmx{heap} kafka.Kafka /tmp/server.properties
"""


def free_port() -> int:
    """Returns a port of the loopback interface that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody accepts connections at a port of the loopback interface. Raises OSError when nobody does."""
    with socket.create_connection(("127.0.0.1", port), 1):
        return True


def until(check: Callable[[], T | None], *, what: str, seconds: float = 60) -> T:
    """Calls `check` until it answers something true. Fails saying what was waited for."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, KafkaException, PyMongoError):
            if answer := check():
                return answer
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.1)


@contextmanager
def container(image: str, *command: str, options: tuple[str, ...] = ()) -> Iterator[str]:
    """Runs a container on the host's network while the context is open."""
    name = f"sensorpipeline-test-{uuid.uuid4().hex[:8]}"
    subprocess.run(
        ["docker", "run", "-d", "--rm", "--network", "host", "--name", name, *options, image, *command],
        check=True, capture_output=True,
    )  # fmt: skip
    try:
        yield name
    finally:
        subprocess.run(["docker", "rm", "-f", name], capture_output=True, check=False)


@contextmanager
def run_kafka(heap: str = "384m") -> Iterator[tuple[str, str]]:
    """Runs a Kafka broker; gives its container's name and its bootstrap server."""
    port, controller = free_port(), free_port()
    script = KAFKA.format(port=port, controller=controller, heap=heap)
    with container(IMAGES["kafka"], "/bin/sh", "-ec", script, options=("--entrypoint", "")) as name:
        server = f"127.0.0.1:{port}"
        admin = AdminClient({"bootstrap.servers": server, "log_level": 0})
        until(lambda: admin.list_topics(timeout=1).brokers, what="Kafka")
        yield name, server


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """The bootstrap server of a Kafka broker."""
    with run_kafka() as (_, server):
        yield server


@contextmanager
def run_mosquitto(directory: Path) -> Iterator[int]:
    """Runs a Mosquitto broker that asks for no credentials, with its configuration in a directory; gives its port."""
    port = free_port()
    file = directory / "mosquitto.conf"
    file.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 0\n"
        "set_tcp_nodelay true\n"
    )
    directory.chmod(0o755)
    options = ("-v", f"{file}:/test.conf:ro", "--entrypoint", "")
    with container(IMAGES["mosquitto"], "/usr/sbin/mosquitto", "-c", "/test.conf", options=options):
        until(lambda: listens(port), what="Mosquitto")
        yield port


@pytest.fixture(scope="session")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a Mosquitto broker that asks for no credentials."""
    with run_mosquitto(tmp_path_factory.mktemp("mosquitto")) as port:
        yield port


@pytest.fixture(scope="session")
def mongodb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The connection string of a replica set of one, without users."""
    port = free_port()
    command = ["mongod", "--replSet", "rs0", "--port", str(port), "--bind_ip", "127.0.0.1", "--dbpath", "/tmp"]
    options = ("--entrypoint", "")
    with container(IMAGES["mongodb"], *command, options=options):
        uri = f"mongodb://127.0.0.1:{port}/?directConnection=true"
        with pymongo.MongoClient[dict[str, Any]](uri, serverSelectionTimeoutMS=1000) as client:
            until(lambda: client.admin.command("ping"), what="mongod")
            members = [{"_id": 0, "host": f"127.0.0.1:{port}"}]
            client.admin.command("replSetInitiate", {"_id": "rs0", "members": members})
            until(lambda: client.admin.command("hello")["isWritablePrimary"], what="a primary")
        yield uri


@pytest.fixture
def topics(kafka: str) -> Topics:
    """The topics of a pipeline of its own, with one fleet `f` of 2 partitions."""
    return create_topics(kafka)


def create_topics(server: str, *, readings: dict[str, str] | None = None, name: str | None = None) -> Topics:
    """Creates the topics of a pipeline of its own, or those that are missing of the pipeline `name`, with one fleet
    `f` of 2 partitions. `readings` is the configuration of the readings' topic."""
    name = name or f"p{uuid.uuid4().hex[:8]}"
    made = Topics(
        readings={"f": f"{name}.f.readings"}, aggregates=f"{name}.aggregates", late=f"{name}.late",
        alerts=f"{name}.alerts", dead_letter=f"{name}.dead-letter",
    )  # fmt: skip
    admin = AdminClient({"bootstrap.servers": server})
    config = {"max.message.bytes": "4194304"}
    new = [NewTopic(made.readings["f"], 2, 1, config=readings or {})]
    new += [NewTopic(t, 1, 1, config=config) for t in (made.aggregates, made.late, made.alerts, made.dead_letter)]
    known = admin.list_topics(timeout=10).topics
    for future in admin.create_topics([topic for topic in new if topic.topic not in known]).values():
        future.result()
    return made


class Part:
    """One of our parts as a process that can be killed and started again."""

    def __init__(self, component: str, configuration: Configuration, directory: Path, pod: str = "test-0") -> None:
        self._component = component
        self._pod = pod
        self._path = directory / f"{component}-{pod}.json"
        self._path.write_text(configuration.dump())
        self._log = directory / f"{component}-{pod}.log"
        self._port = configuration.metrics_port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the part."""
        environment = os.environ | {CONFIGURATION_VARIABLE: str(self._path), "POD_NAME": self._pod}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sensorpipeline_workers.cli", self._component], env=environment, stdout=log,
                stderr=log,
            )  # fmt: skip

    def kill(self) -> None:
        """Ends it as a power cut would."""
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()[-2000:]
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    @property
    def processor_seconds(self) -> float:
        """The processor time that the part has taken since its start."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def resident_bytes(self) -> int:
        """The memory that the part takes up now."""
        assert self._process is not None
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        assert self._process is not None
        return self._process.poll() is None

    @property
    def ready(self) -> bool:
        """Whether the part says that it does its work."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def metric(self, name: str) -> float:
        """Returns the sum of a metric over its labels, 0 when the part does not answer yet."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return 0
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"{name}(\{{|\s)", line))

    def stop(self) -> int:
        """Asks it to end and returns its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(30)

    def close(self) -> None:
        """Makes sure that it is gone."""
        if self._process is not None and self._process.poll() is None:
            self.kill()


@pytest.fixture
def part(tmp_path: Path) -> Iterator[Callable[..., Part]]:
    """Makes parts that are gone when the test ends."""
    made: list[Part] = []

    def make(component: str, configuration: Configuration, pod: str = "test-0") -> Part:
        made.append(Part(component, configuration, tmp_path, pod))
        return made[-1]

    yield make
    for item in made:
        item.close()


def make_producer(server: str, **settings: Any) -> Producer:
    """Returns a producer that keeps the order of what it is given. Without idempotence a batch that is sent again, as
    happens with a topic that has just been created, stands behind those that came after it."""
    return Producer({"bootstrap.servers": server, "enable.idempotence": True} | settings)


def produce(server: str, topic: str, records: list[tuple[str, Any]]) -> None:
    """Writes JSON records by key and waits until Kafka has them."""
    producer = make_producer(server, partitioner="murmur2_random")
    for key, value in records:
        producer.produce(topic, key=key, value=json.dumps(value).encode())
    assert producer.flush(30) == 0


def consume(server: str, topic: str) -> list[Any]:
    """Returns every record that a topic holds now, parsed."""
    consumer = Consumer({"bootstrap.servers": server, "group.id": uuid.uuid4().hex, "enable.partition.eof": True,
                         "auto.offset.reset": "earliest", "enable.auto.commit": False})  # fmt: skip
    partitions = len(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
    consumer.subscribe([topic])
    ended: set[int | None] = set()
    out: list[Any] = []
    deadline = time.monotonic() + 30
    while len(ended) < partitions:
        assert time.monotonic() < deadline, f"{topic} was not read to its end in 30 s"
        for message in consumer.consume(1000, 0.2):
            if message.error():
                ended.add(message.partition())
            else:
                out.append(json.loads(message.value() or b"null"))
    consumer.close()
    return out


class Device:
    """An MQTT client that counts what was acknowledged by a subscriber's broker."""

    def __init__(self, port: int) -> None:
        self.acknowledged: set[int] = set()
        self._numbers: dict[int, int] = {}
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.max_inflight_messages_set(200)
        self._client.on_publish = self._on_publish
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def publish(self, topic: str, body: bytes, number: int) -> None:
        """Publishes a message with a number of our own."""
        info = self._client.publish(topic, body, qos=1)
        self._numbers[info.mid] = number

    def _on_publish(self, client: Any, data: Any, mid: int, code: Any, properties: Any) -> None:
        deadline = time.monotonic() + 5
        while mid not in self._numbers and time.monotonic() < deadline:
            time.sleep(0.001)
        if code.value == 0:
            self.acknowledged.add(self._numbers[mid])

    def close(self) -> None:
        """Leaves."""
        self._client.disconnect()
        self._client.loop_stop()
