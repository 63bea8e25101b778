"""One visit to a pipeline: observe, build, apply, prune, topics, status.

Level-triggered: a visit looks at what is, not at what happened, and may be broken off after any write; the next one
ends in the same state.
"""

import base64
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from pydantic import ValidationError
from sensorpipeline_api.configuration import DerivedPlan
from sensorpipeline_api.spec import DeletionPolicy, ReconcilePolicy, SensorPipelineSpec
from sensorpipeline_api.status import ConditionType

from sensorpipeline_operator import metrics, status
from sensorpipeline_operator.components.context import Context, Images, Manifest
from sensorpipeline_operator.components.objects import hash_of
from sensorpipeline_operator.components.registry import build_all
from sensorpipeline_operator.components.secrets import OUTLIVING
from sensorpipeline_operator.derived_states import DerivedPort, DerivedStates
from sensorpipeline_operator.errors import ApiError, InvalidSpecError, NameTakenError, NotReadyError, TopicDiffersError
from sensorpipeline_operator.kafka_topics import Topic, compute_topics
from sensorpipeline_operator.naming import RETAINED_LABEL, Names, owned_selector
from sensorpipeline_operator.status import Verdict
from sensorpipeline_operator.storage import DELETE_ABOVE, Decision
from sensorpipeline_operator.validation import validate

log = logging.getLogger(__name__)

GROUP_VERSION = "sensorpipeline.io/v1alpha1"
KIND = "SensorPipeline"
HURRY_SECONDS = 3.0
STORAGE_NEARLY_FULL = "StorageNearlyFull"
"""The reason of KafkaReady while ingest is suspended; the status is the memory of that."""
NOT_ACCEPTED = "NotAccepted"
OUR_LABELS = ("app.kubernetes.io/managed-by", "app.kubernetes.io/instance")
"""What `owned_selector` looks for."""
FILLING_SECONDS = 10.0
"""How soon to look again at a Kafka volume that is more than half full."""


class ClusterPort(Protocol):
    """What a visit needs of the API server; see cluster.py."""

    async def get_pipeline(self, namespace: str, name: str) -> Manifest | None: ...
    async def list_children(self, namespace: str, selector: str) -> list[Manifest]: ...
    async def find(self, manifest: Manifest) -> Manifest | None: ...
    async def list_pods(self, namespace: str, selector: str) -> list[Manifest]: ...
    async def read_secrets(self, namespace: str, names: set[str], selector: str) -> dict[str, dict[str, str]]: ...
    async def apply(self, manifest: Manifest) -> Manifest: ...
    async def delete(self, item: Manifest) -> None: ...
    async def write_status(self, pipeline: Manifest, status: Manifest) -> None: ...


class TopicsPort(Protocol):
    """What a visit needs of Kafka; see kafka_topics.py."""

    async def keep(self, names: Names, topics: list[Topic], *, password: str, incarnation: str) -> int: ...
    def forget(self, names: Names) -> None: ...


class StoragePort(Protocol):
    """Who looks after Kafka's volumes; see kafka_storage.py."""

    async def keep(self, names: Names, spec: SensorPipelineSpec, *, password: str, suspended: bool) -> Decision: ...


@dataclass
class Applied:
    """What this process has applied of one object: the hash of what was wanted and the version that came of it."""

    wanted: str
    version: str


@dataclass
class Notice:
    """Something that people should see as an Event."""

    kind: str
    reason: str
    message: str


@dataclass
class Outcome:
    """What a visit leads to: when to come again (s; None: at the usual interval), and what to tell. `looked` says that
    Kafka's volumes were looked at."""

    again: float | None = None
    notices: list[Notice] = field(default_factory=list)
    looked: bool = False


