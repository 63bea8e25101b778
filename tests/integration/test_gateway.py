"""Readings posted to a real gateway with a real Kafka: who may, what is refused, and what an answer promises."""

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import cramjam
import pytest
import requests
from integration.conftest import Part, make_producer, until
from integration.gateway import NOW, QUERY_TOKEN, Client, Make, is_problem, reading, running
from sensorpipeline_workers.gateway import remote_read


@pytest.fixture(scope="module")
def shared(kafka: str, mongodb: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A gateway for the tests that neither change its configuration nor end it."""
    directory = tmp_path_factory.mktemp("gateway")
    with running(kafka, mongodb, lambda *of: Part(*of, directory), directory) as (made, _):
        yield made


@pytest.fixture
def client(shared: Client) -> Client:
    shared.skip()
    return shared


def test_what_is_accepted_is_in_kafka_when_the_answer_comes(client: Client) -> None:
    before = client.metric("sensorpipeline_readings_total", fleet="field")
    answer = client.post(reading())
    assert (answer.status_code, answer.json()) == (202, {"accepted": 1, "rejected": []})
    many = [reading(number) for number in range(1, 1300)]
    assert client.post(many).json()["accepted"] == 1299
    assert sorted(item["time"] - NOW for item in client.stored()) == list(range(1300))
    assert client.metric("sensorpipeline_readings_total", fleet="field") == before + 1300


def test_a_time_may_be_text(client: Client) -> None:
    assert client.post(reading(time="2026-01-01T08:00:00+02:00")).status_code == 202
    assert [item["time"] for item in client.stored()] == [1_767_247_200_000]


@pytest.mark.parametrize("token", [None, "", "wrong", QUERY_TOKEN, "token-of-s"])
def test_a_wrong_token_is_refused(client: Client, token: str | None) -> None:
    answer = client.post(reading(), token)
    is_problem(answer, 401)
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert not client.stored()


def test_a_devices_token_permits_no_query(client: Client) -> None:
    answer = requests.get(f"{client.url}/v1/devices", headers={"Authorization": "Bearer token-of-s1"}, timeout=10)
    is_problem(answer, 401)


def test_a_device_cannot_post_as_another_device_or_fleet(client: Client) -> None:
    other = is_problem(client.post([reading(), reading(1, device="S2")]), 403)
    assert (other["index"], other["field"]) == (1, "device")
    fleet = is_problem(client.post(reading(fleet="barn")), 403)
    assert (fleet["index"], fleet["field"]) == (0, "fleet")
    assert not client.stored()
    assert not client.letters()


def test_a_fleets_token_permits_any_device_of_the_fleet(client: Client) -> None:
    body = [{"device": f"B{n}", "metric": "temperature", "time": NOW, "value": n} for n in range(20)]
    assert client.post(body, "token-of-barn").json()["accepted"] == 20
    assert {item["device"] for item in client.stored("barn")} == {f"B{n}" for n in range(20)}
    is_problem(client.post(body[0] | {"fleet": "field"}, "token-of-barn"), 403)


def test_a_changed_password_counts_within_seconds(kafka: str, mongodb: str, part: Make, tmp_path: Path) -> None:
    with running(kafka, mongodb, part, tmp_path) as (client, _):
        assert client.post(reading()).status_code == 202
        (tmp_path / "devices" / "field" / "S1").write_text("another")
        until(lambda: client.post(reading(), "another").status_code == 202, what="the new password", seconds=5)
        is_problem(client.post(reading()), 401)


def test_without_authentication_the_fleet_is_told_by_device_or_name(
    kafka: str, mongodb: str, part: Make, tmp_path: Path
) -> None:
    barn = {"device": "B1", "metric": "temperature", "time": NOW, "value": 1}
    with running(kafka, mongodb, part, tmp_path, tokens=False) as (client, _):
        assert client.post([reading(), barn | {"fleet": "barn"}], None).json()["accepted"] == 2
        problem = is_problem(client.post(barn, None), 422)
        assert (problem["field"], problem["reason"]) == ("fleet", "MissingField")
        assert len(client.stored()) == len(client.stored("barn")) == 1


def test_of_a_partial_failure_each_reading_is_told_and_kept(client: Client) -> None:
    bad = [reading(1, value=101), reading(2, time=NOW + 10**7), reading(3, metric="wind"), {"device": "S1"}]
    before = client.metric("sensorpipeline_dead_letters_total", fleet="field", reason="OutOfRange")
    answer = client.post([reading(0), *bad, reading(5)])
    assert answer.status_code == 202
    assert answer.json()["accepted"] == 2
    told = [(item["index"], item["field"], item["reason"]) for item in answer.json()["rejected"]]
    assert told == [
        (1, "value", "OutOfRange"), (2, "time", "FutureTimestamp"), (3, "metric", "UnknownMetric"),
        (4, "metric", "MissingField"),
    ]  # fmt: skip
    letters = client.letters()
    assert [json.loads(base64.b64decode(letter["payload"])) for letter in letters] == bad
    assert [letter["reason"] for letter in letters] == [reason for _, _, reason in told]
    assert {(letter["source"], letter["fleet"]) for letter in letters} == {("http:/v1/readings", "field")}
    assert client.metric("sensorpipeline_dead_letters_total", fleet="field", reason="OutOfRange") == before + 1


def test_when_no_reading_is_accepted_the_answer_is_a_problem_that_lists_them(client: Client) -> None:
    problem = is_problem(client.post([reading(value="x"), reading(metric="wind")]), 422)
    assert (problem["index"], problem["field"], problem["reason"]) == (0, "value", "NotANumber")
    assert [item["reason"] for item in problem["rejected"]] == ["NotANumber", "UnknownMetric"]
    assert len(client.letters()) == 2


@pytest.mark.parametrize(("body", "status"), [(b"{", 400), (b"\xff", 400), (b"", 400), (b"7", 422), (b"[]", 422)])
def test_a_body_without_readings_is_a_dead_letter_whole(client: Client, body: bytes, status: int) -> None:
    is_problem(client.post(body), status)
    (letter,) = client.letters()
    assert base64.b64decode(letter["payload"]) == body
    assert letter["reason"] == ("MissingField" if body == b"[]" else "InvalidJson")


def test_a_body_that_is_declared_as_something_else_is_refused(client: Client) -> None:
    is_problem(client.post(reading(), **{"Content-Type": "text/csv"}), 415)
    is_problem(client.post(reading(), **{"Content-Encoding": "gzip"}), 415)


def test_limits_are_named_and_what_is_too_large_is_kept_in_part(
    kafka: str, mongodb: str, part: Make, tmp_path: Path
) -> None:
    with running(kafka, mongodb, part, tmp_path, maximum_body_bytes=2000, maximum_readings_per_request=5) as (
        client,
        _,
    ):
        large = json.dumps([reading(n) for n in range(100)]).encode()
        problem = is_problem(client.post(large), 413)
        assert "2000" in problem["detail"]
        assert str(len(large)) in problem["detail"]
        many = is_problem(client.post([reading(n) for n in range(6)]), 413)
        assert "at most 5" in many["detail"]
        assert client.post(reading()).status_code == 202
        assert client.metric("sensorpipeline_messages_received_total", fleet="field") == 3
        letters = client.letters()
        assert [letter["reason"] for letter in letters] == ["TooLarge", "TooLarge"]
        assert base64.b64decode(letters[0]["payload"]) == large[:2000]
        assert "first 2000 bytes" in letters[0]["message"]
        huge = client.post(b"[" + b" " * 20_000_000)
        assert is_problem(huge, 413)["reason"] == "TooLarge"


def test_while_ingest_is_suspended_clients_are_asked_to_come_again_and_queries_are_answered(
    kafka: str, mongodb: str, part: Make, tmp_path: Path
) -> None:
    with running(kafka, mongodb, part, tmp_path, suspended=True) as (client, _):
        answer = client.post(reading())
        assert "volume is nearly full" in is_problem(answer, 503)["detail"]
        assert int(answer.headers["Retry-After"]) > 0
        assert client.stored() == []
        headers = {"Authorization": f"Bearer {QUERY_TOKEN}"}
        assert requests.get(f"{client.url}/v1/readings", headers=headers, timeout=10).status_code == 200


def test_a_token_that_posts_too_much_is_told_when_to_come_again(
    kafka: str, mongodb: str, part: Make, tmp_path: Path
) -> None:
    with running(kafka, mongodb, part, tmp_path, maximum_readings_per_second=20) as (client, _):
        assert client.post([reading(n) for n in range(50)]).status_code == 202
        answer = client.post(reading(50))
        problem = is_problem(answer, 429)
        assert "20 readings/s" in problem["detail"]
        wait = int(answer.headers["Retry-After"])
        assert 1 <= wait <= 2
        assert client.post(reading(0, "S2"), "token-of-s2").status_code == 202, "another token has its own rate"
        time.sleep(wait)
        assert client.post(reading(50)).status_code == 202
        assert len(client.stored()) == 52


def test_records_that_are_no_readings_do_not_end_the_live_stream(client: Client, kafka: str) -> None:
    headers = {"Authorization": f"Bearer {QUERY_TOKEN}"}
    with requests.get(f"{client.url}/v1/live?device=S1", headers=headers, stream=True, timeout=30) as stream:
        lines = stream.iter_lines(decode_unicode=True)
        assert next(lines) == ": connected"
        producer = make_producer(kafka)
        for value in (b'[{"device": "\xff"}]', b"[" * 100_000, b"7", None):
            producer.produce(client.topics.readings["field"], value=value, key=b"S1")
        assert producer.flush(30) == 0
        client.post(reading(77))
        data = next(line for line in lines if line.startswith(("data:", ": alive")))
    assert json.loads(data.removeprefix("data:"))["time"] == NOW + 77
    time.sleep(1.5)  # by then the gateway has stopped reading


def test_a_listener_sees_what_comes_for_its_device_from_then_on(client: Client) -> None:
    assert client.post(reading(1)).status_code == 202
    headers = {"Authorization": f"Bearer {QUERY_TOKEN}"}
    url = f"{client.url}/v1/live?device=S1"
    for number in (10, 20):  # the second after nobody listened for a while
        with requests.get(url, headers=headers, stream=True, timeout=30) as stream:
            lines = stream.iter_lines(decode_unicode=True)
            assert next(lines) == ": connected"
            client.post(reading(number, device="S2"), "token-of-s2")
            client.post(reading(number))
            data = next(line for line in lines if line.startswith("data:"))
        event = json.loads(data.removeprefix("data:"))
        assert (event["device"], event["time"], event["fleet"]) == ("S1", NOW + number, "field")
        assert client.post(reading(2)).status_code == 202
        time.sleep(1.5)  # by then the gateway has stopped reading


@pytest.mark.parametrize("query", ["windows=Hourly", "fleet=a&fleet=b", "from=yesterday", "limit=1001", "cursor=e30="])
def test_a_parameter_that_is_not_known_or_not_valid_is_named(client: Client, query: str) -> None:
    headers = {"Authorization": f"Bearer {QUERY_TOKEN}"}
    problem = is_problem(requests.get(f"{client.url}/v1/aggregates?{query}", headers=headers, timeout=30), 422)
    assert problem["field"] == query.split("=")[0]
    assert problem["field"] in problem["detail"]


def test_a_regular_expression_that_cannot_be_read_is_named(client: Client) -> None:
    request = remote_read._CLASSES["ReadRequest"]()
    query = request.queries.add(start_timestamp_ms=0, end_timestamp_ms=NOW)
    headers = {"Authorization": f"Bearer {QUERY_TOKEN}"}
    for expression, status in (("S[", 400), ("a\0b", 400), ("(?(1)a|b", 400), (r"\N{DIGIT ONE}", 422), ("S.*", 200)):
        del query.matchers[:]
        query.matchers.add(type=remote_read.MATCH, name="device", value=expression)
        body = bytes(cramjam.snappy.compress_raw(request.SerializeToString()))
        answer = requests.post(f"{client.url}/prometheus/read", data=body, headers=headers, timeout=30)
        assert answer.status_code == status, (expression, answer.text)
