"""The broker as the operator configures it, in its own image: what is acknowledged is kept from the first moment on,
credentials change without a restart, devices may use TLS; and the bridge at a broker that is not the pipeline's."""

import base64
import contextlib
import itertools
import json
import socket
import ssl
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mqtt5
import pytest
from integration.conftest import IMAGES, Part, consume, container, free_port, listens, until
from sensorpipeline_api.configuration import BridgeConfiguration, KafkaConnection, MqttConnection, Topics
from sensorpipeline_api.spec import Fleet, SensorPipelineSpec
from sensorpipeline_operator.components.context import Context, Images
from sensorpipeline_operator.components.mosquitto import build_mosquitto, guard
from sensorpipeline_operator.components.objects import names
from sensorpipeline_operator.components.secrets import Passwords

Make = Callable[..., Part]
open_clients: list["Client"] = []
NO_MATCHING_SUBSCRIBERS = mqtt5.PubAckReasonCode.NO_MATCHING_SUBSCRIBERS


class Broker:
    """A broker with what the operator builds for it: the files of its ConfigMap and Secret in folders of ours."""

    def __init__(
        self, directory: Path, mosquitto: dict[str, Any] | None = None, devices: tuple[str, ...] = ("d1", "d2")
    ):
        self.port, self.tls_port = free_port(), free_port()
        self._directory = directory
        self._mosquitto = mosquitto or {}
        self._devices = devices
        self.secrets: dict[str, dict[str, str]] = {}
        for name in ("config", "access", "data", "tls"):
            (directory / name).mkdir(parents=True)
            (directory / name).chmod(0o777)
        self.build()

    def build(self) -> None:
        """Builds the objects from the Secrets that there are, and writes their files."""
        spec = SensorPipelineSpec.model_validate({
            "mqtt": {"mosquitto": self._mosquitto},
            "fleets": [{"name": "f", "topic": "f/{device}/m", "metrics": [{"name": "m"}], "partitions": 2,
                        "devices": list(self._devices)}],
        })  # fmt: skip
        images = Images(**dict.fromkeys(Images.__dataclass_fields__, "x"))
        context = Context(
            name="p", namespace="default", uid="u", spec=spec, derived=(), images=images, secrets=self.secrets,
            entropy=lambda: uuid.uuid4().hex,
        )  # fmt: skip
        passwords = Passwords(context)
        self.secrets = {"p-mqtt-users": passwords.mqtt, "p-devices-f": passwords.devices.get("f", {})}
        self.guard, self.fleet = guard(names(context)), spec.fleets[0]
        for manifest in build_mosquitto(context, passwords):
            if manifest["kind"] == "ConfigMap":
                for name, text in manifest["data"].items():
                    text = text.replace("listener 1883\n", f"listener {self.port} 127.0.0.1\n")
                    self._write(
                        "config", name, text.replace("listener 8883\n", f"listener {self.tls_port} 127.0.0.1\n")
                    )
            if manifest["kind"] == "Secret":
                for name, text in manifest["data"].items():
                    self._write("access", name, base64.b64decode(text).decode())
            if manifest["kind"] == "StatefulSet":
                [self._container] = manifest["spec"]["template"]["spec"]["containers"]

    def _write(self, folder: str, name: str, text: str) -> None:
        file = self._directory / folder / (name + ".new")
        file.write_text(text)
        file.chmod(0o644)
        file.rename(file.with_name(name))

    def password(self, user: str) -> str:
        return (self.secrets["p-devices-f"] | self.secrets["p-mqtt-users"]).get(user, "")

    @contextmanager
    def running(self) -> Iterator[str]:
        """Runs the container and waits until it listens; gives its name."""
        options = ["--read-only", "--tmpfs", "/tmp:mode=1777", "--user", "1883:1883", "--entrypoint", ""]
        for name in ("config", "access", "data", "tls"):
            options += ["-v", f"{self._directory / name}:/mosquitto/{name}"]
        for variable in self._container["env"]:
            options += ["-e", f"{variable['name']}={variable['value']}"]
        with container(IMAGES["mosquitto"], *self._container["command"], options=tuple(options)) as name:
            until(lambda: listens(self.port), what="Mosquitto")
            yield name


