"""Puts what the worker benchmark measured into docs/performance.md: a table, a plot, and how to repeat it."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from bench.report import update_section
from bench.worker_rebalance import LOAD, Standstill
from bench.worker_series import SeriesCost
from bench.workload import PARTITIONS

DOCS = Path(__file__).parents[1] / "docs"
COLOURS = ("#1b7f5c", "#b0563b", "#4a6fa5")
WIDTH, LEFT, BAR, GAP = 720, 150, 16, 26


@dataclass(frozen=True)
class Measurement:
    """What one process took for one workload. `recovery` is the time from its restart after a kill to its next
    progress, in seconds; None where it was not measured."""

    workload: str
    peer: str
    version: str
    readings: int
    results: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    recovery: float | None = None

    @property
    def cpu_per_million(self) -> float:
        """CPU-seconds per million readings."""
        return self.cpu_seconds / self.readings * 1e6

    @property
    def rate(self) -> float:
        """Readings per second from the start of the process to its last commit."""
        return self.readings / self.seconds


INTRODUCTION = """## The stream worker beside other engines

`make bench-worker` runs the stream worker and its peers over the same readings, one process each, one after the other,
and compares all results with sums worked out with numpy before it reports anything. Day windows: a reading per device
and 15 minutes of event time, a sum per device and day, two days of lateness, results on a topic, durable state. Our
worker has everything on: validation, windows with revisions, the late list, a threshold, state in its changelog; its
readings come in records of 500, as the bridge writes them. The peers take one reading per record, their usual way, on
RocksDB, at least once.

CPU-seconds are those of the whole process (user and system), start-up included, and so are the readings per second.
Recovery: the process is killed in the middle and started again; the seconds until it takes readings in again, with the
session timeouts that each has by default (ours is 10 s)."""

REBALANCES = f"""\
How long readings stand still when workers of the fleet come and go. All series go on sending, {LOAD:,} readings/s
in all, and in each of the {PARTITIONS} partitions a device of its own, each of whose readings closes a window. The
longest wait is from such a reading to its result, over all partitions, also those that stay where they are; every
result is checked. Results are sent every half second, and a killed worker is missed after the session timeout of 10 s.
The last column is from the change (a process starts, a signal is sent) until those that are then there hold all series
in memory and keep up."""


def write_page(measured: Sequence[Measurement]) -> None:
    """Writes the section on the engines and its plot."""
    (DOCS / "performance-worker.svg").write_text(plot(measured))
    versions = ", ".join(dict.fromkeys(f"{m.peer} {m.version}" for m in measured))
    readings = max(m.readings for m in measured)
    text = [
        INTRODUCTION,
        "",
        *table(measured),
        "",
        "![CPU-seconds per million readings](performance-worker.svg)",
        "",
        f"Measured with {readings:,} readings per run on {machine()}; {versions}.",
        f"To repeat it: `make bench-worker`, or `uv run python -m bench.worker --readings {readings}`, "
        "with `--only` and `--workloads` for a part.",
    ]
    update_section(DOCS / "performance.md", "worker", "\n".join(text))


def table(measured: Sequence[Measurement]) -> list[str]:
    """Returns the lines of the table."""
    head = [
        "| workload | engine | readings/s | CPU-s per million | peak memory (MiB) | results | recovery (s) |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    return head + [
        f"| {m.workload} | {m.peer} | {m.rate:,.0f} | {m.cpu_per_million:.2f} | {m.peak_bytes / 2**20:,.0f} "
        f"| {m.results:,} | {'' if m.recovery is None else f'{m.recovery:.1f}'} |"
        for m in measured
    ]


def write_series(costs: Sequence[SeriesCost], standstills: Sequence[Standstill]) -> None:
    """Writes the section on what series cost our worker."""
    text = [
        "## What series cost the stream worker",
        "",
        "One window and one threshold each; the last column is from the process's start:",
        "",
        "| series | memory, live (MiB) | memory, restored (MiB) | stored bytes per series | start to restored (s) |",
        "|---:|---:|---:|---:|---:|",
        *(
            f"| {c.series:,} | {c.live_bytes / 2**20:,.0f} | {c.restored_bytes / 2**20:,.0f} "
            f"| {c.state_bytes / c.series:,.0f} | {c.restore_seconds:.1f} |"
            for c in costs
        ),
        "",
        REBALANCES,
        "",
        "| series | change | longest wait for a result (s) | until all keep up (s) |",
        "|---:|---|---:|---:|",
        *(f"| {s.series:,} | {s.change} | {s.longest:.1f} | {s.until:.1f} |" for s in standstills),
        "",
        f"Measured on {machine()}.",
        "To repeat it: `make bench-worker`, or `uv run python -m bench.worker --series-only`.",
    ]
    update_section(DOCS / "performance.md", "worker-series", "\n".join(text))


def machine() -> str:
    """Returns what the measurements ran on."""
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"


def plot(measured: Sequence[Measurement]) -> str:
    """Returns an SVG of bars: CPU-seconds per million readings by workload and engine."""
    peers = list(dict.fromkeys(m.peer for m in measured))
    most = max(m.cpu_per_million for m in measured)
    lines: list[str] = []
    top = 30
    for workload in dict.fromkeys(m.workload for m in measured):
        lines.append(f'<text x="{LEFT - 10}" y="{top + BAR - 3}" text-anchor="end">{escape(workload)}</text>')
        for m in (m for m in measured if m.workload == workload):
            width = max(1.0, m.cpu_per_million / most * (WIDTH - LEFT - 200))
            colour = COLOURS[peers.index(m.peer) % len(COLOURS)]
            lines.append(f'<rect x="{LEFT}" y="{top}" width="{width:.1f}" height="{BAR - 2}" fill="{colour}"/>')
            label = f"{m.peer} {m.cpu_per_million:.2f}"
            lines.append(f'<text x="{LEFT + width + 6:.1f}" y="{top + BAR - 4}">{escape(label)}</text>')
            top += BAR
        top += GAP - BAR
    title = "CPU-seconds per million readings (less is better)"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" font-family="sans-serif" '
        f'font-size="12">\n<rect width="{WIDTH}" height="{top}" fill="white"/>\n'
        f'<text x="{LEFT}" y="18" font-weight="bold">{title}</text>\n' + "\n".join(lines) + "\n</svg>\n"
    )
