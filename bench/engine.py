"""How fast the pure engine is: decoding, grouping, windows, duplicates, late list; no Kafka, one core.

Workload "day windows": 200 devices, one reading each per 15 minutes of event time, records of 500 readings from one of
4 partitions, a tumbling sum of one day with two days of lateness. Then with 50,000 devices, with more windows on the
same metric, and with 5 % late readings. Records are made before the clock starts; times are CPU time of this process.
"""

import argparse
import gc
import platform
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from sensorpipeline_api.records import Reading
from sensorpipeline_api.spec import Fleet
from sensorpipeline_workers.engine.grouping import group
from sensorpipeline_workers.engine.plan import MetricPlan, compile_metric
from sensorpipeline_workers.engine.series import process
from sensorpipeline_workers.engine.state import SeriesState, encode

from bench.report import update_section

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
START, QUARTER = 1_577_836_800_000, 900_000
RECORD, PARTITIONS = 500, 4
NOW = 1_700_000_000_000
FURTHER = ["Mean", "Minimum", "Maximum", "Last"]
ROUNDS = 3


@dataclass
class Result:
    """CPU seconds, readings, what was emitted, and the size of the states."""

    seconds: float
    readings: int
    emitted: int
    series: int
    panes: int
    state_bytes: int
    encode_seconds: float

    @property
    def rate(self) -> float:
        """Readings per second of one core."""
        return self.readings / self.seconds


def fleet(windows: int) -> Fleet:
    """Returns a fleet with so many one-day windows on its metric."""
    functions = ["Sum", *FURTHER][:windows]
    return Fleet.model_validate(
        {
            "name": "bench",
            "topic": "bench/{device}/energy",
            "metrics": [{"name": "energy"}],
            "windows": [
                {"name": f"Day{function}", "metric": "energy", "function": function, "periodSeconds": 86400,
                 "allowedLatenessSeconds": 172800}
                for function in functions
            ],
        }
    )  # fmt: skip


