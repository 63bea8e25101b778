"""The election, against an API server that hangs or breaks: nobody leads who cannot renew the Lease in time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from aiohttp.test_utils import make_mocked_request
from kubernetes.aio.client.exceptions import ApiException
from sensorpipeline_operator import leader
from sensorpipeline_operator.handlers import Operator
from sensorpipeline_operator.leader import LEASE_SECONDS, RENEW_SECONDS, REQUEST_SECONDS, RETRY_SECONDS, Leadership
from sensorpipeline_operator.settings import Settings


class FakeLeases:
    """The API of Leases; keeps one. `trouble` comes before each answer; it is given what was asked for."""

    def __init__(self) -> None:
        self.lease: Any = None
        self.trouble: Callable[[str], Awaitable[None]] | None = None

    async def _answer(self, verb: str) -> Any:
        if self.trouble is not None:
            await self.trouble(verb)
        return self.lease

    async def read_namespaced_lease(self, name: str, namespace: str) -> Any:
        lease = await self._answer("read")
        if lease is None:
            raise ApiException(status=404, reason="Not Found", body='{"code": 404}')
        return lease

    async def create_namespaced_lease(self, namespace: str, body: Any) -> None:
        await self._answer("create")
        self.lease = body

    async def replace_namespaced_lease(self, *, name: str, namespace: str, body: Any) -> None:
        await self._answer("replace")
        self.lease = body


@pytest.fixture
def leases(monkeypatch: pytest.MonkeyPatch) -> FakeLeases:
    """The API server's Leases. The election runs as fast as the library lets it."""
    found = FakeLeases()
    monkeypatch.setattr("kubernetes.aio.client.CoordinationV1Api", lambda api_client: found)
    for name, value in (("LEASE", 4), ("RENEW", 1.3), ("RETRY", 1), ("REQUEST", 0.2)):
        monkeypatch.setattr(leader, f"{name}_SECONDS", value)
    return found


async def hang(verb: str) -> None:
    await asyncio.sleep(60)


async def hang_when_renewing(verb: str) -> None:
    if verb == "replace":
        await asyncio.sleep(60)


async def fail(verb: str) -> None:
    raise RuntimeError("what nobody expected")


def run(leadership: Leadership) -> asyncio.Task[None]:
    return asyncio.create_task(leadership.run(cast("Any", None), namespace="system", identity="me"))


@pytest.mark.parametrize("trouble", [hang, hang_when_renewing, fail])
async def test_a_leader_that_cannot_renew_ceases_to_lead_within_the_lease_and_leads_again_later(
    leases: FakeLeases, trouble: Callable[[str], Awaitable[None]]
) -> None:
    lost = asyncio.Event()
    leadership = Leadership(lost.set)
    task = run(leadership)
    await asyncio.wait_for(leadership.leads.wait(), 2)
    leases.trouble = trouble
    await asyncio.wait_for(lost.wait(), leader.LEASE_SECONDS)
    assert not leadership.leads.is_set()
    leases.trouble = None
    await asyncio.wait_for(leadership.leads.wait(), 2 * leader.LEASE_SECONDS)
    task.cancel()


def test_the_last_renewal_is_given_up_within_the_lease_however_long_its_requests_take() -> None:
    assert 2 * RETRY_SECONDS + RENEW_SECONDS + 2 * REQUEST_SECONDS < LEASE_SECONDS


async def test_an_election_that_ended_is_not_healthy() -> None:
    operator = Operator(Settings(images={}))
    request = make_mocked_request("GET", "/healthz")
    operator._election = asyncio.create_task(asyncio.sleep(60))
    assert (await operator._healthz(request)).status == 200
    operator._election.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (await operator._healthz(request)).status == 503
