"""The bridge against a real Mosquitto and Kafka: whatever happens to either, a message that was acknowledged to a
device ends in Kafka, as a reading or as a dead letter with its reason."""

import base64
import json
import random
import string
import subprocess
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from integration.conftest import Device, Part, consume, create_topics, free_port, run_kafka, until
from sensorpipeline_api.configuration import BridgeConfiguration, KafkaConnection, MqttConnection, Topics
from sensorpipeline_api.spec import Fleet

Make = Callable[..., Part]


def configuration(kafka: str, mosquitto: int, topics: Topics, prefix: str, **extra: Any) -> BridgeConfiguration:
    """A bridge with one fleet `f` on `<prefix>/{device}/m`, values at most 1000000."""
    fleet = Fleet.model_validate({
        "name": "f", "topic": f"{prefix}/{{device}}/m", "metrics": [{"name": "m", "maximum": "1000000"}],
        "partitions": 2, "payload": extra.pop("payload", {}),
    })  # fmt: skip
    return BridgeConfiguration(
        pipeline="p", mqtt=MqttConnection(host="127.0.0.1", port=mosquitto), metrics_port=free_port(),
        kafka=KafkaConnection(bootstrap_servers=[kafka]), topics=topics, fleets=[fleet], share_name=prefix, **extra,
    )  # fmt: skip


def ready(part: Part) -> Part:
    """Starts a part and waits until it is ready."""
    part.start()
    until(lambda: part.ready, what="the bridge to subscribe")
    return part


def body(number: int, pad: int = 0) -> bytes:
    return json.dumps({"ts": number, "value": number, "pad": "x" * pad}).encode()


def stored(kafka: str, topics: Topics) -> list[int]:
    """The times of all readings in Kafka."""
    return [reading["time"] for record in consume(kafka, topics.readings["f"]) for reading in record]


def letters(kafka: str, topics: Topics) -> list[Any]:
    return consume(kafka, topics.dead_letter)


def send(device: Device, prefix: str, numbers: range, pad: int = 0) -> None:
    """Publishes numbered readings of seven devices and waits for all PUBACKs."""
    for number in numbers:
        device.publish(f"{prefix}/d{number % 7}/m", body(number, pad), number)
    until(lambda: device.acknowledged >= set(numbers), what="all PUBACKs")


@pytest.fixture
def prefix() -> str:
    """A topic level of this test alone."""
    return uuid.uuid4().hex[:8]


def test_while_kafka_stands_still_the_bridge_stops_reading_and_then_goes_on(
    mosquitto: int, part: Make, prefix: str
) -> None:
    with run_kafka() as (name, kafka):
        topics = create_topics(kafka)
        bridge = ready(part("bridge", configuration(kafka, mosquitto, topics, prefix)))
        device = Device(mosquitto)
        send(device, prefix, range(100))
        until(lambda: bridge.metric("sensorpipeline_readings_total") >= 100, what="a first hundred readings")
        subprocess.run(["docker", "pause", name], check=True, capture_output=True)
        send(device, prefix, range(20))  # few and small, and yet the bridge says that it gets no further
        until(lambda: not bridge.ready, what="the bridge to say that Kafka acknowledges nothing", seconds=30)
        subprocess.run(["docker", "unpause", name], check=True, capture_output=True)
        until(lambda: bridge.ready, what="the bridge to go on", seconds=30)
        before = bridge.resident_bytes
        subprocess.run(["docker", "pause", name], check=True, capture_output=True)
        # 400 MB of messages, of which a tenth are dead letters, kept whole
        for number in range(100, 8100):
            value = number if number % 10 else "bad"
            payload = json.dumps({"ts": number, "value": value, "pad": "x" * 50_000}).encode()
            device.publish(f"{prefix}/d{number % 7}/m", payload, number)
        until(lambda: len(device.acknowledged) >= 8100, what="all PUBACKs", seconds=180)
        time.sleep(2)
        grown = bridge.resident_bytes - before
        assert grown < 160 * 2**20, f"the bridge grew by {grown / 2**20:.0f} MiB while Kafka stood still"
        taken = bridge.metric("sensorpipeline_messages_received_total")
        assert taken < 4000, "the bridge went on reading"
        subprocess.run(["docker", "unpause", name], check=True, capture_output=True)
        bad = set(range(100, 8100, 10))
        until(
            lambda: bridge.metric("sensorpipeline_readings_total") >= 8100 - len(bad), what="all readings", seconds=180
        )
        assert set(stored(kafka, topics)) == set(range(8100)) - bad
        dead = {json.loads(base64.b64decode(letter["payload"]))["ts"] for letter in letters(kafka, topics)}
        assert dead == bad
        assert bridge.stop() == 0
        device.close()


