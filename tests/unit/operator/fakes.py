"""A small API server and a small Kafka, in memory, for the reconciler's tests."""

import base64
import copy
from typing import Any

from sensorpipeline_api.spec import SensorPipelineSpec
from sensorpipeline_api.status import DerivedMetricStatus
from sensorpipeline_operator.errors import ApiError, NotReadyError
from sensorpipeline_operator.kafka_topics import Topic
from sensorpipeline_operator.naming import Names
from sensorpipeline_operator.storage import Decision

Manifest = dict[str, Any]


class Crash(Exception):
    """The operator is killed here."""


class FakeCluster:
    """Keeps objects by kind and name. Applying what is there already changes no resourceVersion. Counts writes; raises
    Crash after the write number `crash_after`."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Manifest] = {}
        self.pipeline: Manifest | None = None
        self.pods: list[Manifest] = []
        self.writes: list[str] = []
        self.crash_after: int | None = None
        self._version = 0

    def create_pipeline(self, document: Manifest, *, uid: str = "uid-1") -> None:
        meta = document["metadata"] | {"namespace": "default", "uid": uid, "generation": 1}
        self.pipeline = copy.deepcopy(document) | {"metadata": meta}

    def delete_pipeline(self) -> None:
        """What the API server and its garbage collector do: the pipeline goes, and with it all that has it as owner."""
        assert self.pipeline is not None
        uid, self.pipeline = self.pipeline["metadata"]["uid"], None
        self.objects = {
            key: item
            for key, item in self.objects.items()
            if uid not in {owner["uid"] for owner in item["metadata"].get("ownerReferences", [])}
        }

    def change_spec(self, spec: Manifest) -> None:
        assert self.pipeline is not None
        self.pipeline["spec"] = copy.deepcopy(spec)
        self.pipeline["metadata"]["generation"] += 1

    def _next(self) -> str:
        self._version += 1
        return str(self._version)

    def _written(self, what: str) -> None:
        self.writes.append(what)
        if self.crash_after is not None and len(self.writes) >= self.crash_after:
            raise Crash(what)

    async def get_pipeline(self, namespace: str, name: str) -> Manifest | None:
        return copy.deepcopy(self.pipeline)

    async def list_children(self, namespace: str, selector: str) -> list[Manifest]:
        wanted = dict(part.split("=") for part in selector.split(","))
        items = self.objects.values()
        return [copy.deepcopy(i) for i in items if wanted.items() <= i["metadata"].get("labels", {}).items()]

    async def find(self, manifest: Manifest) -> Manifest | None:
        return copy.deepcopy(self.objects.get((manifest["kind"], manifest["metadata"]["name"])))

    async def list_pods(self, namespace: str, selector: str) -> list[Manifest]:
        return copy.deepcopy(self.pods)

    async def read_secrets(self, namespace: str, names: set[str], selector: str) -> dict[str, dict[str, str]]:
        secrets = [item for item in self.objects.values() if item["kind"] == "Secret"]
        return {s["metadata"]["name"]: {k: base64.b64decode(v).decode() for k, v in s["data"].items()} for s in secrets}

    async def apply(self, manifest: Manifest) -> Manifest:
        key = manifest["kind"], manifest["metadata"]["name"]
        before = self.objects.get(key)
        after = copy.deepcopy(manifest)
        kept: Manifest = {"uid": f"uid-{key[0]}-{key[1]}"}
        same = before is not None and {**before, "metadata": None, "status": None} == {
            **after, "metadata": None, "status": None,
        }  # fmt: skip
        kept["resourceVersion"] = before["metadata"]["resourceVersion"] if same and before else self._next()
        if key[0] in {"Deployment", "StatefulSet"}:
            kept["generation"] = 1 if before is None else before["metadata"]["generation"] + (not same)
        after["metadata"] = after["metadata"] | kept
        if before is not None and "status" in before:
            after["status"] = before["status"]
        self.objects[key] = after
        if not same:
            self._written(f"apply {key[0]} {key[1]}")
        return copy.deepcopy(after)

    async def delete(self, item: Manifest) -> None:
        del self.objects[item["kind"], item["metadata"]["name"]]
        self._written(f"delete {item['kind']} {item['metadata']['name']}")

    async def write_status(self, pipeline: Manifest, status: Manifest) -> None:
        assert self.pipeline is not None
        self.pipeline["status"] = copy.deepcopy(status)
        self._written("status")

    def make_ready(self) -> None:
        """Gives every workload the status of one whose pods are all ready."""
        for item in self.objects.values():
            if item["kind"] in {"Deployment", "StatefulSet"}:
                count = item["spec"]["replicas"]
                item["status"] = {
                    "replicas": count, "readyReplicas": count, "updatedReplicas": count,
                    "observedGeneration": item["metadata"]["generation"],
                }  # fmt: skip
                item["metadata"]["resourceVersion"] = self._next()

    def content(self) -> dict[tuple[str, str], Any]:
        """The objects without what differs from run to run."""
        return {
            key: copy.deepcopy({k: v for k, v in item.items() if k not in {"metadata", "status"}})
            for key, item in self.objects.items()
        }

    def condition(self, kind: str) -> Manifest:
        assert self.pipeline is not None
        return next(c for c in self.pipeline["status"]["conditions"] if c["type"] == kind)


class FakeTopics:
    """Remembers the topics it was asked to keep."""

    def __init__(self) -> None:
        self.topics: list[Topic] = []
        self.error: NotReadyError | None = None
        self.forgotten: list[Names] = []

    def forget(self, names: Names) -> None:
        self.forgotten.append(names)

    async def keep(self, names: Names, topics: list[Topic], *, password: str, incarnation: str) -> int:
        if self.error is not None:
            raise self.error
        created = [topic for topic in topics if topic not in self.topics]
        self.topics += created
        return len(created)


class FakeDerived:
    """Derive as the operator sees it: what it says (None: nothing), and who was asked."""

    def __init__(self) -> None:
        self.said: list[DerivedMetricStatus] | None = None
        self.asked: list[str] = []

    async def read(self, address: str) -> list[DerivedMetricStatus] | None:
        self.asked.append(address)
        return self.said


class FakeStorage:
    """Kafka's volumes, as full as a test says."""

    def __init__(self, decision: Decision | None = None) -> None:
        self.decision = decision or Decision(0.1, False, "")
        self.broken = self.suspended = False

    async def keep(self, names: Names, spec: SensorPipelineSpec, *, password: str, suspended: bool) -> Decision:
        self.suspended = suspended
        if self.broken:
            raise NotReadyError("Kafka: timed out")
        return self.decision


class BrokenCluster(FakeCluster):
    """An API server that refuses to apply anything."""

    async def apply(self, manifest: Manifest) -> Manifest:
        raise ApiError("apply: 403 Forbidden")
