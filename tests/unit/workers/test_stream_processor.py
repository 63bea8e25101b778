"""Records that are not what they should be end as dead letters, and the others go on."""

import base64
import json

import pytest
from sensorpipeline_api.configuration import KafkaConnection, Topics, WorkerConfiguration
from sensorpipeline_api.records import Aggregate, Alert, DeadLetter, Late
from sensorpipeline_api.spec import Clock, Fleet, Lateness, Threshold
from sensorpipeline_workers.stream.processor import Processor
from sensorpipeline_workers.stream.store import split_key, table_key

FLEET = Fleet.model_validate({
    "name": "f", "topic": "f/{device}/m", "metrics": [{"name": "m"}],
    "windows": [{"name": "W", "metric": "m", "function": "Sum", "periodSeconds": 10}],
})  # fmt: skip


def processor(stored: dict[bytes, bytes] | None = None, fleet: Fleet = FLEET) -> Processor:
    topics = Topics(readings={"f": "r"}, aggregates="a", late="l", alerts="t", dead_letter="d")
    connection = KafkaConnection(bootstrap_servers=["127.0.0.1:1"])
    made = Processor(
        WorkerConfiguration(pipeline="p", kafka=connection, topics=topics, fleet=fleet, application_id="w")
    )
    if stored is not None:
        made.load(0, stored.items())
    return made


def states(subject: Processor) -> dict[bytes, bytes]:
    return {key: data for _, key, data in subject.take_states() if data is not None}


def record(*times: int) -> bytes:
    return json.dumps([{"device": "d", "metric": "m", "time": t, "value": 1.0} for t in times]).encode()


