"""What a pipeline should have computed, worked out anew from the readings and the spec, all readings at once.

No code is shared with the engine. Readings are taken in the order in which they arrived.

- A series is a device and a metric. Its watermark is the largest event time seen on it (with the fleet's clock: on the
  partition, which a reading may name), less `outOfOrdernessSeconds`.
- A window accepts a reading while the watermark, with the reading seen, is before its end plus the allowed lateness;
  otherwise the reading is listed as late by the watermark minus the window's end: of several windows that hold it, the
  first. A session accepts it while the watermark is before its time plus the gap and the lateness.
- A reading of a time that the series has sent before counts once, within the lateness horizon: the longest window (two
  days for a calendar day, 32 for a month) with its lateness and `outOfOrdernessSeconds`.
- A window is final when the watermark has reached its end; only final windows are results.
- Difference is the last value of a window less that of the previous window of the series that has readings.
- A window with a source holds the readings that the source accepted.
- A threshold judges readings newer than all before; one on silence goes by the clock, of which readings say nothing,
  and is left out, as is the retiring of series.
- A derived metric has a value for each start at which all of its inputs have one.
"""

import math
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
from e2e.recompute_derived import derived_results

Row = dict[str, Any]
Sample = tuple[int, float]
Numbered = tuple[int, float, int]
COLUMNS = ["window", "device", "start", "value", "count"]
LATE_COLUMNS = ["window", "device", "time", "lateBySeconds"]
ALERT_COLUMNS = ["threshold", "device", "state", "time"]
CONDITIONS = ["above", "below", "risingFasterThan", "fallingFasterThan"]


@dataclass
class Expected:
    """Final results (window, device, start in ms, value, count); refused readings (window, device, time, late by);
    alert transitions (threshold, device, state, time)."""

    aggregates: pd.DataFrame
    late: pd.DataFrame
    alerts: pd.DataFrame


@dataclass
class Plain:
    """The same as lists of tuples."""

    aggregates: list[tuple[str, str, int, float, int]] = field(default_factory=list)
    late: list[tuple[str, str, int, float]] = field(default_factory=list)
    alerts: list[tuple[str, str, str, int]] = field(default_factory=list)


def recompute(spec: Row, readings: list[Row], *, closed: bool = False) -> Expected:
    """Returns what a pipeline with this spec computes from readings (fleet, device, metric, time in ms, value). With
    `closed` the windows that are still open at the end are results, too, as after the idle time."""
    found = compute(spec["fleets"], readings, closed=closed)
    aggregates = pd.DataFrame(found.aggregates, columns=COLUMNS)
    derived = derived_results(spec, aggregates)
    if not derived.empty:
        aggregates = pd.concat([aggregates, derived], ignore_index=True)
    late = pd.DataFrame(found.late, columns=LATE_COLUMNS)
    return Expected(aggregates, late, pd.DataFrame(found.alerts, columns=ALERT_COLUMNS))


def compute(fleets: list[Row], readings: list[Row], *, closed: bool = False) -> Plain:
    """Returns the same without derived metrics."""
    found = Plain()
    for fleet in fleets:
        clocks: dict[int, int] = defaultdict(lambda: -1)
        shared = fleet.get("lateness", {}).get("clock", "Series") == "Fleet"
        series: dict[tuple[str, str], list[tuple[int, float, int]]] = defaultdict(list)
        partitions: dict[str, int] = {}
        for reading in readings:
            if reading["fleet"] == fleet["name"]:
                partition = partitions[reading["device"]] = reading.get("partition", 0)
                clocks[partition] = max(clocks[partition], reading["time"])
                key = reading["device"], reading["metric"]
                series[key].append((reading["time"], float(reading["value"]), clocks[partition]))
        for (device, metric), rows in series.items():
            marked = rows if shared else _own_clock(rows)
            end = clocks[partitions[device]] if shared else marked[-1][2]
            _series(fleet, device, metric, marked, end, found, closed=closed)
    return found


def _own_clock(rows: list[tuple[int, float, int]]) -> list[tuple[int, float, int]]:
    out, newest = [], -1
    for moment, value, _ in rows:
        newest = max(newest, moment)
        out.append((moment, value, newest))
    return out