class Client:
    """A device that waits for each answer, and says what it was."""

    def __init__(
        self,
        port: int,
        user: str,
        password: str,
        tls: ssl.SSLContext | None = None,
        identity: str | None = None,
        clean_start: bool = True,
    ) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 5)
        open_clients.append(self)
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket, server_hostname="localhost")
        self._buffer = b""
        packet = mqtt5.ConnectPacket(
            identity or user, username=user, password=password.encode(), clean_start=clean_start
        )
        self._socket.sendall(packet.write())
        self.code = self._answer().reason_code
        self._ids = itertools.cycle(range(1, 60000))

    def _answer(self) -> Any:
        while True:
            with contextlib.suppress(IndexError):
                packet, size = mqtt5.read(memoryview(self._buffer))
                self._buffer = self._buffer[size:]
                return packet
            data = self._socket.recv(4096)
            if not data:
                raise ConnectionError("the broker closed the connection")
            self._buffer += data

    def publish(self, topic: str, body: bytes) -> mqtt5.PubAckReasonCode:
        packet = mqtt5.PublishPacket(topic, body, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=next(self._ids))
        self._socket.sendall(packet.write())
        answer = self._answer()
        if not isinstance(answer, mqtt5.PubAckPacket):
            raise ConnectionError(f"the broker answered {answer}")
        return answer.reason_code

    def receive(self) -> bytes:
        """Returns the payload of the next message, and does not acknowledge it."""
        packet = self._answer()
        if not isinstance(packet, mqtt5.PublishPacket):
            raise ConnectionError(f"the broker sent {packet}")
        return packet.payload

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(autouse=True)
def close_clients() -> Iterator[None]:
    """Closes the clients that a test leaves open."""
    yield
    while open_clients:
        open_clients.pop().close()


def bridge_of(broker: Broker, kafka: str, topics: Topics, directory: Path, **extra: Any) -> BridgeConfiguration:
    """The configuration of a bridge at a broker of the operator's."""
    password = directory / "bridge-password"
    password.write_text(broker.password("bridge"))
    mqtt = MqttConnection(host="127.0.0.1", port=broker.port, username="bridge", password_file=str(password))
    return BridgeConfiguration(
        pipeline="p", mqtt=mqtt, metrics_port=free_port(), kafka=KafkaConnection(bootstrap_servers=[kafka]),
        topics=topics, fleets=[broker.fleet], share_name="p.bridge", guard=broker.guard, **extra,
    )  # fmt: skip


def body(number: int) -> bytes:
    return json.dumps({"ts": number, "value": number}).encode()


def stored(kafka: str, topics: Topics) -> set[int]:
    return {reading["time"] for record in consume(kafka, topics.readings["f"]) for reading in record}


def test_a_device_that_is_there_before_the_bridge_loses_nothing(
    kafka: str, topics: Topics, part: Make, tmp_path: Path
) -> None:
    broker = Broker(tmp_path / "broker")
    bridge = part("bridge", bridge_of(broker, kafka, topics, tmp_path), "p-bridge-0")
    with broker.running():
        device = Client(broker.port, "d1", broker.password("d1"))
        for number in range(500):
            assert device.publish("f/d1/m", body(number)) != NO_MATCHING_SUBSCRIBERS
        bridge.start()
        for number in range(500, 1500):
            assert device.publish("f/d1/m", body(number)) == mqtt5.PubAckReasonCode.SUCCESS
        until(lambda: len(stored(kafka, topics)) >= 1500, what="all readings")
        # The guard has been released: the bridge gets each message once.
        until(lambda: bridge.ready, what="the bridge")
        time.sleep(3)
        received = bridge.metric("sensorpipeline_messages_received_total")
        for number in range(1500, 1600):
            device.publish("f/d1/m", body(number))
        until(lambda: len(stored(kafka, topics)) >= 1600, what="the last readings")
        assert bridge.metric("sensorpipeline_messages_received_total") == received + 100
        assert bridge.stop() == 0


