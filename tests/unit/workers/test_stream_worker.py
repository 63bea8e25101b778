"""The worker around the processor, without a Kafka."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError
from faust.transport.drivers import aiokafka
from faust.types import TP
from prometheus_client import REGISTRY
from sensorpipeline_api.configuration import KafkaConnection, Topics, WorkerConfiguration
from sensorpipeline_api.spec import Fleet
from sensorpipeline_workers.runtime import health as health_module
from sensorpipeline_workers.runtime.health import Health
from sensorpipeline_workers.stream import app as app_module
from sensorpipeline_workers.stream import table as table_module
from sensorpipeline_workers.stream import writer as writer_module
from sensorpipeline_workers.stream.app import REBALANCE_SECONDS, StreamWorker
from sensorpipeline_workers.stream.application import Consumer
from sensorpipeline_workers.stream.processor import Processor
from sensorpipeline_workers.stream.store import position_key
from sensorpipeline_workers.stream.writer import MAXIMUM_MESSAGE_BYTES, WriteError, Writer

FLEET = Fleet.model_validate({
    "name": "f", "topic": "f/{device}/m", "metrics": [{"name": "m"}], "partitions": 2,
    "thresholds": [{"name": "High", "metric": "m", "above": "8", "severity": "Critical"}],
})  # fmt: skip
NOWHERE = KafkaConnection(bootstrap_servers=["127.0.0.1:1"])
CONFIGURATION = WorkerConfiguration(
    pipeline="p", kafka=NOWHERE, fleet=FLEET, application_id="w",
    topics=Topics(readings={"f": "r"}, aggregates="a", late="l", alerts="t", dead_letter="d"),
)  # fmt: skip


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing about nobody being there."""
    settings = {"bootstrap.servers": "127.0.0.1:1", "log_level": 0}
    monkeypatch.setattr(writer_module, "librdkafka_settings", lambda _: settings)


@pytest.fixture
def worker() -> Iterator[StreamWorker]:
    known = set(REGISTRY._collector_to_names)
    yield StreamWorker(CONFIGURATION, Health())
    for collector in set(REGISTRY._collector_to_names) - known:
        REGISTRY.unregister(collector)


def alert_of(device: str) -> float | None:
    labels = {"fleet": "f", "device": device, "threshold": "High", "severity": "Critical"}
    return REGISTRY.get_sample_value("sensorpipeline_device_alert", labels)


def test_alerts_of_partitions_that_stay_go_on_through_a_rebalance(worker: StreamWorker) -> None:
    source = Processor(CONFIGURATION)
    for partition, device in ((0, b"kept"), (1, b"lost")):
        value = b'[{"device":"%s","metric":"m","time":1,"value":9}]' % device
        source.record(topic="r", partition=partition, offset=0, value=value, now=1)
    table: Any = worker.app.tables["state"]
    for partition, key, data in source.take_states():
        table.on_restored(partition, [(key, data)])
    worker._look_at_restored()
    assert (alert_of("kept"), alert_of("lost")) == (1, 1)
    table.on_lost({1})
    assert (alert_of("kept"), alert_of("lost")) == (1, None)


def test_a_rebalance_that_begins_while_states_are_restored_lets_no_readings_flow(worker: StreamWorker) -> None:
    """Faust would resume what was assigned before; the next assignment cancels the waiting."""
    table: Any = worker.app.tables["state"]

    async def recover(*, overtaken: bool) -> bool:
        table._rebalances = worker.app.rebalancing_count
        if overtaken:
            worker.app.rebalancing_count += 1
        recovery = asyncio.ensure_future(worker._on_recovered())
        done, _ = await asyncio.wait([recovery], timeout=0.2)
        recovery.cancel()
        return bool(done)

    assert not asyncio.run(recover(overtaken=True))
    assert not worker._recovered
    assert asyncio.run(recover(overtaken=False))
    assert worker._recovered


