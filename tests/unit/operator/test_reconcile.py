"""One visit after another: what is written, what is not, and that a crash changes nothing in the end."""

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from sensorpipeline_operator.components.context import Images
from sensorpipeline_operator.errors import NotReadyError, TopicDiffersError
from sensorpipeline_operator.naming import MANAGER
from sensorpipeline_operator.reconcile import FILLING_SECONDS, Outcome, Reconciler
from sensorpipeline_operator.storage import Decision
from unit.operator.fakes import BrokenCluster, Crash, FakeCluster, FakeStorage, FakeTopics

EXAMPLES = Path(__file__).parents[3] / "examples"
IMAGES = Images(
    workers="w", simulators="s", mosquitto="m", kafka="k", mongodb="d", prometheus="p", alertmanager="a", grafana="g"
)


def example(name: str = "building.yaml") -> dict[str, Any]:
    documents = yaml.safe_load_all((EXAMPLES / name).read_text())
    return next(copy.deepcopy(d) for d in documents if d["kind"] == "SensorPipeline")


def counting() -> Callable[[], str]:
    """A source of passwords that never gives the same one twice."""
    state = {"n": 0}

    def entropy() -> str:
        state["n"] += 1
        return hashlib.sha256(str(state["n"]).encode()).hexdigest()[:40]

    return entropy


def reconciler(
    cluster: FakeCluster, topics: FakeTopics | None = None, entropy: Any = None, storage: FakeStorage | None = None
) -> Reconciler:
    return Reconciler(cluster, topics or FakeTopics(), storage or FakeStorage(), IMAGES, entropy=entropy or counting())


@pytest.fixture
def cluster() -> FakeCluster:
    fake = FakeCluster()
    fake.create_pipeline(example())
    return fake


async def settle(cluster: FakeCluster, visitor: Reconciler) -> None:
    await visitor.reconcile("default", "building")
    cluster.make_ready()
    await visitor.reconcile("default", "building")


async def test_the_first_visit_creates_everything_and_is_not_ready(cluster: FakeCluster) -> None:
    await reconciler(cluster).reconcile("default", "building")
    assert ("StatefulSet", "building-kafka") in cluster.objects
    assert ("Deployment", "building-worker-hvac") in cluster.objects
    assert cluster.condition("Accepted")["status"] == "True"
    assert cluster.condition("Ready")["status"] == "False"
    assert "building-kafka" in cluster.condition("Ready")["message"]


async def test_topics_are_created_once_kafka_is_ready_and_not_before(cluster: FakeCluster) -> None:
    topics = FakeTopics()
    visitor = reconciler(cluster, topics)
    await visitor.reconcile("default", "building")
    assert topics.topics == []
    cluster.make_ready()
    await visitor.reconcile("default", "building")
    assert {t.name for t in topics.topics} >= {"building.hvac.readings", "building.aggregates", "building.dead-letter"}
    assert cluster.condition("Ready")["status"] == "True"


async def test_a_second_visit_writes_nothing(cluster: FakeCluster) -> None:
    visitor = reconciler(cluster)
    await settle(cluster, visitor)
    cluster.writes.clear()
    await visitor.reconcile("default", "building")
    assert cluster.writes == []


async def test_a_new_process_writes_nothing_either(cluster: FakeCluster) -> None:
    """Without memory of what was applied, everything is applied again, which changes nothing."""
    await settle(cluster, reconciler(cluster))
    cluster.writes.clear()
    await reconciler(cluster).reconcile("default", "building")
    assert cluster.writes == []


@pytest.mark.parametrize("authentication", ["Credentials", "None"])
async def test_no_password_changes_between_visits(authentication: str) -> None:
    cluster = FakeCluster()
    document = example()
    document["spec"]["mqtt"] = {"mosquitto": {"authentication": authentication}}
    document["spec"]["gateway"] = {"authentication": "None" if authentication == "None" else "Token"}
    cluster.create_pipeline(document)
    entropy = counting()
    await settle(cluster, reconciler(cluster, entropy=entropy))
    before = cluster.content()
    await reconciler(cluster, entropy=entropy).reconcile("default", "building")
    assert cluster.content() == before


