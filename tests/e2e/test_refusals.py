"""What `kubectl apply` refuses, and what ends in Accepted=False, each naming the field."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from e2e import kube
from e2e.conftest import example, recreate_namespace

NAMESPACE = "e2e-refusals"


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    """An empty namespace."""
    recreate_namespace(NAMESPACE)
    yield NAMESPACE
    kube.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def minimal() -> dict[str, Any]:
    """The minimal example."""
    return example("minimal.yaml")


def set_path(document: dict[str, Any], path: str, value: Any) -> None:
    """Sets a field by a dotted path; numbers are list positions."""
    node: Any = document
    *parents, last = path.split(".")
    for part in parents:
        node = node[int(part)] if part.isdigit() else node[part]
    node[int(last) if last.isdigit() else last] = value


WINDOW = {"name": "Hourly", "metric": "temperature", "function": "Mean", "periodSeconds": 3600}

REFUSED = [
    ("duplicate window names", "spec.fleets.0.windows", [WINDOW, WINDOW], "Duplicate value"),
    ("a window whose period is not positive", "spec.fleets.0.windows.0.periodSeconds", 0,
     "periodSeconds in body should be greater than or equal to 1"),
    ("a topic without {device}", "spec.fleets.0.topic", "rooms/temperature",
     "topic must contain the placeholder {device}"),
    ("neither member of a union", "spec.mqtt", {}, "exactly one of mosquitto and external must be set"),
    ("both members of a union", "spec.alerting", {"receivers": [{"name": "both",
     "webhook": {"urlSecretRef": {"name": "a", "key": "b"}}, "slack": {"urlSecretRef": {"name": "a", "key": "b"}}}]},
     "exactly one of discord, slack and webhook must be set"),
    ("a window over an unknown metric", "spec.fleets.0.windows.0.metric", "pressure",
     "windows[].metric must name one of the fleet's metrics"),
    ("a threshold with two bounds", "spec.fleets.0.thresholds",
     [{"name": "T", "metric": "temperature", "above": "1", "below": "0"}],
     "exactly one of above, below, risingFasterThan"),
    ("CSV without columns", "spec.fleets.0.payload", {"format": "Csv"}, "payload.columns must be set"),
    ("CSV without the time's column", "spec.fleets.0.payload", {"format": "Csv", "columns": ["value"]},
     "payload.columns must hold timeField"),
    ("CSV without a metric's column", "spec.fleets.0.payload",
     {"format": "Csv", "columns": ["v"], "timeUnit": "ReceiveTime"}, "metrics[].field must be one of payload.columns"),
    ("numbers alone with a time", "spec.fleets.0.payload", {"format": "Number"}, "timeUnit must be ReceiveTime"),
    ("Sparkplug on another topic", "spec.fleets.0.payload", {"format": "SparkplugB"}, "topic must be spBv1.0/GROUP"),
    ("two brokers", "spec.kafka", {"cluster": {"replicas": 2}}, "spec.kafka.cluster.replicas"),
    ("an unknown field", "spec.colour", "blue", 'unknown field "spec.colour"'),
    ("a name that is too long", "metadata.name", "a" * 31, "no longer than 30 characters"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "message"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_apply_refuses(namespace: str, path: str, value: Any, message: str) -> None:
    document = minimal()
    set_path(document, path, value)
    with pytest.raises(kube.KubectlError) as error:
        kube.apply(document, namespace=namespace, dry_run=True)
    assert message in str(error.value)


def test_apply_accepts_the_minimal_example_unchanged(namespace: str) -> None:
    assert "created" in kube.apply(minimal(), namespace=namespace, dry_run=True)


FIXED = [
    ("a broker's volume", "spec.mqtt", {"mosquitto": {"storageSize": "2Gi"}}, "storageSize must not change"),
    ("Kafka's volumes", "spec.kafka", {"cluster": {"storageSize": "6Gi"}}, "storageSize must not change"),
    ("the number of Kafka brokers", "spec.kafka", {"cluster": {"replicas": 3}}, "replicas must not change"),
    ("the database's volumes", "spec.store", {"mongodb": {"storageSize": "11Gi"}}, "storageSize must not change"),
    ("a fleet's partitions", "spec.fleets.0.partitions", 7, "partitions must not change"),
]


@pytest.mark.parametrize(("path", "value", "message"), [pytest.param(*row[1:], id=row[0]) for row in FIXED])
def test_what_cannot_change_is_refused_on_an_existing_pipeline(
    namespace: str, path: str, value: Any, message: str
) -> None:
    document = minimal()
    document["metadata"]["name"] = "fixed"
    document["spec"]["reconcilePolicy"] = "Paused"  # the resource alone is wanted, without its children
    kube.apply(document, namespace=namespace)
    set_path(document, path, value)
    with pytest.raises(kube.KubectlError) as error:
        kube.apply(document, namespace=namespace, dry_run=True)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        pytest.param('Hourly["a"] +', "expression", id="an expression that does not parse"),
        pytest.param('Daily["a"] + Hourly["b"]', "Daily", id="an expression that names an unknown window"),
    ],
)
def test_a_derived_metric_that_cannot_work_ends_in_accepted_false(namespace: str, expression: str, part: str) -> None:
    document = minimal()
    document["metadata"]["name"] = "derived"
    document["spec"]["derivedMetrics"] = [{"name": "Broken", "expression": expression}]
    kube.apply(document, namespace=namespace)

    def refused() -> dict[str, Any] | None:
        pipeline = kube.get("sensorpipeline", "derived", namespace=namespace)
        state = kube.condition(pipeline, "Accepted")
        current = state.get("observedGeneration") == pipeline["metadata"]["generation"]
        return copy.deepcopy(state) if current and state["status"] == "False" else None

    state = kube.until(refused, what="Accepted=False", seconds=30)
    assert "spec.derivedMetrics[0].expression" in state["message"]
    assert part in state["message"]
    children = kube.get_list("statefulsets,deployments,services", namespace=namespace)
    assert children == []
