"""Discovery of kinds: one at a time, and no error of the library gets out raw."""

import asyncio
from typing import Any, cast

import pytest
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.dynamic.exceptions import ForbiddenError, ResourceNotFoundError
from sensorpipeline_operator.cluster import Cluster
from sensorpipeline_operator.errors import ApiError, UnknownKindError


class FakeDynamic:
    """A client whose discovery fails as told; `most` is how many looked at the same time."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.resources = self
        self.under_way = self.most = self.count = 0

    async def get(self, *, api_version: str, kind: str) -> Any:
        self.count += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.001)
        self.under_way -= 1
        if self.error is not None:
            raise self.error
        return f"{api_version}/{kind}"


def cluster(dynamic: FakeDynamic) -> Cluster:
    return Cluster(cast("Any", None), cast("Any", dynamic))


async def test_visits_side_by_side_discover_one_kind_after_the_other_and_each_once() -> None:
    dynamic = FakeDynamic()
    subject = cluster(dynamic)
    kinds = ["Secret", "Service", "Secret", "Service"]
    found = await asyncio.gather(*(subject._resource("v1", kind) for kind in kinds))
    assert found == [f"v1/{kind}" for kind in kinds]
    assert (dynamic.most, dynamic.count) == (1, 2)


@pytest.mark.parametrize(
    "error",
    [ForbiddenError(ApiException(status=403, reason="Forbidden", body="no")), KeyError("resources"), ValueError("x")],
)
async def test_an_error_of_discovery_is_an_api_error(error: Exception) -> None:
    with pytest.raises(ApiError, match="ask for Secret of v1"):
        await cluster(FakeDynamic(error))._resource("v1", "Secret")


async def test_a_kind_is_absent_only_when_the_api_server_says_so() -> None:
    unknown, broken = FakeDynamic(ResourceNotFoundError()), FakeDynamic(KeyError("resources"))
    assert await cluster(unknown)._knows("cert-manager.io/v1", "Certificate") is False
    with pytest.raises(UnknownKindError):
        await cluster(unknown)._resource("cert-manager.io/v1", "Certificate")
    with pytest.raises(ApiError, match="KeyError"):
        await cluster(broken)._knows("cert-manager.io/v1", "Certificate")
