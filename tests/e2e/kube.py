"""What the end-to-end tests need of a cluster: kubectl as people use it, waiting on conditions, port-forwards."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

CONTEXT = "kind-sensorpipeline"
T = TypeVar("T")


class KubectlError(Exception):
    """kubectl ended with an error; the text is what it printed."""


def kubectl(*arguments: str, namespace: str | None = None, stdin: str | None = None, timeout: float = 120) -> str:
    """Runs kubectl against the test cluster and returns what it printed. Raises KubectlError when it fails."""
    command = ["kubectl", "--context", CONTEXT, *(["-n", namespace] if namespace else []), *arguments]
    result = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    if result.returncode != 0:
        raise KubectlError(result.stderr.strip() or result.stdout.strip())
    return result.stdout


def get(kind: str, name: str, *, namespace: str) -> dict[str, Any]:
    """Returns one object. Raises KubectlError when it does not exist."""
    found: dict[str, Any] = json.loads(kubectl("get", kind, name, "-o", "json", namespace=namespace))
    return found


def get_list(kind: str, *, namespace: str, selector: str = "") -> list[dict[str, Any]]:
    """Returns the objects of a kind, or of several separated by commas."""
    arguments = ["get", kind, "-o", "json"] + (["-l", selector] if selector else [])
    items: list[dict[str, Any]] = json.loads(kubectl(*arguments, namespace=namespace))["items"]
    return items


def apply(document: dict[str, Any], *, namespace: str, dry_run: bool = False) -> str:
    """Applies one object server-side with strict field validation, as a user's `kubectl apply` would."""
    extra = ["--dry-run=server"] if dry_run else []
    return kubectl("apply", "-f", "-", "--validate=strict", *extra, namespace=namespace, stdin=json.dumps(document))


def until(check: Callable[[], T | None], *, what: str, seconds: float, every: float = 1.0) -> T:
    """Calls `check` until it answers something true, and returns that. Fails saying what was waited for."""
    deadline = time.monotonic() + seconds
    while True:
        problem = ""
        try:
            if answer := check():
                return answer
        except (KubectlError, OSError) as error:
            problem = f" ({error})"
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s for {what}{problem}")
        time.sleep(every)


def condition(pipeline: dict[str, Any], kind: str) -> dict[str, Any]:
    """Returns the condition of a type from a resource's status, or an empty one."""
    conditions = pipeline.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == kind), {})


def wait_ready(name: str, *, namespace: str, seconds: float = 600) -> dict[str, Any]:
    """Waits until a pipeline's Ready condition is true for its newest generation, and returns the pipeline."""

    def ready() -> dict[str, Any] | None:
        pipeline = get("sensorpipeline", name, namespace=namespace)
        state = condition(pipeline, "Ready")
        current = state.get("observedGeneration") == pipeline["metadata"]["generation"]
        return pipeline if state.get("status") == "True" and current else None

    try:
        return until(ready, what=f"pipeline {namespace}/{name} to be ready", seconds=seconds)
    except AssertionError as error:
        conditions = get("sensorpipeline", name, namespace=namespace).get("status", {}).get("conditions", [])
        lines = [f"{c['type']}={c['status']} {c['reason']}: {c['message']}" for c in conditions]
        pods = kubectl("get", "pods", "-o", "wide", namespace=namespace)
        raise AssertionError("\n".join([str(error), *lines, pods])) from None


@contextmanager
def port_forward(target: str, port: int, *, namespace: str) -> Iterator[int]:
    """Forwards a free port of 127.0.0.1 to a Service or pod of the cluster while the context is open."""
    command = ["kubectl", "--context", CONTEXT, "-n", namespace, "port-forward", target, f":{port}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if "Forwarding from" not in line:
            raise KubectlError(f"port-forward to {target}: {line}")
        yield int(line.split("127.0.0.1:")[1].split(" ")[0])
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def secret_value(name: str, key: str, *, namespace: str) -> str:
    """Returns one decoded value of a Secret."""
    template = f'{{{{index .data "{key}" | base64decode}}}}'
    return kubectl("get", "secret", name, "-o", f"go-template={template}", namespace=namespace)
