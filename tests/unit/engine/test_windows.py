"""Each kind of window and each function, one example at a time. Times are in seconds here, the engine's are in ms."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sensorpipeline_api.records import Aggregate, Late
from sensorpipeline_api.spec import Fleet
from sensorpipeline_workers.engine.calendars import CalendarBounds
from sensorpipeline_workers.engine.plan import compile_metric
from sensorpipeline_workers.engine.series import close_idle, process
from sensorpipeline_workers.engine.state import SeriesState, decode, encode

NOW = 1_700_000_000_000
HOUR = 3600


class Series:
    """A series that is fed one reading at a time."""

    def __init__(self, *windows: dict[str, Any], **extra: Any) -> None:
        spec = {"name": "f", "topic": "f/{device}/m", "metrics": [{"name": "m"}]} | extra
        filled = [{"name": "W", "metric": "m", "function": "Sum"} | window for window in windows]
        self.plan = compile_metric(Fleet.model_validate(spec | {"windows": filled}), "m")
        self.state = SeriesState(self.plan)

    def send(self, *readings: tuple[float, float]) -> list[Any]:
        times, values = [round(time * 1000) for time, _ in readings], [float(value) for _, value in readings]
        return process(self.plan, self.state, device="d", times=times, values=values, now=NOW)


def results(emissions: list[Any], window: str = "W") -> list[tuple[int, int, float, int, int]]:
    """Returns (start in s, end in s, value, count, revision) of each aggregate of a window."""
    return [
        (e.start // 1000, e.end // 1000, e.value, e.count, e.revision)
        for e in emissions
        if isinstance(e, Aggregate) and e.window == window
    ]


def test_a_hopping_window_begins_every_slide_and_counts_a_reading_in_each_that_holds_it() -> None:
    series = Series({"periodSeconds": 30, "slideSeconds": 10})
    found = results(series.send((5, 1), (15, 2), (25, 4), (35, 8)))
    assert found == [(-20, 10, 1, 1, 0), (-10, 20, 3, 2, 0), (0, 30, 7, 3, 0)]


def test_a_reading_that_some_hopping_windows_refuse_is_listed_once_and_counts_in_the_others() -> None:
    series = Series({"periodSeconds": 30, "slideSeconds": 10})
    series.send((45, 1))
    (late,) = [e for e in series.send((22, 2)) if isinstance(e, Late)]
    assert late.late_by_seconds == 15, "the first window that holds it, [0, 30), refused it"
    assert results(series.send((90, 0)))[0] == (20, 50, 3, 2, 0)


def test_a_session_ends_a_gap_after_its_last_reading() -> None:
    series = Series({"gapSeconds": 10})
    assert results(series.send((0, 1), (9, 2), (18, 4), (27.999, 8))) == []
    assert results(series.send((38, 16))) == [(0, 37, 15, 4, 0)]


def test_a_late_reading_joins_two_sessions_and_the_second_is_taken_back() -> None:
    series = Series({"gapSeconds": 10, "allowedLatenessSeconds": 100})
    assert results(series.send((0, 1), (15, 2), (60, 0))) == [(0, 10, 1, 1, 0), (15, 25, 2, 1, 0)]
    assert results(series.send((8, 4))) == [(15, 25, 0, 0, 1), (0, 25, 7, 3, 1)]


def test_a_late_reading_before_a_session_moves_its_start() -> None:
    series = Series({"gapSeconds": 10, "allowedLatenessSeconds": 100})
    assert results(series.send((15, 2), (60, 0))) == [(15, 25, 2, 1, 0)]
    assert results(series.send((8, 4))) == [(15, 25, 0, 0, 1), (8, 25, 6, 2, 0)]


def test_a_final_session_that_goes_on_is_emitted_as_not_final() -> None:
    series = Series({"gapSeconds": 10, "allowedLatenessSeconds": 100}, outOfOrdernessSeconds=0)
    assert results(series.send((0, 1), (12, 2))) == [(0, 10, 1, 1, 0)]
    found = series.send((5, 4))
    assert results(found) == [(12, 22, 0, 0, 0), (0, 22, 7, 3, 1)]
    assert [e.final for e in found] == [True, False]
    assert results(series.send((40, 0))) == [(0, 22, 7, 3, 2)]


def test_a_session_that_only_silence_has_closed_goes_on_without_a_word() -> None:
    """A replay without the silence has one revision less; what it ends with must not lose against this."""
    series = Series({"gapSeconds": 10, "allowedLatenessSeconds": 100}, idleSeconds=60)
    series.send((0, 1), (5, 2))
    assert results(close_idle(series.plan, series.state, device="d", now=NOW + 60_000)) == [(0, 15, 3, 2, 0)]
    assert series.send((12, 4)) == []
    assert results(series.send((40, 0))) == [(0, 22, 7, 3, 1)]


@pytest.mark.parametrize(("date", "hours"), [("2024-03-31", 23), ("2024-10-27", 25), ("2024-07-01", 24)])
def test_a_day_of_a_time_zone_has_the_hours_it_has_there(date: str, hours: int) -> None:
    zone = ZoneInfo("Europe/Athens")
    midnight = datetime.fromisoformat(date).replace(tzinfo=zone)
    begin, end = midnight.timestamp(), (midnight + timedelta(days=1)).timestamp()
    series = Series({"calendar": "Day", "timeZone": "Europe/Athens", "function": "Count"})
    found = results(series.send(*[(begin + hour * HOUR, 1) for hour in range(hours)], (end, 1)))
    assert found == [(begin, end, hours, hours, 0)]
    assert end - begin == hours * HOUR


def test_a_month_of_a_time_zone_begins_on_its_first() -> None:
    bounds = CalendarBounds("Month", "Europe/Athens")
    time = round(datetime(2024, 2, 29, 22, 30, tzinfo=UTC).timestamp() * 1000)
    start, end = (datetime.fromtimestamp(moment / 1000, ZoneInfo("Europe/Athens")) for moment in bounds(time))
    assert (start.isoformat(), end.isoformat()) == ("2024-03-01T00:00:00+02:00", "2024-04-01T00:00:00+03:00")


@pytest.mark.parametrize(
    "zone", ["Europe/Athens", "America/St_Johns", "Pacific/Apia", "Africa/Cairo", "Asia/Kathmandu"]
)
@pytest.mark.parametrize("unit", ["Day", "Month"])
def test_calendar_windows_leave_no_gap_and_do_not_overlap(unit: str, zone: str) -> None:
    bounds = CalendarBounds(unit, zone)
    time, last = 0, 0
    for _ in range(2000):
        start, end = bounds(time)
        assert start <= time < end
        assert last in (0, start)
        assert bounds(end - 1) == (start, end)
        time = last = end


FUNCTIONS = [
    ({"function": "Rate"}, [(10, 5), (20, 25), (60, 30)], 0.5),
    ({"function": "Rate", "resetPolicy": "Reset"}, [(10, 5), (20, 25), (60, 30), (80, 10)], 0.5),
    ({"function": "StandardDeviation"}, [(1, 2), (2, 4), (3, 4), (4, 4), (5, 5), (6, 5), (7, 7), (8, 9)], 2),
    ({"function": "TimeWeightedMean"}, [(0, 10), (50, 0), (75, 40)], 15),
    ({"function": "Availability", "expectedEverySeconds": 20}, [(5, 1), (6, 1), (45, 1), (99, 1)], 0.6),
]  # fmt: skip


@pytest.mark.parametrize(("window", "readings", "expected"), FUNCTIONS)
@pytest.mark.parametrize("held_back", [0, 200])
def test_functions_in_order_and_out_of_order(
    window: dict[str, Any], readings: list[tuple[float, float]], expected: float, held_back: int
) -> None:
    series = Series({"periodSeconds": 100} | window, outOfOrdernessSeconds=held_back)
    found = series.send(*(readings[::-1] if held_back else readings), (100 + held_back, 0))
    assert results(found)[0][2] == pytest.approx(expected)


def test_a_rate_needs_two_readings() -> None:
    series = Series({"periodSeconds": 100, "function": "Rate"})
    assert results(series.send((5, 1), (100, 0))) == []


def test_a_counter_that_starts_anew_goes_on_from_zero() -> None:
    window = {"periodSeconds": 100, "function": "Difference", "allowedLatenessSeconds": 1000}
    readings = [(50, 90), (120, 100), (150, 7), (180, 12), (200, 0)]
    plain, counter = Series(window), Series(window | {"resetPolicy": "Reset"})
    assert results(plain.send(*readings)) == [(100, 200, 12 - 90, 3, 0)]
    assert results(counter.send(*readings)) == [(100, 200, 10 + 7 + 5, 3, 0)]
    assert results(counter.send((60, 95))) == [(100, 200, 5 + 7 + 5, 3, 1)], "the window before ends higher"


@pytest.mark.parametrize("quantile", ["0", "0.5", "0.95", "1"])
def test_a_quantile_is_within_one_percent_for_values_of_both_signs(quantile: str) -> None:
    values = [(-1) ** n * 1.07**n for n in range(201)]
    series = Series({"periodSeconds": 1000, "function": "Quantile", "quantile": quantile})
    found = results(series.send(*enumerate(values), (1000, 0)))
    exact = sorted(values)[int(float(quantile) * 200)]
    assert found[0][2] == pytest.approx(exact, rel=0.01)


def test_updates_are_emitted_at_most_once_per_interval_and_only_when_something_changed() -> None:
    series = Series({"periodSeconds": 100, "emit": "Updates", "emitSeconds": 20})
    found = series.send((1, 1), (10, 1), (19, 1), (20, 1), (39, 1), (45, 1))
    assert [(e.value, e.final, e.revision) for e in found] == [(4, False, 0), (6, False, 1)]
    assert [(e.value, e.final) for e in series.send((100, 9))] == [(6, True), (9, False)]


def test_a_difference_is_against_the_last_of_several_windows_that_were_dropped_at_once() -> None:
    series = Series({"periodSeconds": 100, "function": "Difference", "allowedLatenessSeconds": 150})
    series.send((0, 10), (100, 15), (1000, 40))
    assert [pane.start for pane in series.state.windows[0].panes] == [1_000_000]
    assert results(series.send((1100, 41))) == [(1000, 1100, 25, 1, 0)]


def test_a_window_that_keeps_readings_keeps_a_bounded_number_of_them() -> None:
    window = {"periodSeconds": 86400, "function": "TimeWeightedMean", "allowedLatenessSeconds": 86400}
    series = Series(window)
    series.send(*[(second, second // 864) for second in range(86_400)])
    assert len(encode(series.plan, series.state)) < 200_000
    ((_, _, value, count, _),) = results(series.send((86_400, 0)))
    assert count == 86_400
    assert value == pytest.approx(49.5, abs=0.5)


def rollup(function: str = "Sum", **extra: Any) -> Series:
    hour = {"name": "Hour", "periodSeconds": HOUR, "function": function, "allowedLatenessSeconds": 2 * 86400} | extra
    day = {"name": "Day", "periodSeconds": 24 * HOUR, "function": function, "source": "Hour"}
    return Series(day, hour)


def test_a_rollup_holds_what_its_source_accepted_and_is_revised_with_it() -> None:
    series = rollup()
    found = series.send(*[(number * 600, 1) for number in range(145)])
    assert results(found, "Day") == [(0, 86400, 144, 144, 0)]
    assert len(results(found, "Hour")) == 24
    found = series.send((601, 10))
    assert results(found, "Hour") == [(0, HOUR, 16, 7, 1)]
    assert results(found, "Day") == [(0, 86400, 154, 145, 1)]
    assert series.send((601, 10)) == []


def test_a_reading_that_the_source_refuses_is_late_once_and_not_in_the_rollup() -> None:
    series = rollup(allowedLatenessSeconds=0)
    found = series.send((10, 1), (2 * HOUR, 1), (20, 5), (86400, 0))
    assert [e.window for e in found if isinstance(e, Late)] == ["Hour"]
    assert results(found, "Day") == [(0, 86400, 2, 2, 0)]


def test_a_rollup_touches_no_raw_reading_while_its_source_is_open() -> None:
    series = rollup()
    series.send(*[(number, 1) for number in range(3000)])
    assert [len(window.panes) for window in series.state.windows if window.plan.name == "Day"] == [0]


def test_a_silent_rollup_closes_with_its_source_and_goes_on() -> None:
    series = rollup()
    series.send((10, 1))
    found = close_idle(series.plan, series.state, device="d", now=NOW + 3_600_000)
    assert results(found, "Hour") + results(found, "Day") == [(0, HOUR, 1, 1, 0), (0, 86400, 1, 1, 0)]
    assert results(series.send((20, 2), (7200, 4), (86400, 0)), "Day") == [(0, 86400, 7, 3, 1)]


def changed(before: Series, *windows: dict[str, Any], **extra: Any) -> Series:
    """Returns a series of other windows that goes on from the state of one."""
    after = Series(*windows, **extra)
    after.state = decode(after.plan, encode(before.plan, before.state))
    return after


def late(emissions: list[Any], window: str = "W") -> list[tuple[int, float, str]]:
    return [(e.time // 1000, e.late_by_seconds, e.reason) for e in emissions
            if isinstance(e, Late) and e.window == window]  # fmt: skip


CHANGES = [{"periodSeconds": 100, "function": "Mean"}, {"periodSeconds": 50}, {"calendar": "Day", "timeZone": "UTC"},
           {"periodSeconds": 100, "slideSeconds": 50}, {"gapSeconds": 10}]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_window_leaves_the_results_so_far_and_begins_with_the_next(change: dict[str, Any]) -> None:
    kept = {"name": "Kept", "periodSeconds": 100, "allowedLatenessSeconds": 1000}
    before = Series(kept, {"periodSeconds": 100, "allowedLatenessSeconds": 1000})
    final = results(before.send((10, 1), (20, 2), (100, 4)))
    assert final == [(0, 100, 3, 2, 0)]
    after = changed(before, change | {"allowedLatenessSeconds": 1_000_000}, kept)
    found = after.send((30, 8), (90_000, 16), (180_000, 0))
    assert results(found, "Kept")[:2] == [(0, 100, 11, 3, 1), (100, 200, 4, 1, 0)]
    assert [(time, reason) for time, _, reason in late(found)] == [(30, "ResultStands")]
    assert (
        [start > 100 and count > 0 for start, _, _, count, _ in results(found)].count(True) == len(results(found)) > 0
    )
    again = changed(after, change | {"allowedLatenessSeconds": 1_000_000}, kept)
    assert [reason for _, _, reason in late(again.send((95_000, 1), (40, 1)))] == ["ResultStands"]


def test_a_window_that_gets_a_source_counts_nothing_twice() -> None:
    day = {"name": "Day", "periodSeconds": 24 * HOUR, "allowedLatenessSeconds": 86400}
    hour = {"name": "Hour", "periodSeconds": HOUR, "allowedLatenessSeconds": 86400}
    before = Series(day, hour)
    before.send(*[(number * 600, 1) for number in range(72)])
    after = changed(before, day | {"source": "Hour"}, hour)
    found = after.send(*[(number * 600, 1) for number in range(72, 145 + 144)])
    assert results(found, "Day") == [(86400, 2 * 86400, 144, 144, 0)], "the first day began before the change"
    assert late(found, "Day") == [], "a window with a source lists nothing itself"
    raw = changed(after, day, hour)
    found = raw.send(*[(number * 600, 1) for number in range(289, 4 * 144 + 1)])
    assert results(found, "Day") == [(3 * 86400, 4 * 86400, 144, 144, 0)]
    assert len(late(found, "Day")) == 3 * 144 - 289


def test_a_change_of_the_source_begins_its_rollups_anew_too() -> None:
    day = {"name": "Day", "periodSeconds": 24 * HOUR, "source": "Hour"}
    hour = {"name": "Hour", "periodSeconds": HOUR, "allowedLatenessSeconds": 86400}
    before = Series(day, hour)
    before.send(*[(number * 600, 1) for number in range(70)])
    after = changed(before, day, hour | {"periodSeconds": 2 * HOUR})
    found = after.send(*[(number * 600, 1) for number in range(70, 2 * 144 + 1)])
    assert results(found, "Day") == [(86400, 2 * 86400, 144, 144, 0)]


def test_a_new_window_begins_with_the_readings_that_come() -> None:
    after = changed(Series({"name": "Other", "periodSeconds": 100}), {"periodSeconds": 100})
    assert results(after.send((10, 1), (100, 0))) == [(0, 100, 1, 1, 0)]


SIZES = [
    ("Sum", {}, 60), ("Maximum", {}, 50), ("Last", {}, 75), ("StandardDeviation", {}, 60), ("Count", {}, 45),
    ("Availability", {"expectedEverySeconds": 900}, 65), ("Difference", {}, 75), ("Rate", {}, 75),
    # Readings between others matter: 16 bytes for each of the 96.
    ("TimeWeightedMean", {}, 1600), ("Difference", {"resetPolicy": "Reset"}, 1600),
    ("Rate", {"resetPolicy": "Reset"}, 1600),
    # The values are spread over a range of 1 to 20, in up to 96 of the 150 buckets that it has.
    ("Quantile", {"quantile": "0.5"}, 420),
]  # fmt: skip


@pytest.mark.parametrize(("function", "extra", "most"), SIZES)
def test_a_live_window_costs_few_bytes(function: str, extra: dict[str, Any], most: int) -> None:
    day = {"periodSeconds": 86400, "function": function, "allowedLatenessSeconds": 20 * 86400} | extra
    one, many = Series(day), Series(day)
    one.send(*[(1.5e9 + number * 900, 1 + number % 97 / 5) for number in range(96)])
    many.send(*[(1.5e9 + number * 900, 1 + number % 97 / 5) for number in range(96 * 21)])
    panes = len(many.state.windows[0].panes) - len(one.state.windows[0].panes)
    assert panes >= 19
    size = len(encode(many.plan, many.state)) - len(encode(one.plan, one.state))
    assert size / panes <= most


def test_a_live_session_costs_few_bytes() -> None:
    window = {"gapSeconds": 60, "allowedLatenessSeconds": 20 * 86400}
    one, many = Series(window), Series(window)
    one.send(*[(1.5e9 + number % 10 + number // 10 * 3600, 1) for number in range(10)])
    many.send(*[(1.5e9 + number % 10 + number // 10 * 3600, 1) for number in range(1000)])
    assert len(many.state.windows[0].panes) == 100
    # Of these 21 bytes are the run of times by which duplicates are recognised.
    assert (len(encode(many.plan, many.state)) - len(encode(one.plan, one.state))) / 99 <= 80


WIDE = [{"periodSeconds": 3600}, {"periodSeconds": 86400, "slideSeconds": 600},
        {"gapSeconds": 3, "allowedLatenessSeconds": 27_000}]  # fmt: skip


@pytest.mark.parametrize("shape", WIDE)
def test_windows_that_keep_readings_keep_a_bounded_number_of_them_together(shape: dict[str, Any]) -> None:
    """A reading every second for two days, all of whose windows still accept readings; sessions of six readings."""
    series = Series({"function": "TimeWeightedMean", "allowedLatenessSeconds": 30 * 86400} | shape)
    gap = "gapSeconds" in shape
    series.send(*[(1.5e9 + second, second % 2) for second in range(2 * 86400) if not gap or second % 10 < 6])
    panes = series.state.windows[0].panes
    assert sum(len(pane.times) for pane in panes) <= max(40_000, 3 * len(panes))
    assert len(encode(series.plan, series.state)) < 4 * 1024 * 1024
    assert all(pane.count >= 6 for pane in panes[1:-1])


@pytest.mark.parametrize("readings", [[(0, 1), (10, 2)], [(10, 2), (0, 1)]])
def test_readings_exactly_a_gap_apart_are_two_sessions_in_either_order(readings: list[tuple[float, float]]) -> None:
    series = Series({"gapSeconds": 10, "allowedLatenessSeconds": 100})
    found = results(series.send(*readings, (60, 0)))
    assert sorted(found) == [(0, 10, 1, 1, 0), (10, 20, 2, 1, 0)]


def test_an_open_window_that_has_not_changed_is_not_emitted_again() -> None:
    series = Series({"periodSeconds": 30, "emit": "Updates", "emitSeconds": 5}, outOfOrdernessSeconds=50)
    found = series.send((1001, 1), (1009, 1), (1040, 1), (1046, 1))
    assert results(found) == [(990, 1020, 2, 2, 0), (1020, 1050, 1, 1, 0), (1020, 1050, 2, 2, 1)]


def test_a_difference_goes_on_from_a_dropped_window_after_a_restart() -> None:
    window = {"periodSeconds": 100, "function": "Difference"}
    before = Series(window)
    before.send((0, 10), (100, 15))
    after = Series(window)
    after.state = decode(after.plan, encode(before.plan, before.state))
    assert results(after.send((200, 0))) == [(100, 200, 5, 1, 0)]