def test_while_the_producers_queue_is_full_the_connection_to_the_broker_stays_alive(
    mosquitto: int, part: Make, prefix: str
) -> None:
    with run_kafka() as (name, kafka):
        topics = create_topics(kafka)
        bridge = ready(part("bridge", configuration(kafka, mosquitto, topics, prefix)))
        device = Device(mosquitto)
        send(device, prefix, range(10))
        until(lambda: bridge.metric("sensorpipeline_readings_total") >= 10, what="the first readings")
        subprocess.run(["docker", "pause", name], check=True, capture_output=True)
        bad = 120_000  # items that are no objects, more than the producer's queue holds: each is a dead letter
        device.publish(f"{prefix}/d/m", b"[" + b",".join([b"1"] * bad) + b"]", 10)
        send(device, prefix, range(11, 20))
        until(lambda: not bridge.ready, what="the bridge to say that Kafka acknowledges nothing", seconds=60)
        time.sleep(35)  # the broker ends a connection that is silent for 30 s
        subprocess.run(["docker", "unpause", name], check=True, capture_output=True)
        until(lambda: bridge.metric("sensorpipeline_dead_letters_total") >= bad, what="the dead letters", seconds=90)
        until(lambda: set(stored(kafka, topics)) == {*range(20)} - {10}, what="the readings")
        until(lambda: bridge.ready, what="the bridge to go on")
        assert bridge.metric("sensorpipeline_messages_received_total") == 20, "the broker sent something again"
        assert bridge.metric("sensorpipeline_dead_letters_total") == bad
        assert bridge.stop() == 0
        device.close()


def test_a_bridge_that_is_told_to_stop_acknowledges_what_it_took_and_nothing_comes_again(
    kafka: str, mosquitto: int, topics: Topics, part: Make, prefix: str
) -> None:
    bridge = ready(part("bridge", configuration(kafka, mosquitto, topics, prefix)))
    device = Device(mosquitto)
    for turn in range(5):
        for number in range(turn * 1000, turn * 1000 + 1000):
            device.publish(f"{prefix}/d{number % 7}/m", body(number), number)
        assert bridge.stop() == 0
        ready(bridge)
    until(lambda: len(device.acknowledged) >= 5000, what="all PUBACKs")
    until(lambda: len(set(stored(kafka, topics))) >= 5000, what="all readings")
    time.sleep(1)
    times = stored(kafka, topics)
    assert sorted(times) == list(range(5000)), f"{len(times) - 5000} came twice"
    device.close()


POISON = {
    "InvalidJson": b'{"ts": 1, "value": ',
    "MissingField": b'{"ts": 1}',
    "NotANumber": b'{"ts": 1, "value": NaN}',
    "OutOfRange": b'{"ts": 1, "value": 1000001}',
    "FutureTimestamp": b'{"ts": 99999999999999, "value": 1}',
    "TooLarge": b'{"ts": 1, "value": 1, "pad": "' + b"x" * 1_500_000 + b'"}',
}


def test_poison_ends_as_a_dead_letter_with_its_reason_and_the_rest_goes_on(
    kafka: str, mosquitto: int, topics: Topics, part: Make, prefix: str
) -> None:
    bridge = ready(part("bridge", configuration(kafka, mosquitto, topics, prefix)))
    device = Device(mosquitto)
    for number, payload in enumerate([*POISON.values(), b"", b"[" * 100_000, b"\xff" * 100, b"7"]):
        device.publish(f"{prefix}/d/m", payload, -number)
    device.publish(f"{prefix}/not a name!/m", body(1), 1)
    device.publish(f"{prefix}/d/m", b'[{"ts": 5, "value": 5}, {"ts": 6, "value": "x"}, {"ts": 7, "value": 7}]', 2)
    send(device, prefix, range(10, 20))
    until(lambda: bridge.metric("sensorpipeline_dead_letters_total") >= 12, what="the dead letters")
    found = letters(kafka, topics)
    reasons = [letter["reason"] for letter in found]
    assert sorted(reasons) == sorted([*POISON, *["InvalidJson"] * 4, "UnknownDevice", "NotANumber"])
    kept = {letter["reason"]: base64.b64decode(letter["payload"]) for letter in found if letter["reason"] in POISON}
    assert kept["TooLarge"] == POISON["TooLarge"]
    assert {"ts": 6, "value": "x"} in [
        json.loads(base64.b64decode(letter["payload"])) for letter in found if letter["reason"] == "NotANumber"
        and letter["message"].startswith("item 1")
    ]  # fmt: skip
    assert sorted(stored(kafka, topics)) == [5, 7, *range(10, 20)]
    device.close()