def test_a_broker_that_starts_again_drops_nothing_while_the_bridge_is_not_back_yet(
    kafka: str, topics: Topics, part: Make, tmp_path: Path
) -> None:
    broker = Broker(tmp_path / "broker")
    bridge = part("bridge", bridge_of(broker, kafka, topics, tmp_path), "p-bridge-0")
    expected: set[int] = set()
    for turn in range(3):
        with broker.running() as name:
            device = Client(broker.port, "d1", broker.password("d1"))
            for number in range(turn * 300, turn * 300 + 300):  # at once: the bridge is not there yet
                assert device.publish("f/d1/m", body(number)) == mqtt5.PubAckReasonCode.SUCCESS
                expected.add(number)
            if turn == 0:
                bridge.start()
            until(lambda: stored(kafka, topics) >= expected, what="all readings")
            subprocess.run(["docker", "kill", "-s", "KILL" if turn else "TERM", name], check=True, capture_output=True)
    assert stored(kafka, topics) == expected


def in_order(kafka: str, topics: Topics) -> dict[str, list[int]]:
    """The times of each device's readings as they stand in Kafka, of one that came twice the first."""
    found: dict[str, dict[int, None]] = {}
    for record in consume(kafka, topics.readings["f"]):
        for reading in record:
            found.setdefault(reading["device"], {})[reading["time"]] = None
    return {device: list(times) for device, times in found.items()}


@pytest.mark.parametrize("away", [False, True], ids=["while the bridge is there", "while the bridge is away"])
def test_when_a_broker_starts_again_no_reading_comes_behind_a_newer_one(
    kafka: str, topics: Topics, part: Make, tmp_path: Path, away: bool
) -> None:
    broker = Broker(tmp_path / "broker")
    bridge = part("bridge", bridge_of(broker, kafka, topics, tmp_path), "p-bridge-0")

    def publish(numbers: range) -> None:
        devices = [Client(broker.port, name, broker.password(name)) for name in ("d1", "d2")]
        for number in numbers:
            for name, device in zip(("d1", "d2"), devices, strict=True):
                assert device.publish(f"f/{name}/m", body(number)) == mqtt5.PubAckReasonCode.SUCCESS

    with broker.running() as name:
        bridge.start()
        until(lambda: bridge.ready, what="the bridge")
        publish(range(100))
        until(lambda: len(stored(kafka, topics)) >= 100, what="the first readings")
        if away:
            bridge.kill()
        publish(range(100, 400))  # with the bridge away, these wait in its own session
        subprocess.run(["docker", "kill", "-s", "TERM", name], check=True, capture_output=True)
        until(lambda: not is_running(name), what="the broker to end")
    with broker.running():
        publish(range(400, 700))  # these come to the guard, at least in part
        if away:
            bridge.start()
        publish(range(700, 1500))  # these while the bridge comes back
        until(lambda: bridge.ready, what="the bridge")
        publish(range(1500, 1600))
        until(lambda: len(stored(kafka, topics)) >= 1600, what="all readings")
    assert in_order(kafka, topics) == {name: list(range(1600)) for name in ("d1", "d2")}


