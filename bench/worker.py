"""`make bench-worker`: the stream worker and its peers on the same readings, one process each.

    uv run python -m bench.worker [--readings 2000000] [--only sensorpipeline,"Kafka Streams"]
                                  [--workloads "day windows;5 % late"] [--no-recovery] [--series-only] [--no-page]

Starts a Kafka of its own, fills two topics per workload with the same readings, runs each engine from its start until
it has done with all of them, and checks that all results agree before it reports anything. CPU-seconds are those of the
whole process, start included. The last line printed is our CPU-seconds per reading over those of Kafka Streams.
"""

import argparse
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition
from integration.conftest import run_kafka

from bench import worker_peers as peers
from bench import workload as work
from bench.worker_rebalance import measure_rebalances
from bench.worker_report import Measurement, write_page, write_series
from bench.worker_series import measure_series

TOLERANCE = 1e-6


def measure(peer: peers.Peer, run: peers.Run) -> tuple[float, float, int]:
    """Runs an engine over a workload; returns the seconds it took, its CPU-seconds and its peak memory in bytes."""
    process = peers.Process(peer, run)
    seconds = process.wait_until_done()
    return seconds, *process.end()


def measure_recovery(peer: peers.Peer, run: peers.Run) -> float:
    """Kills an engine in the middle of a workload, and returns the seconds from its restart to its next progress."""
    process = peers.Process(peer, run)
    if peer.stops:
        process.wait_for_progress(0)
        time.sleep(3)
        since = 1
    else:
        end = peers.end_offsets(run.server, run.source)
        while peers.committed(run.server, run.application, run.source) < end / 4:
            time.sleep(0.02)
        since = 0
    process.end(signal.SIGKILL)
    if not peer.stops:
        since = peers.committed(run.server, run.application, run.source)
    again = peers.Process(peer, run)
    seconds = again.wait_for_progress(since)
    again.end(signal.SIGKILL)
    return seconds


def read_results(peer: peers.Peer, run: peers.Run) -> dict[int, dict[tuple[str, int], tuple[float, int]]]:
    """Returns, for each window period, (device, start) -> (sum, count) of the highest revision."""
    consumer = Consumer(
        {"bootstrap.servers": run.server, "group.id": uuid.uuid4().hex, "enable.partition.eof": True,
         "enable.auto.commit": False}
    )  # fmt: skip
    count = len(consumer.list_topics(run.target, timeout=10).topics[run.target].partitions)
    consumer.assign([TopicPartition(run.target, number, 0) for number in range(count)])
    best: dict[int, dict[tuple[str, int], tuple[int, float, int]]] = {}
    ended = 0
    while ended < count:
        for message in consumer.consume(10_000, 1.0):
            if message.error():
                ended += 1
                continue
            period, key, value, number, revision = peer.result(run, peers.parse(message.value() or b"{}"))
            found = best.setdefault(period, {})
            if key not in found or revision >= found[key][0]:
                found[key] = revision, value, number
    consumer.close()
    return {
        period: {key: (value, number) for key, (_, value, number) in found.items()} for period, found in best.items()
    }


def check(peer: peers.Peer, run: peers.Run, readings: work.Readings) -> int:
    """Compares an engine's results with sums worked out with numpy; returns how many results there are. Every result
    must be right, and every window that its engine must have closed must be there. Raises AssertionError."""
    results = read_results(peer, run)
    total = 0
    for period in run.workload.windows:
        lateness = peers.LATENESS_SECONDS * 1000
        accepted = work.refuse_late(run.workload, readings, period=period, lateness=lateness)
        expected = work.compute_sums(accepted, period)
        found = results.get(period, {})
        for key, (value, number) in found.items():
            wanted, wanted_count = expected[key]
            assert number == wanted_count, (peer.name, period, key, number, wanted_count)
            assert abs(value - wanted) < TOLERANCE * max(1.0, abs(wanted)), (peer.name, period, key, value, wanted)
        closed = int(readings.time.max()) - work.STEP - work.LATE_STEPS * work.STEP - 2 * work.DAY
        missing = [key for key in expected if key[1] + period <= closed and key not in found]
        assert not missing, (
            f"{peer.name}, {run.workload.name}: {len(missing)} of {len(expected)} missing: {missing[:3]}"
        )
        total += len(found)
    return total


