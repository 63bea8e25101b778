"""What simulated devices measure: pure functions of seed, device and tick, so a restarted simulation goes on as if
nothing had happened."""

import csv
import io
import random
from collections.abc import Iterator
from datetime import UTC, datetime

from sensorpipeline_api.model import as_float
from sensorpipeline_api.spec import Counter, SimulatedDevice


def value(device: SimulatedDevice, tick: int, *, seed: int, salt: str = "") -> float | None:
    """Returns the value of a device at a tick, rounded to 3 digits; None when nothing happens (event). A counter's
    value is what it has grown to; see `counter_values`, which is faster for all ticks in a row."""
    source = random.Random(f"{seed}|{device.name}|{tick}|{salt}")
    if device.uniform is not None:
        return round(source.uniform(as_float(device.uniform.minimum), as_float(device.uniform.maximum)), 3)
    if device.event is not None:
        return as_float(device.event.value) if source.random() < as_float(device.event.probability) else None
    if device.counter is not None:
        return next(v for number, v in enumerate(counter_values(device.counter, device.name, seed)) if number == tick)
    raise ValueError(f"device {device.name} has no signal that can be computed")


def counter_values(counter: Counter, name: str, seed: int) -> Iterator[float]:
    """Yields the values of a counter at ticks 0, 1, 2, …"""
    total, mean, jitter = as_float(counter.start), as_float(counter.mean_increment), as_float(counter.jitter)
    tick = 0
    while True:
        yield round(total, 3)
        tick += 1
        total += max(0.0, mean + random.Random(f"{seed}|{name}|{tick}").uniform(-jitter, jitter))


def read_recording(text: str, *, time_column: str, value_column: str) -> list[tuple[int, float]]:
    """Returns (event time in ms, value) of each row of a CSV file, in its order; times without a zone are UTC.
    Raises ValueError naming the line or the column."""
    reader = csv.DictReader(io.StringIO(text))
    missing = {time_column, value_column} - set(reader.fieldnames or [])
    if missing:
        raise ValueError(f"the recording has no column {', '.join(sorted(missing))}")
    rows: list[tuple[int, float]] = []
    for row in reader:
        try:
            moment = datetime.fromisoformat(row[time_column])
            rows.append((_milliseconds(moment), float(row[value_column])))
        except ValueError as error:
            raise ValueError(f"the recording, line {reader.line_num}: {error}") from error
    return rows


def _milliseconds(moment: datetime) -> int:
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000)