def test_a_broker_that_is_killed_under_load_loses_nothing_while_the_bridge_keeps_up(
    kafka: str, topics: Topics, part: Make, tmp_path: Path
) -> None:
    broker = Broker(tmp_path / "broker")
    bridge = part("bridge", bridge_of(broker, kafka, topics, tmp_path), "p-bridge-0")
    acknowledged: set[int] = set()
    numbers = itertools.count()
    for turn in range(10):
        with broker.running() as name:
            if turn == 0:
                bridge.start()
            device = Client(broker.port, "d1", broker.password("d1"))
            until(lambda: bridge.ready and stored(kafka, topics) >= acknowledged, what="the bridge to keep up")
            before = len(acknowledged)
            kill = ["docker", "kill", "-s", "KILL", name]
            killer = threading.Timer(0.5, subprocess.run, [kill], {"capture_output": True})
            killer.start()
            with contextlib.suppress(OSError):  # the kill ends it
                for number in numbers:
                    device.publish("f/d1/m", body(number))
                    acknowledged.add(number)
            killer.join()
            assert len(acknowledged) > before + 100
    with broker.running():
        until(lambda: stored(kafka, topics) >= acknowledged, what="all readings")


def is_running(name: str) -> bool:
    """Whether a container runs."""
    listed = subprocess.run(["docker", "ps", "-q", "-f", f"name={name}"], check=True, capture_output=True)
    return bool(listed.stdout.strip())


def test_of_what_waits_a_killed_broker_loses_what_came_in_the_last_seconds_at_most(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "broker")
    with broker.running() as name:
        device = Client(broker.port, "d1", broker.password("d1"))
        for number in range(20):
            assert device.publish("f/d1/m", body(number)) == mqtt5.PubAckReasonCode.SUCCESS
        time.sleep(4)
        subprocess.run(["docker", "kill", "-s", "KILL", name], check=True, capture_output=True)
    with broker.running():
        keeper = Client(
            broker.port, "bridge", broker.password("bridge"), identity=f"{broker.guard}-1", clean_start=False
        )
        assert [json.loads(keeper.receive())["ts"] for _ in range(20)] == list(range(20))


def test_a_changed_password_is_asked_for_at_once_and_the_connections_of_others_go_on(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "broker")
    with broker.running():
        other = Client(broker.port, "d2", broker.password("d2"))
        rotated = Client(broker.port, "d1", broker.password("d1"))
        assert rotated.publish("f/d1/m", body(1)) == mqtt5.PubAckReasonCode.SUCCESS
        old = broker.password("d1")
        del broker.secrets["p-devices-f"]["d1"]  # as a user does who wants a new one
        broker.build()
        assert broker.password("d1") != old

        def refused() -> bool:
            client = Client(broker.port, "d1", old)
            client.close()
            return client.code is not mqtt5.ConnAckReasonCode.SUCCESS

        until(refused, what="the old password to be refused", seconds=15)
        with pytest.raises(OSError):
            rotated.publish("f/d1/m", body(2))
        assert Client(broker.port, "d1", broker.password("d1")).code is mqtt5.ConnAckReasonCode.SUCCESS
        assert other.publish("f/d2/m", body(3)) == mqtt5.PubAckReasonCode.SUCCESS


def test_connections_and_messages_beyond_the_limits_are_refused(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "broker", {"maximumConnections": 10, "maximumMessageBytes": 2000})
    with broker.running():
        device = Client(broker.port, "d1", broker.password("d1"))
        assert device.publish("f/d1/m", b"x" * 1900) == mqtt5.PubAckReasonCode.SUCCESS
        with pytest.raises(OSError):
            device.publish("f/d1/m", b"x" * 2100)
        device.close()
        assert Client(broker.port, "d2", broker.password("d2")).code == 0
        for number in range(9):
            assert Client(broker.port, "d1", broker.password("d1"), identity=f"x{number}").code == 0
        with pytest.raises(OSError):
            Client(broker.port, "d1", broker.password("d1"), identity="one too many")


