"""`make bench-worker`: the stream worker and its peers on the same readings, one process each.

    uv run python -m bench.worker [--readings 2000000] [--only sensorpipeline,"Kafka Streams"]
                                  [--workloads "day windows;5 % late"] [--no-recovery] [--no-page]

Starts a Kafka of its own, fills two topics per workload with the same readings, runs each engine from its start until
it has done with all of them, and checks that all results agree before it reports anything. CPU-seconds are those of the
whole process, start included. The last line printed is our CPU-seconds per reading over those of Kafka Streams.
"""

import argparse
import os
import signal
import subprocess
import tempfile
import time
import uuid

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from bench import worker_peers as peers
from bench import workload as work
from bench.broker import broker
from bench.worker_report import Measurement, write_page

RUN_SECONDS = 420
TOLERANCE = 1e-6


class Process:
    """One engine at work; what it used is known when it has ended."""

    def __init__(self, peer: peers.Peer, run: peers.Run) -> None:
        self._peer, self._run = peer, run
        self._log = run.path / "log"
        with self._log.open("ab") as log:
            # Compiled modules are kept, as they are in an image.
            inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
            environment = inherited | peer.environment(run)
            self._process = subprocess.Popen(peer.command(run), stdout=log, stderr=log, env=environment)
        self._started = time.monotonic()
        self._ended = False

    def wait_until_done(self) -> float:
        """Waits until all readings are done; returns the seconds since the start."""
        end = peers.end_offsets(self._run.server, self._run.source)
        while not self._done(end):
            if time.monotonic() - self._started > RUN_SECONDS:
                self.end(signal.SIGKILL)
                raise TimeoutError(f"{self._peer.name} took more than {RUN_SECONDS} s: {self.log()}")
            time.sleep(0.1)
        return time.monotonic() - self._started

    def wait_for_progress(self, since: int) -> float:
        """Waits until readings are taken in again; returns the seconds since the start."""
        while not self._progressed(since):
            if self._gone():
                raise RuntimeError(f"{self._peer.name} ended: {self.log()}")
            time.sleep(0.05)
        return time.monotonic() - self._started

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[float, int]:
        """Ends the process and returns its CPU-seconds and peak memory in bytes."""
        if not self._ended:
            self._process.send_signal(number)
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if number == signal.SIGTERM and self._process.returncode != 0:
            raise RuntimeError(f"{self._peer.name} ended with {self._process.returncode}: {self.log()}")
        # What the operating system counts for the whole process, its ended children included.
        return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024

    def log(self) -> str:
        """Returns the end of what the process wrote."""
        return self._log.read_text(errors="replace")[-3000:]

    def _gone(self) -> bool:
        flags = os.WEXITED | os.WNOWAIT | os.WNOHANG
        self._ended = self._ended or os.waitid(os.P_PID, self._process.pid, flags) is not None
        return self._ended

    def _done(self, end: int) -> bool:
        if self._peer.stops:
            return self._gone()
        if self._gone():
            raise RuntimeError(f"{self._peer.name} ended: {self.log()}")
        return peers.committed(self._run.server, self._run.application, self._run.source) >= end

    def _progressed(self, since: int) -> bool:
        if self._peer.stops:
            return self._log.read_text(errors="replace").count("first reading") > since
        return peers.committed(self._run.server, self._run.application, self._run.source) > since


def measure(peer: peers.Peer, run: peers.Run) -> tuple[float, float, int]:
    """Runs an engine over a workload; returns the seconds it took, its CPU-seconds and its peak memory in bytes."""
    process = Process(peer, run)
    seconds = process.wait_until_done()
    return seconds, *process.end()


def measure_recovery(peer: peers.Peer, run: peers.Run) -> float:
    """Kills an engine in the middle of a workload, and returns the seconds from its restart to its next progress."""
    process = Process(peer, run)
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
    again = Process(peer, run)
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


def make_target(server: str, target: str) -> None:
    """Makes the output topics of an engine."""
    names = [target, f"{target}.late", f"{target}.alerts", f"{target}.dead-letter"]
    new = [NewTopic(name, 1, 1) for name in names]
    admin = AdminClient({"bootstrap.servers": server})
    for future in admin.create_topics(new).values():
        future.result()


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
        run = make_run(server, workload, readings, source, f"{name}.{peer.name.replace(' ', '-')}")
        with run.directory:
            seconds, cpu_seconds, peak = measure(peer, run)
        results = check(peer, run, readings)
        recovery = None
        if workload == work.WORKLOADS[0] and not options.no_recovery:
            again = make_run(server, workload, readings, source, f"{run.target}.killed")
            with again.directory:
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


def make_run(server: str, workload: work.Workload, readings: work.Readings, source: str, target: str) -> peers.Run:
    """Returns a run with output topics, a consumer group and a directory of its own."""
    make_target(server, target)
    directory = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    return peers.Run(server, workload, len(readings.time), source, target, target, directory)


def main() -> None:
    """Runs the benchmark. Raises AssertionError when results differ."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--readings", type=int, default=2_000_000)
    parser.add_argument("--only", default=",".join(peer.name for peer in peers.PEERS))
    parser.add_argument("--workloads", default=";".join(workload.name for workload in work.WORKLOADS))
    parser.add_argument("--no-recovery", action="store_true")
    parser.add_argument("--no-page", action="store_true")
    parser.add_argument("--profile", help="file for the profile (cProfile) of our worker's last run")
    options = parser.parse_args()
    peers.Ours.profile = options.profile
    chosen = [peer for peer in peers.PEERS if peer.name in options.only.split(",")]
    for peer in chosen:
        peer.prepare()
    measured: list[Measurement] = []
    with broker() as server:
        for workload in (*work.WORKLOADS, work.FLEET_CLOCK):
            if workload.name in options.workloads.split(";"):
                measured += bench(server, workload, chosen, options)
    if not options.no_page:
        write_page(measured)
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
