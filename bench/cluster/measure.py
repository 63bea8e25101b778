"""Messages per second from a device's publication to storage, on the cluster that `make up` brings up.

Everything runs on the cluster's cores: the publisher, the broker, the bridge, Kafka, the worker with its windows and
threshold, the sink, MongoDB, the operator and Kubernetes itself.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import yaml
from e2e import kube
from e2e.clients import Gateway, gateway

from bench.report import update_section

HERE = Path(__file__).parent
PAGE = Path("docs/performance.md")
NAMESPACE = "bench-load"
PIPELINE = "load"
DEVICES, CONNECTIONS = 200, 4
PEER_PER_CPU = 310
"""Messages per second and vCPU that ThingsBoard publishes for its cluster: 11,111/s on 36 vCPU."""


@dataclass
class Outcome:
    """One run: message counts, seconds from the first publication, processor seconds by component."""

    messages: int
    acknowledged_seconds: float
    stored_seconds: float
    cpu_seconds: dict[str, float]
    windows: int


def publisher_pod(messages: int, image: str) -> dict[str, Any]:
    """Returns the pod that publishes."""
    command = [
        "python3", "/script/publisher.py", "--host", f"{PIPELINE}-mosquitto", "--username", "meters",
        "--password-file", "/credentials/_fleet", "--devices", str(DEVICES), "--connections", str(CONNECTIONS),
        "--messages", str(messages),
    ]  # fmt: skip
    security = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "publisher", "labels": {"app": "publisher"}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True, "runAsUser": 65532, "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "publisher", "image": image, "imagePullPolicy": "IfNotPresent", "command": command,
                    "securityContext": security,
                    "volumeMounts": [
                        {"name": "script", "mountPath": "/script"},
                        {"name": "credentials", "mountPath": "/credentials"},
                    ],
                }
            ],
            "volumes": [
                {"name": "script", "configMap": {"name": "publisher"}},
                {"name": "credentials", "secret": {"secretName": f"{PIPELINE}-devices-meters"}},
            ],
        },
    }  # fmt: skip


def start_pipeline() -> str:
    """Applies the pipeline in a namespace of its own and waits until it is ready; returns the workers' image."""
    kube.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait", timeout=300)
    kube.kubectl("create", "namespace", NAMESPACE)
    kube.apply(yaml.safe_load((HERE / "pipeline.yaml").read_text()), namespace=NAMESPACE)
    kube.wait_ready(PIPELINE, namespace=NAMESPACE)
    sink = kube.get("deployment", f"{PIPELINE}-sink", namespace=NAMESPACE)
    script = {"publisher.py": (HERE / "publisher.py").read_text()}
    kube.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "publisher"}, "data": script},
        namespace=NAMESPACE,
    )
    return str(sink["spec"]["template"]["spec"]["containers"][0]["image"])


def cpu_seconds() -> dict[str, float]:
    """Returns the processor seconds that each pod of the namespace has used, by its component."""
    node = kube.kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
    stats = json.loads(
        kube.kubectl("get", "--raw", f"/api/v1/nodes/{node}/proxy/stats/summary?only_cpu_and_memory=true")
    )
    used: dict[str, float] = {}
    for pod in stats["pods"]:
        if pod["podRef"]["namespace"] == NAMESPACE:
            name = pod["podRef"]["name"].removeprefix(f"{PIPELINE}-").split("-")[0]
            seconds = sum(c.get("cpu", {}).get("usageCoreNanoSeconds", 0) for c in pod["containers"]) / 1e9
            used[name] = used.get(name, 0.0) + seconds
    return used


def stored(url: str) -> int:
    """Returns how many readings the sink has stored, by its own metric."""
    text = requests.get(f"{url}/metrics", timeout=10).text
    values = [
        line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith("sensorpipeline_stored_readings_total")
    ]
    return round(sum(float(value) for value in values))


