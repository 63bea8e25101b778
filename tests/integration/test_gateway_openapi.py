"""The OpenAPI document is kept: requests made from it, right and wrong ones, are answered as it says."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pymongo
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from integration.conftest import Part
from integration.gateway import NOW, QUERY_TOKEN, running
from schemathesis import GenerationMode
from schemathesis.checks import negative_data_rejection, positive_data_acceptance


@pytest.fixture(scope="module")
def document(kafka: str, mongodb: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The document of a gateway with something of each kind in its store."""
    directory = tmp_path_factory.mktemp("gateway")
    limits = {"maximum_readings_per_second": 1_000_000, "maximum_body_bytes": 20_000}
    with (
        running(kafka, mongodb, lambda *of: Part(*of, directory), directory, **limits) as (client, _),
        pymongo.MongoClient[dict[str, Any]](mongodb) as store,
    ):
        database = store[client.database]
        time = datetime.fromtimestamp(NOW / 1000, UTC)
        series = {"fleet": "field", "device": "S1", "metric": "moisture"}
        for number in range(3):
            database["readings"].insert_one({"time": time, "series": series, "value": 1.5 * number})
            aggregate = {"window": "W", "start": time, "end": time, "value": 1.0, "count": 1, "revision": 0}
            database["aggregates"].insert_one({"_id": f"W{number}"} | series | aggregate | {"final": True})
            database["late"].insert_one({"_id": f"L{number}"} | series | {"window": "W", "time": time, "value": 1.0})
            database["alerts"].insert_one({"_id": f"A{number}"} | series | {"state": "Firing", "time": time})
            letter = {"fleet": "field", "reason": "OutOfRange", "payload": "", "source": "http:/v1/readings"}
            database["dead_letters"].insert_one(letter | {"_id": f"D{number}", "receivedTime": time})
        yield schemathesis.openapi.from_url(f"{client.url}/openapi.json")


QUICK = settings(
    max_examples=30, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


OPERATIONS = [
    ("GET", "/v1/readings"), ("GET", "/v1/aggregates"), ("GET", "/v1/late"), ("GET", "/v1/alerts"),
    ("GET", "/v1/dead-letters"), ("GET", "/v1/devices"), ("GET", "/v1/counts"), ("POST", "/prometheus/read"),
    ("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics"), ("POST", "/v1/readings"),
]  # fmt: skip
FREE = {"/healthz", "/readyz", "/metrics", "/v1/devices", "/v1/counts", "/prometheus/read"}
"""Operations in which, by the document, nothing can be wrong but the token."""
MODES = [
    (method, path, mode)
    for method, path in OPERATIONS
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or path not in FREE
]


@schemathesis.serializer("application/x-protobuf")
def as_bytes(_: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def unsayable(case: schemathesis.Case) -> list[Any]:
    """Returns the checks that do not hold of a request because the document cannot say all that counts."""
    if case.path == "/v1/readings" and case.method == "POST":
        # Names, ranges and the clock decide whether a reading is accepted, and one bad reading does not spoil the rest:
        # valid data may be refused, and invalid data be accepted in part.
        return [positive_data_acceptance, negative_data_rejection]
    if case.path == "/prometheus/read" or "cursor" in (case.query or {}):
        return [positive_data_acceptance]  # not every text is a cursor, nor are all bytes a request
    if any(value in ([], {}) for value in (case.query or {}).values()):
        return [negative_data_rejection]  # on the wire, an empty list is no parameter at all
    return []


@pytest.mark.parametrize(("method", "path", "mode"), MODES)
def test_requests_are_answered_as_the_document_says(
    document: Any, method: str, path: str, mode: GenerationMode
) -> None:
    token = "token-of-barn" if (method, path) == ("POST", "/v1/readings") else QUERY_TOKEN

    @QUICK
    @given(document[path][method].as_strategy(generation_mode=mode, headers={"Authorization": f"Bearer {token}"}))
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(excluded_checks=unsayable(case), timeout=20)

    check()


def test_every_operation_but_the_endless_one_is_tested(document: Any) -> None:
    found = {(result.ok().method.upper(), result.ok().path) for result in document.get_all_operations()}
    assert found - {("GET", "/v1/live")} == set(OPERATIONS)


def test_every_error_is_declared_as_a_problem_document(document: Any) -> None:
    for path in document.raw_schema["paths"].values():
        for operation in path.values():
            for status, answer in operation["responses"].items():
                if status >= "400":
                    assert list(answer["content"]) == ["application/problem+json"]
