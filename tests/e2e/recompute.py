"""What a pipeline should have computed, worked out anew from the readings and the spec with pandas.

No code is shared with the engine. Readings are taken in the order in which each series sent them.

- A series is a device and a metric; its watermark is the largest event time seen, less `outOfOrdernessSeconds`.
- A window accepts a reading while the watermark, with the reading seen, is before its end plus the allowed lateness;
  otherwise the reading is listed as late by the watermark minus the window's end.
- A reading of a time that the series has sent before counts once.
- A window is final when the watermark has reached its end; only final windows are results.
- Difference is the last value of a window less that of the previous window of the series that has readings.
- A derived metric has a value for each start at which all of its inputs have one.
"""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from e2e.recompute_derived import derived_results

Row = dict[str, Any]
COLUMNS = ["window", "device", "start", "value", "count"]


@dataclass
class Expected:
    """Final results (window, device, start in ms, value, count); refused readings (window, device, time, late by)."""

    aggregates: pd.DataFrame
    late: pd.DataFrame


@dataclass
class _Series:
    """The accepted readings of one series for one window definition."""

    watermark: float = float("-inf")
    seen: set[int] = field(default_factory=set)
    accepted: list[tuple[int, float]] = field(default_factory=list)
    late: list[tuple[int, float]] = field(default_factory=list)


FUNCTIONS = {
    "Sum": lambda values: values.sum(),
    "Mean": lambda values: values.mean(),
    "Minimum": lambda values: values.min(),
    "Maximum": lambda values: values.max(),
    "Count": lambda values: float(len(values)),
}


def recompute(spec: Row, readings: list[Row], *, closed: bool = False) -> Expected:
    """Returns what a pipeline with this spec computes from readings (device, metric, time in ms, value). With `closed`
    the windows that are still open at the end are results, too, as after the idle time."""
    rows: list[Row] = []
    late: list[Row] = []
    for fleet in spec["fleets"]:
        for window in fleet.get("windows", []):
            metrics = [metric["name"] for metric in fleet["metrics"]]
            assert window["metric"] in metrics
            mine = [r for r in readings if r["fleet"] == fleet["name"] and r["metric"] == window["metric"]]
            for device in sorted({r["device"] for r in mine}):
                found, refused = _window(fleet, window, [r for r in mine if r["device"] == device], closed=closed)
                rows += [{"window": window["name"], "device": device, **row} for row in found]
                late += [{"window": window["name"], "device": device, **row} for row in refused]
    aggregates = pd.DataFrame(rows, columns=COLUMNS)
    derived = derived_results(spec, aggregates)
    if not derived.empty:
        aggregates = pd.concat([aggregates, derived], ignore_index=True)
    return Expected(aggregates, pd.DataFrame(late, columns=["window", "device", "time", "lateBySeconds"]))


def _window(fleet: Row, window: Row, readings: list[Row], *, closed: bool) -> tuple[list[Row], list[Row]]:
    period = window["periodSeconds"] * 1000
    lateness = window.get("allowedLatenessSeconds", 0) * 1000
    held_back = fleet.get("outOfOrdernessSeconds", 0) * 1000
    series = _Series()
    for reading in readings:
        time = reading["time"]
        if time in series.seen:
            continue
        series.seen.add(time)
        series.watermark = max(series.watermark, time - held_back)
        end = time // period * period + period
        if series.watermark < end + lateness:
            series.accepted.append((time, reading["value"]))
        else:
            series.late.append((time, (series.watermark - end) / 1000))
    frame = pd.DataFrame(series.accepted, columns=["time", "value"]).sort_values("time", kind="stable")
    frame["start"] = frame["time"] // period * period
    results = _results(window["function"], frame)
    final = [row for row in results if closed or row["start"] + period <= series.watermark]
    return final, [{"time": time, "lateBySeconds": by} for time, by in series.late]


def _results(function: str, frame: pd.DataFrame) -> list[Row]:
    groups = [(int(start), group["value"]) for start, group in frame.groupby("start")]
    rows: list[Row] = []
    previous: float | None = None
    for start, values in groups:
        if function == "Difference":
            value = None if previous is None else values.iloc[-1] - previous
            previous = values.iloc[-1]
        elif function in {"First", "Last"}:
            value = values.iloc[0 if function == "First" else -1]
        else:
            value = FUNCTIONS[function](values)
        if value is not None:
            rows.append({"start": start, "value": float(value), "count": len(values)})
    return rows