@pytest.mark.parametrize(
    "value",
    [
        None, b"", b"nonsense", b"{}", b'[{"device":"d"}]', record(10**30), record(-1), record(253402300800000),
        b'[{"device":"d","metric":"other","time":1,"value":1}]',
        b'[{"device":"d","metric":"m","time":1,"value":null}]',
        b'[{"device":"d","metric":"m","time":1,"value":1e999}]',
        b'[{"device":"\xff","metric":"m","time":1,"value":1}]',
        b'[{"device":"\\ud800","metric":"m","time":1,"value":1}]',
        b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_read_is_dead_lettered_whole_and_the_next_goes_on(value: bytes | None) -> None:
    subject = processor()
    subject.record(topic="r", partition=0, offset=5, value=value, now=1)
    ((letter,), _) = subject.take_results()
    assert isinstance(letter, DeadLetter)
    assert letter.source == "kafka:r/0/5"
    assert base64.b64decode(letter.payload) == (value or b"")
    subject.record(topic="r", partition=0, offset=6, value=record(1, 11_000), now=1)
    assert [topic for topic, _, _ in subject.take_results()[1]] == ["a"]


def test_a_record_that_the_state_holds_changes_nothing() -> None:
    subject = processor()
    subject.record(topic="r", partition=0, offset=5, value=record(1, 11_000), now=1)
    again = processor(states(subject))
    again.record(topic="r", partition=0, offset=5, value=record(1, 11_000), now=1)
    assert again.take_results() == ([], [])
    assert again.take_states() == []


def test_a_partition_goes_on_behind_what_its_states_hold() -> None:
    subject = processor()
    assert subject.position(0) is None
    subject.record(topic="r", partition=0, offset=5, value=record(1, 11_000), now=1)
    subject.record(topic="r", partition=0, offset=6, value=b"nonsense", now=1)
    stored = states(subject) | {key: data for _, key, data in subject.take_positions()}
    assert subject.take_positions() == []
    again = processor(stored)
    assert again.position(0) == 7
    assert len(again.store) == 1
    again.record(topic="r", partition=0, offset=6, value=b"nonsense", now=1)
    assert again.take_results() == ([], [])
    assert again.take_positions() == []
    again.drop({0})
    assert again.position(0) is None


def test_a_state_is_written_once_per_flush_under_its_partition() -> None:
    subject = processor()
    for offset in range(10):
        subject.record(topic="r", partition=3, offset=offset, value=record(offset), now=1)
    ((partition, key, _),) = subject.take_states()
    assert partition == 3
    assert key == table_key(3, "d", "m")
    assert split_key(key) == (3, "d", "m")


@pytest.mark.parametrize("device", ["d", "a|b", "|", "", "ä/ö", "a|m|"])
def test_every_device_is_found_again_under_its_key(device: str) -> None:
    assert split_key(table_key(12, device, "m")) == (12, device, "m")


def test_of_a_lost_partition_nothing_is_written() -> None:
    subject = processor()
    for partition in (0, 1):
        subject.record(topic="r", partition=partition, offset=5, value=record(1, 11_000), now=1)
    subject.drop({0})
    assert [partition for partition, _, _ in subject.take_states()] == [1]
    assert len(subject.store) == 1


def test_what_is_discarded_is_written_neither_now_nor_later() -> None:
    subject = processor()
    subject.record(topic="r", partition=0, offset=5, value=record(1, 11_000), now=1)
    assert subject.changed
    subject.discard()
    assert not subject.changed
    assert subject.take_results() == ([], [])
    assert subject.take_states() == []


def test_a_restored_series_that_stays_silent_is_closed_after_the_idle_time() -> None:
    subject = processor()
    subject.record(topic="r", partition=0, offset=5, value=record(1), now=1000)
    again = processor(states(subject))
    again.look(10)
    idle = FLEET.idle_seconds * 1000
    again.check(1000 + idle - 1)
    assert again.take_results()[0] == []
    again.check(1000 + idle)
    assert [e.count for e in again.take_results()[0] if isinstance(e, Aggregate)] == [1]
    again.check(1000 + 2 * idle)
    assert again.take_results()[0] == []


def test_a_series_that_sends_again_is_judged_by_its_last_reading() -> None:
    subject = processor()
    idle = FLEET.idle_seconds * 1000
    subject.record(topic="r", partition=0, offset=5, value=record(1), now=0)
    subject.take_states()
    subject.record(topic="r", partition=0, offset=6, value=record(2), now=idle // 2)
    subject.take_states()
    subject.check(idle)
    assert subject.take_results()[0] == []
    subject.check(idle + idle // 2)
    assert [e.count for e in subject.take_results()[0] if isinstance(e, Aggregate)] == [2]


def test_the_size_of_all_states_is_known() -> None:
    subject = processor()
    for offset in range(20):
        subject.record(topic="r", partition=0, offset=offset, value=record(offset * 1000), now=1)
        written = states(subject)
    assert subject.store.bytes == sum(map(len, written.values()))
    assert processor(written).store.bytes == subject.store.bytes
    subject.drop({0})
    assert (subject.store.bytes, len(subject.store)) == (0, 0)


def readings(*rows: tuple[str, int]) -> bytes:
    return json.dumps([{"device": d, "metric": "m", "time": t, "value": 1.0} for d, t in rows]).encode()


def test_with_the_fleets_clock_one_device_closes_the_windows_of_all_also_after_a_restart() -> None:
    fleet = FLEET.model_copy(update={"lateness": Lateness(clock=Clock.FLEET)})
    subject = processor(fleet=fleet)
    subject.record(topic="r", partition=0, offset=0, value=readings(("a", 1_000), ("b", 2_000)), now=1)
    assert subject.take_results()[0] == []
    stored = states(subject)
    assert table_key(0, "", "") in stored
    again = processor(stored, fleet)
    again.look(10)
    again.record(topic="r", partition=0, offset=1, value=readings(("c", 10_000), ("a", 3_000)), now=1)
    found = again.take_results()[0]
    assert [(e.device, e.start, e.count) for e in found if isinstance(e, Aggregate)] == [("a", 0, 1), ("b", 0, 1)]
    assert [(e.device, e.late_by_seconds) for e in found if isinstance(e, Late)] == [("a", 0.0)]


def test_a_series_that_stays_silent_is_retired_and_forgotten_much_later_and_it_comes_back() -> None:
    fleet = FLEET.model_copy(update={"idle_seconds": 60, "series_ttl_seconds": 3600})
    subject = processor(fleet=fleet)
    subject.record(topic="r", partition=0, offset=0, value=readings(("a", 1_000)), now=1_000)
    subject.take_states()
    subject.check(61_000)
    assert [e.count for e in subject.take_results()[0] if isinstance(e, Aggregate)] == [1]
    subject.take_states()
    subject.check(3_600_999)
    assert subject.take_states() == []
    subject.check(3_601_000)
    ((_, _, rest),) = subject.take_states()
    assert rest is not None
    assert len(rest) < 80
    month = 30 * 86_400_000
    subject.check(month + 999)
    assert subject.take_states() == []
    subject.check(month + 1_000)
    assert subject.take_states() == [(0, table_key(0, "a", "m"), None)]
    assert len(subject.store) == 0
    subject.record(topic="r", partition=0, offset=1, value=readings(("a", 20_000), ("a", 30_000)), now=month + 5_000)
    assert [e.start for e in subject.take_results()[0] if isinstance(e, Aggregate)] == [20_000]
    ((_, key, data),) = subject.take_states()
    assert key == table_key(0, "a", "m")
    assert data is not None


SILENT = FLEET.model_copy(update={
    "idle_seconds": 100, "series_ttl_seconds": 1000,
    "thresholds": [Threshold.model_validate({"name": "Quiet", "metric": "m", "silentForSeconds": 60})],
})  # fmt: skip


def restored_at_1000() -> Processor:
    subject = processor(fleet=SILENT)
    subject.record(topic="r", partition=0, offset=5, value=record(1), now=1_000)
    again = processor(states(subject), SILENT)
    again.look(10)
    return again


@pytest.mark.parametrize("known", [{}, {0: (2_000, 3_000)}, {1: (0, 10_000_000)}])
def test_whoever_has_a_backlog_to_read_takes_nobody_for_silent(known: dict[int, tuple[int, int]]) -> None:
    subject = restored_at_1000()
    for now in range(10_000, 10_000_000, 50_000):
        subject.check(now, known)
    assert subject.take_results() == ([], [])
    assert subject.take_states() == []
    assert len(subject.store) == 1


def test_silence_is_counted_from_when_the_backlog_had_been_read() -> None:
    subject = restored_at_1000()
    begin = 5_000_000
    found: list[tuple[int, str]] = []
    for now in range(4_000_000, begin + 1_100_000, 1_000):
        if now >= begin:
            subject.check(now, {0: (begin, now)})
        else:
            subject.check(now, {})
        found += [(now - begin, type(emission).__name__) for emission in subject.take_results()[0]]
        # What has been silent for its time to live, and for the idle time since it could be heard, goes.
        if any(series.look().retired for series in subject.store):
            break
    assert found[0] == (60_000, "Alert")
    assert (100_000, "Aggregate") in found
    assert 100_000 <= now - begin <= 101_000


def test_who_sent_while_the_worker_was_away_was_not_silent() -> None:
    subject = restored_at_1000()
    subject.check(500_000, {})
    subject.record(topic="r", partition=0, offset=6, value=record(2), now=500_500)
    subject.take_states()
    subject.check(501_000, {0: (501_000, 501_000)})
    subject.check(560_000, {0: (501_000, 560_000)})
    assert subject.take_results()[0] == []
    subject.check(562_000, {0: (501_000, 562_000)})
    (alert,) = subject.take_results()[0]
    assert isinstance(alert, Alert)
    assert alert.state == "Firing"


def test_what_another_partition_holds_of_a_lost_device_is_looked_at_again() -> None:
    subject = processor()
    for partition, rows in ((0, [("a", 1), ("b", 1)]), (1, [("a", 1)])):
        subject.record(topic="r", partition=partition, offset=1, value=readings(*rows), now=1)
    assert subject.drop({1}) == {"a"}
    assert subject.unseen == 1
    assert subject.drop({1}) == set()


def test_what_was_silent_for_its_time_to_live_goes_though_workers_change_more_often_than_that() -> None:
    fleet = SILENT.model_copy(update={"thresholds": []})
    subject = processor(fleet=fleet)
    subject.record(topic="r", partition=0, offset=5, value=record(1), now=1_000)
    subject.take_states()
    subject.check(101_000)
    again = processor(states(subject), fleet)
    again.look(10)
    since = 1_200_000
    again.check(since, {0: (since, since)})
    again.check(since + 99_999, {0: (since, since + 99_999)})
    assert again.take_states() == []
    again.check(since + 100_000, {0: (since, since + 100_000)})
    assert [series.look().retired for series in again.store] == [True]
    stored = states(again)
    month = 30 * 86_400_000
    last = processor(stored, fleet)
    last.look(10)
    last.check(month, {0: (month, month)})
    last.check(month + 99_999, {0: (month, month + 99_999)})
    assert last.take_states() == []
    last.check(month + 100_000, {0: (month, month + 100_000)})
    assert last.take_states() == [(0, table_key(0, "d", "m"), None)]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_retired_series_that_comes_back_does_not_overwrite_what_was_final(restarted: bool) -> None:
    """Half of a window's readings come, the series is retired, then the other half comes with the next window."""
    fleet = FLEET.model_copy(update={"idle_seconds": 60, "series_ttl_seconds": 3600})
    subject = processor(fleet=fleet)
    subject.record(topic="r", partition=0, offset=0, value=readings(("a", 1_000), ("a", 5_000)), now=1_000)
    stored = states(subject)
    for now in (61_000, 3_601_000):
        subject.check(now)
        stored |= states(subject)
    (final,) = [e for e in subject.take_results()[0] if isinstance(e, Aggregate)]
    assert (final.start, final.count, final.revision) == (0, 2, 0)
    if restarted:
        subject = processor(stored, fleet)
        subject.look(10)
    subject.check(3_700_000)
    late = readings(("a", 3_000), ("a", 6_000), ("a", 9_000), ("a", 12_000), ("a", 20_000))
    subject.record(topic="r", partition=0, offset=1, value=late, now=4_000_000)
    found = subject.take_results()[0]
    assert [(e.start, e.count) for e in found if isinstance(e, Aggregate)] == [(10_000, 1)]
    refused = [(e.time, e.late_by_seconds, e.reason) for e in found if isinstance(e, Late)]
    assert refused == [(time, 0.0, "ResultStands") for time in (3_000, 6_000, 9_000)]
    subject.take_states()
    subject.check(4_060_000)
    assert [(e.start, e.count) for e in subject.take_results()[0] if isinstance(e, Aggregate)] == [(20_000, 1)]


def test_a_silent_series_is_not_closed_again_before_its_state_is_taken() -> None:
    """Otherwise a crash would forget two revisions, and the fuller result of the replay would lose against them."""
    silence = Threshold.model_validate({"name": "T", "metric": "m", "silentForSeconds": 90})
    fleet = FLEET.model_copy(update={"idle_seconds": 60, "thresholds": [silence]})
    subject = processor(fleet=fleet)
    subject.record(topic="r", partition=0, offset=0, value=record(1_000), now=1_000)
    subject.take_states()
    subject.check(61_000)
    subject.record(topic="r", partition=0, offset=1, value=record(2_000), now=62_000)
    subject.check(200_000)
    assert [e.count for e in subject.take_results()[0] if isinstance(e, Aggregate)] == [1]
    subject.take_states()
    subject.check(200_001)
    assert [e.count for e in subject.take_results()[0] if isinstance(e, Aggregate)] == [2]


def test_with_the_fleets_clock_a_session_that_goes_on_costs_no_entry_and_no_write_per_reading() -> None:
    window = {"name": "W", "metric": "m", "function": "Sum", "gapSeconds": 100}
    spec = {"name": "f", "topic": "f/{device}/m", "metrics": [{"name": "m"}], "windows": [window],
            "lateness": {"clock": "Fleet"}}  # fmt: skip
    subject = processor(fleet=Fleet.model_validate(spec))
    for second in range(1_000):
        subject.record(topic="r", partition=0, offset=second, value=readings(("a", second * 1000)), now=1)
    (clock,) = subject._clocks.values()
    assert len(clock) == 1
    subject.take_states()
    subject.record(topic="r", partition=0, offset=1_000, value=readings(("b", 1_050_000)), now=1)
    assert [key for _, key, _ in subject.take_states()] == [table_key(0, "b", "m"), table_key(0, "", "")]
    assert subject.take_results()[0] == []
    subject.record(topic="r", partition=0, offset=1_001, value=readings(("b", 1_099_000)), now=1)
    assert [(e.device, e.count) for e in subject.take_results()[0] if isinstance(e, Aggregate)] == [("a", 1_000)]
