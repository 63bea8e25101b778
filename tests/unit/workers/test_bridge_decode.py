"""A message becomes readings or one reason why not; nothing else can come of it."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sensorpipeline_api.records import Reading
from sensorpipeline_api.spec import Fleet
from sensorpipeline_workers.bridge.decode import decode
from sensorpipeline_workers.bridge.topics import Origin, TopicTable, parse_topic, topic_filter
from sensorpipeline_workers.ingest.validation import RefusedError

NOW = 1_700_000_000_000


def fleet(**extra: Any) -> Fleet:
    base: dict[str, Any] = {
        "name": "pumps",
        "topic": "pumps/{device}/state",
        "metrics": [{"name": "pressure", "field": "value", "minimum": "0", "maximum": "100"}],
        "devices": ["P1", "P2"],
    }
    return Fleet.model_validate(base | extra)


def read(payload: object, spec: Fleet | None = None, device: str = "P1", metric: str | None = None) -> list[Reading]:
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return decode(Origin(spec or fleet(), device, metric), data, now=NOW)


def test_a_good_message_becomes_one_reading() -> None:
    assert read({"ts": 1000, "value": 41.7}) == [Reading("P1", "pressure", 1000, 41.7)]


@pytest.mark.parametrize(
    ("payload", "reason", "part"),
    [
        (b'{"ts": 1, "value": ', "InvalidJson", "JSON"),
        (b"\xff\xfe", "InvalidJson", "JSON"),
        ([1, 2], "InvalidJson", "object"),
        ({"ts": 1}, "MissingField", "value"),
        ({"value": 1}, "MissingField", "ts"),
        (b'{"ts": 1, "value": NaN}', "NotANumber", "value"),
        (b'{"ts": 1, "value": -Infinity}', "NotANumber", "value"),
        ({"ts": 1, "value": "7"}, "NotANumber", "value"),
        ({"ts": 1, "value": True}, "NotANumber", "value"),
        ({"ts": 1, "value": None}, "NotANumber", "value"),
        ({"ts": "soon", "value": 1}, "NotANumber", "ts"),
        ({"ts": 1, "value": 100.1}, "OutOfRange", "less than or equal to 100"),
        ({"ts": 1, "value": -0.1}, "OutOfRange", "greater than or equal to 0"),
        ({"ts": -1, "value": 1}, "OutOfRange", "ts"),
        ({"ts": 1, "value": 10**400}, "OutOfRange", "value"),
        ({"ts": NOW + 300_001, "value": 1}, "FutureTimestamp", "at most 300 s"),
        ({"ts": 1, "value": 1, "pad": "x" * 262144}, "TooLarge", "262144"),
    ],
)
def test_a_bad_message_is_refused_with_its_reason_naming_the_field_or_limit(
    payload: object, reason: str, part: str
) -> None:
    with pytest.raises(RefusedError, match=part) as error:
        read(payload)
    assert error.value.reason == reason


@pytest.mark.parametrize("device", ["P9", ""])
def test_a_device_that_is_not_listed_is_refused(device: str) -> None:
    with pytest.raises(RefusedError) as error:
        read({"ts": 1, "value": 1}, device=device)
    assert error.value.reason == "UnknownDevice"


def test_a_fleet_without_a_list_takes_any_device_with_a_proper_name() -> None:
    assert read({"ts": 1, "value": 1}, fleet(devices=[]), device="new")[0].device == "new"
    with pytest.raises(RefusedError):
        read({"ts": 1, "value": 1}, fleet(devices=[]), device="a|b")


@pytest.mark.parametrize(
    ("unit", "raw", "milliseconds"),
    [
        ("Seconds", 1.5, 1500),
        ("Milliseconds", 1500, 1500),
        ("Rfc3339", "1970-01-01T00:00:01.500Z", 1500),
        ("Rfc3339", "1970-01-01T02:00:01.5+02:00", 1500),
    ],
)
def test_event_times_are_read_in_the_fleets_unit(unit: str, raw: object, milliseconds: int) -> None:
    assert read({"ts": raw, "value": 1}, fleet(payload={"timeUnit": unit}))[0].time == milliseconds


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(RefusedError, match="zone"):
        read({"ts": "2020-01-01T00:00:00", "value": 1}, fleet(payload={"timeUnit": "Rfc3339"}))


TWO = [{"name": "t", "field": "a.t"}, {"name": "h", "field": "a.h"}]


def test_a_message_may_carry_several_metrics_in_nested_fields() -> None:
    spec = fleet(metrics=TWO)
    assert [r.metric for r in read({"ts": 1, "a": {"t": 1, "h": 2}}, spec)] == ["t", "h"]
    assert [r.metric for r in read({"ts": 1, "a": {"h": 2}}, spec)] == ["h"]


def test_one_bad_metric_refuses_the_whole_message() -> None:
    with pytest.raises(RefusedError):
        read({"ts": 1, "a": {"t": 1, "h": "wet"}}, fleet(metrics=TWO))


def test_a_topic_that_names_the_metric_carries_that_one_alone() -> None:
    spec = fleet(topic="p/{device}/{metric}", metrics=TWO)
    assert [r.metric for r in read({"ts": 1, "a": {"t": 1, "h": 2}}, spec, metric="h")] == ["h"]
    with pytest.raises(RefusedError) as error:
        read({"ts": 1, "a": {"t": 1}}, spec, metric="z")
    assert error.value.reason == "MissingField"


@settings(max_examples=500)
@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["ts", "value", "x"]), inner),
    max_leaves=8,
).map(lambda v: json.dumps(v).encode()))  # fmt: skip
def test_any_bytes_end_as_readings_or_as_a_refusal(payload: bytes) -> None:
    try:
        readings = read(payload)
    except RefusedError:
        return
    assert all(0 <= r.value <= 100 and 0 <= r.time <= NOW + 300_000 for r in readings)
    assert readings


def test_topics_fit_the_template_level_by_level() -> None:
    spec = fleet(topic="p/{device}/x/{metric}")
    origin = parse_topic(spec, "p/P1/x/t")
    assert origin is not None
    assert (origin.device, origin.metric) == ("P1", "t")
    assert parse_topic(spec, "p/P1/y/t") is None
    assert parse_topic(spec, "p/P1/x") is None
    assert topic_filter(spec.topic) == "p/+/x/+"
    assert TopicTable([spec, fleet()]).find("pumps/P2/state") == Origin(fleet(), "P2", None)
