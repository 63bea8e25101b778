"""The state of derived metrics: asked of derive's pod, written when it changes, kept while derive does not answer."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from sensorpipeline_api.configuration import DERIVED_PATH
from sensorpipeline_api.status import DerivedMetricStatus
from sensorpipeline_operator.derived_states import MAXIMUM_BYTES, DerivedStates
from sensorpipeline_operator.reconcile import Reconciler
from unit.operator.fakes import FakeCluster, FakeDerived, FakeStorage, FakeTopics
from unit.operator.test_reconcile import IMAGES, counting

WAITING = DerivedMetricStatus(name="AggDayRest", unit="Wh", missing_inputs=["AggDay[HVAC2]"], message="Waits.")
EXAMPLE = Path(__file__).parents[3] / "examples" / "building.yaml"


def pod(*, ready: str = "True", component: str = "derive") -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "labels": {"app.kubernetes.io/component": component}},
        "status": {"podIP": "10.0.0.7", "conditions": [{"type": "Ready", "status": ready}]},
    }


@pytest.fixture
def cluster() -> FakeCluster:
    fake = FakeCluster()
    fake.create_pipeline(next(d for d in yaml.safe_load_all(EXAMPLE.read_text()) if d["kind"] == "SensorPipeline"))
    fake.pods = [pod(component="sink"), pod()]
    return fake


async def visit(cluster: FakeCluster, derived: FakeDerived) -> list[dict[str, Any]]:
    """Makes a visit and returns the state of the derived metrics."""
    visitor = Reconciler(cluster, FakeTopics(), FakeStorage(), IMAGES, entropy=counting(), derived=derived)
    await visitor.reconcile("default", "building")
    cluster.make_ready()
    await visitor.reconcile("default", "building")
    assert cluster.pipeline is not None
    found: list[dict[str, Any]] = cluster.pipeline["status"]["derivedMetrics"]
    return found


async def test_missing_inputs_are_named_in_the_status_and_the_pipeline_stays_ready(cluster: FakeCluster) -> None:
    derived = FakeDerived()
    derived.said = [DerivedMetricStatus(name="AggDayRestShare", unit="%"), WAITING, DerivedMetricStatus(name="Gone")]
    assert await visit(cluster, derived) == [
        {"name": "AggDayRest", "unit": "Wh", "missingInputs": ["AggDay[HVAC2]"], "message": "Waits."},
        {"name": "AggDayRestShare", "unit": "%", "missingInputs": [], "message": ""},
    ]
    assert set(derived.asked) == {"10.0.0.7"}
    assert cluster.condition("Ready")["status"] == "True"


async def test_the_status_is_written_when_the_state_changes_and_not_otherwise(cluster: FakeCluster) -> None:
    derived = FakeDerived()
    derived.said = [WAITING]
    await visit(cluster, derived)
    cluster.writes.clear()
    await visit(cluster, derived)
    assert cluster.writes == []
    derived.said = [DerivedMetricStatus(name="AggDayRest", unit="Wh")]
    await visit(cluster, derived)
    assert cluster.writes == ["status"]


@pytest.mark.parametrize("pods", [[], [pod(ready="False")], [pod()]], ids=["no pod", "not ready", "no answer"])
async def test_what_was_known_stays_while_derive_does_not_answer(
    cluster: FakeCluster, pods: list[dict[str, Any]]
) -> None:
    derived = FakeDerived()
    derived.said = [WAITING]
    before = await visit(cluster, derived)
    derived.said, cluster.pods = None, pods
    assert await visit(cluster, derived) == before


async def answer(body: bytes, *, status: int = 200) -> list[DerivedMetricStatus] | None:
    """Returns what is made of an answer of derive's."""

    async def handle(_: web.Request) -> web.Response:
        return web.Response(body=body, status=status)

    application = web.Application()
    application.router.add_get(DERIVED_PATH, handle)
    async with TestServer(application) as server:
        assert server.port is not None
        return await DerivedStates(server.port).read("127.0.0.1")


async def test_an_answer_is_read() -> None:
    body = b'[{"name":"R","unit":"Wh","lastStart":"2020-01-05T00:00:00Z","missingInputs":["A[x]"],"message":"m"}]'
    (state,) = await answer(body) or []
    assert (state.name, state.missing_inputs) == ("R", ["A[x]"])
    assert state.model_dump(mode="json", by_alias=True)["lastStart"] == "2020-01-05T00:00:00Z"


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"[]", 503), (b"not json", 200), (b'[{"name": 1}]', 200), (b"[" + b" " * MAXIMUM_BYTES + b"]", 200)],
    ids=["an error", "no JSON", "another form", "too much"],
)
async def test_an_answer_that_cannot_be_used_is_none(body: bytes, status: int) -> None:
    assert await answer(body, status=status) is None


async def test_nobody_there_is_no_answer() -> None:
    assert await DerivedStates(1).read("127.0.0.1") is None
