"""Each rule of the event-time engine, one example at a time. Times are in seconds here, the engine's are in ms."""

import base64
import sys
from pathlib import Path
from typing import Any

import pytest
from e2e.recompute import compute
from sensorpipeline_api.records import Aggregate, Alert, Late
from sensorpipeline_api.spec import Fleet
from sensorpipeline_workers.engine.plan import compile_metric
from sensorpipeline_workers.engine.series import close_idle, is_expired, is_forgotten, next_check, process, retire
from sensorpipeline_workers.engine.state import FAR, SeriesState, StateVersionError, decode, encode

NOW = 1_700_000_000_000


def fleet(*, function: str = "Sum", period: int = 100, lateness: int = 0, **extra: Any) -> Fleet:
    window = {
        "name": "W", "metric": "m", "function": function, "periodSeconds": period, "allowedLatenessSeconds": lateness,
    }  # fmt: skip
    base = {"name": "f", "topic": "f/{device}/m", "metrics": [{"name": "m"}], "windows": [window]}
    return Fleet.model_validate(base | extra)


class Series:
    """A series that is fed one reading at a time."""

    def __init__(self, spec: Fleet) -> None:
        self.plan = compile_metric(spec, "m")
        self.state = SeriesState(self.plan)

    def send(self, *readings: tuple[float, float]) -> list[Any]:
        times, values = [round(time * 1000) for time, _ in readings], [float(value) for _, value in readings]
        return process(self.plan, self.state, device="d", times=times, values=values, now=NOW)


