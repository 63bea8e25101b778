"""The example pipeline on the local cluster: applied, waited for, and its first results shown."""

import base64
import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from rich.console import Console
from rich.table import Table

from sensorpipeline_dev import paths
from sensorpipeline_dev.cluster import kubectl as kubectl_command
from sensorpipeline_dev.errors import DevError
from sensorpipeline_dev.kind_config import NODE_PORTS
from sensorpipeline_dev.progress import console, step

PIPELINE = "building"
NAMESPACE = "default"
GATEWAY = "http://127.0.0.1:30080"
READY_SECONDS = 600
RESULT_SECONDS = 400
TARGETS = {"gateway": ("gateway", 8080), "mqtt": ("mosquitto", 1883), "prometheus": ("prometheus", 9090)}


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    """What kubectl prints on our cluster.

    Raises:
        DevError: with what it said when it fails.
    """
    result = subprocess.run(kubectl_command(*arguments), input=stdin, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise DevError(f"kubectl {' '.join(arguments)}: {result.stderr.strip()}")
    return result.stdout


def show_example() -> None:
    """Applies the example, waits until it is ready and has final daily aggregates, and prints them."""
    with step("applying examples/building.yaml"):
        kubectl("apply", "--server-side", "-n", NAMESPACE, "-f", str(paths.PROJECT / "examples" / "building.yaml"))
        kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(_local_services()))
    _wait_ready()
    token = _secret(f"{PIPELINE}-gateway", "token")
    aggregates = _wait_aggregates(token)
    _print(aggregates)


def _local_services() -> dict[str, Any]:
    """Returns Services that open the example on this machine's 127.0.0.1 through the cluster's port mappings."""
    items = []
    for name, port in NODE_PORTS.items():
        component, target = TARGETS[name]
        labels = {"app.kubernetes.io/instance": PIPELINE, "app.kubernetes.io/component": component}
        ports = [{"port": target, "nodePort": port}]
        items.append({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": f"local-{component}", "namespace": NAMESPACE},
            "spec": {"type": "NodePort", "selector": labels, "ports": ports},
        })  # fmt: skip
    return {"apiVersion": "v1", "kind": "List", "items": items}


def _secret(name: str, key: str) -> str:
    data = json.loads(kubectl("get", "secret", name, "-n", NAMESPACE, "-o", "json"))["data"]
    return base64.b64decode(data[key]).decode()


def _wait_ready() -> None:
    """Waits for Ready=True of the newest generation, saying what is being waited for."""
    deadline = time.monotonic() + READY_SECONDS
    last = ""
    with step(f"waiting for the pipeline {PIPELINE}"):
        while True:
            pipeline = json.loads(kubectl("get", "sensorpipeline", PIPELINE, "-n", NAMESPACE, "-o", "json"))
            conditions = {c["type"]: c for c in pipeline.get("status", {}).get("conditions", [])}
            ready = conditions.get("Ready", {})
            current = ready.get("observedGeneration") == pipeline["metadata"]["generation"]
            if ready.get("status") == "True" and current:
                return
            message = str(ready.get("message", "the operator to see it"))
            if message != last:
                console.print(f"  [dim]{message}[/]")
                last = message
            if time.monotonic() > deadline:
                raise DevError(
                    f"{PIPELINE} is not ready after {READY_SECONDS} s: {message}\n"
                    f"look at: kubectl describe sensorpipeline {PIPELINE}; kubectl get pods"
                )
            time.sleep(1)


def _get(path: str, token: str, **parameters: str) -> dict[str, Any]:
    url = f"{GATEWAY}{path}?{urllib.parse.urlencode(parameters)}"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=20) as response:  # the URL is the constant above
        answer: dict[str, Any] = json.load(response)
    return answer


def _wait_aggregates(token: str) -> list[dict[str, Any]]:
    """Waits until every simulated device has a final daily aggregate."""
    deadline = time.monotonic() + RESULT_SECONDS
    spec = json.loads(kubectl("get", "sensorpipeline", PIPELINE, "-n", NAMESPACE, "-o", "json"))["spec"]
    summed = [f["name"] for f in spec["fleets"] if any(w["function"] != "Difference" for w in f["windows"])]
    devices = {d["name"] for d in spec["simulation"]["devices"] if d["fleet"] in summed and "event" not in d}
    with step("waiting for the first simulated day to end (96 s a day)"):
        while True:
            try:
                items: list[dict[str, Any]] = _get("/v1/aggregates", token, limit="1000")["items"]
            except (urllib.error.URLError, OSError) as error:
                items, problem = [], str(error)
            else:
                problem = f"final aggregates of {sorted({i['device'] for i in items if i['final']})}"
            if devices <= {item["device"] for item in items if item["final"]}:
                return [item for item in items if item["final"]]
            if time.monotonic() > deadline:
                raise DevError(f"no daily aggregates of every device after {RESULT_SECONDS} s; got {problem}")
            time.sleep(2)


def _print(aggregates: list[dict[str, Any]]) -> None:
    table = Table(title="Final daily aggregates")
    for column in ("window", "device", "start", "value", "readings", "revision"):
        table.add_column(column, justify="right" if column in {"value", "readings", "revision"} else "left")
    for item in sorted(aggregates, key=lambda i: (i["start"], i["window"], i["device"])):
        table.add_row(item["window"], item["device"], item["start"][:10], f"{item['value']:.2f}",
                      str(item["count"]), str(item["revision"]))  # fmt: skip
    Console().print(table)
    Console(highlight=False).print(f"""
The pipeline [bold]{PIPELINE}[/] runs.
  API         {GATEWAY}/docs     (token: Secret {PIPELINE}-gateway, key token)
  Prometheus  http://127.0.0.1:30090          (user admin, password: Secret {PIPELINE}-prometheus, key password)
  MQTT        mqtt://127.0.0.1:30883          (user: a device; password: Secret {PIPELINE}-devices-<fleet>)
Look further:
  kubectl get sensorpipelines          the pipelines and whether they are ready
  kubectl describe sensorpipeline {PIPELINE}   conditions and events
  make status                          everything at a glance
  make test                            every test
  make down                            delete the cluster""")