async def test_killed_after_any_write_the_next_process_ends_in_the_same_state() -> None:
    """Passwords differ from run to run, so the objects are compared by name and kind, and Secrets by their keys."""

    def shape(cluster: FakeCluster) -> dict[tuple[str, str], Any]:
        return {key: sorted(item.get("data", {})) for key, item in cluster.content().items()}

    whole = FakeCluster()
    whole.create_pipeline(example())
    await settle(whole, reconciler(whole))
    for write in range(1, len(whole.writes) + 1, 3):
        cluster = FakeCluster()
        cluster.create_pipeline(example())
        cluster.crash_after = write
        entropy = counting()
        with pytest.raises(Crash):
            await settle(cluster, reconciler(cluster, entropy=entropy))
        secrets = {k: v for k, v in cluster.content().items() if k[0] == "Secret"}
        cluster.crash_after = None
        await settle(cluster, reconciler(cluster, entropy=entropy))
        assert shape(cluster) == shape(whole), f"after write {write}"
        assert secrets.items() <= cluster.content().items(), "a Secret that was written stays as it is"


async def test_drift_is_repaired(cluster: FakeCluster) -> None:
    visitor = reconciler(cluster)
    await settle(cluster, visitor)
    before = cluster.content()
    edited = cluster.objects["Deployment", "building-sink"]
    edited["spec"]["replicas"] = 3
    edited["metadata"]["resourceVersion"] = "edited"
    del cluster.objects["Service", "building-gateway"]
    await visitor.reconcile("default", "building")
    assert cluster.content() == before


async def test_a_removed_fleet_is_pruned_and_nothing_else(cluster: FakeCluster) -> None:
    visitor = reconciler(cluster)
    await settle(cluster, visitor)
    spec = example()["spec"]
    spec["fleets"] = [f for f in spec["fleets"] if f["name"] != "motion"]
    spec["simulation"]["devices"] = [d for d in spec["simulation"]["devices"] if d["fleet"] != "motion"]
    cluster.writes.clear()
    cluster.change_spec(spec)
    await visitor.reconcile("default", "building")
    deleted = {write for write in cluster.writes if write.startswith("delete")}
    assert deleted == {
        "delete ConfigMap building-worker-motion",
        "delete Deployment building-worker-motion",
        "delete Secret building-devices-motion",
    }


async def test_what_others_own_is_not_pruned(cluster: FakeCluster) -> None:
    visitor = reconciler(cluster)
    await settle(cluster, visitor)
    labels = {"app.kubernetes.io/managed-by": MANAGER, "app.kubernetes.io/instance": "building"}
    meta = {"name": "mine", "namespace": "default", "resourceVersion": "1", "labels": labels, "ownerReferences": []}
    foreign = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": meta}
    cluster.objects["ConfigMap", "mine"] = foreign
    await visitor.reconcile("default", "building")
    assert ("ConfigMap", "mine") in cluster.objects