@dataclass
class Reconciler:
    """Visits pipelines. `applied` saves needless writes and is only that: without it every object is applied anew."""

    cluster: ClusterPort
    topics: TopicsPort
    storage: StoragePort
    images: Images
    entropy: Callable[[], str] = lambda: secrets.token_hex(20)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    derived: DerivedPort = field(default_factory=DerivedStates)
    applied: dict[tuple[str, str, str], Applied] = field(default_factory=dict)

    async def reconcile(self, namespace: str, name: str) -> Outcome:
        """Visits one pipeline. Raises ApiError when the API server refuses or does not answer."""
        pipeline = await self.cluster.get_pipeline(namespace, name)
        if pipeline is None or pipeline["metadata"].get("deletionTimestamp"):
            self.forget(namespace, name)
            return Outcome()
        outcome = Outcome()
        try:
            spec, derived = parse(pipeline)
            if spec.reconcile_policy is ReconcilePolicy.PAUSED:
                verdicts = await self._paused(pipeline)
            else:
                verdicts = await self._bring_about(pipeline, spec, derived, outcome)
        except InvalidSpecError as error:
            spec = None
            verdicts = await self._refused(pipeline, error, outcome)
        except ApiError as error:
            verdicts = await self._failed(pipeline, error, outcome)
        if not outcome.looked:
            _remember_suspension(pipeline, verdicts)
        await self._write_status(pipeline, spec, verdicts, outcome)
        if verdicts[ConditionType.READY].status != "True" and outcome.again is None:
            outcome.again = HURRY_SECONDS
        return outcome

    async def _bring_about(
        self, pipeline: Manifest, spec: SensorPipelineSpec, derived: tuple[DerivedPlan, ...], outcome: Outcome
    ) -> dict[ConditionType, Verdict]:
        meta = pipeline["metadata"]
        namespace, name = meta["namespace"], meta["name"]
        selector = owned_selector(name)
        existing = await self.cluster.list_children(namespace, selector)
        known = await self.cluster.read_secrets(namespace, referenced_secrets(spec), selector)
        context = Context(
            name=name, namespace=namespace, uid=meta["uid"], spec=spec, derived=derived, images=self.images,
            secrets=known, entropy=self.entropy, ingest_suspended=_suspended(pipeline),
        )  # fmt: skip
        desired = [own(manifest, pipeline, spec.deletion_policy) for manifest in build_all(context)]
        current = await self._apply(desired, existing, outcome)
        await self._prune(desired, existing, meta["uid"], outcome)
        pods = await self.cluster.list_pods(namespace, selector)
        verdicts = _judge(pipeline, current, pods)
        password = _admin_password(desired)
        made = Names(namespace=namespace, pipeline=name)
        await self._keep_topics(made, spec, password, current, verdicts, outcome)
        await self._keep_storage(made, spec, password, verdicts, outcome, suspended=context.ingest_suspended)
        verdicts[ConditionType.ACCEPTED] = Verdict("True", "Accepted", "The spec is accepted.")
        message = f"{len(desired)} objects are as the spec describes them."
        verdicts[ConditionType.RECONCILED] = Verdict("True", "Reconciled", message)
        verdicts[ConditionType.READY] = status.overall({kind: verdicts[kind] for kind in status.COMPONENTS})
        return verdicts

    async def _apply(self, desired: list[Manifest], existing: list[Manifest], outcome: Outcome) -> list[Manifest]:
        """Applies what is not known to be as desired; returns the objects as they are now."""
        found = {_key(item): item for item in existing}
        current: list[Manifest] = []
        created: list[str] = []
        for manifest in desired:
            key = _key(manifest)
            before = found.get(key) or await self._find_ours(manifest)
            wanted = hash_of(manifest)
            done = self.applied.get(key)
            if before is not None and done == Applied(wanted, before["metadata"]["resourceVersion"]):
                current.append(before)
                continue
            after = await self.cluster.apply(manifest)
            after |= {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"]}
            self.applied[key] = Applied(wanted, after["metadata"]["resourceVersion"])
            current.append(after)
            if before is None:
                created.append(f"{manifest['kind']} {manifest['metadata']['name']}")
                metrics.APPLIED.labels(manifest["kind"], "created").inc()
            elif described(before) != described(after):
                metrics.APPLIED.labels(manifest["kind"], "changed").inc()
                text = f"{manifest['kind']} {manifest['metadata']['name']} was brought to the described state."
                outcome.notices.append(Notice("Normal", "Changed", text))
        if created:
            text = f"Created {len(created)} objects: {', '.join(created)}"
            outcome.notices.append(Notice("Normal", "Created", text[:1000]))
        return current

    async def _find_ours(self, manifest: Manifest) -> Manifest | None:
        """Looks for a child that no label finds: it may have lost its labels. Raises NameTakenError when an object of
        its name is somebody else's; applying would make it ours."""
        found = await self.cluster.find(manifest)
        if found is None:
            return None
        wanted, meta = manifest["metadata"], found["metadata"]
        labels = meta.get("labels") or {}
        owners, ours = ({owner["uid"] for owner in m.get("ownerReferences") or []} for m in (meta, wanted))
        if owners & ours or all(labels.get(name) == wanted["labels"][name] for name in OUR_LABELS):
            return found
        what = f"{manifest['kind']} {wanted['name']}"
        raise NameTakenError(f"{what} exists and does not belong to this pipeline: rename or delete it.")

    async def _prune(self, desired: list[Manifest], existing: list[Manifest], uid: str, outcome: Outcome) -> None:
        """Deletes our objects that are no longer desired."""
        wanted = {_key(manifest) for manifest in desired}
        for item in existing:
            if _key(item) in wanted or not _is_ours(item, uid) or item["metadata"].get("deletionTimestamp"):
                continue
            await self.cluster.delete(item)
            self.applied.pop(_key(item), None)
            metrics.APPLIED.labels(item["kind"], "pruned").inc()
            text = f"{item['kind']} {item['metadata']['name']} is no longer part of the pipeline."
            outcome.notices.append(Notice("Normal", "Pruned", text))

    async def _keep_topics(
        self, names: Names, spec: SensorPipelineSpec, password: str | None, current: list[Manifest],
        verdicts: dict[ConditionType, Verdict], outcome: Outcome,
    ) -> None:  # fmt: skip
        """Creates the topics once Kafka is up; until they are there, Kafka is not ready."""
        wanted = compute_topics(names, spec)
        if not wanted or password is None or verdicts[ConditionType.KAFKA_READY].status != "True":
            return
        kafka = next(i for i in current if i["kind"] == "StatefulSet" and status.component_of(i) == "kafka")
        try:
            created = await self.topics.keep(names, wanted, password=password, incarnation=kafka["metadata"]["uid"])
        except NotReadyError as error:
            reason = error.reason if isinstance(error, TopicDiffersError) else "TopicsMissing"
            verdicts[ConditionType.KAFKA_READY] = Verdict("False", reason, str(error))
            return
        if created:
            outcome.notices.append(Notice("Normal", "TopicsCreated", f"Created {created} Kafka topics."))

    async def _keep_storage(
        self, names: Names, spec: SensorPipelineSpec, password: str | None, verdicts: dict[ConditionType, Verdict],
        outcome: Outcome, *, suspended: bool,
    ) -> None:  # fmt: skip
        """Keeps Kafka's volumes from filling. That ingest is to be suspended is said in the status; the next visit,
        which comes soon, builds the pipeline so."""
        if spec.kafka.cluster is None or password is None or verdicts[ConditionType.KAFKA_READY].status != "True":
            return
        try:
            decision = await self.storage.keep(names, spec, password=password, suspended=suspended)
        except NotReadyError as error:
            verdicts[ConditionType.KAFKA_READY] = Verdict("False", "NotAnswering", str(error))
            return
        outcome.looked = True
        if decision.suspend:
            verdicts[ConditionType.KAFKA_READY] = Verdict("False", STORAGE_NEARLY_FULL, decision.message)
        elif suspended:
            outcome.again = 0.1
        elif decision.share > DELETE_ABOVE:
            outcome.again = FILLING_SECONDS

    async def _paused(self, pipeline: Manifest) -> dict[ConditionType, Verdict]:
        verdicts = await self._observe(pipeline)
        verdicts[ConditionType.ACCEPTED] = Verdict("True", "Accepted", "The spec is accepted.")
        verdicts[ConditionType.RECONCILED] = Verdict("False", "Paused", "spec.reconcilePolicy is Paused.")
        return verdicts

    async def _refused(
        self, pipeline: Manifest, error: InvalidSpecError, outcome: Outcome
    ) -> dict[ConditionType, Verdict]:
        """The running pipeline goes on as it was."""
        verdicts = await self._observe(pipeline)
        verdicts[ConditionType.ACCEPTED] = Verdict("False", error.reason, str(error))
        message = "The spec is not accepted; the pipeline stays as it was."
        verdicts[ConditionType.RECONCILED] = Verdict("False", NOT_ACCEPTED, message)
        ready = Verdict("False", NOT_ACCEPTED, str(error))
        verdicts[ConditionType.READY] = ready
        if _condition(pipeline, "Accepted").get("message") != str(error):
            outcome.notices.append(Notice("Warning", error.reason, str(error)))
        outcome.again = HURRY_SECONDS * 10
        return verdicts

    async def _failed(self, pipeline: Manifest, error: ApiError, outcome: Outcome) -> dict[ConditionType, Verdict]:
        """The API server refused a write: said in the status, and tried again."""
        verdicts = await self._observe(pipeline)
        verdicts[ConditionType.ACCEPTED] = Verdict("True", "Accepted", "The spec is accepted.")
        message = str(error)[:2000]
        verdicts[ConditionType.RECONCILED] = Verdict("False", error.reason, message)
        if _condition(pipeline, "Reconciled").get("message") != message:
            outcome.notices.append(Notice("Warning", error.reason, str(error)[:1000]))
        outcome.again = HURRY_SECONDS * 3
        return verdicts

    async def _observe(self, pipeline: Manifest) -> dict[ConditionType, Verdict]:
        meta = pipeline["metadata"]
        selector = owned_selector(meta["name"])
        children = await self.cluster.list_children(meta["namespace"], selector)
        pods = await self.cluster.list_pods(meta["namespace"], selector)
        verdicts = _judge(pipeline, children, pods)
        verdicts[ConditionType.READY] = status.overall({kind: verdicts[kind] for kind in status.COMPONENTS})
        return verdicts

    async def _write_status(
        self, pipeline: Manifest, spec: SensorPipelineSpec | None, verdicts: dict[ConditionType, Verdict],
        outcome: Outcome,
    ) -> None:  # fmt: skip
        """Writes the status if it has changed."""
        meta, before = pipeline["metadata"], pipeline.get("status", {})
        names = Names(meta["name"], meta["namespace"])
        new: dict[str, Any] = {
            "observedGeneration": meta["generation"],
            "conditions": status.conditions(
                verdicts, previous=before.get("conditions", []), generation=meta["generation"], now=self._now()
            ),
            "fleets": before.get("fleets", []),
            "derivedMetrics": before.get("derivedMetrics", []),
            "endpoints": before.get("endpoints", []),
            "fleetNames": before.get("fleetNames", ""),
            "workers": before.get("workers", ""),
        }
        if spec is not None:
            children = await self.cluster.list_children(meta["namespace"], owned_selector(meta["name"]))
            found = status.fleets(spec, names, children)
            new |= {"fleets": found, "endpoints": status.endpoints(spec, names)} | status.summary(found)
            new["derivedMetrics"] = await self._derived_metrics(pipeline, spec)
        if new == before:
            return
        await self.cluster.write_status(pipeline, new)
        was, ready = _condition(pipeline, "Ready").get("status"), verdicts[ConditionType.READY]
        if was != ready.status and was is not None:
            kind = "Normal" if ready.status == "True" else "Warning"
            outcome.notices.append(Notice(kind, ready.reason, ready.message))

    async def _derived_metrics(self, pipeline: Manifest, spec: SensorPipelineSpec) -> list[Manifest]:
        """Asks derive how its metrics are, as far as there are any."""
        if not spec.derived_metrics:
            return []
        meta = pipeline["metadata"]
        pods = await self.cluster.list_pods(meta["namespace"], owned_selector(meta["name"]))
        address = status.derived_address(pods)
        found = await self.derived.read(address) if address is not None else None
        previous = pipeline.get("status", {}).get("derivedMetrics", [])
        return status.derived_metrics(spec, found, previous=previous)

    async def report(self, namespace: str, name: str, message: str) -> Outcome:
        """Writes into the status that visits fail: nothing is known of what a visit would have looked at, so a pipeline
        that was ready is not said to be so any more. Raises ApiError."""
        pipeline, outcome = await self.cluster.get_pipeline(namespace, name), Outcome()
        if pipeline is None or pipeline["metadata"].get("deletionTimestamp"):
            return outcome
        verdicts = {ConditionType.RECONCILED: Verdict("False", "VisitFailed", message[:2000])}
        if _condition(pipeline, "Ready").get("status") != "False":
            verdicts[ConditionType.READY] = Verdict("Unknown", "VisitFailed", message[:2000])
        before = pipeline.get("status", {})
        conditions = status.replaced(
            verdicts, previous=before.get("conditions", []), generation=pipeline["metadata"]["generation"],
            now=self._now(),
        )  # fmt: skip
        if conditions != before.get("conditions"):
            await self.cluster.write_status(pipeline, before | {"conditions": conditions})
            outcome.notices.append(Notice("Warning", "VisitFailed", message[:1000]))
        return outcome

    def forget(self, namespace: str, name: str) -> None:
        """Drops what is remembered of a pipeline that is gone."""
        self.applied = {key: done for key, done in self.applied.items() if key[0] != namespace or name not in key[2]}
        self.topics.forget(Names(name, namespace))

    def _now(self) -> str:
        return self.now().strftime("%Y-%m-%dT%H:%M:%SZ")


def parse(pipeline: Manifest) -> tuple[SensorPipelineSpec, tuple[DerivedPlan, ...]]:
    """Returns the spec and its derived metrics. Raises InvalidSpecError."""
    try:
        spec = SensorPipelineSpec.model_validate(pipeline["spec"])
    except ValidationError as error:
        first = error.errors()[0]
        path = "spec." + ".".join(str(part) for part in first["loc"])
        raise InvalidSpecError("InvalidField", path, first["msg"]) from error
    return spec, validate(spec)


def own(manifest: Manifest, pipeline: Manifest, policy: DeletionPolicy) -> Manifest:
    """Returns a child that belongs to its pipeline, so that it goes with it. What outlives the pipeline, as the data
    volumes do, has a label instead: it is found again by that and by its name."""
    if policy is DeletionPolicy.RETAIN and manifest["kind"] == "Secret" and status.component_of(manifest) in OUTLIVING:
        labels = manifest["metadata"]["labels"] | {RETAINED_LABEL: "true"}
        return manifest | {"metadata": manifest["metadata"] | {"labels": labels}}
    meta = pipeline["metadata"]
    reference = {
        "apiVersion": GROUP_VERSION,
        "kind": KIND,
        "name": meta["name"],
        "uid": meta["uid"],
        "controller": True,
        "blockOwnerDeletion": False,
    }
    return manifest | {"metadata": manifest["metadata"] | {"ownerReferences": [reference]}}


def referenced_secrets(spec: SensorPipelineSpec) -> set[str]:
    """Returns the names of the Secrets that the spec refers to."""
    receivers = spec.alerting.receivers if spec.alerting is not None else []
    members = [member for r in receivers for member in (r.webhook, r.discord, r.slack) if member is not None]
    return {member.url_secret_ref.name for member in members}


def _admin_password(desired: list[Manifest]) -> str | None:
    for manifest in desired:
        if manifest["kind"] == "Secret" and status.component_of(manifest) == "kafka-users":
            return base64.b64decode(manifest["data"]["admin"]).decode()
    return None


def _is_ours(item: Manifest, uid: str) -> bool:
    """Whether a labelled object is a child of the pipeline with this uid, or was left by an earlier one of its name."""
    meta = item["metadata"]
    owners = {owner["uid"] for owner in meta.get("ownerReferences", [])}
    return uid in owners or (not owners and RETAINED_LABEL in meta.get("labels", {}))


def described(item: Manifest) -> Any:
    """Returns what differs when an object was brought to another described state, and not when its status has changed
    or a controller has noted something on it."""
    meta = item["metadata"]
    ours = {key: meta.get(key) for key in ("labels", "ownerReferences")}
    if "generation" in meta:
        return ours | {"generation": meta["generation"]}
    return ours | {key: value for key, value in item.items() if key not in {"metadata", "status"}}


def _judge(pipeline: Manifest, children: list[Manifest], pods: list[Manifest]) -> dict[ConditionType, Verdict]:
    wanted = status.wanted_components(pipeline["spec"])
    return {kind: status.judge(kind, children, pods, wanted) for kind in status.COMPONENTS}


def _remember_suspension(pipeline: Manifest, verdicts: dict[ConditionType, Verdict]) -> None:
    """Keeps in the status that ingest is suspended, when a visit did not come to look at Kafka's volumes. Without that
    the next one would let ingest go on, however full they are."""
    if not _suspended(pipeline) or "kafka" not in status.wanted_components(pipeline["spec"]):
        return
    message = _condition(pipeline, "KafkaReady")["message"]
    verdicts[ConditionType.KAFKA_READY] = Verdict("False", STORAGE_NEARLY_FULL, message)
    if verdicts[ConditionType.READY].reason != NOT_ACCEPTED:
        verdicts[ConditionType.READY] = status.overall({kind: verdicts[kind] for kind in status.COMPONENTS})


def _suspended(pipeline: Manifest) -> bool:
    return bool(_condition(pipeline, "KafkaReady").get("reason") == STORAGE_NEARLY_FULL)


def _key(item: Manifest) -> tuple[str, str, str]:
    return item["metadata"]["namespace"], item["kind"], item["metadata"]["name"]


def _condition(pipeline: Manifest, kind: str) -> Manifest:
    found = pipeline.get("status", {}).get("conditions", [])
    return next((condition for condition in found if condition["type"] == kind), {})