def values(emissions: list[Any]) -> list[tuple[int, float, int]]:
    """Returns (start in s, value, revision) of each aggregate."""
    return [(e.start // 1000, e.value, e.revision) for e in emissions if isinstance(e, Aggregate)]


def test_a_window_is_emitted_when_the_watermark_reaches_its_end_and_not_before() -> None:
    series = Series(fleet())
    assert series.send((10, 1), (99.999, 2)) == []
    (aggregate,) = series.send((100, 5))
    assert aggregate == Aggregate("W", "f", "d", "m", 0, 100_000, 3.0, 2, 0, True)


@pytest.mark.parametrize(
    ("function", "expected"),
    [("Sum", 12), ("Mean", 4), ("Minimum", 1), ("Maximum", 8), ("Count", 3), ("First", 3), ("Last", 8)],
)
def test_functions_go_by_event_time_not_by_arrival(function: str, expected: float) -> None:
    series = Series(fleet(function=function, outOfOrdernessSeconds=50))
    assert values(series.send((20, 1), (10, 3), (90, 8), (150, 0))) == [(0, expected, 0)]


def test_the_sum_is_compensated() -> None:
    series = Series(fleet())
    readings = [(float(n) / 100, 0.1) for n in range(1000)] + [(50.0, 1e16), (51.0, -1e16)]
    assert values(series.send(*readings, (100, 0))) == [(0, pytest.approx(100.0, abs=1e-9), 0)]


def test_a_sum_beyond_what_a_float_holds_is_the_largest_float() -> None:
    series = Series(fleet())
    ((_, value, _),) = values(series.send((0, 1.5e308), (1, 1.5e308), (100, 0)))
    assert value == sys.float_info.max


def test_a_late_reading_within_the_allowed_lateness_revises_its_window() -> None:
    series = Series(fleet(lateness=50))
    assert values(series.send((10, 1), (100, 0))) == [(0, 1, 0)]
    assert values(series.send((20, 2))) == [(0, 3, 1)]
    assert values(series.send((149.999, 0))) == []
    assert values(series.send((30, 4))) == [(0, 7, 2)]


def test_a_reading_beyond_the_allowed_lateness_is_listed_with_how_late_it_was() -> None:
    series = Series(fleet(lateness=50))
    series.send((10, 1), (150, 0))
    assert series.send((20, 2)) == [Late("f", "d", "m", 20_000, 2.0, "W", 50.0, "LatenessExceeded")]


def test_a_late_reading_opens_a_window_that_was_empty() -> None:
    series = Series(fleet(lateness=1000))
    series.send((550, 1))
    assert values(series.send((20, 2))) == [(0, 2, 0)]


def test_a_backlog_sent_in_order_after_days_is_not_late() -> None:
    series = Series(fleet())
    emitted = values(series.send((10, 1), *[(1000.0 + n * 100, 1.0) for n in range(5)]))
    assert [start for start, _, _ in emitted] == [0, 1000, 1100, 1200, 1300]


def test_out_of_orderness_holds_the_watermark_back() -> None:
    series = Series(fleet(outOfOrdernessSeconds=20))
    assert values(series.send((10, 1), (119, 0))) == []
    assert values(series.send((50, 1), (120, 0))) == [(0, 2, 0)]


def test_a_duplicate_counts_once_whether_in_time_or_late() -> None:
    series = Series(fleet(lateness=500))
    assert values(series.send((10, 1), (10, 1), (20, 1), (10, 1), (100, 0))) == [(0, 2, 0)]
    assert series.send((20, 1)) == []


def test_difference_is_against_the_previous_window_that_has_readings() -> None:
    series = Series(fleet(function="Difference"))
    assert values(series.send((0, 10), (100, 15))) == []
    assert values(series.send((400, 40))) == [(100, 5, 0)]
    assert values(series.send((500, 41))) == [(400, 25, 0)]


def test_a_revision_of_one_window_revises_the_next_difference() -> None:
    series = Series(fleet(function="Difference", lateness=1000))
    series.send((0, 10), (100, 15), (200, 30))
    assert values(series.send((300, 31))) == [(200, 15, 0)]
    assert values(series.send((150, 20))) == [(100, 10, 1), (200, 10, 1)]
    assert values(series.send((110, 16))) == [(100, 10, 2)], "the last value of the window stays, so does the next"


def test_a_silent_series_is_closed_and_goes_on_as_a_revision() -> None:
    series = Series(fleet(idleSeconds=60))
    series.send((10, 1))
    assert close_idle(series.plan, series.state, device="d", now=NOW + 59_999) == []
    closed = close_idle(series.plan, series.state, device="d", now=NOW + 60_000)
    assert values(closed) == [(0, 1, 0)]
    assert closed[0].final
    assert close_idle(series.plan, series.state, device="d", now=NOW + 120_000) == []
    assert values(series.send((20, 2), (100, 0))) == [(0, 3, 1)]


@pytest.mark.parametrize("silent_again", [True, False])
def test_a_reading_after_a_silence_revises_the_next_difference_too(silent_again: bool) -> None:
    """Both windows were closed by silence alone; the watermark has reached neither end."""
    series = Series(fleet(function="Difference", outOfOrdernessSeconds=250, idleSeconds=60))
    series.send((10, 10), (150, 20), (250, 50))
    closed = close_idle(series.plan, series.state, device="d", now=NOW + 60_000)
    assert values(closed) == [(100, 10, 0), (200, 30, 0)]
    assert values(series.send((90, 15))) == []
    if silent_again:
        assert values(close_idle(series.plan, series.state, device="d", now=NOW + 60_000)) == [(100, 5, 1)]
    else:
        assert values(series.send((450, 60))) == [(100, 5, 1)]


def threshold(**extra: Any) -> Fleet:
    return fleet(windows=[], thresholds=[{"name": "T", "metric": "m", "severity": "Critical"} | extra])


def states(emissions: list[Any]) -> list[tuple[str, int]]:
    return [(e.state, e.time // 1000) for e in emissions if isinstance(e, Alert)]


def test_a_threshold_fires_after_its_holding_time_and_clears_with_hysteresis() -> None:
    series = Series(threshold(above="80", clear="60", forSeconds=30))
    assert states(series.send((0, 90), (29, 90))) == []
    assert states(series.send((30, 81))) == [("Firing", 30)]
    assert states(series.send((40, 70), (50, 95), (60, 60))) == [("Resolved", 60)]


def test_a_threshold_starts_anew_when_the_condition_breaks_off() -> None:
    series = Series(threshold(above="80", forSeconds=30))
    assert states(series.send((0, 90), (20, 80), (25, 90), (54, 90))) == []
    assert states(series.send((55, 90))) == [("Firing", 55)]


def test_a_threshold_below_is_the_mirror_image() -> None:
    series = Series(threshold(below="5", clear="7"))
    assert states(series.send((0, 5), (1, 4.9), (2, 6.9), (3, 7))) == [("Firing", 1), ("Resolved", 3)]


def test_an_old_reading_does_not_change_an_alert() -> None:
    series = Series(threshold(above="80"))
    assert states(series.send((10, 90), (5, 0))) == [("Firing", 10)]


def test_a_rise_is_judged_per_second_between_two_readings() -> None:
    series = Series(threshold(risingFasterThan="2", clear="0.5"))
    found = series.send((0, 0), (10, 20), (11, 23), (12, 24), (20, 28))
    assert [(e.state, e.time, e.value) for e in found] == [("Firing", 11_000, 3.0), ("Resolved", 20_000, 0.5)]


def test_a_fall_is_the_mirror_image_of_a_rise() -> None:
    series = Series(threshold(fallingFasterThan="2", clear="0.5"))
    found = series.send((0, 30), (10, 10), (11, 7), (12, 6), (20, 2))
    assert [(e.state, e.time, e.value) for e in found] == [("Firing", 11_000, -3.0), ("Resolved", 20_000, -0.5)]


def test_silence_raises_an_alert_once_and_any_reading_clears_it() -> None:
    series = Series(threshold(silentForSeconds=60))
    series.send((10, 1), (20, 1))
    assert next_check(series.plan, series.state) == NOW + 60_000
    assert close_idle(series.plan, series.state, device="d", now=NOW + 59_999) == []
    (alert,) = close_idle(series.plan, series.state, device="d", now=NOW + 60_000)
    assert (alert.state, alert.time, alert.value) == ("Firing", 20_000, 60.0)
    series.state = decode(series.plan, encode(series.plan, series.state))
    assert close_idle(series.plan, series.state, device="d", now=NOW + 90_000) == []
    assert next_check(series.plan, series.state) == FAR
    assert states(series.send((15, 1))) == [("Resolved", 20)], "an old reading shows that the device lives, too"


def test_a_retired_series_closes_its_windows_and_resolves_its_alerts() -> None:
    spec = fleet(thresholds=[{"name": "T", "metric": "m", "above": "5"}], idleSeconds=60, seriesTtlSeconds=100)
    series = Series(spec)
    series.send((10, 9))
    assert not is_expired(series.plan, series.state, now=NOW + 99_999)
    assert is_expired(series.plan, series.state, now=NOW + 100_000)
    found = retire(series.plan, series.state, device="d")
    assert values(found) == [(0, 9, 0)]
    assert states(found) == [("Resolved", 10)]
    assert not is_expired(series.plan, series.state, now=NOW + 200_000)
    assert close_idle(series.plan, series.state, device="d", now=NOW + 200_000) == []
    assert next_check(series.plan, series.state) == NOW + 30 * 86_400_000
    assert is_forgotten(series.plan, series.state, now=NOW + 30 * 86_400_000)


def test_a_difference_goes_on_when_a_retired_series_comes_back() -> None:
    series = Series(fleet(function="Difference", idleSeconds=60, seriesTtlSeconds=100))
    series.send((10, 9), (110, 20))
    assert values(retire(series.plan, series.state, device="d")) == [(100, 11, 0)]
    series.state = decode(series.plan, encode(series.plan, series.state))
    found = series.send((190, 21), (510, 40), (600, 41))
    assert values(found) == [(500, 20, 0)]
    assert [e.time for e in found if isinstance(e, Late)] == [190_000]
    assert not is_expired(series.plan, series.state, now=NOW + 99_999)
    assert is_expired(series.plan, series.state, now=NOW + 100_000)


def test_state_survives_its_binary_form() -> None:
    series = Series(fleet(function="Difference", lateness=300, thresholds=[
        {"name": "T", "metric": "m", "above": "5"}]))  # fmt: skip
    series.send((0, 10), (100, 15), (200, 3))
    restored = Series(fleet(function="Difference", lateness=300, thresholds=[
        {"name": "T", "metric": "m", "above": "5"}]))  # fmt: skip
    restored.state = decode(series.plan, encode(series.plan, series.state))
    readings = [(150.0, 20.0), (300.0, 31.0), (20.0, 11.0)]
    assert restored.send(*readings) == series.send(*readings)


def test_a_state_of_an_unknown_version_or_damaged_is_refused() -> None:
    plan = compile_metric(fleet(), "m")
    with pytest.raises(StateVersionError, match="version 99"):
        decode(plan, encode(plan, SeriesState(plan))[:1] + b"\x63" + b"\x00" * 9)
    for damaged in (b"", b"\x00\x01", encode(plan, SeriesState(plan))[:-1], b"\x93\x98\x00"):
        with pytest.raises(StateVersionError):
            decode(plan, damaged)


def test_the_state_of_a_device_that_reports_every_second_for_days_stays_small() -> None:
    series = Series(fleet(period=86400, lateness=172800))
    series.send(*[(float(second), 1.0) for second in range(3 * 86400)])
    assert all(second * 1000 in series.state.seen for second in range(3 * 86400))
    assert len(encode(series.plan, series.state)) < 500


def around_sample() -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """Returns the readings (time in ms, value) that the stored samples hold, and some that come after."""
    before = [(t * 1000, t * 7 % 11 + 0.1) for t in range(0, 750, 10)]
    before[20:20] = [(55_000, 2.5), (20_000, 9.0)]
    before[60:60] = [(333_000, -4.25)]
    after = [(740_000, 1.0), (755_000, 0.5), (391_000, 3.5), (701_500, 2.25), (471_500, 9.0), (830_000, 1.0),
             (420_500, 7.0), (905_000, 2.0), (1_300_000, 0.0)]  # fmt: skip
    return before, after


def sample(version: int) -> bytes:
    """Returns a series' state as a version of the code has stored it."""
    return base64.b64decode((Path(__file__).parent / "samples" / f"series-v{version}.base64").read_text())


def test_a_state_of_version_1_is_read_and_gone_on_with() -> None:
    """The sample was written by version 1 after `before` with these windows and thresholds, one of each function."""
    functions = ["Sum", "Mean", "Minimum", "Maximum", "Count", "First", "Last", "Difference"]
    spec = {
        "name": "f", "topic": "f/{device}/m", "metrics": [{"name": "m"}], "outOfOrdernessSeconds": 5,
        "windows": [{"name": name, "metric": "m", "function": name, "periodSeconds": 100,
                     "allowedLatenessSeconds": 300} for name in functions],
        "thresholds": [{"name": "High", "metric": "m", "above": "8", "clear": "3"},
                       {"name": "Held", "metric": "m", "below": "4", "forSeconds": 60}],
    }  # fmt: skip
    before, after = around_sample()
    plan = compile_metric(Fleet.model_validate(spec), "m")
    state = decode(plan, sample(1))
    assert state.offset == 41
    found = process(plan, state, device="d", times=[t for t, _ in after], values=[v for _, v in after], now=NOW)

    rows = [{"fleet": "f", "device": "d", "metric": "m", "time": t, "value": v} for t, v in before + after]
    wanted = compute([spec], rows)
    emitted = {(e.window, e.start): (e.value, e.count) for e in found if isinstance(e, Aggregate)}
    assert len(emitted) >= 8 * 4
    results = {(window, start): (value, count) for window, _, start, value, count in wanted.aggregates}
    assert {key: (pytest.approx(results[key][0]), results[key][1]) for key in emitted} == emitted
    late = {(e.window, e.time) for e in found if isinstance(e, Late)}
    assert late == {(window, time) for window, _, time, _ in wanted.late if time > 390_000}
    changes = {(e.threshold, e.state, e.time) for e in found if isinstance(e, Alert)}
    assert changes == {(name, state, time) for name, _, state, time in wanted.alerts if time > 740_000}
    revisions = [e.revision for e in found if isinstance(e, Aggregate) and (e.window, e.start) == ("Sum", 400_000)]
    assert revisions == [1], "the revisions go on from those of version 1"


def test_a_state_of_version_2_is_read_and_gone_on_with() -> None:
    """The sample was written by version 2 after the same readings, with a window of each function and kind."""
    functions = ["Sum", "Mean", "Minimum", "Maximum", "Count", "First", "Last", "Difference", "Rate",
                 "StandardDeviation", "Quantile", "TimeWeightedMean", "Availability"]  # fmt: skip
    more: dict[str, dict[str, Any]] = {
        "Quantile": {"quantile": "0.5"}, "Availability": {"expectedEverySeconds": 20},
        "Difference": {"resetPolicy": "Reset"},
    }  # fmt: skip
    base = {"metric": "m", "allowedLatenessSeconds": 300}
    windows = [{"name": f, "function": f, "periodSeconds": 100} | base | more.get(f, {}) for f in functions]
    windows += [
        {"name": "Session", "function": "Sum", "gapSeconds": 20} | base,
        {"name": "Sliding", "function": "Sum", "periodSeconds": 100, "slideSeconds": 50} | base,
        {"name": "Two", "function": "Sum", "periodSeconds": 200, "source": "Sum", "metric": "m"},
    ]
    spec = {"name": "f", "topic": "f/{device}/m", "metrics": [{"name": "m"}], "outOfOrdernessSeconds": 5,
            "windows": windows,
            "thresholds": [{"name": "High", "metric": "m", "above": "8", "clear": "3"},
                           {"name": "Held", "metric": "m", "below": "4", "forSeconds": 60}]}  # fmt: skip
    before, after = around_sample()
    plan = compile_metric(Fleet.model_validate(spec), "m")
    state = decode(plan, sample(2))
    found = process(plan, state, device="d", times=[t for t, _ in after], values=[v for _, v in after], now=NOW)

    rows = [{"fleet": "f", "device": "d", "metric": "m", "time": t, "value": v} for t, v in before + after]
    wanted = compute([spec], rows)
    emitted = {(e.window, e.start): (e.value, e.count) for e in found if isinstance(e, Aggregate) and e.count}
    assert {window for window, _ in emitted} == {window["name"] for window in windows}
    results = {(window, start): (value, count) for window, _, start, value, count in wanted.aggregates}
    near = {"Quantile": 0.01}
    assert {k: (pytest.approx(results[k][0], rel=near.get(k[0], 1e-9)), results[k][1]) for k in emitted} == emitted
    late = {(e.window, e.time) for e in found if isinstance(e, Late)}
    assert late == {(window, time) for window, _, time, _ in wanted.late if time > 390_000}
    assert all(e.reason == "LatenessExceeded" for e in found if isinstance(e, Late))
    changes = {(e.threshold, e.state, e.time) for e in found if isinstance(e, Alert)}
    assert changes == {(name, state, time) for name, _, state, time in wanted.alerts if time > 740_000}


def test_memory_for_duplicates_is_bounded_by_the_lateness_horizon() -> None:
    series = Series(fleet(period=100, lateness=100))
    for n in range(5000):
        series.send((n + n % 7 / 10, 1.0))
    assert len(series.state.seen) <= 2 * 202 + 64
    assert len(series.state.windows[0].panes) <= 3
