"""The two recomputes agree."""

import random

import pandas as pd
from e2e.recompute import recompute
from e2e.recompute_sums import recompute_sums

SPEC = {
    "fleets": [
        {
            "name": "f", "metrics": [{"name": "m"}],
            "windows": [{"name": "W", "metric": "m", "function": "Sum", "periodSeconds": 60,
                         "allowedLatenessSeconds": 90}],
        }
    ]
}  # fmt: skip


def test_sums_of_disorderly_readings_are_those_of_the_plain_recompute() -> None:
    random.seed(5)
    rows = [
        {"fleet": "f", "metric": "m", "device": f"d{random.randrange(3)}", "value": float(random.randrange(100)),
         "time": max(0, n * 1500 - random.choice([0, 0, 0, 70_000, 400_000]))}
        for n in range(2000)
    ]  # fmt: skip
    rows += rows[::7]
    plain = recompute(SPEC, rows)
    fast = recompute_sums(pd.DataFrame(rows), period=60_000, lateness=90_000)
    assert fast.late
    assert fast.late == {(r.device, int(r.time)) for r in plain.late.itertuples()}
    assert fast.final == {(r.device, int(r.start)): (r.value, int(r[5])) for r in plain.aggregates.itertuples()}
