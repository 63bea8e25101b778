"""The recompute of recompute.py for one window kind, tumbling sums, over millions of readings at once with pandas.

The rules are those of recompute.py, and a unit test holds the two to the same answers.
"""

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Sums:
    """Final results by (device, start in ms): (sum, count); refused readings as (device, time in ms)."""

    final: dict[tuple[str, int], tuple[float, int]]
    late: set[tuple[str, int]]


def recompute_sums(readings: pd.DataFrame, *, period: int, lateness: int) -> Sums:
    """Returns what a sum over windows of `period` ms with `lateness` ms comes to, from readings (device, time, value)
    in the order in which each device sent them."""
    watermark = readings.groupby("device")["time"].cummax()
    # Beyond the lateness horizon a repeated reading is not recognised: it is late each time.
    forgotten = readings["time"] < watermark - period - lateness
    once = readings[forgotten | ~readings.duplicated(["device", "time"])]
    watermark = watermark[once.index]
    start = once["time"] // period * period
    accepted = watermark < start + period + lateness
    kept = once.assign(start=start)[accepted]
    last = once.groupby("device")["time"].max()
    sums = kept.groupby(["device", "start"])["value"].agg(["sum", "count"]).reset_index()
    sums = sums[sums["start"] + period <= sums["device"].map(last)]
    final = {(r.device, int(r.start)): (float(r.sum), int(r.count)) for r in sums.itertuples(index=False)}
    refused = once[~accepted]
    return Sums(final, set(zip(refused["device"], refused["time"].astype(int), strict=True)))