def _series(
    fleet: Row, device: str, metric: str, rows: list[tuple[int, float, int]], clock: int, found: Plain, *, closed: bool
) -> None:
    held_back = fleet.get("outOfOrdernessSeconds", 0) * 1000
    windows = [window for window in fleet.get("windows", []) if window["metric"] == metric]
    raw = [window for window in windows if not window.get("source")]
    unique = _without_duplicates(raw, rows, held_back)
    accepted: dict[str, list[Numbered]] = {}
    refusals: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for window in raw:
        taken, refused, late = _accept(window, [(moment, value, mark - held_back) for moment, value, mark in unique])
        accepted[window["name"]], refusals[window["name"]] = taken, refused
        found.late += [(window["name"], device, moment, by) for moment, by in late.items()]
    while len(accepted) < len(windows):
        for window in windows:
            if window.get("source") in accepted:
                accepted[window["name"]] = accepted[window["source"]]
    for window in windows:
        previous = None
        for (start, end), samples in sorted(_fill(window, accepted[window["name"]], refusals[window["name"]]).items()):
            value = _value(window, start, end, samples, previous)
            previous = samples[-1][1]
            if value is not None and (closed or end <= clock - held_back):
                found.aggregates.append((window["name"], device, start, value, len(samples)))
    for threshold in fleet.get("thresholds", []):
        if threshold["metric"] == metric and not threshold.get("silentForSeconds"):
            found.alerts += [(threshold["name"], device, *change) for change in _alerts(threshold, rows)]


def _without_duplicates(
    windows: list[Row], rows: list[tuple[int, float, int]], held_back: int
) -> list[tuple[int, float, int]]:
    calendar = {"Day": 2 * 86400, "Month": 32 * 86400}
    horizon = max(
        (
            1000 * (calendar.get(w.get("calendar", ""), 0) or w.get("periodSeconds") or w.get("gapSeconds") or 0)
            + 1000 * w.get("allowedLatenessSeconds", 0) + held_back
            for w in windows
        ), default=0,
    )  # fmt: skip
    seen: set[int] = set()
    out = []
    for moment, value, mark in rows:
        if moment not in seen or moment < mark - horizon:
            out.append((moment, value, mark))
        seen.add(moment)
    return out


def _accept(
    window: Row, rows: list[tuple[int, float, int]]
) -> tuple[list[Numbered], set[tuple[int, int]], dict[int, float]]:
    """Returns what a window accepts, numbered; the number and the start for each instance that refused it; and by how
    much what was refused is late."""
    lateness = window.get("allowedLatenessSeconds", 0) * 1000
    taken: list[Numbered] = []
    refusals: set[tuple[int, int]] = set()
    late: dict[int, float] = {}
    for number, (moment, value, watermark) in enumerate(rows):
        gap = (window.get("gapSeconds") or 0) * 1000
        instances = [(moment, moment + gap)] if gap else _instances(window, moment)
        refused = [instance for instance in instances if watermark >= instance[1] + lateness]
        if refused:
            late[moment] = (watermark - min(end for _, end in refused)) / 1000
            refusals |= {(number, start) for start, _ in refused}
        if len(refused) < len(instances):
            taken.append((moment, value, number))
    return taken, refusals, late


def _fill(window: Row, accepted: list[Numbered], refusals: set[tuple[int, int]]) -> dict[tuple[int, int], list[Sample]]:
    """Returns the readings of each instance of a window, by start and end, in the order of time."""
    if window.get("gapSeconds"):
        return _sessions(window["gapSeconds"] * 1000, [(moment, value) for moment, value, _ in accepted])
    out: dict[tuple[int, int], list[Sample]] = defaultdict(list)
    for moment, value, number in sorted(accepted):
        for instance in _instances(window, moment):
            if (number, instance[0]) not in refusals:
                out[instance].append((moment, value))
    return out


