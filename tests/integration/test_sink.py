"""The sink against a real Kafka and mongod: every reading stored once, whatever comes and whatever fails."""

import base64
import json
import random
import subprocess
import threading
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from integration.conftest import Part, create_topics, free_port, make_producer, produce, run_kafka, until
from integration.stores import Mongod, as_records, database, description, metric, mongods
from pymongo.errors import AutoReconnect, OperationFailure, PyMongoError
from sensorpipeline_api.configuration import Configuration, KafkaConnection, SinkConfiguration, StoreConnection, Topics
from sensorpipeline_workers.sink import writer as writing
from sensorpipeline_workers.sink.batch import BatchBuilder, Record
from sensorpipeline_workers.sink.fence import SupersededError
from sensorpipeline_workers.sink.writer import Progress, Writer
from sensorpipeline_workers.store.agent import StoreAgent
from sensorpipeline_workers.store.collections import compute_collections

Make = Callable[[str, Configuration], Part]
Store = tuple[StoreConnection, Any]
START = 1_577_836_800_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture
def mongod() -> Iterator[Mongod]:
    """A mongod of the test's own."""
    with mongods() as (only,):
        yield only


@pytest.fixture
def store(mongodb: str, tmp_path: Path) -> Iterator[Store]:
    """A database with the pipeline's collections."""
    with database(mongodb, tmp_path) as made:
        yield made


@pytest.fixture
def own_store(mongod: Mongod, tmp_path: Path) -> Iterator[Store]:
    """A database in a mongod of the test's own."""
    with database(mongod.uri, tmp_path) as made:
        yield made


@pytest.fixture
def writer() -> Iterator[Callable[[StoreConnection], Writer]]:
    """Makes writers in this process."""
    made: list[Writer] = []

    def make(connection: StoreConnection) -> Writer:
        made.append(Writer(connection))
        return made[-1]

    yield make
    for item in made:
        item.close()


class SinkPart:
    """The sink as a process, and what it says of itself."""

    def __init__(self, part: Make, kafka: str, topics: Topics, connection: StoreConnection) -> None:
        self.configuration = SinkConfiguration(
            pipeline="p", kafka=KafkaConnection(bootstrap_servers=[kafka]), topics=topics, store=connection,
            group_id=uuid.uuid4().hex, metrics_port=free_port(), metrics={"f": ["m", "n"]},
        )  # fmt: skip
        self.process = part("sink", self.configuration)
        self.process.start()

    def ask(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.configuration.metrics_port}{path}", timeout=5) as got:
                return got.status, got.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, name: str) -> float:
        return metric(self.ask("/metrics")[1], name)

    def handled(self) -> float:
        """Returns how many readings were stored or found to be stored."""
        return sum(self.metric(f"sensorpipeline_{kind}_readings_total") for kind in ("stored", "duplicate"))

    def committed(self) -> dict[int, int]:
        """Returns the committed offset of each partition of the readings."""
        consumer = Consumer({
            "bootstrap.servers": self.configuration.kafka.bootstrap_servers[0],
            "group.id": self.configuration.group_id,
        })  # fmt: skip
        topic = self.configuration.topics.readings["f"]
        answer = {p.partition: p.offset for p in consumer.committed([TopicPartition(topic, n) for n in (0, 1)])}
        consumer.close()
        return answer


def reading(device: str, minute: float, value: float, name: str = "m") -> dict[str, Any]:
    return {"device": device, "metric": name, "time": START + round(minute * 60_000), "value": value}