def readings(devices: int, count: int, late: float, partition: int) -> Iterator[Reading]:
    """Yields one partition's readings in the order of time; a share of them carries a time up to a day old."""
    chance = random.Random(partition)
    names = [f"device-{number:05d}" for number in range(partition, devices, PARTITIONS)]
    for tick in range(count // devices):
        for name in names:
            moment = START + tick * QUARTER
            if late and chance.random() < late:
                moment -= chance.randrange(1, 96) * QUARTER + 1 + chance.randrange(QUARTER - 1)
            yield Reading(name, "energy", moment, round(chance.uniform(0, 1000), 2))


def records(devices: int, count: int, late: float) -> list[bytes]:
    """Returns the records of all partitions, in turns."""
    encode_record = msgspec.json.Encoder().encode
    partitions = []
    for partition in range(PARTITIONS):
        rows = list(readings(devices, count, late, partition))
        partitions.append([encode_record(rows[n : n + RECORD]) for n in range(0, len(rows), RECORD)])
    longest = max(map(len, partitions))
    return [batch[n] for n in range(longest) for batch in partitions if n < len(batch)]


def run(plan: MetricPlan, batches: list[bytes], count: int) -> Result:
    """Runs the records through the engine."""
    decoder = msgspec.json.Decoder(list[Reading])
    states: dict[tuple[str, str], SeriesState] = {}
    emitted = 0
    gc.collect()
    begin = time.process_time()
    for batch in batches:
        for key, (times, values) in group(decoder.decode(batch)).items():
            state = states.get(key)
            if state is None:
                state = states[key] = SeriesState(plan)
            emitted += len(process(plan, state, device=key[0], times=times, values=values, now=NOW))
    seconds = time.process_time() - begin
    begin = time.process_time()
    size = sum(len(encode(plan, state)) for state in states.values())
    encoding = time.process_time() - begin
    panes = sum(len(window.panes) for state in states.values() for window in state.windows)
    return Result(seconds, count, emitted, len(states), panes, size, encoding)


def best(windows: int, batches: list[bytes], count: int) -> Result:
    """Returns the fastest of some rounds: the others were disturbed."""
    plan = compile_metric(fleet(windows), "energy")
    return min((run(plan, batches, count) for _ in range(ROUNDS)), key=lambda result: result.seconds)


def stages(batches: list[bytes]) -> tuple[float, float, float]:
    """Returns the CPU seconds that decoding takes, those that decoding and grouping take, and how many readings of a
    series there are in a record, on average."""
    decode = msgspec.json.Decoder(list[Reading]).decode

    def timed(work: Callable[[bytes], object]) -> float:
        gc.collect()
        begin = time.process_time()
        for batch in batches:
            work(batch)
        return time.process_time() - begin

    decoding = min(timed(decode) for _ in range(ROUNDS))
    grouping = min(timed(lambda batch: group(decode(batch))) for _ in range(ROUNDS))
    sample = [decode(batch) for batch in batches[:200]]
    return decoding, grouping, sum(map(len, sample)) / sum(len(group(readings)) for readings in sample)


def stage_row(name: str, result: Result, decoding: float, grouping: float, together: float) -> str:
    """Returns a line of the table of stages, in µs per reading."""
    parts = (decoding, grouping - decoding, result.seconds - grouping)
    cells = " | ".join(f"{part / result.readings * 1e6:.2f}" for part in parts)
    return f"| {name} | {together:.1f} | {cells} |"


def row(name: str, result: Result) -> str:
    """Returns a line of the table."""
    million = result.seconds / result.readings * 1e6
    per_pane = result.state_bytes / max(1, result.panes)
    encoding = result.encode_seconds / result.series * 1e6
    return (
        f"| {name} | {result.rate / 1e6:.2f} M | {million:.2f} | {result.emitted:,} | "
        f"{result.state_bytes / result.series:.0f} | {per_pane:.0f} | {encoding:.1f} |"
    )


def main() -> None:
    """Runs the workloads, prints the table and writes it into the documentation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readings", type=int, default=2_000_000)
    parser.add_argument("--no-page", action="store_true", help="print only")
    arguments = parser.parse_args()
    count: int = arguments.readings
    lines = [
        "| workload | readings/s of one core | CPU-seconds per million | emissions | state bytes per series | "
        "per live window | µs to encode a state |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    profile = [
        "| workload | readings of a series per record | µs per reading: decoding | grouping by series | windows |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    further = []
    for devices in (200, 50_000):
        batches = records(devices, count, 0)
        first = last = best(1, batches, count)
        lines.append(row(f"{devices:,} devices, 1 window", first))
        for windows in range(2, 6):
            last = best(windows, batches, count)
            lines.append(row(f"{devices:,} devices, {windows} windows", last))
        share = (last.seconds / first.seconds - 1) / 4
        further.append(f"{share:.0%} with {devices:,} devices")
        profile.append(stage_row(f"{devices:,} devices, 1 window", first, *stages(batches)))
        batches = records(devices, count, 0.05)
        late = best(1, batches, count)
        profile.append(stage_row(f"{devices:,} devices, 1 window, 5 % late", late, *stages(batches)))
        lines.append(row(f"{devices:,} devices, 1 window, 5 % late", late))
        print(*lines[-6:], sep="\n", flush=True)
    text = "\n".join(
        [
            "## The engine alone",
            "",
            f"`make bench-engine`: {count:,} readings in records of {RECORD}, JSON decoding included; Python "
            f"{platform.python_version()}, msgspec {msgspec.__version__}, {platform.machine()}. One-day windows, two "
            f"days of lateness; the best of {ROUNDS} rounds, CPU time.",
            "",
            *lines,
            "",
            f"Each further window on the same metric costs {' and '.join(further)} of the time of one.",
            "",
            "What bounds it: a call of the engine for a series and a record has a price of its own, which the readings "
            "of that series in that record share. A late reading ends such a run, and is looked up among those known.",
            "",
            *profile,
        ]
    )
    print(text)
    if not arguments.no_page:
        update_section(PAGE, "engine", text)


if __name__ == "__main__":
    main()
