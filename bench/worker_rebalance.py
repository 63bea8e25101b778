"""How long readings stand still when workers come and go: one joins, one is killed, one is asked to end.

All series go on sending meanwhile. In every partition a device of its own sends, too, each reading a day of event time
after the one before, so that each closes a window: the time from the reading to that result is how long it waited.
"""

import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition
from integration.conftest import make_producer

from bench import worker_peers as peers
from bench import workload as work
from bench.worker_series import READINGS_PER_SERIES, WAIT_SECONDS, Worker

TICKS = 10
"""How often in a second each partition's device sends a reading, and the others together a record of many."""
LOAD = TICKS * work.READINGS_PER_RECORD
"""The readings per second of all series."""
SECONDS = 300
KEEPS_UP_SECONDS = 2.0
HOLD_SECONDS = 6.0
LOOK_SECONDS = 0.2

Result = tuple[str, int]
"""A device and the start of a window."""


@dataclass(frozen=True)
class Standstill:
    """What a change of the workers did: `longest` is the longest that a reading of any partition waited for its result,
    `until` the time from the change until those that were then there held all series and kept up with readings; both in
    seconds."""

    change: str
    series: int
    longest: float
    until: float


class Traffic(threading.Thread):
    """Sends readings until it is asked to end; `sent` says when the readings were sent that lead to a result."""

    def __init__(self, server: str, topic: str, readings: work.Readings, series: int) -> None:
        super().__init__(daemon=True)
        self.sent: dict[Result, float] = {}
        self.devices = [work.device_name(series + number) for number in range(work.PARTITIONS)]
        self._topic, self._records = topic, work.make_records(readings)
        self._producer = make_producer(server, **{"linger.ms": 5, "compression.type": "lz4"})
        self._end = threading.Event()

    def run(self) -> None:
        begin = time.monotonic()
        for number in count():
            if self._end.wait(max(0.0, begin + number / TICKS - time.monotonic())):
                break
            for partition, device, text in (*self._days(number), *islice(self._records, 1)):
                self._producer.produce(self._topic, text, key=device, partition=partition)
            self._producer.poll(0)

    def _days(self, number: int) -> Iterator[tuple[int, str, str]]:
        start = work.START + number * work.DAY
        for partition, device in enumerate(self.devices):
            if number:
                self.sent[device, start - work.DAY] = time.monotonic()
            yield (
                partition, device,
                f'[{{"device":"{device}","metric":"{work.METRIC}","time":{start},"value":{value_at(start)}}}]',
            )  # fmt: skip

    def end(self) -> None:
        """Makes sure that it has ended."""
        self._end.set()
        if self.ident is not None:
            self.join()
        self._producer.flush(10)


def value_at(start: int) -> float:
    """Returns the only value in a window of a partition's device, and so its sum."""
    return float(start // work.DAY % 89)


class Observer:
    """Reads results while workers come and go."""

    def __init__(self, run: peers.Run, traffic: Traffic, series: int) -> None:
        self._traffic, self._series = traffic, series
        self._seen: dict[Result, float] = {}
        self._newest: dict[str, int] = {}
        self._consumer = Consumer({"bootstrap.servers": run.server, "group.id": "none", "enable.auto.commit": False})
        self._consumer.assign([TopicPartition(run.target, 0, 0)])

    def observe(self, change: str, workers: list[Worker], act: Callable[[], object] = lambda: None) -> Standstill:
        """Makes a change and waits until the workers that are then there hold all series and keep up."""
        begin = time.monotonic()
        good_since = None
        with ThreadPoolExecutor(1) as pool:
            acting = pool.submit(act)
            while not acting.done() or good_since is None or time.monotonic() - good_since < HOLD_SECONDS:
                self._read()
                good = self._keeps_up() and self._hold_all(workers)
                good_since = (good_since or time.monotonic()) if good else None
                if time.monotonic() - begin > WAIT_SECONDS:
                    raise TimeoutError(f"{change}: {[worker.process.log() for worker in workers]}")
            acting.result()
        longest = self._longest_wait(begin - KEEPS_UP_SECONDS, time.monotonic() - KEEPS_UP_SECONDS)
        return Standstill(change, self._series, longest, good_since - begin)

    def _read(self) -> None:
        """Takes in the results of a moment."""
        end = time.monotonic() + LOOK_SECONDS
        while time.monotonic() < end:
            message = self._consumer.poll(LOOK_SECONDS / 10)
            if message is None:
                continue
            record = peers.parse(message.value() or b"{}")
            device, start = record["device"], record["start"]
            if device in self._traffic.devices:
                assert (record["value"], record["count"]) == (value_at(start), 1), record
                self._seen.setdefault((device, start), time.monotonic())
                self._newest[device] = max(start, self._newest.get(device, 0))

    def _keeps_up(self) -> bool:
        """Whether in every partition the newest result is of a reading that has just been sent."""
        since = time.monotonic() - KEEPS_UP_SECONDS
        return all(
            device in self._newest and self._traffic.sent[device, self._newest[device]] > since
            for device in self._traffic.devices
        )

    def _hold_all(self, workers: list[Worker]) -> bool:
        held = [worker.metrics().get("series", 0) for worker in workers]
        return min(held) > 0 and sum(held) == self._series + work.PARTITIONS

    def _longest_wait(self, since: float, until: float) -> float:
        """Returns how long a reading that was sent in that time has waited for its result at most. Raises
        AssertionError when one has none."""
        sent = {result: at for result, at in self._traffic.sent.copy().items() if since < at < until}
        missing = sent.keys() - self._seen.keys()
        assert not missing, f"{len(missing)} of {len(sent)} results missing: {list(missing)[:3]}"
        return max(self._seen[result] - at for result, at in sent.items())

    def close(self) -> None:
        """Ends reading."""
        self._consumer.close()


def measure_rebalances(server: str, series: int) -> list[Standstill]:
    """Measures what the standstills are with so many series."""
    workload = work.Workload(f"{series} series", devices=series)
    name = f"rebalance{series}"
    readings = work.make_readings(workload, series * READINGS_PER_SERIES + LOAD * SECONDS)
    first, rest = work.split(readings, series * READINGS_PER_SERIES)
    work.fill(server, first, batched=f"{name}.batched", single=None)
    peers.make_target(server, name)
    traffic = Traffic(server, f"{name}.batched", rest, series)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        run = peers.Run(server, workload, len(first.time), f"{name}.batched", name, name, Path(directory))
        observer = Observer(run, traffic, series)
        workers: list[Worker] = []

        def start() -> Worker:
            folder = run.directory / str(len(workers))
            folder.mkdir()
            workers.append(Worker(replace(run, directory=folder)))
            return workers[-1]

        try:
            one = start()
            one.process.wait_until_done()
            traffic.start()
            observer.observe("the first readings", [one])
            out = [replace(observer.observe("none", [one]), until=0.0)]
            two = start()
            out.append(observer.observe("a second worker starts", [one, two]))
            out.append(observer.observe("one of two is killed", [two], lambda: one.process.end(signal.SIGKILL)))
            three = start()
            observer.observe("another worker starts", [two, three])
            out.append(observer.observe("one of two is asked to end", [three], two.process.end))
            three.process.end()
            return out
        finally:
            traffic.end()
            observer.close()
            for worker in workers:
                worker.process.close()
