"""The readings of the worker benchmark, and what their windows must come to.

Every device sends a reading per 15 minutes of event time. Two topics hold the same readings in the same order: records
of many readings, as the bridge writes them, and one reading per record, as other engines take them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from integration.conftest import make_producer

PARTITIONS = 4
STEP = 15 * 60_000
START = 1_577_836_800_000
DAY = 86_400_000
LATE_STEPS = 120  # 30 hours: always after the end of its day, never beyond two days
READINGS_PER_RECORD = 500
METRIC = "energy"


@dataclass(frozen=True)
class Workload:
    """One variant. `late` is the share of readings that come `delay` steps after their time; `windows` are periods in
    ms; `clock` is the one by which lateness is judged: `Series` or `Fleet` (per partition, as other engines do)."""

    name: str
    devices: int
    windows: tuple[int, ...] = (DAY,)
    late: float = 0.0
    delay: int = LATE_STEPS
    clock: str = "Series"


WORKLOADS = (
    Workload("day windows", devices=200),
    Workload("50,000 devices", devices=50_000),
    Workload("5 windows", devices=200, windows=(DAY, DAY // 2, DAY // 4, DAY // 8, DAY // 24)),
    Workload("5 % late", devices=200, late=0.05),
)
FLEET_CLOCK = Workload("fleet clock", devices=200, late=0.05, delay=250, clock="Fleet")
"""Of the late readings about a third is in time, and the others are refused."""


@dataclass(frozen=True)
class Readings:
    """Readings in the order in which they are sent: device number, time in ms, value in hundredths."""

    device: "np.ndarray[tuple[int], np.dtype[np.int64]]"
    time: "np.ndarray[tuple[int], np.dtype[np.int64]]"
    hundredths: "np.ndarray[tuple[int], np.dtype[np.int64]]"


def make_readings(workload: Workload, total: int) -> Readings:
    """Returns about `total` readings of a workload, the same at every call."""
    steps = total // workload.devices
    step, device = np.divmod(np.arange(steps * workload.devices, dtype=np.int64), workload.devices)
    generator = np.random.default_rng(7)
    hundredths = generator.integers(0, 10_000, len(step))
    late = generator.random(len(step)) < workload.late
    order = np.lexsort((device, step + workload.delay * late))
    return Readings(device[order], START + STEP * step[order], hundredths[order])


def split(readings: Readings, number: int) -> tuple[Readings, Readings]:
    """Returns so many of the readings, and the others."""
    device, time, hundredths = readings.device, readings.time, readings.hundredths
    return (
        Readings(device[:number], time[:number], hundredths[:number]),
        Readings(device[number:], time[number:], hundredths[number:]),
    )


def refuse_late(workload: Workload, readings: Readings, *, period: int, lateness: int) -> Readings:
    """Returns the readings without those that come too late by the workload's clock. By the clock of its series none
    does: no delay there is beyond the lateness."""
    if workload.clock == "Series":
        return readings
    clock = readings.time.copy()
    for partition in range(PARTITIONS):
        mine = readings.device % PARTITIONS == partition
        clock[mine] = np.maximum.accumulate(readings.time[mine])
    kept = clock < readings.time // period * period + period + lateness
    return Readings(readings.device[kept], readings.time[kept], readings.hundredths[kept])


def compute_sums(readings: Readings, period: int) -> dict[tuple[str, int], tuple[float, int]]:
    """Returns (device, window start) -> (sum, count) over all readings."""
    start = readings.time // period
    span = int(start.max()) + 1
    keys, inverse = np.unique(readings.device * span + start, return_inverse=True)
    totals = np.bincount(inverse, weights=readings.hundredths.astype(np.float64))
    counts = np.bincount(inverse)
    return {
        (device_name(int(key) // span), int(key) % span * period): (float(total) / 100, int(count))
        for key, total, count in zip(keys, totals, counts, strict=True)
    }


def device_name(number: int) -> str:
    """Returns the name of a device."""
    return f"device-{number:05}"


@cache
def admin(server: str) -> AdminClient:
    """Returns the client for administration; it must not go while an answer is on its way, so there is one."""
    return AdminClient({"bootstrap.servers": server, "log_level": 0})


def fill(server: str, readings: Readings, *, batched: str | None, single: str | None) -> None:
    """Makes the topics that are named and writes the readings to them."""
    topics = [NewTopic(topic, PARTITIONS, 1) for topic in (batched, single) if topic is not None]
    for future in admin(server).create_topics(topics).values():
        future.result()
    producer = make_producer(
        server, **{"linger.ms": 50, "compression.type": "lz4", "queue.buffering.max.messages": 10**6}
    )
    if single is not None:
        for partition, device, text in _texts(readings):
            _produce(producer, single, partition, device, text)
    if batched is not None:
        for partition, device, text in make_records(readings):
            _produce(producer, batched, partition, device, text)
    if producer.flush(60):
        raise TimeoutError("Kafka did not take the readings within a minute")


def make_records(readings: Readings) -> Iterator[tuple[int, str, str]]:
    """Yields (partition, key, value) of records of many readings, as the bridge writes them."""
    pending: list[list[str]] = [[] for _ in range(PARTITIONS)]
    for partition, device, text in _texts(readings):
        pending[partition].append(text)
        if len(pending[partition]) == READINGS_PER_RECORD:
            yield partition, device, f"[{','.join(pending[partition])}]"
            pending[partition].clear()
    for partition, texts in enumerate(pending):
        if texts:
            yield partition, device_name(partition), f"[{','.join(texts)}]"


def _texts(readings: Readings) -> Iterator[tuple[int, str, str]]:
    for number, time, hundredths in zip(
        readings.device.tolist(), readings.time.tolist(), readings.hundredths.tolist(), strict=True
    ):
        device = device_name(number)
        yield (
            number % PARTITIONS, device,
            f'{{"device":"{device}","metric":"{METRIC}","time":{time},"value":{hundredths / 100}}}',
        )  # fmt: skip


def _produce(producer: Producer, topic: str, partition: int, key: str, value: str) -> None:
    while True:
        try:
            producer.produce(topic, value, key=key, partition=partition)
            return
        except BufferError:
            producer.poll(0.1)