def stored(database: Any) -> Counter[tuple[str, str, int, float]]:
    """Returns how often each reading is stored."""
    return Counter(
        (d["series"]["device"], d["series"]["metric"], (d["time"] - EPOCH) // timedelta(milliseconds=1), d["value"])
        for d in database["readings"].find()
    )


def first_ones(readings: list[dict[str, Any]]) -> Counter[tuple[str, str, int, float]]:
    """Returns the readings that should be stored: of each series and time the first."""
    out: dict[tuple[str, str, int], float] = {}
    for r in readings:
        out.setdefault((r["device"], r["metric"], r["time"]), r["value"])
    return Counter({(*key, value): 1 for key, value in out.items()})


def many(database: Any, number: int) -> bool:
    return bool(database["readings"].count_documents({}) >= number)


def disorderly(devices: int, minutes: int) -> list[dict[str, Any]]:
    """Readings of which some come late, by minutes or by days, and some again with another value."""
    chance = random.Random(7)
    out: list[dict[str, Any]] = []
    for minute in range(minutes):
        for n in range(devices):
            late = chance.choice([0, 0, 0, 0, 0, 0, 0, 2.5, 90.25, 4000.75])
            out.append(reading(f"d{n}", minute - late, minute, chance.choice("mn")))
            if chance.random() < 0.2:
                again = chance.choice(out[-300:])
                out.append(again | {"value": again["value"] + 0.5})
    return out


def test_duplicates_late_and_disorderly_readings_are_stored_once_and_the_first_one_stays(
    kafka: str, topics: Topics, store: Store, part: Make
) -> None:
    sink = SinkPart(part, kafka, topics, store[0])
    readings = disorderly(devices=9, minutes=700)
    wanted = first_ones(readings)
    assert len(wanted) < len(readings) * 0.9
    third = len(readings) // 3
    for begin in range(0, len(readings), third):
        chunk = readings[begin : begin + third]
        produce(kafka, topics.readings["f"], as_records(chunk, 20))
        so_far = len(first_ones(readings[: begin + third]))
        until(lambda n=so_far: many(store[1], n), what="the readings")
        produce(kafka, topics.readings["f"], as_records(chunk[: third // 2], 3))  # all of it again
    until(lambda: sink.metric("sensorpipeline_duplicate_readings_total") >= len(readings) * 1.4 - len(wanted),
          what="the duplicates")  # fmt: skip
    assert stored(store[1]) == wanted
    assert sink.metric("sensorpipeline_stored_readings_total") == len(wanted)
    assert sink.process.stop() == 0


def test_times_at_both_ends_of_what_can_be_stored_are_found_again(
    kafka: str, topics: Topics, store: Store, part: Make
) -> None:
    """A device whose clock was reset sends 1970; MongoDB's buckets have 32-bit seconds in their identifiers."""
    hour = 3_600_000
    times = [
        0,
        1,
        hour - 1,
        hour,
        23 * hour,
        25 * hour,
        50 * hour,
        2**31 * 1000 - 1,
        2**31 * 1000,
        2**32 * 1000 + hour,
        253402300799999,
    ]
    readings = [{"device": "d", "metric": "m", "time": t, "value": 1.0} for t in times]
    sink = SinkPart(part, kafka, topics, store[0])
    for again in range(3):
        produce(kafka, topics.readings["f"], [("d", readings if again < 2 else readings[::-1])])
        until(lambda n=again: sink.metric("sensorpipeline_duplicate_readings_total") >= n * len(times) and
              many(store[1], len(times)), what="the readings")  # fmt: skip
        if again == 1:
            sink.process.kill()
            sink.process.start()
            until(lambda: sink.ask("/readyz")[0] == 200, what="the sink")
            produce(kafka, topics.readings["f"], [("d", [r]) for r in readings])
    assert stored(store[1]) == first_ones(readings)


def test_poison_of_each_kind_is_dead_lettered_and_the_good_goes_on(
    kafka: str, topics: Topics, store: Store, part: Make
) -> None:
    connection, database = store
    database.command("collMod", "late", validator={"value": {"$lt": 1000}})
    sink = SinkPart(part, kafka, topics, connection)
    aggregate = {
        "window": "W", "fleet": "f", "device": "d", "metric": "m", "start": START, "end": START + 1, "value": 1.0,
        "count": 1, "revision": 0, "final": True,
    }  # fmt: skip
    late = {
        "fleet": "f", "device": "d", "metric": "m", "time": START, "value": 1.0, "window": "W", "lateBySeconds": 1.0,
        "reason": "LatenessExceeded",
    }  # fmt: skip
    letter = {
        "source": "mqtt:t", "fleet": "f", "receivedTime": START, "payload": base64.b64encode(b"x" * 10**6).decode(),
        "reason": "TooLarge", "message": "1 MB",
    }  # fmt: skip
    poison: list[tuple[str, bytes]] = [
        (topics.readings["f"], b"no JSON"),
        (topics.readings["f"], b"\xff\xfe"),
        (topics.readings["f"], b"[" * 100_000),
        (topics.readings["f"], b'[{"device":"d","metric":"m","time":99999999999999999,"value":1}]'),
        (topics.readings["f"], b'[{"device":"d","metric":"m","time":1,"value":1e999}]'),
        (topics.readings["f"], b'[{"device":"d","metric":"unknown","time":1,"value":1}]'),
        (topics.aggregates, b"{}"),
        (topics.aggregates, json.dumps(aggregate | {"start": 10**17}).encode()),
        (topics.aggregates, json.dumps(aggregate | {"revision": 2**64 - 1}).encode()),
        (topics.alerts, b"\xff"),
        (topics.dead_letter, b"x" * 4_000_000),
        (topics.late, json.dumps(late | {"time": START + 1, "value": 5000.0}).encode()),  # MongoDB refuses it
    ]
    send(kafka, poison)
    send(kafka, [(topics.aggregates, json.dumps(aggregate).encode()), (topics.late, json.dumps(late).encode())])
    send(kafka, [(topics.dead_letter, json.dumps(letter).encode())])
    produce(kafka, topics.readings["f"], [(f"d{n}", [reading(f"d{n}", 1, n)]) for n in range(20)])
    until(lambda: many(database, 20) and database["dead_letters"].count_documents({}) >= len(poison) + 1,
          what="all dead letters")  # fmt: skip
    letters = list(database["dead_letters"].find())
    assert len(letters) == len(poison) + 1
    payloads = Counter(base64.b64decode(found["payload"]) for found in letters)
    assert payloads >= Counter([value for _, value in poison[:-1]] + [b"x" * 10**6])
    (refused,) = [found for found in letters if found["source"].startswith("store:late/")]
    assert json.loads(base64.b64decode(refused["payload"]))["value"] == 5000.0
    assert stored(database) == first_ones([reading(f"d{n}", 1, n) for n in range(20)])
    assert database["aggregates"].count_documents({}) == database["late"].count_documents({}) == 1
    assert sink.process.stop() == 0


def test_dead_letters_of_large_messages_are_written_however_many_wait(
    kafka: str, topics: Topics, store: Store, part: Make
) -> None:
    connection, database = store
    letter = {
        "source": "mqtt:t", "fleet": "f", "receivedTime": START, "payload": "A" * 1_400_000, "reason": "TooLarge",
        "message": "1 MB",
    }  # fmt: skip
    send(kafka, [(topics.dead_letter, json.dumps(letter).encode())] * 60)
    sink = SinkPart(part, kafka, topics, connection)
    until(lambda: database["dead_letters"].count_documents({}) == 60, what="all dead letters")
    assert sink.process.stop() == 0


def send(kafka: str, records: list[tuple[str, bytes]]) -> None:
    producer = make_producer(kafka, **{"message.max.bytes": 4_100_000})
    for topic, value in records:
        producer.produce(topic, key=b"k", value=value)
    assert producer.flush(30) == 0


def test_a_reading_that_mongodb_refuses_is_dead_lettered_whole(
    store: Store, topics: Topics, writer: Callable[[StoreConnection], Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    only = writer(store[0])
    written = only._fence.write

    def refusing(command: str, collection: str, **parameters: Any) -> dict[str, Any]:
        if command != "insert":
            return written(command, collection, **parameters)
        documents = parameters.pop("documents")
        answer = written(command, collection, documents=documents[:1] + documents[2:], **parameters)
        return answer | {"writeErrors": [{"index": 1, "code": 2, "errmsg": "no such thing"}]}

    monkeypatch.setattr(only._fence, "write", refusing)
    builder = BatchBuilder(topics, {})
    values = [reading("d", n, n) for n in range(3)]
    builder.add(Record(topics.readings["f"], 0, 0, 0, json.dumps(values).encode()), now=1)
    outcome = only.write(builder.take())
    assert (outcome.stored["f"], outcome.refused["f"], outcome.duplicates["f"]) == (2, 1, 0)
    assert stored(store[1]) == first_ones([values[0], values[2]])
    (letter,) = store[1]["dead_letters"].find()
    assert json.loads(base64.b64decode(letter["payload"])) == [values[1]]
    assert letter["message"] == "no such thing"


@pytest.mark.parametrize("lasting", [False, True], ids=["for a while", "for ever"])
def test_a_reading_with_an_error_that_nobody_has_foreseen_is_written_again_before_it_is_dead_lettered(
    store: Store, topics: Topics, writer: Callable[[StoreConnection], Writer], monkeypatch: pytest.MonkeyPatch,
    lasting: bool,
) -> None:  # fmt: skip
    only = writer(store[0])
    written, failures = only._fence.write, 0

    def refusing(command: str, collection: str, **parameters: Any) -> dict[str, Any]:
        nonlocal failures
        if command != "insert" or (failures == 3 and not lasting):
            return written(command, collection, **parameters)
        failures += 1
        return {"writeErrors": [{"index": 0, "code": 99999, "errmsg": "strange"}]}

    monkeypatch.setattr(only._fence, "write", refusing)
    builder, progress = BatchBuilder(topics, {}), Progress()
    builder.add(Record(topics.readings["f"], 0, 0, 0, json.dumps([reading("d", 1, 1)]).encode()), now=1)
    batch = builder.take()
    for _ in range(writing.ATTEMPTS if lasting else 3):
        with pytest.raises(OperationFailure, match="strange"):
            only.write(batch, progress)
    outcome = only.write(batch, progress)
    assert (outcome.stored["f"], outcome.refused["f"]) == ((0, 1) if lasting else (1, 0))
    assert store[1]["dead_letters"].count_documents({}) == outcome.refused["f"]
    assert store[1]["readings"].count_documents({}) == outcome.stored["f"]


def test_what_an_attempt_that_failed_has_stored_counts_as_stored_and_not_as_found(
    store: Store, topics: Topics, writer: Callable[[StoreConnection], Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    only = writer(store[0])
    monkeypatch.setattr(writing, "MAXIMUM_DOCUMENTS", 10)
    written, inserts = only._fence.write, 0

    def breaking(command: str, collection: str, **parameters: Any) -> dict[str, Any]:
        nonlocal inserts
        answer = written(command, collection, **parameters)
        inserts += command == "insert"
        if command == "insert" and inserts == 2:
            raise AutoReconnect("the answer did not come")
        return answer

    monkeypatch.setattr(only._fence, "write", breaking)
    builder, progress = BatchBuilder(topics, {}), Progress()
    values = [reading("d", n, n) for n in range(30)]
    builder.add(Record(topics.readings["f"], 0, 0, 0, json.dumps([*values, values[0]]).encode()), now=1)
    batch = builder.take()
    with pytest.raises(AutoReconnect):
        only.write(batch, progress)
    outcome = only.write(batch, progress)
    assert (outcome.stored["f"], outcome.duplicates["f"]) == (30, 1)
    assert stored(store[1]) == first_ones(values)


def test_a_mongod_that_is_killed_loses_nothing_and_stores_nothing_twice(
    kafka: str, topics: Topics, mongod: Mongod, own_store: Store, part: Make
) -> None:
    sink = SinkPart(part, kafka, topics, own_store[0])
    readings: list[dict[str, Any]] = []
    for burst in range(4):
        new = [reading(f"d{n % 50}", burst * 1000 + n // 50, n) for n in range(20_000)]
        readings += new
        produce(kafka, topics.readings["f"], as_records(new, 10))
        until(lambda n=burst: many(own_store[1], n * 20_000 + 1), what="the burst's first readings")
        mongod.kill()
    until(lambda: many(own_store[1], len(readings)), what="all readings", seconds=120)
    assert stored(own_store[1]) == first_ones(readings)
    assert sink.ask("/healthz")[0] == 200
    assert sink.process.stop() == 0


def test_a_mongod_that_stops_for_a_while_is_waited_for_alive_and_a_sink_killed_meanwhile_repeats_nothing(
    kafka: str, topics: Topics, mongod: Mongod, own_store: Store, part: Make
) -> None:
    sink = SinkPart(part, kafka, topics, own_store[0])
    readings = [reading(f"d{n % 50}", n // 50, n) for n in range(60_000)]
    produce(kafka, topics.readings["f"], as_records(readings[:20_000], 10))
    until(lambda: many(own_store[1], 1), what="the first readings")
    mongod.pause()
    produce(kafka, topics.readings["f"], as_records(readings[20_000:40_000], 10))
    until(lambda: sink.ask("/readyz")[0] == 503, what="the sink to notice")
    assert sink.ask("/healthz")[0] == 200
    sink.process.kill()
    sink.process.start()
    time.sleep(3)
    mongod.go_on()
    produce(kafka, topics.readings["f"], as_records(readings[40_000:], 10))
    until(lambda: many(own_store[1], len(readings)), what="all readings", seconds=120)
    assert stored(own_store[1]) == first_ones(readings)
    assert sink.process.stop() == 0


def test_a_sink_that_connected_before_the_replica_set_was_there_goes_on(
    topics: Topics, tmp_path: Path, writer: Callable[[StoreConnection], Writer]
) -> None:
    """As when mongod starts again: it answers before it has read of which replica set it is a member."""
    with mongods(initiate=False) as (mongod,):
        file = tmp_path / "uri"
        file.write_text(mongod.uri)
        early = writer(StoreConnection(uri_file=str(file), database="early"))
        early._client.admin.command("ping")
        mongod.initiate()
        with mongod.client() as client:
            for collection in compute_collections(description("early")):
                StoreAgent(description("early"), ordinal=0).keep_collection(client["early"], collection)
        builder = BatchBuilder(topics, {})

        def stores() -> bool:
            builder.add(Record(topics.readings["f"], 0, 0, 0, json.dumps([reading("d", 1, 1)]).encode()), now=1)
            early.write(builder.take())
            return True

        until(stores, what="the first batch", seconds=10)
        with mongod.client() as client:
            assert stored(client["early"]) == first_ones([reading("d", 1, 1)])


def test_an_insert_that_mongod_begins_after_its_sink_was_replaced_is_refused(
    topics: Topics, mongod: Mongod, own_store: Store, writer: Callable[[StoreConnection], Writer]
) -> None:
    """The insert of a killed sink waits in a slow mongod, while the next sink looks up and stores the same readings."""
    builder = BatchBuilder(topics, {})

    def write(to: Writer, values: list[dict[str, Any]]) -> None:
        builder.add(Record(topics.readings["f"], 0, 0, 0, json.dumps(values).encode()), now=1)
        to.write(builder.take())

    old, new = writer(own_store[0]), writer(own_store[0])
    first, second = [reading("d", 1, 1)], [reading("d", 2, 2)]
    write(old, first)
    mongod.delay("insert", 4000)
    errors: list[BaseException] = []

    def late() -> None:
        try:
            write(old, second)
        except (SupersededError, PyMongoError) as error:
            errors.append(error)

    thread = threading.Thread(target=late)
    thread.start()
    time.sleep(1)
    write(new, first + second)
    assert thread.is_alive()
    thread.join()
    assert [type(error) for error in errors] == [SupersededError]
    assert stored(own_store[1]) == first_ones(first + second)
    write(new, [*second, reading("d", 3, 3)])
    assert stored(own_store[1]) == first_ones([*first, *second, reading("d", 3, 3)])


def test_a_restart_over_20_000_series_stores_nothing_twice_and_skips_nothing(
    kafka: str, topics: Topics, store: Store, part: Make
) -> None:
    sink = SinkPart(part, kafka, topics, store[0])
    before = [reading(f"d{n}", minute, minute) for minute in (0, 300) for n in range(20_000)]
    produce(kafka, topics.readings["f"], as_mixed_records(before))
    until(lambda: many(store[1], len(before)), what="the first readings", seconds=120)
    assert sink.process.stop() == 0
    after = [reading(f"d{n}", minute, 7) for minute in (300, 301, 150) for n in range(20_000)]
    produce(kafka, topics.readings["f"], as_mixed_records(after))
    sink.process.start()
    wanted = first_ones(before + after)
    until(lambda: many(store[1], len(wanted)), what="all readings", seconds=120)
    until(lambda: sink.metric("sensorpipeline_duplicate_readings_total") >= 20_000, what="the duplicates")
    assert stored(store[1]) == wanted
    assert sink.metric("sensorpipeline_duplicate_readings_total") == 20_000


def as_mixed_records(readings: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """Returns records of 400 readings of as many devices, by partition as the bridge makes them."""
    sides = [readings[0::2], readings[1::2]]
    return [(f"side{n}", side[k : k + 400]) for n, side in enumerate(sides) for k in range(0, len(side), 400)]


def test_a_stopped_sink_has_committed_and_its_successor_finds_nothing_to_do(
    kafka: str, topics: Topics, store: Store, part: Make
) -> None:
    sink = SinkPart(part, kafka, topics, store[0])
    readings = [reading(f"d{n % 5}", n // 5, n) for n in range(2_000)]
    produce(kafka, topics.readings["f"], as_records(readings, 10))
    until(lambda: many(store[1], 1), what="the first readings")
    assert sink.process.stop() == 0
    count = store[1]["readings"].count_documents({})
    sink.process.start()
    until(lambda: sink.ask("/readyz")[0] == 200, what="the sink")
    until(lambda: many(store[1], len(readings)), what="the rest")
    until(lambda: sum(sink.committed().values()) == 200, what="the commit")
    assert sink.metric("sensorpipeline_duplicate_readings_total") == 0
    assert sink.metric("sensorpipeline_stored_readings_total") == len(readings) - count
    assert stored(store[1]) == first_ones(readings)


def test_readings_older_than_the_retention_go_and_do_not_hold_up_the_others(
    kafka: str, topics: Topics, mongod: Mongod, tmp_path: Path, part: Make
) -> None:
    with database(mongod.uri, tmp_path, reading_retention_days=1) as (connection, db):
        sink = SinkPart(part, kafka, topics, connection)
        now = (time.time_ns() // 60_000_000_000) * 60_000
        new = [{"device": "d", "metric": "m", "time": now - n * 60_000, "value": float(n)} for n in range(10)]
        for round_ in range(2):
            produce(kafka, topics.readings["f"], [("d", [reading("d", n, n) for n in range(10)])])
            # The second time some may still be found: a look-up sees what a majority has, deletions, too.
            until(lambda n=round_: sink.handled() >= 10 * (n + 1), what="the old ones")
            until(lambda: db["readings"].count_documents({}) == 0, what="the old ones to go")
        produce(kafka, topics.readings["f"], [("d", [reading("d", 3, 3), *new])])
        until(lambda: many(db, 10), what="the new ones")
        until(lambda: stored(db) == first_ones(new), what="only the new ones")


def test_what_is_said_of_readings_goes_with_them_and_the_retention_may_change(mongod: Mongod, tmp_path: Path) -> None:
    with database(mongod.uri, tmp_path, reading_retention_days=0) as (connection, db):
        old, new = EPOCH + timedelta(milliseconds=START), datetime.now(UTC)
        times = {"late": "time", "alerts": "time", "dead_letters": "receivedTime"}
        for collection, field in times.items():
            db[collection].insert_many([{"_id": "old", field: old}, {"_id": "new", field: new}])
        wanted = description(connection.database, reading_retention_days=1)
        for collection in compute_collections(wanted):
            StoreAgent(wanted, ordinal=0).keep_collection(db, collection)
        for name in times:
            until(lambda n=name: [d["_id"] for d in db[n].find()] == ["new"], what=f"the old of {name} to go")
        for_ever = description(connection.database, reading_retention_days=0)
        for collection in compute_collections(for_ever):
            StoreAgent(for_ever, ordinal=0).keep_collection(db, collection)
        for name in times:
            assert not any("expireAfterSeconds" in index for index in db[name].list_indexes())


def test_a_collection_of_the_former_version_goes_on_with_coarser_buckets_and_no_index_of_positions(
    kafka: str, topics: Topics, store: Store, part: Make
) -> None:
    connection, db = store
    db.drop_collection("readings")
    former = {"timeField": "time", "metaField": "series", "granularity": "seconds"}
    db.create_collection("readings", timeseries=former)
    db["readings"].create_index([("series.fleet", 1), ("p", 1), ("o", 1)], name="position")
    old = reading("d", 1, 1)
    series = {"fleet": "f", "device": "d", "metric": "m"}
    moment = EPOCH + timedelta(milliseconds=old["time"])
    db["readings"].insert_one({"time": moment, "series": series, "value": 1.0, "p": 0, "o": 0, "i": 0})
    wanted = description(connection.database)
    for collection in compute_collections(wanted):
        StoreAgent(wanted, ordinal=0).keep_collection(db, collection)
    assert [index["name"] for index in db["readings"].list_indexes()] == ["series_time"]
    (options,) = [found["options"] for found in db.list_collections(filter={"name": "readings"})]
    assert options["timeseries"]["granularity"] == "minutes"
    SinkPart(part, kafka, topics, connection)
    produce(kafka, topics.readings["f"], [("d", [old, reading("d", 2, 2)])])
    until(lambda: many(db, 2), what="the new reading")
    assert stored(db) == first_ones([old, reading("d", 2, 2)])


def test_a_kafka_that_stands_still_for_longer_than_any_session_holds_the_sink_up_and_no_longer(
    store: Store, part: Make
) -> None:
    readings = [reading(f"d{n % 50}", n // 50, n) for n in range(40_000)]
    with run_kafka() as (container, kafka):
        topics = create_topics(kafka)
        sink = SinkPart(part, kafka, topics, store[0])
        produce(kafka, topics.readings["f"], as_records(readings[:20_000], 10))
        until(lambda: many(store[1], 1), what="the first readings")
        subprocess.run(["docker", "pause", container], check=True, capture_output=True)
        time.sleep(15)
        assert sink.ask("/healthz")[0] == 200
        subprocess.run(["docker", "unpause", container], check=True, capture_output=True)
        produce(kafka, topics.readings["f"], as_records(readings[20_000:], 10))
        until(lambda: many(store[1], len(readings)), what="all readings", seconds=60)
        assert stored(store[1]) == first_ones(readings)
        until(lambda: sum(sink.committed().values()) == len(as_records(readings, 10)), what="the commit")
        assert sink.process.stop() == 0