async def test_an_invalid_spec_is_refused_naming_the_field_and_children_stay(cluster: FakeCluster) -> None:
    visitor = reconciler(cluster)
    await settle(cluster, visitor)
    before = cluster.content()
    spec = example()["spec"]
    spec["derivedMetrics"][0]["expression"] = 'Nothing["Etot"]'
    cluster.change_spec(spec)
    await visitor.reconcile("default", "building")
    accepted = cluster.condition("Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "UnknownWindow")
    assert "spec.derivedMetrics[0].expression" in accepted["message"]
    assert accepted["observedGeneration"] == 2
    assert cluster.content() == before


async def test_a_paused_pipeline_is_left_alone(cluster: FakeCluster) -> None:
    visitor = reconciler(cluster)
    await settle(cluster, visitor)
    cluster.change_spec(example()["spec"] | {"reconcilePolicy": "Paused"})
    del cluster.objects["Service", "building-gateway"]
    cluster.writes.clear()
    await visitor.reconcile("default", "building")
    assert cluster.writes == ["status"]
    assert cluster.condition("Reconciled")["reason"] == "Paused"


async def test_transition_times_stay_while_the_status_stays(cluster: FakeCluster) -> None:
    visitor = reconciler(cluster)
    await settle(cluster, visitor)
    before = cluster.condition("Accepted")["lastTransitionTime"]
    cluster.change_spec(example()["spec"] | {"deletionPolicy": "Delete"})
    await visitor.reconcile("default", "building")
    assert cluster.condition("Accepted")["lastTransitionTime"] == before
    assert cluster.condition("Accepted")["observedGeneration"] == 2


async def test_a_missing_dashboard_does_not_make_the_pipeline_unready(cluster: FakeCluster) -> None:
    visitor = reconciler(cluster)
    await settle(cluster, visitor)
    cluster.objects["Deployment", "building-grafana"]["status"] = {}
    await visitor.reconcile("default", "building")
    assert cluster.condition("GrafanaReady")["status"] == "False"
    assert cluster.condition("Ready")["status"] == "True"
    assert "GrafanaReady" in cluster.condition("Ready")["message"]


async def test_a_write_that_the_api_server_refuses_is_said_in_the_status_and_tried_again() -> None:
    cluster = BrokenCluster()
    cluster.create_pipeline(example())
    outcome = await reconciler(cluster).reconcile("default", "building")
    reconciled = cluster.condition("Reconciled")
    assert (reconciled["status"], reconciled["reason"]) == ("False", "ApiRequestFailed")
    assert "403" in reconciled["message"]
    assert outcome.again is not None


async def test_a_kafka_volume_that_is_nearly_full_suspends_ingest_until_there_is_room(cluster: FakeCluster) -> None:
    def bridges() -> int:
        return int(cluster.objects["StatefulSet", "building-bridge"]["spec"]["replicas"])

    storage = FakeStorage(Decision(0.85, True, "Kafka's fullest volume is 85% full."))
    visitor = reconciler(cluster, storage=storage)
    await settle(cluster, visitor)
    assert cluster.condition("KafkaReady")["reason"] == "StorageNearlyFull"
    assert cluster.condition("Ready")["status"] == "False"
    assert "85% full" in cluster.condition("Ready")["message"]
    outcome = await visitor.reconcile("default", "building")
    assert outcome.again is not None
    assert (bridges(), storage.suspended) == (0, True)
    gateway = json.loads(cluster.objects["ConfigMap", "building-gateway"]["data"]["configuration.json"])
    assert gateway["ingestSuspended"] is True

    storage.decision = Decision(0.6, False, "")
    outcome = await visitor.reconcile("default", "building")
    assert outcome.again == 0.1
    await visitor.reconcile("default", "building")
    assert bridges() == 1


async def test_ingest_stays_suspended_while_kafka_does_not_answer(cluster: FakeCluster) -> None:
    storage = FakeStorage(Decision(0.85, True, "Kafka's fullest volume is 85% full."))
    visitor = reconciler(cluster, storage=storage)
    await settle(cluster, visitor)
    storage.broken = True
    await visitor.reconcile("default", "building")
    await visitor.reconcile("default", "building")
    assert cluster.objects["StatefulSet", "building-bridge"]["spec"]["replicas"] == 0


async def test_a_volume_that_fills_is_looked_at_again_soon(cluster: FakeCluster) -> None:
    visitor = reconciler(cluster, storage=FakeStorage(Decision(0.6, False, "")))
    await settle(cluster, visitor)
    assert (await visitor.reconcile("default", "building")).again == FILLING_SECONDS


async def test_a_kafka_that_does_not_answer_is_not_ready(cluster: FakeCluster) -> None:
    storage = FakeStorage()
    visitor = reconciler(cluster, storage=storage)
    await settle(cluster, visitor)
    storage.broken = True
    await visitor.reconcile("default", "building")
    assert cluster.condition("KafkaReady")["reason"] == "NotAnswering"
    assert "timed out" in cluster.condition("KafkaReady")["message"]


OUTLIVING = {"building-mongodb-users", "building-gateway"}


async def recreate(cluster: FakeCluster, document: dict[str, Any], entropy: Callable[[], str]) -> None:
    """Deletes the pipeline and creates one of the same name, which another operator looks after."""
    await settle(cluster, reconciler(cluster, entropy=entropy))
    cluster.delete_pipeline()
    cluster.create_pipeline(document, uid="uid-2")


def cluster_id(cluster: FakeCluster) -> str:
    environment = cluster.objects["StatefulSet", "building-kafka"]["spec"]["template"]["spec"]["containers"][0]["env"]
    return next(str(variable["value"]) for variable in environment if variable["name"] == "CLUSTER_ID")


async def test_a_pipeline_created_again_opens_the_volumes_that_were_retained(cluster: FakeCluster) -> None:
    entropy = counting()
    await settle(cluster, reconciler(cluster, entropy=entropy))
    before = cluster_id(cluster)
    await recreate(cluster, example(), entropy)
    left = {name: item["data"] for (_, name), item in cluster.objects.items()}
    assert left.keys() == OUTLIVING | {name for name in left if name.startswith("building-devices-")}
    await settle(cluster, reconciler(cluster, entropy=entropy))
    assert cluster_id(cluster) == before
    assert {name: cluster.objects["Secret", name]["data"] for name in left} == left


async def test_with_the_policy_delete_no_secret_outlives_the_pipeline(cluster: FakeCluster) -> None:
    document = example()
    document["spec"]["deletionPolicy"] = "Delete"
    cluster.create_pipeline(document)
    await recreate(cluster, document, counting())
    assert cluster.objects == {}


@pytest.mark.parametrize("policies", [("Retain", "Delete"), ("Delete", "Retain")])
async def test_a_change_of_the_deletion_policy_takes_hold_at_the_next_visit(
    cluster: FakeCluster, policies: tuple[str, str]
) -> None:
    visitor = reconciler(cluster)
    for policy in policies:
        cluster.change_spec(example()["spec"] | {"deletionPolicy": policy})
        await visitor.reconcile("default", "building")
        claims = cluster.objects["StatefulSet", "building-mongodb"]["spec"]["persistentVolumeClaimRetentionPolicy"]
        assert claims["whenDeleted"] == policy
        owned = "ownerReferences" in cluster.objects["Secret", "building-mongodb-users"]["metadata"]
        assert owned is (policy == "Delete")


async def test_credentials_left_for_a_fleet_that_is_no_longer_there_are_pruned(cluster: FakeCluster) -> None:
    document = example()
    spec = document["spec"]
    spec["fleets"] = [f for f in spec["fleets"] if f["name"] != "motion"]
    spec["simulation"]["devices"] = [d for d in spec["simulation"]["devices"] if d["fleet"] != "motion"]
    entropy = counting()
    await recreate(cluster, document, entropy)
    assert ("Secret", "building-devices-motion") in cluster.objects
    await reconciler(cluster, entropy=entropy).reconcile("default", "building")
    assert ("Secret", "building-devices-motion") not in cluster.objects


def full() -> FakeStorage:
    return FakeStorage(Decision(0.85, True, "Kafka's fullest volume is 85% full."))


async def suspended(cluster: FakeCluster, storage: FakeStorage, topics: FakeTopics | None = None) -> Reconciler:
    """A visitor of a pipeline whose ingest is suspended."""
    visitor = reconciler(cluster, topics, storage=storage)
    await settle(cluster, visitor)
    await visitor.reconcile("default", "building")
    cluster.make_ready()
    assert cluster.objects["StatefulSet", "building-bridge"]["spec"]["replicas"] == 0
    return visitor


def still_suspended(cluster: FakeCluster) -> bool:
    kafka, ready = cluster.condition("KafkaReady"), cluster.condition("Ready")
    assert (kafka["status"], kafka["message"]) == ("False", "Kafka's fullest volume is 85% full.")
    return bool(kafka["reason"] == "StorageNearlyFull" and ready["status"] == "False")


async def ingest_waits_for_the_next_look(cluster: FakeCluster, visitor: Reconciler, storage: FakeStorage) -> None:
    """Nothing lets ingest go on but a look at the volumes, which knows that ingest is suspended."""
    storage.suspended, storage.decision = False, Decision(0.75, True, "Kafka's fullest volume is 75% full.")
    await visitor.reconcile("default", "building")
    assert storage.suspended
    assert cluster.objects["StatefulSet", "building-bridge"]["spec"]["replicas"] == 0


async def test_ingest_stays_suspended_while_kafka_restarts(cluster: FakeCluster) -> None:
    storage = full()
    visitor = await suspended(cluster, storage)
    cluster.objects["StatefulSet", "building-kafka"]["status"] = {}
    await visitor.reconcile("default", "building")
    assert still_suspended(cluster)
    cluster.make_ready()
    await ingest_waits_for_the_next_look(cluster, visitor, storage)


async def test_ingest_stays_suspended_while_topics_are_missing(cluster: FakeCluster) -> None:
    storage, topics = full(), FakeTopics()
    visitor = await suspended(cluster, storage, topics)
    topics.error = NotReadyError("Kafka: timed out")
    storage.broken = True
    await visitor.reconcile("default", "building")
    assert still_suspended(cluster)
    topics.error, storage.broken = None, False
    await ingest_waits_for_the_next_look(cluster, visitor, storage)


async def test_ingest_stays_suspended_while_the_pipeline_is_paused(cluster: FakeCluster) -> None:
    storage = full()
    visitor = await suspended(cluster, storage)
    cluster.change_spec(example()["spec"] | {"reconcilePolicy": "Paused"})
    await visitor.reconcile("default", "building")
    assert still_suspended(cluster)
    cluster.change_spec(example()["spec"])
    await ingest_waits_for_the_next_look(cluster, visitor, storage)


async def test_ingest_stays_suspended_while_the_spec_is_refused(cluster: FakeCluster) -> None:
    storage = full()
    visitor = await suspended(cluster, storage)
    spec = example()["spec"]
    spec["derivedMetrics"][0]["expression"] = 'Nothing["Etot"]'
    cluster.change_spec(spec)
    await visitor.reconcile("default", "building")
    assert still_suspended(cluster)
    assert cluster.condition("Ready")["reason"] == "NotAccepted"
    cluster.change_spec(example()["spec"])
    await ingest_waits_for_the_next_look(cluster, visitor, storage)


async def test_ingest_stays_suspended_while_the_api_server_refuses_writes(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = full()
    visitor = await suspended(cluster, storage)
    del cluster.objects["Service", "building-gateway"]
    with monkeypatch.context() as broken:
        broken.setattr(cluster, "apply", BrokenCluster().apply)
        await visitor.reconcile("default", "building")
    assert still_suspended(cluster)
    assert cluster.condition("Reconciled")["reason"] == "ApiRequestFailed"
    await ingest_waits_for_the_next_look(cluster, visitor, storage)


@pytest.mark.parametrize("policy", ["Active", "Paused"])
async def test_what_is_wanted_and_was_not_created_makes_no_pipeline_ready(policy: str) -> None:
    """Refused at its creation, or paused from the start."""
    cluster = FakeCluster()
    document = example()
    document["spec"]["reconcilePolicy"] = policy
    if policy == "Active":
        document["spec"]["derivedMetrics"][0]["expression"] = 'Nothing["Etot"]'
    cluster.create_pipeline(document)
    await reconciler(cluster).reconcile("default", "building")
    for part in ("Kafka", "Store", "Mqtt", "Workers", "Gateway", "Monitoring", "Grafana"):
        condition = cluster.condition(f"{part}Ready")
        assert (condition["status"], condition["reason"]) == ("Unknown", "NotCreated"), part
    assert cluster.condition("Ready")["status"] == ("Unknown" if policy == "Paused" else "False")


async def test_a_part_that_is_external_or_not_asked_for_need_not_exist() -> None:
    cluster = FakeCluster()
    document = example("minimal.yaml")
    document["spec"]["store"] = {"external": {"uriSecretRef": {"name": "database", "key": "uri"}}}
    document["spec"]["reconcilePolicy"] = "Paused"
    cluster.create_pipeline(document)
    await reconciler(cluster).reconcile("default", "minimal")
    for part in ("StoreReady", "GrafanaReady"):
        assert cluster.condition(part)["reason"] == "NotRequested", part


def told(outcome: Outcome, reason: str) -> list[str]:
    return [notice.message for notice in outcome.notices if notice.reason == reason]


async def test_events_tell_what_was_created_and_what_was_changed_by_the_operator(cluster: FakeCluster) -> None:
    visitor = reconciler(cluster)
    outcome = await visitor.reconcile("default", "building")
    assert told(outcome, "Created")
    assert told(outcome, "Changed") == []
    cluster.make_ready()
    spec = example()["spec"] | {"store": {"mongodb": {}, "readingRetentionDays": 7}}
    cluster.change_spec(spec)
    outcome = await visitor.reconcile("default", "building")
    changed = {message.split(" was ")[0] for message in told(outcome, "Changed")}
    assert changed == {"ConfigMap building-mongodb", "StatefulSet building-mongodb"}


async def test_a_rollout_is_no_change_by_the_operator(cluster: FakeCluster) -> None:
    """Its controllers write the status, and annotations, which makes new versions of the objects."""
    visitor = reconciler(cluster)
    await settle(cluster, visitor)
    for workload in ("building-sink", "building-gateway"):
        meta = cluster.objects["Deployment", workload]["metadata"]
        meta["resourceVersion"] += "-status"
    apply = cluster.apply

    async def meanwhile(manifest: dict[str, Any]) -> dict[str, Any]:
        after = await apply(manifest)
        after["metadata"]["resourceVersion"] += "-again"
        after["metadata"]["annotations"] = {"deployment.kubernetes.io/revision": "2"}
        return after

    cluster.apply = meanwhile  # type: ignore[method-assign]
    outcome = await visitor.reconcile("default", "building")
    assert told(outcome, "Changed") == []


async def test_an_object_of_somebody_else_is_not_taken_over(cluster: FakeCluster) -> None:
    meta = {"name": "building-gateway", "namespace": "default", "resourceVersion": "1", "uid": "theirs"}
    theirs = {"kind": "Secret", "apiVersion": "v1", "metadata": meta, "data": {"token": "bWluZQ=="}}
    cluster.objects["Secret", "building-gateway"] = copy.deepcopy(theirs)
    await reconciler(cluster).reconcile("default", "building")
    assert cluster.objects["Secret", "building-gateway"] == theirs
    reconciled = cluster.condition("Reconciled")
    assert (reconciled["status"], reconciled["reason"]) == ("False", "NameTaken")
    assert "Secret building-gateway" in reconciled["message"]


async def test_a_child_that_lost_its_labels_is_brought_back(cluster: FakeCluster) -> None:
    visitor = reconciler(cluster)
    await settle(cluster, visitor)
    meta = cluster.objects["Service", "building-gateway"]["metadata"]
    labels = meta["labels"]
    meta |= {"labels": {}, "resourceVersion": "edited"}
    await visitor.reconcile("default", "building")
    assert cluster.objects["Service", "building-gateway"]["metadata"]["labels"] == labels


async def test_failing_visits_are_reported_and_a_ready_pipeline_is_not_said_to_be_ready(cluster: FakeCluster) -> None:
    visitor = reconciler(cluster)
    await settle(cluster, visitor)
    workers = cluster.condition("WorkersReady")
    outcome = await visitor.report("default", "building", "A visit was given up after 45 s.")
    for kind, state in (("Reconciled", "False"), ("Ready", "Unknown")):
        condition = cluster.condition(kind)
        assert (condition["status"], condition["reason"]) == (state, "VisitFailed")
        assert "45 s" in condition["message"]
    assert told(outcome, "VisitFailed") == ["A visit was given up after 45 s."]
    assert cluster.condition("WorkersReady") == workers
    cluster.writes.clear()
    again = await visitor.report("default", "building", "A visit was given up after 45 s.")
    assert (cluster.writes, again.notices) == ([], [])
    await visitor.reconcile("default", "building")
    assert cluster.condition("Ready")["status"] == "True"


async def test_a_pipeline_that_no_visit_reached_has_every_condition_once_that_is_reported(cluster: FakeCluster) -> None:
    await reconciler(cluster).report("default", "building", "A visit failed.")
    assert cluster.condition("WorkersReady")["status"] == "Unknown"
    assert cluster.condition("Ready")["reason"] == "VisitFailed"


async def test_a_topic_that_cannot_be_made_as_it_should_be_is_named_in_the_status(cluster: FakeCluster) -> None:
    topics = FakeTopics()
    topics.error = TopicDiffersError("Topic building.hvac.readings has 4 partitions")
    await settle(cluster, reconciler(cluster, topics))
    kafka = cluster.condition("KafkaReady")
    assert (kafka["status"], kafka["reason"]) == ("False", "TopicDiffers")
    assert cluster.condition("Ready")["status"] == "False"


async def test_a_pipeline_that_is_gone_is_forgotten(cluster: FakeCluster) -> None:
    topics = FakeTopics()
    visitor = reconciler(cluster, topics)
    await settle(cluster, visitor)
    assert visitor.applied
    cluster.delete_pipeline()
    await visitor.reconcile("default", "building")
    assert visitor.applied == {}
    assert [names.pipeline for names in topics.forgotten] == ["building"]
