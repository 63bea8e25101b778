"""The only module that talks to the API server.

Objects are plain data. Writes are server-side applies with one field manager, so applying what is already there
changes nothing, and fields that others own stay theirs.
"""

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.dynamic import DynamicClient
from kubernetes.aio.dynamic.exceptions import ResourceNotFoundError

from sensorpipeline_operator.components.context import Manifest
from sensorpipeline_operator.errors import ApiError, UnknownKindError
from sensorpipeline_operator.naming import MANAGER

ABSENT_SECONDS = 60.0
GROUP_VERSION = "sensorpipeline.io/v1alpha1"
KIND = "SensorPipeline"

CHILD_KINDS = {
    "ConfigMap": "v1",
    "Secret": "v1",
    "Service": "v1",
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "PodDisruptionBudget": "policy/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
}
"""Every kind of object that a pipeline is made of, with its API version; pruning looks at these."""

OPTIONAL_KINDS = {"Certificate": "cert-manager.io/v1"}
"""Kinds that a pipeline may ask for, and that a cluster need not know."""


class Cluster:
    """An API server. Every method raises ApiError when it refuses or does not answer."""

    def __init__(self, api: client.ApiClient, dynamic: DynamicClient) -> None:
        self.api = api
        self._dynamic = dynamic
        self._resources: dict[str, Any] = {}
        self._discovery = asyncio.Lock()
        self._absent: dict[str, float] = {}

    async def get_pipeline(self, namespace: str, name: str) -> Manifest | None:
        """Returns a pipeline, or None when it does not exist."""
        return await self._get(GROUP_VERSION, KIND, namespace, name)

    async def list_children(self, namespace: str, selector: str) -> list[Manifest]:
        """Returns the objects of `CHILD_KINDS` and `OPTIONAL_KINDS` that a label selector finds."""
        lists = [self._list(version, kind, namespace, selector) for kind, version in CHILD_KINDS.items()]
        lists += [
            self._list(version, kind, namespace, selector)
            for kind, version in OPTIONAL_KINDS.items()
            if await self._knows(version, kind)
        ]
        return [item for found in await asyncio.gather(*lists) for item in found]

    async def find(self, manifest: Manifest) -> Manifest | None:
        """Returns the object that has the kind and name of another, whoever it belongs to."""
        meta = manifest["metadata"]
        return await self._get(manifest["apiVersion"], manifest["kind"], meta["namespace"], meta["name"])

    async def list_pods(self, namespace: str, selector: str) -> list[Manifest]:
        """Returns the pods that a label selector finds."""
        return await self._list("v1", "Pod", namespace, selector)

    async def read_secrets(self, namespace: str, names: set[str], selector: str) -> dict[str, dict[str, str]]:
        """Returns the decoded data of the named Secrets that exist and of those that a label selector finds."""
        found = await self._list("v1", "Secret", namespace, selector)
        known = {item["metadata"]["name"] for item in found}
        for name in names - known:
            item = await self._get("v1", "Secret", namespace, name)
            if item is not None:
                found.append(item)
        return {item["metadata"]["name"]: _decoded(item) for item in found}

    async def apply(self, manifest: Manifest) -> Manifest:
        """Applies an object and returns it as it is now."""
        resource = await self._resource(manifest["apiVersion"], manifest["kind"])
        namespace = manifest["metadata"]["namespace"]
        return await self._call(
            self._dynamic.server_side_apply(
                resource, body=manifest, namespace=namespace, field_manager=MANAGER, force_conflicts=True
            ),
            f"apply {manifest['kind']} {manifest['metadata']['name']}",
        )

    async def delete(self, item: Manifest) -> None:
        """Deletes an object; one that is gone already is no error."""
        resource = await self._resource(item["apiVersion"], item["kind"])
        meta = item["metadata"]
        body = {"propagationPolicy": "Background", "preconditions": {"uid": meta["uid"]}}
        try:
            await self._dynamic.delete(resource, name=meta["name"], namespace=meta["namespace"], body=body)
        except ApiException as error:
            if error.status != 404:
                raise ApiError(f"delete {item['kind']} {meta['name']}: {_text(error)}") from error

    async def write_status(self, pipeline: Manifest, status: Manifest) -> None:
        """Replaces a pipeline's status."""
        resource = await self._resource(GROUP_VERSION, KIND)
        meta = pipeline["metadata"]
        body = {
            "apiVersion": GROUP_VERSION,
            "kind": KIND,
            "metadata": {"name": meta["name"], "namespace": meta["namespace"]},
            "status": status,
        }
        await self._call(
            self._dynamic.server_side_apply(
                resource.subresources["status"], body=body, name=meta["name"], namespace=meta["namespace"],
                field_manager=MANAGER, force_conflicts=True,
            ),
            f"write the status of {meta['name']}",
        )  # fmt: skip

    async def ready(self) -> bool:
        """Whether the API server answers."""
        try:
            await client.VersionApi(self.api).get_code()
        except (ApiException, OSError, TimeoutError):
            return False
        return True

    async def _resource(self, version: str, kind: str) -> Any:
        key = f"{version}/{kind}"
        if key in self._resources:
            return self._resources[key]
        # The library empties its cache and then awaits what fills it: another that looks meanwhile finds half of it.
        async with self._discovery:
            if key not in self._resources:
                self._resources[key] = await self._discover(version, kind)
        return self._resources[key]

    async def _discover(self, version: str, kind: str) -> Any:
        try:
            return await self._dynamic.resources.get(api_version=version, kind=kind)
        except ResourceNotFoundError as error:
            raise UnknownKindError(f"the cluster does not know {kind} of {version}") from error
        except ApiException as error:
            raise ApiError(f"ask for {kind} of {version}: {_text(error)}") from error
        except (KeyError, AttributeError, ValueError) as error:
            # An answer that is not what the library expects, as from a proxy in between.
            raise ApiError(f"ask for {kind} of {version}: {type(error).__name__} {error}") from error

    async def _knows(self, version: str, kind: str) -> bool:
        """Whether the cluster knows a kind; it is asked again every minute while it does not."""
        if f"{version}/{kind}" in self._resources:
            return True
        if time.monotonic() < self._absent.get(kind, 0):
            return False
        try:
            await self._resource(version, kind)
        except UnknownKindError:
            self._absent[kind] = time.monotonic() + ABSENT_SECONDS
            return False
        return True

    async def _get(self, version: str, kind: str, namespace: str, name: str) -> Manifest | None:
        resource = await self._resource(version, kind)
        try:
            found = await self._dynamic.get(resource, name=name, namespace=namespace)
        except ApiException as error:
            if error.status == 404:
                return None
            raise ApiError(f"get {kind} {name}: {_text(error)}") from error
        return _plain(found)

    async def _list(self, version: str, kind: str, namespace: str, selector: str) -> list[Manifest]:
        resource = await self._resource(version, kind)
        found = await self._call(
            self._dynamic.get(resource, namespace=namespace, label_selector=selector), f"list {kind}"
        )
        return [item | {"apiVersion": version, "kind": kind} for item in found["items"]]

    async def _call(self, request: Any, what: str) -> Manifest:
        try:
            return _plain(await request)
        except ApiException as error:
            raise ApiError(f"{what}: {_text(error)}") from error


@asynccontextmanager
async def connect() -> AsyncIterator[Cluster]:
    """Connects with the pod's service account, or with the user's kubeconfig outside of a cluster."""
    try:
        config.load_incluster_config()
    except config.ConfigException:
        await config.load_kube_config()
    async with client.ApiClient() as api:
        yield Cluster(api, await DynamicClient(api))


def _plain(found: Any) -> Manifest:
    plain: Manifest = found.to_dict()
    return plain


def _decoded(item: Manifest) -> dict[str, str]:
    data = item.get("data") or {}
    return {key: base64.b64decode(value).decode(errors="replace") for key, value in data.items()}


def _text(error: ApiException) -> str:
    """Returns what the API server said, without the object that was sent."""
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else str(error.body or "")
    return f"{error.status} {error.reason}: {body[:500]}"
