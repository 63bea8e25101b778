"""A Kafka broker for a benchmark alone, in a container of the image that pipelines use, on this machine's loopback."""

import socket
import subprocess
import time
import tomllib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

IMAGE = tomllib.loads((Path(__file__).parents[1] / "versions.toml").read_text())["images"]["kafka"]
START_SECONDS = 60

SCRIPT = """
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
log.retention.ms=-1
EOF
export CLASSPATH='/opt/kafka/libs/*'
java -Xmx128m kafka.tools.StorageTool format --cluster-id 4L6g3nShT-eMCtK--X86sw --config /tmp/server.properties
exec java -Xmx1g kafka.Kafka /tmp/server.properties
"""


def free_port() -> int:
    """Returns a port of the loopback interface that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def broker() -> Iterator[str]:
    """Runs a broker while the context is open and gives its bootstrap server. Raises TimeoutError if it does not come
    up, subprocess.CalledProcessError if Docker refuses."""
    port, controller = free_port(), free_port()
    name = f"sensorpipeline-bench-{uuid.uuid4().hex[:8]}"
    script = SCRIPT.format(port=port, controller=controller)
    run = ["docker", "run", "-d", "--rm", "--network", "host", "--name", name, "--entrypoint", ""]
    subprocess.run([*run, IMAGE, "/bin/sh", "-ec", script], check=True, capture_output=True)
    try:
        server = f"127.0.0.1:{port}"
        admin = AdminClient({"bootstrap.servers": server, "log_level": 0})
        deadline = time.monotonic() + START_SECONDS
        while not _answers(admin):
            if time.monotonic() > deadline:
                raise TimeoutError(f"Kafka did not answer within {START_SECONDS} s")
            time.sleep(0.2)
        yield server
    finally:
        subprocess.run(["docker", "rm", "-f", name], capture_output=True, check=False)


def _answers(admin: AdminClient) -> bool:
    try:
        return bool(admin.list_topics(timeout=1).brokers)
    except KafkaException:
        return False
