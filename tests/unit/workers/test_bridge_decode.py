"""A message becomes readings or one reason why not; nothing else can come of it."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sensorpipeline_api.records import Reading
from sensorpipeline_api.spec import Fleet
from sensorpipeline_workers.bridge.decode import Decode, Refusal, carried_metrics
from sensorpipeline_workers.bridge.formats import Births, compile_decoder
from sensorpipeline_workers.bridge.formats.json_objects import LongWay, compile_short
from sensorpipeline_workers.bridge.formats.sparkplug import Payload
from sensorpipeline_workers.bridge.topics import Origin, TopicTable, parse_topic, subscriptions, topic_filter
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
    readings, refused = read_items(payload, spec, device, metric)
    assert not refused
    return readings


def read_items(
    payload: object, spec: Fleet | None = None, device: str = "P1", metric: str | None = None
) -> tuple[list[Reading], list[Refusal]]:
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    readings, refused = compile_decoder(Origin(spec or fleet(), device, metric), Births(), lambda: NOW)(data, NOW)
    return readings, list(refused)


def test_a_good_message_becomes_one_reading() -> None:
    assert read({"ts": 1000, "value": 41.7}) == [Reading("P1", "pressure", 1000, 41.7)]


@pytest.mark.parametrize(
    ("payload", "reason", "part"),
    [
        (b'{"ts": 1, "value": ', "InvalidJson", "JSON"),
        (b"\xff\xfe", "InvalidJson", "JSON"),
        (7, "InvalidJson", "object"),
        ([], "MissingField", "at least one"),
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
    assert error.value.reason == "UnknownMetric"


def test_a_topic_fits_the_template_level_by_level() -> None:
    spec = fleet(topic="p/{device}/x/{metric}")
    origin = parse_topic(spec, "p/P1/x/t")
    assert origin is not None
    assert (origin.device, origin.metric) == ("P1", "t")
    assert parse_topic(spec, "p/P1/y/t") is None
    assert parse_topic(spec, "p/P1/x") is None
    assert topic_filter(spec.topic) == "p/+/x/+"
    table = TopicTable([spec, fleet()], lambda origin: origin)
    assert table.find("pumps/P2/state") == Origin(fleet(), "P2", None)
    assert table.find("elsewhere") is None


def test_an_array_is_read_item_by_item_and_the_bad_ones_are_kept_alone() -> None:
    backlog = [{"ts": 1, "value": 1}, {"ts": 2, "value": 200}, {"ts": 3}, 4, {"ts": 5, "value": 5}]
    readings, refused = read_items(backlog)
    assert [(r.time, r.value) for r in readings] == [(1, 1), (5, 5)]
    assert [(r.reason.value, json.loads(r.item)) for r in refused] == [
        ("OutOfRange", backlog[1]), ("MissingField", backlog[2]), ("InvalidJson", 4)
    ]  # fmt: skip
    assert refused[0].message.startswith("item 1: value is 200")


def test_readings_without_a_time_get_that_of_their_receipt_and_no_two_the_same() -> None:
    spec = fleet(payload={"timeUnit": "ReceiveTime"})
    decode = compile_decoder(Origin(spec, "P1", None), Births(), itertools.count(NOW).__next__)
    times = [r.time for _ in range(2) for r in decode(b'[{"value": 1}, {"value": 1}]', NOW)[0]]
    assert times == [NOW, NOW + 1, NOW + 2, NOW + 3]


NUMBER = {"format": "Number", "timeUnit": "ReceiveTime"}


@pytest.mark.parametrize(
    ("payload", "outcome"),
    [(b"41.7", 41.7), (b" 7\n", 7.0), (b"1e1", 10.0), (b"", "NotANumber"), (b"warm", "NotANumber"),
     (b"nan", "NotANumber"), (b"1_0", "NotANumber"), (b"\xff", "NotANumber"), (b"101", "OutOfRange"),
     (b"true", "NotANumber"), (b"1" * 300000, "TooLarge")],
)  # fmt: skip
def test_a_number_alone_is_a_reading_at_its_receipt(payload: bytes, outcome: float | str) -> None:
    if isinstance(outcome, float):
        assert read(payload, fleet(payload=NUMBER)) == [Reading("P1", "pressure", NOW, outcome)]
        return
    with pytest.raises(RefusedError) as error:
        read(payload, fleet(payload=NUMBER))
    assert error.value.reason == outcome


CSV = {"format": "Csv", "columns": ["ts", "note", "t", "h"]}
CSV_METRICS = [{"name": "t", "field": "t", "maximum": "50"}, {"name": "h", "field": "h"}]


def test_csv_lines_are_read_line_by_line_and_the_bad_ones_are_kept_alone() -> None:
    spec = fleet(payload=CSV, metrics=CSV_METRICS)
    text = '1,,20.5,40\n2,"a, b",21,\n\n3,,99,1\n4,x\nsoon,,1,1\n5,,,\n,,1,\n'
    readings, refused = read_items(text.encode(), spec)
    assert [(r.time, r.metric, r.value) for r in readings] == [(1, "t", 20.5), (1, "h", 40.0), (2, "t", 21.0)]
    assert [(r.reason.value, r.item) for r in refused] == [
        ("OutOfRange", b"3,,99,1"), ("InvalidCsv", b"4,x"), ("NotANumber", b"soon,,1,1"), ("MissingField", b"5,,,"),
        ("MissingField", b",,1,"),
    ]  # fmt: skip
    assert refused[0].message.startswith("line 4: t is 99")


@pytest.mark.parametrize(("payload", "reason"), [(b"\n", "InvalidCsv"), (b"\xff", "InvalidCsv")])
def test_csv_without_a_line_is_refused_whole(payload: bytes, reason: str) -> None:
    with pytest.raises(RefusedError) as error:
        read(payload, fleet(payload=CSV, metrics=CSV_METRICS))
    assert error.value.reason == reason


SPARKPLUG = {"topic": "spBv1.0/plant/DDATA/node/{device}", "payload": {"format": "SparkplugB"},
             "metrics": [{"name": "speed", "field": "Motor.Speed", "maximum": "5000"}, {"name": "load"}]}  # fmt: skip


def sparkplug(*metrics: dict[str, Any], timestamp: int | None = 1000) -> bytes:
    body: bytes = Payload(timestamp=timestamp, metrics=metrics).SerializeToString()
    return body


def test_a_sparkplug_birth_explains_the_aliases_and_types_of_data() -> None:
    spec, births = fleet(**SPARKPLUG), Births()
    birth = parse_topic(spec, "spBv1.0/plant/DBIRTH/node/P1")
    data = parse_topic(spec, "spBv1.0/plant/DDATA/node/P1")
    assert birth is not None
    assert data is not None
    read_birth, read_data = (compile_decoder(of, births, lambda: NOW) for of in (birth, data))
    with pytest.raises(RefusedError, match="alias 7 must be explained") as error:
        read_data(sparkplug({"alias": 7, "int_value": 1}), NOW)
    assert error.value.reason == "UnknownMetric"
    born = sparkplug(
        {"name": "Motor/Speed", "alias": 7, "datatype": 3, "int_value": 2**32 - 5, "timestamp": 900},
        {"name": "bdSeq", "datatype": 8, "long_value": 1},
    )
    assert read_birth(born, NOW)[0] == [Reading("P1", "speed", 900, -5.0)]
    assert read_data(sparkplug({"alias": 7, "int_value": 2**32 - 6}), NOW)[0] == [Reading("P1", "speed", 1000, -6.0)]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\xff\xff", "InvalidSparkplug"),
        (sparkplug({"name": "other", "int_value": 1}), "MissingField"),
        (sparkplug({"name": "Motor/Speed", "is_null": True}), "MissingField"),
        (sparkplug({"name": "Motor/Speed", "int_value": 1}, timestamp=None), "MissingField"),
        (sparkplug({"name": "Motor/Speed", "double_value": 6000}), "OutOfRange"),
        (sparkplug({"name": "Motor/Speed", "float_value": float("nan")}), "NotANumber"),
        (sparkplug({"name": "Motor/Speed", "string_value": "7"}), "NotANumber"),
        (sparkplug({"name": "Motor/Speed", "int_value": 1}, timestamp=NOW + 10**6), "FutureTimestamp"),
        (sparkplug({"int_value": 1}), "UnknownMetric"),
    ],
)
def test_bad_sparkplug_is_refused_with_its_reason(payload: bytes, reason: str) -> None:
    with pytest.raises(RefusedError) as error:
        read(payload, fleet(**SPARKPLUG))
    assert error.value.reason == reason


def test_sparkplug_births_go_to_every_member_of_the_share_and_data_to_one() -> None:
    assert subscriptions([fleet(), fleet(**SPARKPLUG)], "g") == [
        "$share/g/pumps/+/state", "$share/g/spBv1.0/plant/DDATA/node/+", "spBv1.0/plant/DBIRTH/node/+"
    ]  # fmt: skip


VALUES = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5) | st.sampled_from(
    [1, 0, 50, 1e12, 10**400, NOW, NOW + 300_000, NOW + 300_001, "2020-01-01T00:00:00Z", "2020-01-01T00:00:00"]
)  # fmt: skip
TREES = st.recursive(
    VALUES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["ts", "value", "x", "a", "b"]), inner, max_size=4)
    ),
    max_leaves=10,
)
LIKELY = st.fixed_dictionaries({"ts": VALUES, "value": VALUES}, optional={"a": TREES, "x": VALUES})
JSON_PAYLOADS = (TREES | LIKELY | st.lists(LIKELY, max_size=3)).map(lambda v: json.dumps(v).encode())
LINES = st.lists(st.lists(VALUES.map(str) | st.just('"'), max_size=5).map(",".join), max_size=4).map("\n".join)
FLEETS = [
    fleet(),
    fleet(payload={"timeUnit": "Seconds"}),
    fleet(payload={"timeUnit": "Rfc3339"}),
    fleet(payload={"timeUnit": "ReceiveTime"}),
    fleet(payload={"timeField": "a.ts"}, metrics=[{"name": "m", "field": "a.b", "maximum": "100"}, {"name": "value"}]),
    fleet(metrics=[{"name": "m", "field": "a"}, {"name": "n", "field": "a.b"}]),
    fleet(payload=NUMBER),
    fleet(payload=CSV, metrics=CSV_METRICS),
    fleet(payload=CSV | {"timeUnit": "Rfc3339"}, metrics=CSV_METRICS),
    fleet(**SPARKPLUG),
]


@settings(max_examples=500)
@given(st.sampled_from(FLEETS), st.binary(max_size=200) | JSON_PAYLOADS | LINES.map(str.encode))
def test_any_bytes_end_as_readings_or_as_refusals(spec: Fleet, payload: bytes) -> None:
    try:
        readings, refused = read_items(payload, spec)
    except RefusedError:
        return
    assert readings or refused
    for reading in readings:
        assert 0 <= reading.time <= NOW + 300_010
        assert reading.value == reading.value
        assert abs(reading.value) < float("inf")
        metric = next(m for m in spec.metrics if m.name == reading.metric)
        assert metric.maximum is None or reading.value <= float(metric.maximum)


@settings(max_examples=500)
@given(st.sampled_from(FLEETS[:6]), JSON_PAYLOADS)
def test_the_short_way_leads_where_the_long_way_leads(spec: Fleet, payload: bytes) -> None:
    def outcome(decode: Decode) -> object:
        try:
            readings, refused = decode(payload, NOW)
        except RefusedError as error:
            return error.reason, str(error)
        return readings, list(refused)

    origin = Origin(spec, "P1", None)
    short = compile_decoder(origin, Births(), lambda: NOW)
    assert outcome(short) == outcome(LongWay(origin, carried_metrics(origin), lambda: NOW).decode)


@given(st.integers(0, 99999), st.floats(0, 100))
def test_a_message_as_it_should_be_takes_the_short_way(time: int, value: float) -> None:
    payload = json.dumps({"ts": time, "value": value, "more": [1]}).encode()
    short = compile_short(Origin(fleet(), "P1", None), list(fleet().metrics))
    assert short is not None
    assert short[0](payload, NOW) == [Reading("P1", "pressure", time, value)]