def publish(messages: int, image: str) -> dict[str, Any]:
    """Runs the publisher to its end; returns what it says."""
    kube.apply(publisher_pod(messages, image), namespace=NAMESPACE)

    def ended() -> str | None:
        phase = kube.get("pod", "publisher", namespace=NAMESPACE)["status"].get("phase")
        return phase if phase in {"Succeeded", "Failed"} else None

    phase = kube.until(ended, what="the publisher to end", seconds=600)
    text = kube.kubectl("logs", "publisher", namespace=NAMESPACE)
    assert phase == "Succeeded", text
    said: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
    assert said["refused"] == 0, f"the broker refused {said['refused']} messages"
    return said


def measure(messages: int, image: str) -> Outcome:
    """Publishes, waits until everything is stored, and checks what came of it."""
    before = cpu_seconds()
    with kube.port_forward(f"deployment/{PIPELINE}-sink", 9102, namespace=NAMESPACE) as port:
        url = f"http://127.0.0.1:{port}"
        said = publish(messages, image)
        kube.until(lambda: stored(url) >= messages, what=f"{messages} stored readings", seconds=600, every=0.25)
        end = time.time()
    kube.kubectl("delete", "pod", "publisher", namespace=NAMESPACE)
    time.sleep(20)  # the kubelet reads the cgroups every 10 to 15 s
    after = cpu_seconds()
    with gateway(PIPELINE, namespace=NAMESPACE) as client:
        windows = check(client, messages)
    used = {name: after[name] - before.get(name, 0.0) for name in after}
    return Outcome(messages, said["end"] - said["begin"], end - said["begin"], used, windows)


def check(client: Gateway, messages: int) -> int:
    """Fails unless every message is stored and counted once in its window; returns the number of minute windows."""
    counts = client.get("/v1/counts").json()
    assert counts["readings"] == {"meters": messages}, counts
    assert not counts["deadLetters"], counts
    windows = [w for w in client.all("/v1/aggregates", window="Minute") if w["final"]]
    assert windows
    assert all(w["count"] == 60 for w in windows), "every closed minute holds 60 readings"
    assert (
        len(windows) == messages // DEVICES // 60 * DEVICES or len(windows) == (messages // DEVICES - 1) // 60 * DEVICES
    )
    return len(windows)


def report(outcome: Outcome, cores: int) -> str:
    """Returns the section of the documentation."""
    rate = outcome.messages / outcome.stored_seconds
    rows = "\n".join(
        f"| {name} | {seconds:.1f} | {seconds / outcome.messages * 1e6:.1f} |"
        for name, seconds in sorted(outcome.cpu_seconds.items(), key=lambda item: -item[1])
    )
    return f"""## A whole pipeline on the cluster

{outcome.messages:,} messages of {DEVICES} devices (QoS 1, JSON, authenticated) through Mosquitto, bridge (four members,
see decision 44), Kafka, worker (two windows, one threshold; {outcome.windows:,} window results checked) and sink into
MongoDB, all of it and the publisher on the {cores} cores of a kind node:

- acknowledged to devices: {outcome.messages / outcome.acknowledged_seconds:,.0f} messages/s
- **stored: {rate:,.0f} messages/s, {rate / cores:,.0f} per core**, {rate / cores / PEER_PER_CPU:.1f} times what
  ThingsBoard publishes for its cluster (11,111 messages/s on 36 vCPU, {PEER_PER_CPU} per vCPU)

| component | processor seconds | per million messages |
| --- | --- | --- |
{rows}

Repeat: `make up`, then `make bench-cluster`."""


def main() -> None:
    """Runs the measurement and writes its section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=400_000)
    options = parser.parse_args()
    messages = options.messages // (DEVICES * 60) * DEVICES * 60
    image = start_pipeline()
    try:
        outcome = measure(messages, image)
    finally:
        kube.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    cores = os.cpu_count() or 1
    text = report(outcome, cores)
    print(text)
    update_section(PAGE, "cluster", text)
    rate = outcome.messages / outcome.stored_seconds / cores
    print(f"ratio to ThingsBoard's published figure, per core: {rate / PEER_PER_CPU:.1f}")


if __name__ == "__main__":
    main()