def bench(
    server: str, workload: work.Workload, chosen: list[peers.Peer], options: argparse.Namespace
) -> list[Measurement]:
    """Measures all engines on one workload."""
    readings = work.make_readings(workload, options.readings)
    name = f"bench{uuid.uuid4().hex[:6]}"
    batched = f"{name}.batched" if any(peer.batched for peer in chosen) else None
    single = f"{name}.single" if any(not peer.batched for peer in chosen) else None
    work.fill(server, readings, batched=batched, single=single)
    out: list[Measurement] = []
    for peer in chosen:
        source = batched if peer.batched else single
        assert source is not None
        target = f"{name}.{peer.name.replace(' ', '-')}"
        with make_run(server, workload, readings, source, target) as run:
            seconds, cpu_seconds, peak = measure(peer, run)
        results = check(peer, run, readings)
        recovery = None
        if workload == work.WORKLOADS[0] and not options.no_recovery:
            with make_run(server, workload, readings, source, f"{target}.killed") as again:
                recovery = measure_recovery(peer, again)
        found = Measurement(
            workload.name, peer.name, peer.version, run.readings, results, seconds, cpu_seconds, peak, recovery
        )
        print(
            f"{found.workload:16} {found.peer:16} {found.rate:10,.0f} readings/s "
            f"{found.cpu_per_million:7.2f} CPU-s per million {found.peak_bytes / 2**20:7.0f} MiB "
            f"{found.results:8} results agree" + ("" if recovery is None else f", recovers in {recovery:.1f} s"),
            flush=True,
        )  # fmt: skip
        out.append(found)
    return out


def bench_series(server: str, options: argparse.Namespace) -> None:
    """Measures what series cost our worker: few, which is what the process alone takes, and many."""
    numbers = (100, 100_000)
    costs = [measure_series(server, number) for number in numbers]
    for cost in costs:
        print(
            f"{cost.series:7,} series: {cost.live_bytes / 2**20:.0f} MiB live, {cost.restored_bytes / 2**20:.0f} MiB "
            f"restored, {cost.state_bytes / cost.series:.0f} bytes of state each, "
            f"{cost.restore_seconds:.1f} s from start to restored",
            flush=True,
        )
    standstills = [standstill for number in numbers for standstill in measure_rebalances(server, number)]
    for found in standstills:
        print(
            f"{found.series:7,} series, {found.change}: {found.longest:.1f} s at most, {found.until:.1f} s until good"
        )
    if not options.no_page:
        write_series(costs, standstills)


@contextmanager
def make_run(
    server: str, workload: work.Workload, readings: work.Readings, source: str, target: str
) -> Iterator[peers.Run]:
    """Gives a run with output topics, a consumer group and a directory of its own."""
    peers.make_target(server, target)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        yield peers.Run(server, workload, len(readings.time), source, target, target, Path(directory))


def main() -> None:
    """Runs the benchmark. Raises AssertionError when results differ."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--readings", type=int, default=2_000_000)
    parser.add_argument("--only", default=",".join(peer.name for peer in peers.PEERS))
    parser.add_argument("--workloads", default=";".join(workload.name for workload in work.WORKLOADS))
    parser.add_argument("--no-recovery", action="store_true")
    parser.add_argument("--series-only", action="store_true", help="only what series cost our worker")
    parser.add_argument("--no-page", action="store_true")
    parser.add_argument("--profile", help="file for the profile (cProfile) of our worker's last run")
    options = parser.parse_args()
    peers.Ours.profile = options.profile
    chosen = [peer for peer in peers.PEERS if peer.name in options.only.split(",") and not options.series_only]
    for peer in chosen:
        peer.prepare()
    measured: list[Measurement] = []
    with run_kafka(heap="1g") as (_, server):
        for workload in (*work.WORKLOADS, work.FLEET_CLOCK):
            if chosen and workload.name in options.workloads.split(";"):
                measured += bench(server, workload, chosen, options)
        if measured and not options.no_page:
            write_page(measured)  # what has been measured is kept, whatever comes
        if not options.no_recovery:
            bench_series(server, options)
    ratio = compute_ratio(measured)
    if ratio is not None:
        print(f"ratio to Kafka Streams: {ratio:.3f}")


def compute_ratio(measured: list[Measurement]) -> float | None:
    """Returns our CPU-seconds per reading over Kafka Streams' on the first workload, if both were measured."""
    cost = {m.peer: m.cpu_per_million for m in measured if m.workload == work.WORKLOADS[0].name}
    if {"sensorpipeline", "Kafka Streams"} <= cost.keys():
        return cost["sensorpipeline"] / cost["Kafka Streams"]
    return None


if __name__ == "__main__":
    main()
