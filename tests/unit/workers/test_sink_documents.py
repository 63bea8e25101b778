"""Records to BSON documents and batches; what can be neither read nor stored becomes a dead letter."""

import base64
from datetime import datetime
from typing import Any

import bson
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensorpipeline_api.configuration import KafkaConnection, Topics, WorkerConfiguration
from sensorpipeline_api.records import LAST_TIME, Aggregate, DeadLetter
from sensorpipeline_api.spec import Fleet
from sensorpipeline_workers.sink import documents
from sensorpipeline_workers.sink.batch import Batch, BatchBuilder, Record
from sensorpipeline_workers.sink.documents import ReadingEncoder, moment
from sensorpipeline_workers.stream.processor import Processor

TOPICS = Topics(readings={"f": "p.f"}, aggregates="p.a", late="p.l", alerts="p.s", dead_letter="p.d")
AGGREGATE: dict[str, Any] = {
    "window": "W", "fleet": "f", "device": "d", "metric": "m", "start": 0, "end": 1, "value": 1.0, "count": 1,
    "revision": 0, "final": True,
}  # fmt: skip


def batch_of(*records: tuple[str, bytes]) -> Batch:
    builder = BatchBuilder(TOPICS, {"f": ["m"]})
    for offset, (topic, value) in enumerate(records):
        builder.add(Record(topic, 0, offset, 0, value), now=1)
    return builder.take()


def documents_of(batch: Batch) -> dict[tuple[str, str], dict[str, Any]]:
    return {key: bson.decode(upsert.document.raw) for key, upsert in batch.upserts.items()}


@given(
    st.tuples(st.text(), st.text(), st.text()),
    st.dictionaries(st.integers(0, LAST_TIME), st.floats(allow_nan=False), max_size=5),
)
def test_a_reading_is_the_same_document_as_the_driver_would_make(
    series: tuple[str, str, str], readings: dict[int, float]
) -> None:
    fleet, device, metric = series
    encoder = ReadingEncoder()
    for _ in range(2):  # the second time from what is kept of the series
        made = [document.raw for document in encoder.documents(series, readings)]
        assert made == [
            bson.encode({"series": {"fleet": fleet, "device": device, "metric": metric}, "time": moment(t), "value": v})
            for t, v in readings.items()
        ]


@given(st.integers(0, LAST_TIME))
def test_a_time_keeps_its_milliseconds(milliseconds: int) -> None:
    decoded = bson.decode(bson.encode({"t": moment(milliseconds)}))["t"]
    assert isinstance(decoded, datetime)
    assert round((decoded - datetime(1970, 1, 1)).total_seconds() * 1000) == milliseconds


def test_of_readings_of_one_time_the_first_is_kept_and_of_upserts_the_highest_revision() -> None:
    readings = b'[{"device":"d","metric":"m","time":5,"value":1},{"device":"d","metric":"m","time":5,"value":2}]'
    later = b'[{"device":"d","metric":"m","time":5,"value":3},{"device":"d","metric":"m","time":6,"value":4}]'
    aggregates = [("p.a", msgspec.json.encode(AGGREGATE | {"revision": r, "value": v})) for r, v in ((1, 5), (0, 6))]
    batch = batch_of(("p.f", readings), ("p.f", later), *aggregates)
    assert batch.readings == {("f", "d", "m"): {5: 1.0, 6: 4.0}}
    assert batch.received == {"f": 4}
    assert [document["value"] for document in documents_of(batch).values()] == [5.0]
    assert batch.offsets == {("p.f", 0): 2, ("p.a", 0): 4}


POISON = [
    ("p.f", b"{"),
    ("p.f", b"\xff\xfe"),
    ("p.f", b'[{"device":"d\xff","metric":"m","time":5,"value":1}]'),
    ("p.f", b""),
    ("p.f", b"[" * 100_000),
    ("p.f", b'[{"device":"d","metric":"m","time":5}]'),
    ("p.f", b'[{"device":"d","metric":"m","time":-1,"value":1}]'),
    ("p.f", b'[{"device":"d","metric":"m","time":253402300800000,"value":1}]'),
    ("p.f", b'[{"device":"d","metric":"m","time":99999999999999999999999,"value":1}]'),
    ("p.f", b'[{"device":"d","metric":"m","time":5,"value":1e999}]'),
    ("p.f", b'[{"device":"d","metric":"m","time":5,"value":NaN}]'),
    ("p.f", b'[{"device":"d","metric":"m","time":5,"value":1},{"device":"d","metric":"other","time":5,"value":1}]'),
    ("p.a", b"[]"),
    ("p.a", b"\xff"),
    ("p.a", msgspec.json.encode(AGGREGATE | {"start": 10**17})),
    ("p.a", msgspec.json.encode(AGGREGATE | {"count": 2**64 - 1})),
    ("p.l", b"null"),
    ("p.s", b"7"),
    ("p.d", b"no dead letter"),
]