def test_what_faust_lets_flow_in_the_middle_of_a_rebalance_is_stopped_again(worker: StreamWorker) -> None:
    class Consumer:
        def __init__(self) -> None:
            self.flows, self.paused = True, set[Any]()

        def assignment(self) -> set[Any]:
            return {("r", 0)}

        def stop_flow(self) -> None:
            self.flows = False

        def pause_partitions(self, partitions: set[Any]) -> None:
            self.paused = partitions

    def resume(*, overtaken: bool) -> tuple[bool, Any]:
        consumer: Any = Consumer()
        worker.app.consumer = consumer
        worker.app.rebalancing = True
        worker.app.flow_control.resume()
        table._rebalances = worker.app.rebalancing_count - overtaken
        worker.app.on_rebalance_end()
        return bool(worker.app.rebalancing), (consumer.flows, consumer.paused, worker.app.flow_control.is_active())

    table: Any = worker.app.tables["state"]
    assert resume(overtaken=True) == (True, (False, {("r", 0)}, False))
    assert resume(overtaken=False) == (False, (True, set(), True))


def test_what_is_being_written_counts_as_unflushed(worker: StreamWorker) -> None:
    table: Any = worker.app.tables["state"]

    async def hold() -> tuple[bool, bool, bool]:
        revoked = asyncio.ensure_future(worker._on_revoked())
        async with worker._lock:
            await asyncio.sleep(0.05)
            during, waits = table.unflushed(), not revoked.done()
            late = asyncio.ensure_future(worker._on_revoked())
            await asyncio.sleep(0.05)
            waits = not late.done()
        await asyncio.gather(revoked, late)
        return during, waits, table.unflushed()

    assert asyncio.run(hold()) == (True, True, False)


