"""Random pipelines and readings for property-based tests, and what a consumer makes of emissions.

Windows of all kinds and functions, updates, rollups, thresholds; readings of regular devices with gaps and repetitions,
and readings in any disorder.
"""

from collections.abc import Callable
from typing import Any

from e2e.recompute import compute
from hypothesis import strategies as st
from sensorpipeline_api.bounds import MAXIMUM_BYTES, open_windows, window_bytes
from sensorpipeline_api.records import Aggregate, Alert, Late
from sensorpipeline_api.spec import Fleet
from sensorpipeline_workers.engine.plan import MetricPlan, compile_metric

NOW = 1_700_000_000_000
FUNCTIONS = ["Sum", "Mean", "Minimum", "Maximum", "Count", "First", "Last", "Difference", "Rate", "StandardDeviation",
             "Quantile", "TimeWeightedMean", "Availability"]  # fmt: skip
Reading = tuple[int, float]
Batch = list[Reading]
Draw = Callable[..., Any]


@st.composite
def windows(draw: Draw, name: str) -> dict[str, Any]:
    shape = draw(st.sampled_from(["period", "period", "slide", "gap", "calendar"]))
    window: dict[str, Any] = {"name": name, "metric": "m", "allowedLatenessSeconds": draw(st.integers(0, 40))}
    functions = [*FUNCTIONS, "Difference", "Difference"]  # what one window says there depends on another
    match shape:
        case "period":
            window["periodSeconds"] = draw(st.integers(1, 20))
        case "slide":
            window["periodSeconds"] = draw(st.integers(1, 20))
            window["slideSeconds"] = draw(st.integers(1, window["periodSeconds"]))
            functions = [name for name in FUNCTIONS if name != "Difference"]
        case "gap":
            window["gapSeconds"] = draw(st.integers(1, 20))
            functions = [name for name in FUNCTIONS if name not in {"Difference", "Availability"}]
        case "calendar":
            window |= {"calendar": "Day", "timeZone": "Europe/Athens"}
    function = window["function"] = draw(st.sampled_from(functions))
    if function == "Quantile":
        window["quantile"] = draw(st.sampled_from(["0", "0.5", "0.95", "1"]))
    if function == "Availability":
        window["expectedEverySeconds"] = draw(st.integers(1, 7)) * (1 if shape != "calendar" else 3600)
    if function in {"Difference", "Rate"}:
        window["resetPolicy"] = draw(st.sampled_from(["Negative", "Reset"]))
    if draw(st.booleans()):
        window |= {"emit": "Updates", "emitSeconds": draw(st.integers(1, 30))}
    return window


@st.composite
def thresholds(draw: Draw, name: str) -> dict[str, Any]:
    kind = draw(st.sampled_from(["above", "below", "risingFasterThan", "fallingFasterThan"]))
    threshold = {"name": name, "metric": "m", kind: str(draw(st.integers(-60, 60)))}
    if draw(st.booleans()):
        threshold["clear"] = str(draw(st.integers(-60, 60)))
    return threshold | {"forSeconds": draw(st.sampled_from([0, 0, 5, 20]))}


@st.composite
def fleets(draw: Draw) -> dict[str, Any]:
    bases = [draw(windows(f"W{number}")) for number in range(draw(st.integers(1, 3)))]
    rollups = []
    for base in bases:
        if "periodSeconds" in base and "slideSeconds" not in base and draw(st.booleans()):
            rollups += draw(rolled_up(base))
    return {
        "name": "f",
        "topic": "f/{device}/m",
        "metrics": [{"name": "m"}],
        "outOfOrdernessSeconds": draw(st.sampled_from([0, 0, 3, 10, 40, 40])),
        "windows": rollups[::-1] + bases,
        "thresholds": [draw(thresholds(f"T{number}")) for number in range(draw(st.integers(0, 2)))],
    }


@st.composite
def rolled_up(draw: Draw, base: dict[str, Any]) -> list[dict[str, Any]]:
    """A window over another one, and perhaps one over that."""
    out: list[dict[str, Any]] = []
    source = base
    for _ in range(draw(st.integers(1, 2))):
        kept = ("metric", "function", "quantile", "resetPolicy", "expectedEverySeconds")
        window = {key: source[key] for key in kept if key in source} | {"source": source["name"]}
        window["name"] = f"{source['name']}x"
        window["periodSeconds"] = source["periodSeconds"] * draw(st.integers(1, 4))
        if "expectedEverySeconds" in window:
            source["expectedEverySeconds"] = window["expectedEverySeconds"] = 1
        out.append(window)
        source = window
    return out


times = [
    st.integers(0, 100).map(lambda second: second * 1000),
    st.integers(0, 100_000),
    st.integers(0, 72).map(lambda hour: 1_603_404_000_000 + hour * 3_600_000),
]
"""Many repetitions and much disorder; and days around a change of Athens' offset."""