def test_readings_that_kafka_will_not_take_together_are_sent_singly_and_alone_they_are_dead_letters(
    kafka: str, mosquitto: int, part: Make, prefix: str
) -> None:
    topics = create_topics(kafka, readings={"max.message.bytes": "250"})
    # A reading of these, in a record of its own, is larger than Kafka takes, however it is compressed.
    device_name, metric_name = ("".join(random.choices(string.ascii_letters, k=length)) for length in (120, 60))
    settings = configuration(kafka, mosquitto, topics, prefix)
    [fleet] = settings.fleets
    metrics = [fleet.metrics[0].model_copy(update={"name": name}) for name in ("m", metric_name)]
    fleet = fleet.model_copy(update={"topic": f"{prefix}/{{device}}/{{metric}}", "metrics": metrics})
    bridge = ready(part("bridge", settings.model_copy(update={"fleets": [fleet]})))
    device = Device(mosquitto)
    send(device, prefix, range(200))
    device.publish(f"{prefix}/{device_name}/{metric_name}", body(500), 500)
    until(lambda: len(set(stored(kafka, topics))) >= 200, what="all readings")
    [letter] = until(lambda: letters(kafka, topics), what="the dead letter")
    assert letter["reason"] == "TooLarge"
    refused = {"device": device_name, "metric": metric_name, "time": 500, "value": 500.0}
    assert json.loads(base64.b64decode(letter["payload"])) == refused
    assert set(stored(kafka, topics)) == {*range(200)}
    assert bridge.stop() == 0
    device.close()


def test_when_kafka_refuses_for_good_the_messages_are_asked_for_again(
    kafka: str, mosquitto: int, topics: Topics, part: Make, prefix: str
) -> None:
    bridge = ready(part("bridge", configuration(kafka, mosquitto, topics, prefix)))
    device = Device(mosquitto)
    send(device, prefix, range(10))
    until(lambda: bridge.metric("sensorpipeline_readings_total") >= 10, what="a first reading")
    admin = AdminClient({"bootstrap.servers": kafka})
    for future in admin.delete_topics([topics.readings["f"]]).values():
        future.result()
    send(device, prefix, range(10, 20))
    until(lambda: not bridge.ready, what="the bridge to say that Kafka refuses", seconds=90)
    again = create_topics(kafka, name=topics.readings["f"].split(".")[0])
    until(lambda: set(stored(kafka, again)) >= set(range(10, 20)), what="the readings", seconds=90)
    device.close()


def test_what_waits_for_a_member_that_never_comes_back_is_adopted(
    kafka: str, mosquitto: int, topics: Topics, part: Make, prefix: str
) -> None:
    def members(replicas: int) -> list[Part]:
        made = []
        for ordinal in range(replicas):
            settings = configuration(kafka, mosquitto, topics, prefix, replicas=replicas, adoption_seconds=2)
            made.append(ready(part("bridge", settings, f"{prefix}-{ordinal}")))
        return made

    device = Device(mosquitto)
    first, second = members(2)
    send(device, prefix, range(2000))
    until(lambda: second.metric("sensorpipeline_messages_received_total") > 500, what="the second to get its share")
    second.kill()
    send(device, prefix, range(2000, 4000))  # half of these wait for the second
    until(lambda: len(set(stored(kafka, topics))) >= 2000, what="the first's share")
    time.sleep(1)
    assert len(set(stored(kafka, topics))) < 4000, "nothing waits for the second; the test shows nothing"
    assert first.stop() == 0
    [alone] = members(1)
    send(device, prefix, range(4000, 6000))
    until(lambda: len(set(stored(kafka, topics))) >= 6000, what="what waited for the second")
    assert set(stored(kafka, topics)) == set(range(6000))
    # The session has ended: what is sent now all comes to the only member, at once.
    time.sleep(3)
    received = alone.metric("sensorpipeline_messages_received_total")
    send(device, prefix, range(6000, 6100))
    until(lambda: len(set(stored(kafka, topics))) >= 6100, what="the last readings", seconds=5)
    assert alone.metric("sensorpipeline_messages_received_total") == received + 100
    device.close()


def test_a_member_that_is_told_to_stop_leaves_nothing_behind_and_the_others_get_what_comes(
    kafka: str, mosquitto: int, topics: Topics, part: Make, prefix: str
) -> None:
    settings = {"replicas": 2, "guard": f"{prefix}-guard"}  # the broker has none, but members know that it would
    _, second = (
        ready(part("bridge", configuration(kafka, mosquitto, topics, prefix, **settings), f"{prefix}-{ordinal}"))
        for ordinal in range(2)
    )
    device = Device(mosquitto)
    send(device, prefix, range(1000))
    until(lambda: second.metric("sensorpipeline_messages_received_total") > 250, what="the second to get its share")
    for number in range(1000, 4000):
        device.publish(f"{prefix}/d{number % 7}/m", body(number), number)
    assert second.stop() == 0
    send(device, prefix, range(4000, 5000))
    # No look for sessions to adopt comes within this time.
    until(lambda: set(stored(kafka, topics)) == set(range(5000)), what="all readings", seconds=10)
    device.close()


def test_the_only_member_keeps_its_subscription_while_it_is_away(
    kafka: str, mosquitto: int, topics: Topics, part: Make, prefix: str
) -> None:
    settings = configuration(kafka, mosquitto, topics, prefix, guard=f"{prefix}-guard")
    bridge = ready(part("bridge", settings, f"{prefix}-0"))
    assert bridge.stop() == 0
    device = Device(mosquitto)
    send(device, prefix, range(100))
    ready(bridge)
    until(lambda: set(stored(kafka, topics)) == set(range(100)), what="what came while it was away")
    device.close()
