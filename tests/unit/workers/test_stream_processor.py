"""Records that are not what they should be end as dead letters, and the others go on."""

import base64
import json

import pytest
from sensorpipeline_api.configuration import KafkaConnection, Topics, WorkerConfiguration
from sensorpipeline_api.records import DeadLetter
from sensorpipeline_api.spec import Fleet
from sensorpipeline_workers.stream.processor import Processor
from sensorpipeline_workers.stream.table import split_key, table_key

FLEET = Fleet.model_validate({
    "name": "f", "topic": "f/{device}/m", "metrics": [{"name": "m"}],
    "windows": [{"name": "W", "metric": "m", "function": "Sum", "periodSeconds": 10}],
})  # fmt: skip


def processor(stored: dict[bytes, bytes] | None = None) -> Processor:
    topics = Topics(readings={"f": "r"}, aggregates="a", late="l", alerts="t", dead_letter="d")
    connection = KafkaConnection(bootstrap_servers=["127.0.0.1:1"])
    return Processor(
        WorkerConfiguration(pipeline="p", kafka=connection, topics=topics, fleet=FLEET, application_id="w"),
        stored if stored is not None else {},
    )


def record(*times: int) -> bytes:
    return json.dumps([{"device": "d", "metric": "m", "time": t, "value": 1.0} for t in times]).encode()


@pytest.mark.parametrize(
    "value",
    [
        None, b"", b"nonsense", b"{}", b'[{"device":"d"}]', record(10**30), record(-1), record(253402300800000),
        b'[{"device":"d","metric":"other","time":1,"value":1}]',
        b'[{"device":"d","metric":"m","time":1,"value":null}]',
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_read_is_dead_lettered_whole_and_the_next_goes_on(value: bytes | None) -> None:
    subject = processor()
    subject.record(topic="r", partition=0, offset=5, value=value, now=1)
    (letter,) = subject.flush().emissions
    assert isinstance(letter, DeadLetter)
    assert letter.source == "kafka:r/0/5"
    assert base64.b64decode(letter.payload) == (value or b"")
    subject.record(topic="r", partition=0, offset=6, value=record(1, 11_000), now=1)
    assert [topic for topic, _, _ in subject.flush().outputs] == ["a"]


def test_a_record_that_the_state_holds_changes_nothing() -> None:
    subject = processor()
    subject.record(topic="r", partition=0, offset=5, value=record(1, 11_000), now=1)
    states = dict(subject.flush().states)
    again = processor(states)
    again.record(topic="r", partition=0, offset=5, value=record(1, 11_000), now=1)
    flush = again.flush()
    assert (flush.outputs, flush.states) == ([], [])


def test_a_state_is_written_once_per_flush_under_its_partition() -> None:
    subject = processor()
    for offset in range(10):
        subject.record(topic="r", partition=3, offset=offset, value=record(offset), now=1)
    ((key, _),) = subject.flush().states
    assert key == table_key(3, "d", "m")
    assert split_key(key) == (3, "d", "m")


def test_what_was_not_flushed_is_forgotten_after_a_rebalance() -> None:
    subject = processor()
    subject.record(topic="r", partition=0, offset=5, value=record(1, 11_000), now=1)
    subject.forget()
    flush = subject.flush()
    assert (flush.outputs, flush.states) == ([], [])
