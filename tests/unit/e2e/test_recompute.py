"""The recompute itself, on cases worked out by hand. Times are in seconds."""

from typing import Any

from e2e.recompute import Expected, recompute


def fleet(function: str, **extra: Any) -> dict[str, Any]:
    window = {"name": "W", "metric": "m", "function": function, "periodSeconds": 100, **extra}
    return {"name": "f", "metrics": [{"name": "m"}], "windows": [window]}


def work(spec: dict[str, Any], *readings: tuple[float, float], device: str = "d", closed: bool = False) -> Expected:
    rows = [{"fleet": "f", "device": device, "metric": "m", "time": round(t * 1000), "value": v} for t, v in readings]
    return recompute(spec, rows, closed=closed)


def windows(found: Expected) -> list[tuple[str, int, float, int]]:
    return [(r.window, r.start // 1000, r.value, int(r[5])) for r in found.aggregates.itertuples()]


def test_final_windows_alone_are_results() -> None:
    found = work({"fleets": [fleet("Sum")]}, (10, 1), (20, 2), (100, 5), (150, 6))
    assert windows(found) == [("W", 0, 3.0, 2)]


def test_with_closed_the_open_window_is_a_result_too() -> None:
    found = work({"fleets": [fleet("Sum")]}, (10, 1), (100, 5), closed=True)
    assert windows(found) == [("W", 0, 1.0, 1), ("W", 100, 5.0, 1)]


def test_late_readings_are_accepted_within_the_lateness_and_listed_beyond_it() -> None:
    found = work({"fleets": [fleet("Sum", allowedLatenessSeconds=50)]}, (10, 1), (149, 0), (20, 2), (150, 0), (30, 4))
    assert windows(found) == [("W", 0, 3.0, 2)]
    assert found.late[["time", "lateBySeconds"]].to_numpy().tolist() == [[30_000, 50.0]]


def test_duplicates_count_once() -> None:
    assert windows(work({"fleets": [fleet("Count")]}, (10, 1), (10, 1), (100, 0))) == [("W", 0, 1.0, 1)]


def test_difference_skips_windows_without_readings() -> None:
    found = work({"fleets": [fleet("Difference")]}, (0, 10), (50, 12), (300, 40), (400, 0))
    assert windows(found) == [("W", 300, 28.0, 1)]


def test_derived_metrics_need_all_inputs() -> None:
    spec = {
        "fleets": [fleet("Sum")],
        "derivedMetrics": [{"name": "R", "expression": 'W["a"] - W["b"]'}],
    }
    rows = [
        {"fleet": "f", "device": device, "metric": "m", "time": time, "value": value}
        for device, time, value in [("a", 0, 7.0), ("b", 0, 2.0), ("a", 100_000, 1.0), ("a", 200_000, 0.0),
                                    ("b", 200_000, 0.0)]
    ]  # fmt: skip
    found = recompute(spec, rows)
    assert [row for row in windows(found) if row[0] == "R"] == [("R", 0, 5.0, 2)]


def test_derived_metrics_of_derived_metrics_in_any_order_and_none_for_a_division_by_zero() -> None:
    spec = {
        "fleets": [fleet("Sum")],
        "derivedMetrics": [
            {"name": "Ratio", "expression": 'Rest / W["b"]'}, {"name": "Rest", "expression": 'W["a"] - W["b"]'},
        ],
    }  # fmt: skip
    rows = [
        {"fleet": "f", "device": device, "metric": "m", "time": time * 1000, "value": value}
        for device, time, value in [("a", 0, 7.0), ("b", 0, 2.0), ("a", 100, 1.0), ("b", 100, 0.0), ("a", 200, 0.0),
                                    ("b", 200, 0.0)]
    ]  # fmt: skip
    found = [row for row in windows(recompute(spec, rows)) if row[0] != "W"]
    assert found == [("Rest", 0, 5.0, 2), ("Rest", 100, 1.0, 2), ("Ratio", 0, 2.5, 3)]
