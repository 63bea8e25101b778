"""Simulated devices: the same every time, due in order, late readings at times of their own."""

import itertools
from datetime import UTC, datetime
from typing import Any

import pytest
from sensorpipeline_api.spec import Fleet, SimulatedDevice
from sensorpipeline_simulators.ledger import Ledger
from sensorpipeline_simulators.publisher import payload, topic
from sensorpipeline_simulators.schedule import Due, schedule
from sensorpipeline_simulators.signals import read_recording

START = datetime(2020, 1, 1, tzinfo=UTC)
BEGIN = 1_577_836_800_000


def device(**extra: Any) -> SimulatedDevice:
    base = {"name": "d", "fleet": "f", "periodSeconds": 900}
    return SimulatedDevice.model_validate(base | (extra or {"uniform": {"minimum": "12", "maximum": "35"}}))


def take(count: int, *devices: SimulatedDevice, duration: float = 0, **recordings: Any) -> list[Due]:
    found = schedule(list(devices), start=START, duration=duration, seed=7, recordings=recordings)
    return list(itertools.islice(found, count))


def test_a_uniform_device_reports_every_period_within_its_range() -> None:
    items = take(200, device())
    assert [i.time for i in items] == [BEGIN + n * 900_000 for n in range(200)]
    assert all(12 <= i.value <= 35 for i in items)
    assert len({i.value for i in items}) > 150


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert take(100, device()) == take(100, device())


def test_a_counter_only_grows_by_its_mean_and_jitter() -> None:
    counter = {"start": "100", "meanIncrement": "50", "jitter": "10"}
    values = [i.value for i in take(50, device(counter=counter))]
    steps = [b - a for a, b in itertools.pairwise(values)]
    assert values[0] == 100
    assert all(40 <= step <= 60.001 for step in steps)


def test_events_happen_with_their_probability() -> None:
    items = take(100, device(event={"probability": "0.04"}))
    assert {i.value for i in items} == {1.0}
    assert 60 < items[-1].due / 900 / 25 < 160, "about one event in 25 periods"


def test_late_readings_come_when_due_with_an_old_time_that_no_other_reading_has() -> None:
    late = [{"everySeconds": 18000, "bySeconds": 172800}, {"everySeconds": 108000, "bySeconds": 864000}]
    items = take(700, device(uniform={"minimum": "0", "maximum": "1"}, late=late))
    old = [i for i in items if i.late]
    assert [i.due for i in old[:3]] == [18000.0, 36000.0, 54000.0]
    assert len({i.time for i in items}) == len(items)
    for item in old:
        behind = item.due - (item.time - BEGIN) / 1000
        assert behind in (pytest.approx(172800 - 300), pytest.approx(864000 - 600))


def test_devices_are_merged_in_the_order_in_which_they_are_due() -> None:
    daily = device(name="daily", periodSeconds=86400, counter={"meanIncrement": "1"})
    items = take(250, device(), daily)
    assert [i.due for i in items] == sorted(i.due for i in items)
    assert [i.due for i in items if i.device == "daily"] == [0, 86400, 172800]


def test_the_schedule_ends_after_its_duration() -> None:
    assert len(take(1000, device(), duration=86400)) == 96


def test_a_replay_keeps_its_own_times_and_ends_with_its_file() -> None:
    text = "time,value\n2022-03-20T11:00:00+01:00,100.59\n2022-03-20T12:00:00+01:00,100.89\n"
    rows = read_recording(text, time_column="time", value_column="value")
    items = take(10, device(replay={"configMapName": "r"}), d=rows)
    assert [(i.due, i.time, i.value) for i in items] == [
        (0.0, 1_647_770_400_000, 100.59),
        (3600.0, 1_647_774_000_000, 100.89),
    ]


@pytest.mark.parametrize(
    ("text", "part"), [("a,b\n1,2\n", "column time, value"), ("time,value\nnever,1\n", "line 2"),
                       ("time,value\n2020-01-01,x\n", "line 2")],
)  # fmt: skip
def test_a_recording_that_cannot_be_read_is_refused_naming_line_or_column(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        read_recording(text, time_column="time", value_column="value")


def test_messages_are_as_the_fleet_describes_them() -> None:
    fleet = Fleet.model_validate({
        "name": "f", "topic": "b/{device}/{metric}", "metrics": [{"name": "m", "field": "data.v"}],
        "payload": {"timeField": "data.at", "timeUnit": "Rfc3339"},
    })  # fmt: skip
    assert topic(fleet, "d", "m") == "b/d/m"
    assert payload(fleet, "m", time=BEGIN, value=1.5) == b'{"data": {"at": "2020-01-01T00:00:00.000+00:00", "v": 1.5}}'


def test_messages_are_in_the_fleets_format() -> None:
    base = {"name": "f", "topic": "b/{device}/{metric}", "metrics": [{"name": "m", "field": "v"}]}

    def message(**payload_: Any) -> bytes:
        return payload(Fleet.model_validate(base | {"payload": payload_}), "m", time=1000, value=1.5)

    assert message(timeUnit="ReceiveTime") == b'{"v": 1.5}'
    assert message(format="Number", timeUnit="ReceiveTime") == b"1.5"
    assert message(format="Csv", columns=["ts", "x", "v"]) == b"1000,,1.5"
    assert message(format="Csv", columns=["v"], timeUnit="ReceiveTime") == b"1.5"


def test_the_ledger_goes_on_where_it_was_and_cuts_off_a_half_written_line(tmp_path: Any) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    for number in range(3):
        ledger.write({"device": "d", "due": number * 10.0})
    ledger.close()
    with path.open("a") as file:
        file.write('{"device": "d", "du')
    again = Ledger(path)
    assert (again.acknowledged["d"], again.last_due) == (3, 20.0)
    again.write({"device": "d", "due": 30.0})
    again.close()
    assert len(path.read_text().splitlines()) == 4
