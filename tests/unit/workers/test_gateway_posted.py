"""Bodies of posted readings: what is accepted, what is refused and why, and what a token permits."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensorpipeline_api.records import DeadLetterReason, Reading
from sensorpipeline_api.spec import Fleet
from sensorpipeline_workers.gateway.devices import EVERYTHING, Grant
from sensorpipeline_workers.gateway.posted import ForbiddenError, Judge, RefusedBodyError, Verdict

NOW = 1_767_247_200_000
FIELD = Fleet.model_validate({
    "name": "field", "topic": "field/{device}/{metric}", "devices": ["S1", "S2"],
    "metrics": [{"name": "moisture", "minimum": "0", "maximum": "100"}, {"name": "ph"}],
})  # fmt: skip
BARN = Fleet.model_validate({"name": "barn", "topic": "barn/{device}/t", "metrics": [{"name": "temperature"}]})
JUDGE = Judge([FIELD, BARN], maximum_readings=15)
GOOD: dict[str, Any] = {"device": "S1", "metric": "moisture", "time": NOW, "value": 41.5}


def judge(body: Any, grant: Grant = Grant("field", None)) -> Verdict:  # noqa: B008 (frozen)
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return JUDGE.judge(raw, grant, now=NOW)


def test_one_reading_and_an_array_are_read() -> None:
    reading = Reading("S1", "moisture", NOW, 41.5)
    assert judge(GOOD) == Verdict({"field": [reading]}, [])
    assert judge([GOOD, GOOD]).accepted == {"field": [reading, reading]}
    assert judge(GOOD | {"note": "ignored"}).accepted == {"field": [reading]}


@pytest.mark.parametrize("time", [NOW, float(NOW), "2026-01-01T06:00:00Z", "2026-01-01T08:00:00.000+02:00"])
def test_a_time_is_milliseconds_or_rfc_3339(time: object) -> None:
    assert judge(GOOD | {"time": time}).accepted["field"][0].time == NOW


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"device": "S9"}, "device", DeadLetterReason.UNKNOWN_DEVICE),
        ({"device": 5}, "device", DeadLetterReason.UNKNOWN_DEVICE),
        ({"device": "\ud800"}, "device", DeadLetterReason.UNKNOWN_DEVICE),
        ({"metric": "wind"}, "metric", DeadLetterReason.UNKNOWN_METRIC),
        ({"metric": ["ph"]}, "metric", DeadLetterReason.UNKNOWN_METRIC),
        ({"time": "yesterday"}, "time", DeadLetterReason.NOT_A_NUMBER),
        ({"time": "2026-01-01T06:00:00"}, "time", DeadLetterReason.NOT_A_NUMBER),
        ({"time": True}, "time", DeadLetterReason.NOT_A_NUMBER),
        ({"time": None}, "time", DeadLetterReason.NOT_A_NUMBER),
        ({"time": -1}, "time", DeadLetterReason.OUT_OF_RANGE),
        ({"time": NOW + 301_000}, "time", DeadLetterReason.FUTURE_TIMESTAMP),
        ({"value": "41"}, "value", DeadLetterReason.NOT_A_NUMBER),
        ({"value": True}, "value", DeadLetterReason.NOT_A_NUMBER),
        ({"value": float("nan")}, "value", DeadLetterReason.NOT_A_NUMBER),
        ({"value": 10**400}, "value", DeadLetterReason.OUT_OF_RANGE),
        ({"value": 100.5}, "value", DeadLetterReason.OUT_OF_RANGE),
        ({"value": -0.5}, "value", DeadLetterReason.OUT_OF_RANGE),
    ],
)
def test_what_is_wrong_is_named_with_index_field_and_reason_and_kept(
    change: dict[str, Any], field: str, reason: DeadLetterReason
) -> None:
    bad = GOOD | change
    verdict = judge([GOOD, bad, GOOD])
    assert len(verdict.accepted["field"]) == 2
    (rejection,) = verdict.rejected
    assert (rejection.index, rejection.field, rejection.reason, rejection.fleet) == (1, field, reason, "field")
    assert field in rejection.detail
    assert json.dumps(json.loads(rejection.payload)) == json.dumps(bad)


@pytest.mark.parametrize("field", ["device", "metric", "time", "value"])
def test_a_missing_field_is_named(field: str) -> None:
    (rejection,) = judge({key: value for key, value in GOOD.items() if key != field}).rejected
    assert (rejection.field, rejection.reason) == (field, DeadLetterReason.MISSING_FIELD)


def test_what_is_no_object_is_refused_alone() -> None:
    verdict = judge([GOOD, 5, None, [GOOD]])
    assert [(r.index, r.reason) for r in verdict.rejected] == [(n, DeadLetterReason.INVALID_JSON) for n in (1, 2, 3)]


def test_the_bytes_of_a_refused_reading_are_kept_as_they_came() -> None:
    body = b'[ {"device": "S1", "metric":"moisture","time":1,"value": 1e3 , "x":"\\u00e9"} ]'
    assert judge(body).rejected[0].payload == body[1:-1].strip()


@pytest.mark.parametrize(
    ("body", "reason", "parses"),
    [
        (b"", DeadLetterReason.INVALID_JSON, False),
        (b"{", DeadLetterReason.INVALID_JSON, False),
        (b"\xff\xfe", DeadLetterReason.INVALID_JSON, False),
        (b"[" * 100_000, DeadLetterReason.INVALID_JSON, False),
        (b'"text"', DeadLetterReason.INVALID_JSON, True),
        (b"null", DeadLetterReason.INVALID_JSON, True),
        (b"[]", DeadLetterReason.MISSING_FIELD, True),
        (json.dumps([GOOD] * 16).encode(), DeadLetterReason.TOO_LARGE, True),
    ],
)
def test_a_body_that_holds_no_readings_is_refused_whole(body: bytes, reason: DeadLetterReason, parses: bool) -> None:
    with pytest.raises(RefusedBodyError) as error:
        judge(body)
    assert (error.value.reason, error.value.parses) == (reason, parses)


def test_a_devices_token_permits_that_device_alone() -> None:
    grant = Grant("field", "S1")
    assert judge(GOOD, grant).accepted
    with pytest.raises(ForbiddenError) as error:
        judge([GOOD, GOOD | {"device": "S2"}], grant)
    assert (error.value.index, error.value.field) == (1, "device")


def test_a_fleets_token_permits_no_other_fleet() -> None:
    assert judge(GOOD | {"fleet": "field"}).accepted
    with pytest.raises(ForbiddenError) as error:
        judge(GOOD | {"fleet": "barn"})
    assert error.value.field == "fleet"


def test_without_a_token_the_fleet_is_the_one_named_or_the_one_that_lists_the_device() -> None:
    barn = {"device": "B7", "metric": "temperature", "time": NOW, "value": 5}
    assert judge(GOOD, EVERYTHING).accepted.keys() == {"field"}
    assert judge(barn | {"fleet": "barn"}, EVERYTHING).accepted.keys() == {"barn"}
    assert judge([GOOD, barn | {"fleet": "barn"}], EVERYTHING).accepted.keys() == {"field", "barn"}
    (unknown,) = judge(barn, EVERYTHING).rejected
    assert (unknown.field, unknown.reason, unknown.fleet) == ("fleet", DeadLetterReason.MISSING_FIELD, "unknown")
    for name in ("shed", 5):
        (rejection,) = judge(barn | {"fleet": name}, EVERYTHING).rejected
        assert rejection.field == "fleet"
    only = Judge([BARN], maximum_readings=10).judge(json.dumps(barn).encode(), EVERYTHING, now=NOW)
    assert only.accepted.keys() == {"barn"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
readings = st.fixed_dictionaries(
    {}, optional={"device": st.sampled_from(["S1", "S2"]) | json_values, "metric": st.just("ph") | json_values,
                  "time": st.integers(0, NOW) | json_values, "value": st.floats() | json_values,
                  "fleet": st.none() | json_values},
)  # fmt: skip


@given(st.lists(readings | json_values, max_size=14) | json_values | st.binary(max_size=60), st.booleans())
def test_every_reading_of_every_body_is_accepted_or_rejected_or_the_body_is_refused(body: Any, trusted: bool) -> None:
    grant = EVERYTHING if trusted else Grant("field", None)
    try:
        verdict = judge(body, grant)
    except (RefusedBodyError, ForbiddenError):
        return
    count = len(body) if isinstance(body, list) else 1
    places = {rejection.index for rejection in verdict.rejected}
    assert len(verdict.rejected) == len(places)
    assert sum(len(items) for items in verdict.accepted.values()) + len(places) == count
    assert places <= set(range(count))


@given(
    st.lists(
        st.fixed_dictionaries({
            "device": st.sampled_from(["S1", "S2", "S3"]), "metric": st.sampled_from(["moisture", "ph", "wind"]),
            "time": st.integers(-5, 5) | st.integers(NOW + 299_990, NOW + 300_010) | st.floats(0, NOW),
            "value": st.floats(-0.5, 100.5) | st.sampled_from([0, 100, -1, 101]),
        }, optional={"fleet": st.sampled_from([None, "field"])}),
        max_size=8,
    )
)  # fmt: skip
def test_what_is_read_quickly_is_read_as_with_care(body: list[dict[str, Any]]) -> None:
    quick = judge([*body, GOOD])
    with_care = judge([*body, GOOD, None])  # an array in which one is no object is read piece by piece
    assert quick.accepted == with_care.accepted
    assert quick.rejected == with_care.rejected[:-1]
