"""A Kafka volume that fills: what was read is deleted, what was not stays, and producers wait instead of losing."""

import contextlib
import os
import socket
import threading
import uuid
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from integration.conftest import make_producer, until
from kafka import KafkaAdminClient
from sensorpipeline_operator.errors import NotReadyError
from sensorpipeline_operator.kafka_storage import describe_volumes, look_after
from sensorpipeline_operator.storage import MEBIBYTE, METADATA_BYTES, Decision

RECORD = 256 * 1024


@pytest.fixture
def topic(kafka: str) -> str:
    """A topic of one partition in small segments."""
    name = f"t{uuid.uuid4().hex[:8]}.readings"
    client = AdminClient({"bootstrap.servers": kafka})
    client.create_topics([NewTopic(name, 1, 1, config={"segment.bytes": str(MEBIBYTE)})])[name].result()
    return name


@pytest.fixture
def look(kafka: str, topic: str) -> Callable[[], Decision]:
    """Looks after a volume that is 40 % full to begin with; 64 MiB more make it 80 %."""
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=kafka)) as client:
        held = sum(sum(broker.sizes.values()) for broker in describe_volumes(client))
    capacity = int((METADATA_BYTES + held) / 0.4)
    groups = {topic: (f"{topic}-a", f"{topic}-b")}
    return lambda: look_after(kafka, {}, capacity=capacity, readers=groups, suspended=True)


def fill(producer: Producer, topic: str, mebibytes: int) -> None:
    for _ in range(mebibytes * MEBIBYTE // RECORD):
        producer.produce(topic, os.urandom(RECORD), partition=0)
        producer.poll(0)
    assert producer.flush(60) == 0


def commit(kafka: str, topic: str, group: str, offset: int) -> None:
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": group})
    consumer.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)
    consumer.close()


def test_a_full_volume_is_emptied_by_what_everybody_has_read_and_by_nothing_else(
    kafka: str, topic: str, look: Callable[[], Decision]
) -> None:
    producer = make_producer(kafka, **{"queue.buffering.max.kbytes": 262144})
    assert not look().suspend
    filled = 0
    while not look().suspend:
        assert filled < 160, "the volume is full, and nobody says so"
        fill(producer, topic, 16)
        filled += 16
    records = filled * MEBIBYTE // RECORD
    commit(kafka, topic, f"{topic}-a", records)
    decision = look()
    assert (decision.delete, decision.suspend) == ({}, True), "b has read nothing yet"
    assert f"{topic}-b has about {filled}" in decision.message
    commit(kafka, topic, f"{topic}-b", records // 2)
    assert look().delete == {(topic, 0): records // 2}
    until(lambda: not look().suspend, what="half of the volume to be emptied", seconds=30)
    left = consume(kafka, topic)
    assert left[0] == records // 2, "what b has not read is there"
    assert len(left) == records - records // 2


def test_what_is_left_of_a_removed_fleet_is_deleted_once_it_is_stored(kafka: str, topic: str) -> None:
    fill(make_producer(kafka), topic, 2)
    records = 2 * MEBIBYTE // RECORD
    capacity = METADATA_BYTES + MEBIBYTE  # more than half full, whatever else is there
    groups = {topic: (f"{topic}-sink",)}

    def look() -> dict[tuple[str, int], int]:
        found = look_after(
            kafka, {}, capacity=capacity, readers={}, suspended=False, former=lambda name: groups.get(name, ())
        )
        return dict(found.delete)

    assert look() == {}
    commit(kafka, topic, f"{topic}-sink", records)
    assert look() == {(topic, 0): records}


def consume(kafka: str, topic: str) -> list[int]:
    """Returns the offsets that a topic holds."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": uuid.uuid4().hex, "enable.partition.eof": True,
                         "auto.offset.reset": "earliest"})  # fmt: skip
    consumer.subscribe([topic])
    offsets: list[int] = []
    while message := consumer.poll(30):
        if message.error():
            break
        offsets.append(message.offset() or 0)
    consumer.close()
    return offsets


def test_a_kafka_that_stands_still_is_an_error_that_says_so_and_leaves_no_thread_behind() -> None:
    threads = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        with pytest.raises(NotReadyError, match="Kafka: KafkaTimeoutError"):
            look_after(f"127.0.0.1:{port}", {}, capacity=MEBIBYTE, readers={}, suspended=False)
    until(lambda: threading.active_count() <= threads, what="the client's thread to end", seconds=10)
