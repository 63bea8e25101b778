"""Faults from outside the pods, as the node deals them: SIGKILL, SIGSTOP, a network that swallows packets.

`kill -9 1` from within a pod does nothing, since PID 1 of a PID namespace ignores it; from the node it is a process
like any other.
"""

import contextlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from e2e import kube

NODE = "sensorpipeline-control-plane"


def run(*command: str) -> str:
    """Runs a command on the node and returns what it printed."""
    done = subprocess.run(["docker", "exec", NODE, *command], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} on the node: {done.stderr.strip()}")
    return done.stdout


def address() -> str:
    """Returns the node's IP address."""
    addresses = kube.get("node", NODE, namespace="default")["status"]["addresses"]
    return next(str(item["address"]) for item in addresses if item["type"] == "InternalIP")


def processes() -> dict[str, int]:
    """Returns the first process of each container by container id."""
    rows = [line.split() for line in run("ctr", "--namespace", "k8s.io", "tasks", "list").splitlines()[1:]]
    return {row[0]: int(row[1]) for row in rows if row[2] == "RUNNING"}


def main_processes(pods: list[dict[str, Any]]) -> list[int]:
    """Returns the process of the first container of each running pod."""
    known = processes()
    found: list[int] = []
    for pod in pods:
        first = pod["spec"]["containers"][0]["name"]
        for status in pod["status"].get("containerStatuses", []):
            identity = status.get("containerID", "").removeprefix("containerd://")
            if status["name"] == first and identity in known:
                found.append(known[identity])
    return found


def kill(process: int) -> None:
    """Ends a process as a power cut would; one that is gone already is fine."""
    with contextlib.suppress(AssertionError):
        run("kill", "-9", str(process))


@contextmanager
def frozen(process: int) -> Iterator[None]:
    """Stops a process without ending it while the context is open: its connections stay and say nothing."""
    run("kill", "-STOP", str(process))
    try:
        yield
    finally:
        with contextlib.suppress(AssertionError):  # its pod may have been ended meanwhile
            run("kill", "-CONT", str(process))


@contextmanager
def cut_off(process: int, port: int) -> Iterator[None]:
    """Swallows every packet between a pod, named by one of its processes, and a TCP port elsewhere."""
    rules = [("OUTPUT", "--dport"), ("INPUT", "--sport")]
    enter = ["nsenter", "--target", str(process), "--net", "iptables", "--wait"]
    for chain, side in rules:
        run(*enter, "--insert", chain, "--protocol", "tcp", side, str(port), "--jump", "DROP")
    try:
        yield
    finally:
        for chain, side in rules:
            with contextlib.suppress(AssertionError):
                run(*enter, "--delete", chain, "--protocol", "tcp", side, str(port), "--jump", "DROP")
