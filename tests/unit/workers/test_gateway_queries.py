"""Parameters to queries and documents to items."""

import base64
from datetime import UTC, datetime

import cramjam
import pytest
from bson import ObjectId, Regex
from hypothesis import given
from hypothesis import strategies as st
from sensorpipeline_workers.gateway import queries, remote_read
from sensorpipeline_workers.gateway.problems import ProblemError

MOMENT = datetime(2020, 1, 1, 12, 0, 0, 123000, tzinfo=UTC)


def test_filters_and_times_become_conditions() -> None:
    query = queries.query(
        queries.READINGS, {"fleet": "f", "device": None, "metric": "m"}, begin=MOMENT, end=None, cursor=None
    )
    assert query == {"$and": [{"series.fleet": "f"}, {"series.metric": "m"}, {"time": {"$gte": MOMENT}}]}


def test_a_time_without_a_zone_is_utc() -> None:
    naive = MOMENT.replace(tzinfo=None)
    query = queries.query(queries.LATE, {}, begin=None, end=naive, cursor=None)
    assert query == {"$and": [{"time": {"$lt": MOMENT}}]}


MOMENTS = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)).map(
    lambda d: d.replace(microsecond=d.microsecond // 1000 * 1000, tzinfo=UTC)
)


@given(MOMENTS, st.text(max_size=50))
def test_a_cursor_says_where_its_document_is(moment: datetime, identity: str) -> None:
    cursor = queries.encode_cursor(queries.LATE, {"time": moment, "_id": identity})
    assert queries.decode_cursor(queries.LATE, cursor) == (moment, [identity])


@given(MOMENTS, st.text(max_size=50), st.text(max_size=50), st.text(max_size=50))
def test_a_cursor_of_readings_holds_time_and_series(moment: datetime, fleet: str, device: str, metric: str) -> None:
    document = {"time": moment, "series": {"fleet": fleet, "device": device, "metric": metric}, "value": 1.0}
    cursor = queries.encode_cursor(queries.READINGS, document)
    assert queries.decode_cursor(queries.READINGS, cursor) == (moment, [device, metric, fleet])


def test_a_cursor_selects_what_comes_behind_its_document() -> None:
    document = {"time": MOMENT, "series": {"fleet": "f", "device": "d", "metric": "m"}}
    cursor = queries.encode_cursor(queries.READINGS, document)
    query = queries.query(queries.READINGS, {}, begin=None, end=None, cursor=cursor)
    device, metric = {"series.device": "d"}, {"series.metric": "m"}
    alternatives = [
        {"time": {"$gt": MOMENT}},
        {"time": MOMENT, "series.device": {"$gt": "d"}},
        {"time": MOMENT} | device | {"series.metric": {"$gt": "m"}},
        {"time": MOMENT} | device | metric | {"series.fleet": {"$gt": "f"}},
    ]
    assert query == {"$and": [{"$or": alternatives}]}


@pytest.mark.parametrize("cursor", ["", "x", "!!!!", "e30=", "WzEsMl0=", "WzEsICJhIiwgImIiXQ==", "äöü"])
def test_a_bad_cursor_is_refused_naming_it(cursor: str) -> None:
    with pytest.raises(ProblemError) as error:
        queries.decode_cursor(queries.LATE, cursor)
    assert error.value.field == "cursor"


def test_an_item_has_flat_series_text_times_and_no_internals() -> None:
    document = {
        "_id": ObjectId(), "time": MOMENT, "series": {"fleet": "f", "device": "d", "metric": "m"}, "value": 1.5,
        "p": 0, "o": 1, "i": 2,
    }  # fmt: skip
    assert queries.item(queries.READINGS, document) == {
        "time": "2020-01-01T12:00:00.123Z", "fleet": "f", "device": "d", "metric": "m", "value": 1.5,
    }  # fmt: skip


def test_an_aggregate_from_before_units_has_none() -> None:
    assert queries.item(queries.AGGREGATES, {"_id": "a", "value": 1.5}) == {"value": 1.5, "unit": ""}
    assert queries.item(queries.AGGREGATES, {"_id": "a", "value": 1.5, "unit": "Wh"}) == {"value": 1.5, "unit": "Wh"}


def request(*matchers: tuple[int, str, str]) -> object:
    built = remote_read._CLASSES["Query"](start_timestamp_ms=0, end_timestamp_ms=1000)
    for kind, name, value in matchers:
        built.matchers.add(type=kind, name=name, value=value)
    return built


def test_a_matcher_on_the_name_selects_the_collection() -> None:
    (only,) = remote_read.selections(request((remote_read.EQUAL, "__name__", "sensorpipeline_aggregate")))
    assert only.collection == "aggregates"
    assert len(remote_read.selections(request((remote_read.MATCH, "__name__", "sensorpipeline_.*")))) == 2
    assert remote_read.selections(request((remote_read.EQUAL, "__name__", "up"))) == []


def test_a_label_that_our_series_do_not_have_is_empty() -> None:
    name = (remote_read.EQUAL, "__name__", "sensorpipeline_reading")
    assert remote_read.selections(request(name, (remote_read.EQUAL, "job", "pipeline"))) == []
    assert len(remote_read.selections(request(name, (remote_read.EQUAL, "job", "")))) == 1


@pytest.mark.parametrize(
    ("kind", "value", "condition"),
    [
        (remote_read.EQUAL, "", {"$in": ["", None]}),
        (remote_read.NOT_EQUAL, "", {"$nin": ["", None]}),
        (remote_read.MATCH, "Wh|", {"$in": [Regex("^(?:Wh|)$"), None]}),
        (remote_read.NO_MATCH, ".*", {"$nin": [Regex("^(?:.*)$"), None]}),
        (remote_read.EQUAL, "Wh", "Wh"),
    ],
)
def test_a_missing_label_is_an_empty_one(kind: int, value: str, condition: object) -> None:
    name = (remote_read.EQUAL, "__name__", "sensorpipeline_aggregate")
    (found,) = remote_read.selections(request(name, (kind, "unit", value)))
    assert {"unit": condition} in found.query["$and"]


def test_regular_expressions_are_anchored_as_in_prometheus() -> None:
    name = (remote_read.EQUAL, "__name__", "sensorpipeline_reading")
    (found,) = remote_read.selections(request(name, (remote_read.MATCH, "device", "a|b")))
    assert {"series.device": {"$regex": "^(?:a|b)$"}} in found.query["$and"]


def test_a_body_that_is_no_read_request_is_refused() -> None:
    with pytest.raises(ProblemError) as error:
        remote_read.decode_request(b"nonsense")
    assert error.value.status == 400


def test_a_request_that_would_unfold_into_too_much_is_refused() -> None:
    bomb = bytes(cramjam.snappy.compress_raw(b"\0" * (remote_read.MAXIMUM_BYTES + 1)))
    assert len(bomb) < 100_000
    with pytest.raises(ProblemError) as error:
        remote_read.decode_request(bomb)
    assert error.value.status == 413


@pytest.mark.parametrize("text", ["2020-01-01T00:00:00Z", "2020-01-01 00:00:00.5+02:00", "2020-01-01T00:00"])
def test_a_time_has_the_form_of_rfc_3339(text: str) -> None:
    assert queries.check_time(text) == text


@pytest.mark.parametrize("text", ["0", "0.0", "1577836800", "2020-01-01", "P1D", "", "2020-01-01T00:00:00Z "])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="RFC 3339"):
        queries.check_time(text)


def test_a_time_that_utc_cannot_express_is_refused() -> None:
    early = datetime.fromisoformat("0001-01-01T00:00:00+23:00")
    with pytest.raises(ProblemError, match="between the years"):
        queries.query(queries.LATE, {}, begin=early, end=None, cursor=None)


@pytest.mark.parametrize("content", ['[0, "\\ud800"]', '[NaN, "a"]', '[1e400, "a"]', "[" * 700])
def test_a_cursor_that_the_store_could_not_compare_is_refused(content: str) -> None:
    with pytest.raises(ProblemError, match="cursor"):
        queries.decode_cursor(queries.LATE, base64.urlsafe_b64encode(content.encode()).decode())