def _instances(window: Row, moment: int) -> list[tuple[int, int]]:
    """Returns start and end of each window of a definition that holds a time."""
    if window.get("calendar"):
        return [_calendar(window["calendar"], window.get("timeZone", "UTC"), moment)]
    period = window["periodSeconds"] * 1000
    slide = (window.get("slideSeconds") or window["periodSeconds"]) * 1000
    first = (moment - period) // slide + 1
    return [(n * slide, n * slide + period) for n in range(first, moment // slide + 1)]


def _calendar(unit: str, zone: str, moment: int) -> tuple[int, int]:
    """Works in local dates; right where no change of the offset goes back over midnight."""
    there = ZoneInfo(zone)
    day = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=moment)).astimezone(there).date()
    following = day + timedelta(days=1)
    if unit == "Month":
        day = day.replace(day=1)
        following = date(day.year + day.month // 12, day.month % 12 + 1, 1)
    return _midnight(day, there), _midnight(following, there)


def _midnight(day: date, zone: ZoneInfo) -> int:
    return round(datetime.combine(day, time(), tzinfo=zone).timestamp()) * 1000


def _sessions(gap: int, accepted: list[Sample]) -> dict[tuple[int, int], list[Sample]]:
    out: list[list[Sample]] = []
    for moment, value in sorted(accepted):
        if out and moment - out[-1][-1][0] < gap:
            out[-1].append((moment, value))
        else:
            out.append([(moment, value)])
    return {(samples[0][0], samples[-1][0] + gap): samples for samples in out}


def _value(window: Row, start: int, end: int, samples: list[Sample], previous: float | None) -> float | None:
    values = [value for _, value in samples]
    seconds = (samples[-1][0] - samples[0][0]) / 1000
    counter = window.get("resetPolicy") == "Reset"
    match window["function"]:
        case "Sum":
            return math.fsum(values)
        case "Mean":
            return statistics.fmean(values)
        case "Minimum":
            return min(values)
        case "Maximum":
            return max(values)
        case "Count":
            return float(len(values))
        case "First":
            return values[0]
        case "Last":
            return values[-1]
        case "Difference":
            if previous is None:
                return None
            return _growth([previous, *values]) if counter else values[-1] - previous
        case "Rate":
            grown = _growth(values) if counter else values[-1] - values[0]
            return grown / seconds if seconds else None
        case "StandardDeviation":
            return statistics.pstdev(values)
        case "Quantile":
            return sorted(values)[int(float(window["quantile"]) * (len(values) - 1))]
        case "TimeWeightedMean":
            nexts = [moment for moment, _ in samples[1:]] + [end]
            area = sum(value * (after - moment) for (moment, value), after in zip(samples, nexts, strict=True))
            return float(area / (end - samples[0][0]))
        case "Availability":
            every = window["expectedEverySeconds"] * 1000
            return len({(moment - start) // every for moment, _ in samples}) / math.ceil((end - start) / every)
    raise AssertionError(window["function"])


def _growth(values: list[float]) -> float:
    return math.fsum(after - before if after >= before else after for before, after in pairwise(values))


def _alerts(threshold: Row, rows: list[tuple[int, float, int]]) -> list[tuple[str, int]]:
    newer: list[Sample] = []
    for moment, value, _ in rows:
        if not newer or moment > newer[-1][0]:
            newer.append((moment, value))
    if threshold.get("risingFasterThan") or threshold.get("fallingFasterThan"):
        newer = [(t2, (v2 - v1) * 1000 / (t2 - t1)) for (t1, v1), (t2, v2) in pairwise(newer)]
    if threshold.get("fallingFasterThan"):
        newer = [(moment, -rate) for moment, rate in newer]
    turn = -1 if threshold.get("below") else 1
    (bound,) = (float(threshold[key]) for key in CONDITIONS if threshold.get(key))
    clear = float(threshold["clear"]) if threshold.get("clear") else bound
    out: list[tuple[str, int]] = []
    since, active = None, False
    for moment, value in newer:
        if active:
            if turn * value <= turn * clear:
                since, active = None, False
                out.append(("Resolved", moment))
        elif turn * value > turn * bound:
            since = moment if since is None else since
            if moment - since >= threshold.get("forSeconds", 0) * 1000:
                active = True
                out.append(("Firing", moment))
        else:
            since = None
    return out
