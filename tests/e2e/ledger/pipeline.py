"""The pipeline that the ledger is kept of, and how its devices reach it from outside the cluster.

Devices come in through node ports of Services of the test's own: unlike a port-forward, those outlive every pod.
"""

import contextlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from e2e import kube
from e2e.conftest import recreate_namespace
from e2e.ledger import node
from e2e.ledger.schedule import LATENESS, MAXIMUM, PERIOD

NAMESPACE = "e2e-ledger"
NAME = "ledger"
MQTT_DEVICES = [f"M{n}" for n in range(1, 7)]
HTTP_DEVICES = [f"F{n}" for n in range(1, 4)]
JUMPER = "J1"
"""The device whose clock is wrong."""
FLEETS = ["meters", "farm", "storm"]
BULK_FLEET, BULK_DEVICE = "bulk", "B1"
"""A fleet whose messages are large and refused: their dead letters fill Kafka."""
PORTS = {"mosquitto": 1883, "gateway": 8080}


def fleet(name: str, metric: str, functions: dict[str, str], **extra: Any) -> dict[str, Any]:
    """Returns a fleet with one metric and a window of a minute for each function."""
    windows = [
        {"name": window, "metric": metric, "function": function, "periodSeconds": PERIOD // 1000,
         "allowedLatenessSeconds": LATENESS // 1000}
        for window, function in functions.items()
    ]  # fmt: skip
    metrics = [{"name": metric, "minimum": "0", "maximum": str(MAXIMUM)}]
    # Silence must not close windows: a fault may last as long as it likes.
    return {"name": name, "topic": f"{name}/{{device}}/{metric}", "metrics": metrics, "windows": windows,
            "idleSeconds": 86400, **extra}  # fmt: skip


def document() -> dict[str, Any]:
    """Returns the resource."""
    return {
        "apiVersion": "sensorpipeline.io/v1alpha1",
        "kind": "SensorPipeline",
        "metadata": {"name": NAME},
        "spec": {
            "deletionPolicy": "Delete",
            "mqtt": {"mosquitto": {"storageSize": "256Mi"}},
            "kafka": {"cluster": {"storageSize": "256Mi"}},  # small enough to be filled
            "store": {"mongodb": {"storageSize": "2Gi"}, "readingRetentionDays": 0},
            "fleets": [
                fleet("meters", "energy", {"Minute": "Sum", "Delta": "Difference"}, partitions=4,
                      devices=[*MQTT_DEVICES, JUMPER]),
                fleet("farm", "soil", {"Soil": "Mean"}, partitions=2, devices=HTTP_DEVICES),
                fleet("storm", "wind", {}, partitions=2),
                fleet(BULK_FLEET, "noise", {}, partitions=1, devices=[BULK_DEVICE]),
            ],
            "derivedMetrics": [{"name": "Plant", "expression": 'Minute["M1"] + Minute["M2"] - Soil["F1"]'}],
        },
    }  # fmt: skip


def pods(component: str) -> list[dict[str, Any]]:
    """Returns the pods of a component."""
    labels = f"app.kubernetes.io/instance={NAME},app.kubernetes.io/component={component}"
    return kube.get_list("pods", namespace=NAMESPACE, selector=labels)


def open_port(component: str) -> int:
    """Opens a component on a node port and returns it."""
    name = f"outside-{component}"
    labels = {"app.kubernetes.io/instance": NAME, "app.kubernetes.io/component": component}
    kube.apply({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"type": "NodePort", "selector": labels, "ports": [{"port": PORTS[component]}]},
    }, namespace=NAMESPACE)  # fmt: skip
    return int(kube.get("service", name, namespace=NAMESPACE)["spec"]["ports"][0]["nodePort"])


def patch(spec: dict[str, Any]) -> None:
    """Changes the resource as `kubectl patch` does."""
    body = json.dumps({"spec": spec})
    kube.kubectl("patch", "sensorpipeline", NAME, "--type=merge", "-p", body, namespace=NAMESPACE)


@contextmanager
def running() -> Iterator[str]:
    """Brings the pipeline up in an empty namespace, yields the node's address, and clears everything away."""
    recreate_namespace(NAMESPACE)
    try:
        kube.apply(document(), namespace=NAMESPACE)
        kube.wait_ready(NAME, namespace=NAMESPACE)
        yield node.address()
    finally:
        with contextlib.suppress(kube.KubectlError):
            kube.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