def test_a_recovery_is_alive_while_it_reads_and_a_rebalance_for_its_time(
    worker: StreamWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of its own: a machine that is slow must not look like a worker that is."""
    table: Any = worker.app.tables["state"]
    health, clock = worker._health, SimpleNamespace(now=time.monotonic())
    for module in (app_module, health_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def lives_after(seconds: float) -> bool:
        clock.now += seconds
        worker._observe_recovery()
        return health.alive

    assert not lives_after(REBALANCE_SECONDS + 1)
    worker.app.on_rebalance_start()
    assert lives_after(REBALANCE_SECONDS - 1)
    assert lives_after(health._maximum_silence - 1)
    assert not lives_after(2)

    class Reader:
        """Gives one message of the changelog after the other, slowly."""

        left = 4

        def assign(self, _: Any) -> None: ...

        def close(self) -> None: ...

        def consume(self, *_: Any) -> list[Any]:
            clock.now += health._maximum_silence - 1
            alive.append(health.alive)
            self.left -= 1
            return [Message(ended=not self.left)]

    class Message:
        def __init__(self, *, ended: bool) -> None:
            self._ended = ended

        def error(self) -> Any:
            return self if self._ended else None

        def code(self) -> int:
            return int(KafkaError._PARTITION_EOF)

        def partition(self) -> int:
            return 0

        def key(self) -> bytes:
            return b"0|d|m"

        def value(self) -> bytes:
            return b"x"

    alive: list[bool] = []
    monkeypatch.setattr(table_module, "_reader", lambda _: Reader())
    assert table._read({0}, lambda: False) == {0: {b"0|d|m": b"x"}}
    assert alive == [False, True, True, True]


def test_the_wait_for_a_kafka_that_is_away_ends_with_the_process(worker: StreamWorker) -> None:
    """A thread that waited on would keep the process from ending."""
    table: Any = worker.app.tables["state"]

    async def stop() -> None:
        waiting = asyncio.ensure_future(table._in_thread(table._end_offsets, {0}))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        worker.app._stopped.set()
        assert await asyncio.wait_for(waiting, 5) == {}  # Kafka would be waited for without end

    async def cancel() -> None:
        waiting = asyncio.ensure_future(table._in_thread(table._end_offsets, {0}))
        await asyncio.sleep(0.3)
        waiting.cancel()

    asyncio.run(cancel())  # which waits for its threads
    asyncio.run(stop())
    assert threading.active_count() < 20


def test_a_message_that_is_too_large_ends_the_write_with_its_key_and_size() -> None:
    writer = Writer(NOWHERE, lambda: None)
    data = b"x" * (MAXIMUM_MESSAGE_BYTES + 1)
    with pytest.raises(WriteError, match=rf"{len(data)} bytes under the key b'0\|d\|m' of c"):
        asyncio.run(writer.write([("c", 0, b"0|d|m", data)]))


def test_what_kafka_refuses_is_not_acknowledged_and_ends_the_worker(
    worker: StreamWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Exited(Exception): ...

    def leave() -> None:
        raise Exited

    class Event:
        acknowledged = False

        def ack(self) -> None:
            self.acknowledged = True

    async def is_member() -> bool:
        return True

    event: Any = Event()
    monkeypatch.setattr(app_module, "_exit", leave)
    monkeypatch.setattr(worker, "_is_member", is_member)
    monkeypatch.setattr(worker._processor, "take_states", lambda: [(0, b"k", b"x" * (MAXIMUM_MESSAGE_BYTES + 1))])
    worker._unflushed.append(event)
    with pytest.raises(Exited):
        asyncio.run(worker._flush(states=True))
    assert not event.acknowledged


class Stream:
    """A flow of records, each of one device more, in place of Faust's; counts what is taken of it."""

    def __init__(self, records: int) -> None:
        self._records = records
        self._turn = asyncio.Condition()
        self.taken = 0

    def noack(self) -> "Stream":
        return self

    async def events(self) -> AsyncIterator[Any]:
        while self.taken < self._records:
            await asyncio.sleep(0)
            async with self._turn:
                self.taken += 1
                self._turn.notify_all()
            yield Record(self.taken)

    async def has_given(self, records: int) -> None:
        """Waits until so many have been taken."""
        async with self._turn:
            await self._turn.wait_for(lambda: self.taken >= records)


class Record:
    """An event of Faust's and its message."""

    def __init__(self, offset: int) -> None:
        self.topic, self.partition, self.offset, self.timestamp = "r", 0, offset, 0.0
        self.tp, self.acked = TP("r", 0), False
        self.value: Any = b'[{"device":"d%d","metric":"m","time":1,"value":9}]' % offset
        self.message = self

    def ack(self) -> None: ...


@pytest.mark.parametrize(
    ("bound", "taken"), [({"MAXIMUM_UNFLUSHED_RECORDS": 50}, 50), ({"MAXIMUM_UNSENT_RESULTS": 20}, 20)]
)
def test_what_is_read_is_bounded_while_kafka_takes_nothing_and_goes_on_when_it_does(
    worker: StreamWorker, monkeypatch: pytest.MonkeyPatch, bound: dict[str, int], taken: int
) -> None:
    """Each record raises an alert, so it has one result."""
    for name, value in bound.items():
        monkeypatch.setattr(app_module, name, value)
    stream, written = Stream(10 * taken), []

    async def is_member() -> bool:
        return True

    async def run() -> None:
        open_again = asyncio.Event()

        async def write(messages: Iterable[Any]) -> None:
            await open_again.wait()
            written.extend(messages)

        monkeypatch.setattr(worker._writer, "write", write)
        monkeypatch.setattr(worker, "_is_member", is_member)
        work = asyncio.ensure_future(worker._work(stream))
        await asyncio.wait_for(stream.has_given(taken), 60)
        await asyncio.sleep(0.1)
        assert stream.taken == taken
        open_again.set()
        await work
        await worker._flush(states=True)

    asyncio.run(run())
    assert stream.taken == 10 * taken
    assert len({key for topic, _, key, _ in written if topic == "t"}) == 10 * taken


class Reading:
    """Faust's consumer and Kafka, as far as `_work` sees them: records by offset, some passed over at first."""

    def __init__(self, worker: StreamWorker, monkeypatch: pytest.MonkeyPatch, *, first: int, order: list[int]) -> None:
        self._worker, self._order, self.first = worker, order, first
        self.sought: list[int] = []
        monkeypatch.setattr(worker._offsets, "ask", lambda partitions: dict.fromkeys(partitions, (first, 100)))
        monkeypatch.setattr(type(worker.app), "consumer", SimpleNamespace(seek=self._seek))
        self.events = [Record(offset) for offset in order]

    async def _seek(self, tp: TP, offset: int) -> None:
        self.sought.append(offset)
        self.events += [Record(number) for number in range(offset, max(self._order) + 1)]

    async def events_(self) -> AsyncIterator[Any]:
        while self.events:
            yield self.events.pop(0)

    def run(self) -> list[int]:
        """Returns the offsets that were taken in."""
        stream = SimpleNamespace(noack=lambda: SimpleNamespace(events=self.events_))
        asyncio.run(self._worker._work(stream))
        return [event.message.offset for event in self._worker._unflushed]


def test_records_that_were_passed_over_are_asked_for_again_and_taken_in_order(
    worker: StreamWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = Reading(worker, monkeypatch, first=0, order=[3, 4, 7, 8, 9])
    assert reading.run() == [3, 4, 5, 6, 7, 8, 9]
    assert reading.sought == [5]
    assert len(worker._processor.store) == 7


def test_records_that_kafka_has_deleted_hold_nothing_up(worker: StreamWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = Reading(worker, monkeypatch, first=7, order=[3, 4, 7, 8])
    assert reading.run() == [3, 4, 7, 8]
    assert reading.sought == []


def test_after_a_rebalance_faust_begins_no_later_than_where_the_states_end(
    worker: StreamWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too much was committed of one partition; of the other one less than the states hold, which is committed again."""
    worker._processor.load(0, [(position_key(0), b"5")])
    worker._processor.load(1, [(position_key(1), b"9")])
    committed = {TP("r", 0): 8, TP("r", 1): 2, TP("other", 0): 1}
    sought: list[tuple[TP, int]] = []

    async def seek_to_committed(_: Any) -> dict[TP, int]:
        return committed

    async def seek(_: Any, tp: TP, offset: int) -> None:
        sought.append((tp, offset))

    monkeypatch.setattr(aiokafka.Consumer, "seek_to_committed", seek_to_committed)
    monkeypatch.setattr(aiokafka.Consumer, "_seek", seek)
    consumer = object.__new__(Consumer)
    consumer.app = worker.app
    assert asyncio.run(consumer.seek_to_committed()) == {TP("r", 0): 5, TP("r", 1): 2, TP("other", 0): 1}
    assert sought == [(TP("r", 0), 5)]


def test_partitions_are_given_up_once_what_was_taken_in_is_acknowledged_or_gone(
    worker: StreamWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Garbage is collected only when that takes long: a record that nobody holds must not be waited for for ever."""
    looks: list[int] = []
    consumer: Any = object.__new__(Consumer)
    consumer._stopped, consumer._crashed = asyncio.Event(), asyncio.Event()
    consumer._unacked_messages = weakref.WeakSet()
    held = Record(0)
    forgotten = Record(1)
    assert forgotten.message is forgotten  # so only the collector can free it
    consumer._unacked_messages |= {held, forgotten}
    del forgotten

    async def commit() -> None:
        looks.append(len(consumer._unacked_messages))

    async def wait_for_ack() -> None:
        held.acked = len(looks) == 2
        await asyncio.sleep(0.01)

    monkeypatch.setattr(Consumer, "commit", lambda _: commit())
    monkeypatch.setattr(Consumer, "commit_and_end_transactions", lambda _: commit())
    monkeypatch.setattr(Consumer, "_wait_for_ack", lambda _, timeout: wait_for_ack())
    gc.disable()
    try:
        asyncio.run(asyncio.wait_for(consumer.wait_empty(), 5))
    finally:
        gc.enable()
    assert looks == [2, 2, 1, 0, 0]
