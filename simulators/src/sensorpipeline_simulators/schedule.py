"""When each simulated device sends what: one stream of messages in the order in which they are due. Pure."""

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from sensorpipeline_api.spec import SimulatedDevice

from sensorpipeline_simulators import signals

Recording = list[tuple[int, float]]


@dataclass(frozen=True, slots=True, order=True)
class Due:
    """A message: due at `due` seconds of simulated time after the start, dated `time` (ms since the epoch)."""

    due: float
    number: int
    device: str
    time: int
    value: float
    late: bool


def schedule(
    devices: list[SimulatedDevice], *, start: datetime, duration: float, seed: int, recordings: Mapping[str, Recording]
) -> Iterator[Due]:
    """Yields the messages of all devices in order. `duration` is in simulated seconds, 0 for no end; `recordings` maps
    a replayed device to its rows."""
    begin = round(start.timestamp() * 1000)
    streams: list[Iterator[Due]] = []
    for number, device in enumerate(devices):
        if device.replay is not None:
            streams.append(_replayed(device, recordings[device.name], number))
        else:
            streams.append(_regular(device, begin, seed, number))
            for place, _ in enumerate(device.late):
                streams.append(_late(device, place, begin, seed, number))
    for item in heapq.merge(*streams):
        if duration and item.due >= duration:
            return
        yield item


def _regular(device: SimulatedDevice, begin: int, seed: int, number: int) -> Iterator[Due]:
    counter = signals.counter_values(device.counter, device.name, seed) if device.counter is not None else None
    tick = 0
    while True:
        due = tick * device.period_seconds
        value = next(counter) if counter is not None else signals.value(device, tick, seed=seed)
        if value is not None:
            yield Due(float(due), number, device.name, begin + due * 1000, value, False)
        tick += 1


def _late(device: SimulatedDevice, place: int, begin: int, seed: int, number: int) -> Iterator[Due]:
    """Yields readings with an old time: a fraction of a period off the regular times, or it would be a duplicate."""
    late = device.late[place]
    shift = device.period_seconds * 1000 * (place + 1) // (len(device.late) + 1)
    count = 1
    while True:
        due = count * late.every_seconds
        value = signals.value(device, count, seed=seed, salt=f"late{place}")
        if value is not None:
            time = begin + (due - late.by_seconds) * 1000 + shift
            yield Due(float(due), number, device.name, time, value, True)
        count += 1


def _replayed(device: SimulatedDevice, rows: Recording, number: int) -> Iterator[Due]:
    """Yields the rows of a recording with their own times; the first is due at once, an older row right after."""
    due = 0.0
    for time, value in rows:
        due = max(due, (time - rows[0][0]) / 1000)
        yield Due(due, number, device.name, time, value, False)