def certificates(directory: Path, key: str = "tls.key", certificate: str = "tls.crt") -> Path:
    """Makes an authority, and a certificate for localhost signed by it; returns the authority's file."""
    directory.mkdir(exist_ok=True, parents=True)
    made = directory / "made"
    made.mkdir(exist_ok=True)
    (made / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.crt",
        "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout tls.key -out tls.csr",
        "x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile san -out tls.crt",
    ):
        subprocess.run(["openssl", *command.split()], cwd=made, check=True, capture_output=True)
    for source, target in (("tls.key", key), ("tls.crt", certificate)):
        (directory / target).write_bytes((made / source).read_bytes())
        (directory / target).chmod(0o644)
    return made / "ca.crt"


def test_devices_use_tls_and_a_renewed_certificate_is_shown_without_a_restart(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "broker", {"tls": {"secretName": "given"}})
    first = certificates(tmp_path / "broker" / "tls")
    with broker.running():
        context = ssl.create_default_context(cafile=str(first))
        device = Client(broker.tls_port, "d1", broker.password("d1"), context)
        assert device.publish("f/d1/m", body(1)) == mqtt5.PubAckReasonCode.SUCCESS
        with pytest.raises(ssl.SSLCertVerificationError):
            Client(broker.tls_port, "d2", broker.password("d2"), ssl.create_default_context())
        second = certificates(tmp_path / "again", "tls.key", "tls.crt")
        for name in ("tls.key", "tls.crt"):
            (tmp_path / "again" / name).rename(tmp_path / "broker" / "tls" / name)

        def renewed() -> bool:
            with contextlib.suppress(ssl.SSLError):
                again = ssl.create_default_context(cafile=str(second))
                return Client(broker.tls_port, "d2", broker.password("d2"), again).code == 0
            return False

        until(renewed, what="the renewed certificate", seconds=15)
        assert device.publish("f/d1/m", body(2)) == mqtt5.PubAckReasonCode.SUCCESS


def test_the_bridge_at_an_external_broker_with_tls_and_a_password(
    kafka: str, topics: Topics, part: Make, tmp_path: Path
) -> None:
    port = free_port()
    authority = certificates(tmp_path / "external")
    (tmp_path / "external" / "mosquitto.conf").write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous false\npassword_file /external/users\nmax_queued_messages 0\n"
        "certfile /external/tls.crt\nkeyfile /external/tls.key\n"
    )
    shell = "cp /external/users.new /tmp/users; mosquitto_passwd -U /tmp/users; cp /tmp/users /external/users; "
    (tmp_path / "external" / "users.new").write_text("somebody:secret\n")
    (tmp_path / "external").chmod(0o777)
    (tmp_path / "username").write_text("somebody\n")
    (tmp_path / "password").write_text("secret\n")
    options = ("-v", f"{tmp_path / 'external'}:/external", "--entrypoint", "")
    command = ["/bin/sh", "-c", f"{shell} exec /usr/sbin/mosquitto -c /external/mosquitto.conf"]
    fleet = Fleet.model_validate({"name": "f", "topic": "f/{device}/m", "metrics": [{"name": "m"}], "partitions": 2})
    mqtt = MqttConnection(
        host="localhost", port=port, tls=True, ca_file=str(authority),
        username_file=str(tmp_path / "username"), password_file=str(tmp_path / "password"),
    )  # fmt: skip
    bridge = part("bridge", BridgeConfiguration(
        pipeline="p", mqtt=mqtt, metrics_port=free_port(), kafka=KafkaConnection(bootstrap_servers=[kafka]),
        topics=topics, fleets=[fleet], share_name="g",
    ))  # fmt: skip
    with container(IMAGES["mosquitto"], *command, options=options):
        bridge.start()
        until(lambda: bridge.ready, what="the bridge to subscribe")
        tls = ssl.create_default_context(cafile=str(authority))
        device = Client(port, "somebody", "secret", tls)
        for number in range(3000):
            assert device.publish("f/x/m", body(number)) == mqtt5.PubAckReasonCode.SUCCESS
        until(lambda: len(stored(kafka, topics)) >= 3000, what="all readings")
        assert bridge.stop() == 0
