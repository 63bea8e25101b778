"""What 100,000 series cost a worker: memory while they are live and after a restart, state bytes, time to restore them.

Every device sends a few readings; the worker is asked to end and started again, and has restored when it counts all
series in its metrics. The same with 100 series is what the start of the process alone takes.
"""

import re
import tempfile
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sensorpipeline_api.configuration import WorkerConfiguration

from bench import worker_peers as peers
from bench import workload as work

READINGS_PER_SERIES = 10
WAIT_SECONDS = 300


@dataclass(frozen=True)
class SeriesCost:
    """`live_bytes` is the memory of a worker to which all have just sent, `restored_bytes` that of one that has
    restored them; `restore_seconds` are from the start of the process."""

    series: int
    live_bytes: int
    restored_bytes: int
    state_bytes: int
    restore_seconds: float


def measure_series(server: str, series: int) -> SeriesCost:
    """Measures so many series."""
    workload = work.Workload(f"{series} series", devices=series)
    name = f"series{series}"
    readings = work.make_readings(workload, series * READINGS_PER_SERIES)
    work.fill(server, readings, batched=f"{name}.batched", single=None)
    peers.make_target(server, name)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        run = peers.Run(server, workload, len(readings.time), f"{name}.batched", name, name, Path(directory))
        worker = Worker(run)
        worker.process.wait_until_done()
        live = resident_bytes(worker.process.pid)
        worker.process.end()
        again = Worker(run)
        begin = time.monotonic()
        while (found := again.metrics()).get("series", 0) < series:
            if time.monotonic() - begin > WAIT_SECONDS:
                raise TimeoutError(f"{found} after {WAIT_SECONDS} s: {again.process.log()}")
            time.sleep(0.05)
        seconds = time.monotonic() - begin
        restored = resident_bytes(again.process.pid)
        again.process.end()
        return SeriesCost(series, live, restored, int(found["state_bytes"]), seconds)


class Worker:
    """One of our workers at work, and what it says of itself."""

    def __init__(self, run: peers.Run) -> None:
        self.process = peers.Process(peers.Ours(), run)
        configuration = WorkerConfiguration.model_validate_json((run.directory / "worker.json").read_bytes())
        self._port = configuration.metrics_port

    def metrics(self) -> dict[str, float]:
        """Returns its gauges of series and state bytes, none while it does not answer."""
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=5) as answer:
            found = re.finditer(r"^sensorpipeline_(series|state_bytes)\{.*\} (.*)$", answer.read().decode(), re.M)
            return {m[1]: float(m[2]) for m in found}
        return {}


def resident_bytes(pid: int) -> int:
    """Returns the memory that a process holds."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024
