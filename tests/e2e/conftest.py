"""The pipelines that the end-to-end tests look at. They start together, each in a namespace of its own that enforces
the restricted pod security standard, and are deleted at the end."""

import contextlib
import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e import kube

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
NAMESPACES = {"building": "e2e-building", "replay": "e2e-replay", "open": "e2e-open"}


def example(name: str) -> dict[str, Any]:
    """Returns the SensorPipeline of an example file."""
    documents = yaml.safe_load_all((EXAMPLES / name).read_text())
    return next(copy.deepcopy(d) for d in documents if d and d["kind"] == "SensorPipeline")


def building() -> dict[str, Any]:
    """The example building, twice as fast, that stops after 4.3 simulated days."""
    document = example("building.yaml")
    document["spec"]["simulation"] |= {"accelerationFactor": 1800, "durationSeconds": 371520}
    document["spec"]["deletionPolicy"] = "Delete"
    return document


def replay() -> dict[str, Any]:
    """The example that replays recorded data."""
    document = example("replay.yaml")
    document["spec"]["deletionPolicy"] = "Delete"
    return document


def open_pipeline() -> dict[str, Any]:
    """A pipeline whose broker asks for no credentials, for messages that no honest device would send."""
    return {
        "apiVersion": "sensorpipeline.io/v1alpha1",
        "kind": "SensorPipeline",
        "metadata": {"name": "open"},
        "spec": {
            "deletionPolicy": "Delete",
            "mqtt": {"mosquitto": {"authentication": "None", "storageSize": "128Mi"}},
            "kafka": {"cluster": {"storageSize": "1Gi"}},
            "store": {"mongodb": {"storageSize": "1Gi"}, "readingRetentionDays": 0},
            "fleets": [
                {
                    "name": "pumps",
                    "topic": "pumps/{device}/state",
                    "partitions": 2,
                    "metrics": [{"name": "pressure", "field": "value", "minimum": "0", "maximum": "100"}],
                    "devices": ["P1", "P2"],
                    "windows": [{"name": "Minute", "metric": "pressure", "function": "Mean", "periodSeconds": 60}],
                    "thresholds": [
                        {"name": "HighPressure", "metric": "pressure", "above": "80", "clear": "60", "forSeconds": 30}
                    ],
                },
                {
                    "name": "valves",
                    "topic": "valves/{device}/state",
                    "partitions": 2,
                    "metrics": [{"name": "opening"}],
                },
            ],
            "alerting": {
                "receivers": [{"name": "recorder", "webhook": {"urlSecretRef": {"name": "recorder", "key": "url"}}}]
            },
        },
    }


def recreate_namespace(name: str) -> None:
    """Makes an empty namespace, clearing away what an earlier run left."""
    kube.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait", timeout=300)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}, namespace=name)


def apply_recorder(namespace: str) -> None:
    """A small HTTP server in the cluster that records what is posted to it, and the Secret that names it."""
    image = json.loads(
        kube.kubectl("get", "deployment", "-A", "-l", "app.kubernetes.io/component=operator", "-o", "json")
    )["items"][0]["spec"]["template"]["spec"]["containers"][0]["image"]
    script = (Path(__file__).parent / "recorder.py").read_text()
    for document in yaml.safe_load_all((Path(__file__).parent / "recorder.yaml").read_text()):
        if document["kind"] == "ConfigMap":
            document["data"] = {"recorder.py": script}
        if document["kind"] == "Pod":
            document["spec"]["containers"][0]["image"] = image
        kube.apply(document, namespace=namespace)


@pytest.fixture(scope="session")
def pipelines() -> Iterator[dict[str, str]]:
    """Starts the pipelines; yields the namespace of each by its name. They become ready side by side."""
    for namespace in NAMESPACES.values():
        recreate_namespace(namespace)
    data = subprocess.run(
        [sys.executable, EXAMPLES / "export_dataset.py"], capture_output=True, text=True, check=True
    ).stdout
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "replay-data"}}
    kube.apply(config_map | {"data": {"data.csv": data}}, namespace=NAMESPACES["replay"])
    apply_recorder(NAMESPACES["open"])
    kube.apply(building(), namespace=NAMESPACES["building"])
    kube.apply(replay(), namespace=NAMESPACES["replay"])
    kube.apply(open_pipeline(), namespace=NAMESPACES["open"])
    yield NAMESPACES
    for namespace in NAMESPACES.values():
        with contextlib.suppress(kube.KubectlError):
            kube.kubectl("delete", "namespace", namespace, "--wait=false")


def no_restarts(namespace: str) -> None:
    """Fails when a container of the namespace has been restarted."""
    for pod in kube.get_list("pods", namespace=namespace):
        for status in pod["status"].get("containerStatuses", []):
            assert status["restartCount"] == 0, f"{pod['metadata']['name']}/{status['name']} was restarted"


@pytest.fixture(scope="session")
def building_namespace(pipelines: dict[str, str]) -> str:
    """The namespace of the ready building."""
    kube.wait_ready("building", namespace=pipelines["building"])
    return pipelines["building"]


@pytest.fixture(scope="session")
def replay_namespace(pipelines: dict[str, str]) -> str:
    """The namespace of the ready replay."""
    kube.wait_ready("replay", namespace=pipelines["replay"])
    return pipelines["replay"]


@pytest.fixture(scope="session")
def open_namespace(pipelines: dict[str, str]) -> str:
    """The namespace of the ready open pipeline."""
    kube.wait_ready("open", namespace=pipelines["open"])
    return pipelines["open"]