values = st.integers(-100, 100).map(float)
"""Small whole values, so that sums are exact in any order."""


@st.composite
def regular(draw: Draw) -> list[Reading]:
    """A device that sends at equal steps, with some readings missing, late or repeated."""
    step = draw(st.sampled_from([1000, 1000, 2000, 700]))
    count = draw(st.integers(1, 50))
    rows = [(number * step, float(draw(st.integers(-100, 100)))) for number in range(count)]
    for _ in range(draw(st.integers(0, 4))):
        moved = rows.pop(draw(st.integers(0, len(rows) - 1))) if len(rows) > 1 else rows[0]
        rows.insert(draw(st.integers(0, len(rows))), moved)
    return rows


readings = st.one_of(regular(), *(st.lists(st.tuples(kind, values), min_size=1, max_size=40) for kind in times))
sizes = st.lists(st.integers(1, 9), min_size=1, max_size=5)


DEVICES = ["a", "b", "c"]
rows_of_devices = st.one_of(
    readings.map(lambda rows: [("a", *row) for row in rows]),
    *(st.lists(st.tuples(st.sampled_from(DEVICES), kind, values), min_size=1, max_size=40) for kind in times),
)
"""Device, time and value."""


def compiled(spec: dict[str, Any]) -> MetricPlan:
    """Returns the plan of the pipeline's metric."""
    return compile_metric(Fleet.model_validate(spec), "m")


def fits(spec: dict[str, Any]) -> bool:
    """Whether the windows are few enough for the operator to accept them; beyond that readings are thinned out."""
    fleet = Fleet.model_validate(spec)
    return sum(open_windows(fleet, window) * window_bytes(window) for window in fleet.windows) <= MAXIMUM_BYTES


class View:
    """What a consumer of all emissions ends up with, by window (or threshold), device and time, in the recompute's
    form."""

    def __init__(self, emissions: list[Any]) -> None:
        windows: dict[tuple[str, str, int], Aggregate] = {}
        self.late: dict[tuple[str, str, int], float] = {}
        alerts: dict[tuple[str, str, str, int], None] = {}
        for emission in emissions:
            match emission:
                case Aggregate():
                    known = windows.get((emission.window, emission.device, emission.start))
                    if known is None or emission.revision >= known.revision:
                        windows[emission.window, emission.device, emission.start] = emission
                case Late():
                    self.late[emission.window, emission.device, emission.time] = emission.late_by_seconds
                case Alert():
                    alerts[emission.threshold, emission.device, emission.state, emission.time] = None
        self.windows = {key: (a.value, a.count) for key, a in windows.items() if a.count and a.final}
        self.alerts = sorted(alerts)


def entries(rows: list[Reading], device: str = "d") -> list[dict[str, Any]]:
    """Returns readings of one device in the recompute's form."""
    return [{"fleet": "f", "device": device, "metric": "m", "time": t, "value": v} for t, v in rows]


def check(spec: dict[str, Any], emissions: list[Any], readings: list[dict[str, Any]], *, closed: bool = False) -> None:
    """Holds emissions against the recompute, except for alerts on silence, which goes by the clock."""
    wanted = compute([spec], readings, closed=closed)
    found = View(emissions)
    functions = {window["name"]: window["function"] for window in spec["windows"]}
    assert found.windows.keys() == {(window, device, start) for window, device, start, _, _ in wanted.aggregates}
    for window, device, start, value, count in wanted.aggregates:
        # The sketch promises 1 %; everything else differs by rounding at most.
        near = 0.0101 if functions[window] == "Quantile" else 1e-9
        result = found.windows[window, device, start]
        assert result[1] == count, (window, device, start)
        assert abs(result[0] - value) <= max(1e-6, near * abs(value)), (window, device, start)
    assert found.late == {(window, device, time): by for window, device, time, by in wanted.late}
    silent = {threshold["name"] for threshold in spec.get("thresholds", []) if "silentForSeconds" in threshold}
    assert [alert for alert in found.alerts if alert[0] not in silent] == sorted(wanted.alerts)


def about(emission: Any) -> str:
    """Which window or threshold an emission is of: each has an order of its own."""
    return emission.threshold if isinstance(emission, Alert) else f"window {emission.window}"


def split(rows: list[Reading], sizes: list[int]) -> list[tuple[int, Batch]]:
    """Cuts readings into records of the given sizes, again and again."""
    batches: list[tuple[int, Batch]] = []
    position = 0
    while position < len(rows):
        size = sizes[len(batches) % len(sizes)]
        batches.append((len(batches), rows[position : position + size]))
        position += size
    return batches
