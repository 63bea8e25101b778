"""The operator on a real API server: writes nothing twice, repairs, prunes, and deletes everything.

The tests change the open pipeline and run in the order of the file, after those that only look at it.
"""

import json
import time
from typing import Any

from e2e import kube
from e2e.clients import gateway, publisher
from e2e.conftest import no_restarts, open_pipeline

KINDS = "statefulsets,deployments,services,configmaps,secrets,networkpolicies,poddisruptionbudgets,serviceaccounts"
OURS = "app.kubernetes.io/managed-by=sensorpipeline-operator,app.kubernetes.io/instance=open"
TIMER_SECONDS = 30


def children(namespace: str, *, kinds: str = KINDS) -> dict[str, dict[str, Any]]:
    """Returns the children of the open pipeline by kind and name."""
    items = kube.get_list(kinds, namespace=namespace, selector=OURS)
    return {f"{item['kind']}/{item['metadata']['name']}": item for item in items}


def versions(namespace: str) -> dict[str, str]:
    """Returns the resourceVersion of every child and of the pipeline itself."""
    pipeline = kube.get("sensorpipeline", "open", namespace=namespace)
    found = {name: item["metadata"]["resourceVersion"] for name, item in children(namespace).items()}
    return found | {"pipeline": pipeline["metadata"]["resourceVersion"]}


def test_a_clean_bring_up_restarts_no_container(building_namespace: str, open_namespace: str) -> None:
    no_restarts(building_namespace)
    no_restarts(open_namespace)


def test_a_second_reconcile_writes_nothing(open_namespace: str) -> None:
    before = versions(open_namespace)
    assert len(before) > 20
    time.sleep(2 * TIMER_SECONDS + 5)  # two timer periods: the test is about what does not happen in them
    assert versions(open_namespace) == before


def test_a_child_edited_by_hand_is_repaired(open_namespace: str) -> None:
    kube.kubectl("scale", "deployment/open-sink", "--replicas=3", namespace=open_namespace)
    kube.until(
        lambda: kube.get("deployment", "open-sink", namespace=open_namespace)["spec"]["replicas"] == 1,
        what="the sink to be scaled back to 1",
        seconds=15,
    )
    kube.kubectl("delete", "service", "open-gateway", namespace=open_namespace)
    kube.until(
        lambda: kube.get("service", "open-gateway", namespace=open_namespace),
        what="the deleted gateway Service to come back",
        seconds=15,
    )


def test_removing_a_fleet_prunes_its_workers_and_keeps_the_others(open_namespace: str) -> None:
    document = open_pipeline()
    assert any(name.endswith("/open-worker-valves") for name in children(open_namespace))
    document["spec"]["fleets"] = [f for f in document["spec"]["fleets"] if f["name"] != "valves"]
    kube.apply(document, namespace=open_namespace)
    kube.until(
        lambda: not [name for name in children(open_namespace) if name.endswith("-valves")],
        what="the children of the fleet valves to be pruned",
        seconds=30,
    )
    assert any(name.endswith("/open-worker-pumps") for name in children(open_namespace))
    kube.wait_ready("open", namespace=open_namespace)


def test_an_invalid_change_leaves_the_running_pipeline_as_it_was(open_namespace: str) -> None:
    before = set(children(open_namespace))
    document = open_pipeline()
    document["spec"]["derivedMetrics"] = [{"name": "Broken", "expression": 'Nothing["P1"]'}]
    kube.apply(document, namespace=open_namespace)

    def refused() -> bool:
        pipeline = kube.get("sensorpipeline", "open", namespace=open_namespace)
        return kube.condition(pipeline, "Accepted").get("status") == "False"

    kube.until(refused, what="Accepted=False", seconds=30)
    assert set(children(open_namespace)) == before


def claims_are_owned(namespace: str) -> list[bool]:
    """Returns of each volume claim of the open pipeline whether it goes with its StatefulSet."""
    found = kube.get_list("persistentvolumeclaims", namespace=namespace, selector=OURS)
    return ["ownerReferences" in claim["metadata"] for claim in found]


def test_a_retained_pipeline_that_is_created_again_has_its_readings_and_its_credentials(open_namespace: str) -> None:
    document = open_pipeline()
    document["spec"]["deletionPolicy"] = "Retain"
    kube.apply(document, namespace=open_namespace)
    kube.wait_ready("open", namespace=open_namespace)
    kube.until(lambda: not any(claims_are_owned(open_namespace)), what="the volume claims to have no owner", seconds=60)
    reading = {"ts": int(time.time() * 1000), "value": 50}
    with publisher("open", namespace=open_namespace) as sender:
        sender.publish("pumps/P1/state", json.dumps(reading).encode())

    def stored() -> list[dict[str, Any]]:
        with gateway("open", namespace=open_namespace) as client:
            return client.all("/v1/readings", fleet="pumps", device="P1")

    before = kube.until(stored, what="the reading to be stored", seconds=60)
    token = kube.secret_value("open-gateway", "token", namespace=open_namespace)
    kube.kubectl("delete", "sensorpipeline", "open", "--wait", namespace=open_namespace)
    workloads = "statefulsets,deployments,pods"
    kube.until(lambda: not children(open_namespace, kinds=workloads), what="the pods to be gone", seconds=180)

    kube.apply(open_pipeline(), namespace=open_namespace)
    kube.wait_ready("open", namespace=open_namespace)
    assert kube.secret_value("open-gateway", "token", namespace=open_namespace) == token
    after = stored()
    assert [item for item in before if item not in after] == []
    kube.until(lambda: all(claims_are_owned(open_namespace)), what="the volume claims to have an owner", seconds=60)


def test_deleting_the_resource_removes_every_child(open_namespace: str) -> None:
    kube.kubectl("delete", "sensorpipeline", "open", "--wait", namespace=open_namespace)
    kinds = f"{KINDS},pods,persistentvolumeclaims"
    kube.until(lambda: not children(open_namespace, kinds=kinds), what="every child to be gone", seconds=180)