@pytest.mark.parametrize(("topic", "value"), POISON)
def test_what_cannot_be_stored_becomes_a_dead_letter_that_holds_it(topic: str, value: bytes) -> None:
    good = b'[{"device":"d","metric":"m","time":7,"value":1}]'
    batch = batch_of((topic, value), ("p.f", good))
    assert batch.readings == {("f", "d", "m"): {7: 1.0}}
    source = f"kafka:{topic}/0/0"
    (letter,) = documents_of(batch).values()
    assert (letter["_id"], letter["source"]) == (source, source)
    assert base64.b64decode(letter["payload"]) == value
    assert letter["message"]


@pytest.mark.parametrize(("topic", "value"), [item for item in POISON if item[0] == "p.f"])
def test_the_worker_and_the_sink_write_the_same_dead_letter(topic: str, value: bytes) -> None:
    kafka = KafkaConnection(bootstrap_servers=["127.0.0.1:1"])
    fleet = Fleet.model_validate({"name": "f", "topic": "f/{device}/m", "metrics": [{"name": "m"}]})
    worker = Processor(WorkerConfiguration(pipeline="p", kafka=kafka, topics=TOPICS, fleet=fleet, application_id="w"))
    worker.record(topic=topic, partition=0, offset=0, value=value, now=1)
    (_, ((_, _, output),)) = worker.take_results()
    ((_, key),) = batch_of((topic, value)).upserts
    assert documents.dead_letter_upsert(output, position="elsewhere").key == key


def test_a_window_that_ends_in_the_year_10000_becomes_a_dead_letter_that_says_so() -> None:
    """The latest reading that every part takes; what else there is of it is stored."""
    kafka = KafkaConnection(bootstrap_servers=["127.0.0.1:1"])
    window = {"name": "W", "metric": "m", "function": "Sum", "periodSeconds": 1000}
    metric = {"metrics": [{"name": "m"}], "thresholds": [{"name": "T", "metric": "m", "above": "1"}]}
    fleet = Fleet.model_validate({"name": "f", "topic": "f/{device}/m", "windows": [window], **metric})
    worker = Processor(WorkerConfiguration(pipeline="p", kafka=kafka, topics=TOPICS, fleet=fleet, application_id="w"))
    reading = b'[{"device":"d","metric":"m","time":%d,"value":2}]' % LAST_TIME
    worker.record(topic="p.f", partition=0, offset=0, value=reading, now=1)
    worker.take_states()
    worker.check(now=10**9)
    _, messages = worker.take_results()
    batch = batch_of(("p.f", reading), *((topic, value) for topic, _, value in messages))
    assert batch.readings == {("f", "d", "m"): {LAST_TIME: 2.0}}
    stored = {collection: document for (collection, _), document in documents_of(batch).items()}
    assert stored.keys() == {"alerts", "dead_letters"}
    assert "not in the years 1 to 9999" in stored["dead_letters"]["message"]
    assert msgspec.json.decode(base64.b64decode(stored["dead_letters"]["payload"]))["end"] > LAST_TIME


def test_a_dead_letter_too_large_for_mongodb_is_cut_and_says_so() -> None:
    batch = batch_of(("p.f", b" " * 13_000_000))
    (letter,) = documents_of(batch).values()
    assert letter["reason"] == "TooLarge"
    assert "13000000 bytes" in letter["message"]
    payload = base64.b64encode(b"x" * 12_600_000).decode()
    record = msgspec.json.encode(DeadLetter("mqtt:t", "f", 1, payload, "InvalidJson", "m"))
    (letter,) = documents_of(batch_of(("p.d", record))).values()
    assert letter["reason"] == "TooLarge"


def test_a_dead_letter_of_a_megabyte_is_stored_as_it_is() -> None:
    payload = base64.b64encode(b"x" * 1_000_000).decode()
    record = msgspec.json.encode(DeadLetter("mqtt:t", "f", 1, payload, "TooLarge", "m"))
    (letter,) = documents_of(batch_of(("p.d", record))).values()
    assert letter["payload"] == payload
    assert letter["_id"] == "p.d/0/0"


def test_an_aggregate_is_written_only_over_lower_or_equal_revisions() -> None:
    upsert = documents.aggregate_upsert(msgspec.json.encode(msgspec.convert(AGGREGATE | {"revision": 3}, Aggregate)))
    statement = bson.decode(bson.encode(upsert.statement))
    assert statement["q"] == {"_id": "W|d|m|0", "revision": {"$lte": 3}}
    assert statement["u"]["_id"] == "W|d|m|0"
