"""The cluster itself: brought up, kept, taken down.

`up` may be called in any state. A cluster that answers is kept; one that does not, or whose engine died
without a service manager, is deleted and made anew: what is left of its containers looks alive and is not.
"""

import json
import os
import time
from pathlib import Path

import yaml

from sensorpipeline_dev import paths
from sensorpipeline_dev.cache import digest, entry
from sensorpipeline_dev.errors import DevError
from sensorpipeline_dev.host import link_tool, require
from sensorpipeline_dev.kind_config import CLUSTER, CONTEXT, NODE, build_kind_config
from sensorpipeline_dev.kubernetes_build import ensure_kubernetes, ensure_program, programs
from sensorpipeline_dev.progress import Step, note, output, step
from sensorpipeline_dev.source import Source
from sensorpipeline_dev.versions import Versions, tag

ANSWER_SECONDS = 30
READY_SECONDS = 180
STORAGE = paths.DEV / "storage"
NAMESPACE = "local-storage"
KUBECTL_OF_NODE = "/usr/bin/kubectl"


def kubectl(*arguments: str) -> list[str]:
    """A kubectl command on our cluster, whatever the current context is."""
    return ["kubectl", "--context", CONTEXT, *arguments]


def ensure_tools(source: Source, versions: Versions, *, image: str) -> Path:
    """Have kind, Helm and kubectl; kind's path.

    Args:
        source: where images come from.
        versions: what is pinned.
        image: the node image, which is there already; the official one holds a kubectl of its version.

    Raises:
        DevError: when kubectl is not on the PATH even so. Without it a healthy cluster would look like a dead one.
    """
    known = programs(versions)
    link_tool(ensure_program(known["helm"]))
    link_tool(ensure_kubernetes(versions) / "kubectl" if source is Source.PACKAGES else ensure_kubectl(image))
    kind = ensure_program(known["kind"])
    link_tool(kind)
    require("kubectl")
    return kind


def ensure_kubectl(image: str) -> Path:
    """The kubectl of a node image, copied out of it when it is not in the cache."""

    def make(partial: Path) -> None:
        with step(f"kubectl of {image}") as running:
            container = output(["docker", "container", "create", image])
            if container is None:
                running.fail("no container can be created of the image")
            try:
                running.run(["docker", "cp", f"{container.strip()}:{KUBECTL_OF_NODE}", partial / "kubectl"])
            finally:
                output(["docker", "container", "rm", container.strip()])

    return entry(paths.BINARIES / f"kubectl-{tag(image)}", make) / "kubectl"


def node_exists() -> bool:
    """Whether there is a container of our node, in whatever state."""
    return output(["docker", "container", "inspect", NODE]) is not None


def answers(*, patience_seconds: float) -> bool:
    """Whether the API server is ready, or becomes so in a while."""
    deadline = time.monotonic() + patience_seconds
    while output(kubectl("get", "--raw", "/readyz", "--request-timeout=5s")) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(1)
    return True


def runs_image(image: str) -> bool:
    """Whether the node runs from the image as it is now."""
    used = output(["docker", "container", "inspect", "--format", "{{.Image}}", NODE])
    wanted = output(["docker", "image", "inspect", "--format", "{{.Id}}", image])
    return used is not None and used == wanted


def stale_reason(kind: Path, *, engine_started: bool) -> str | None:
    """Why an existing cluster cannot be kept, or None.

    One that works is always kept, whatever image it runs from: somebody may be using it.
    """
    if engine_started:
        return "the Docker engine had stopped under it"
    if output(["docker", "container", "inspect", "--format", "{{.State.Running}}", NODE]) != "true\n":
        return "its node is not running"
    output([kind, "export", "kubeconfig", "--name", CLUSTER])
    if not answers(patience_seconds=ANSWER_SECONDS):
        return f"its API server has not answered for {ANSWER_SECONDS} s"
    return None


def ensure_cluster(kind: Path, image: str, source: Source, *, engine_started: bool) -> None:
    """Have a cluster that answers."""
    if node_exists():
        reason = stale_reason(kind, engine_started=engine_started)
        if reason is None:
            if not runs_image(image):
                note("The cluster runs from an older node image and is kept; for the new one: cluster down, then up")
            return
        note(f"The old cluster is replaced: {reason}")
        delete_cluster(kind)
    create_cluster(kind, image, source)


def create_cluster(kind: Path, image: str, source: Source) -> None:
    """Create the cluster, and leave it in the kubeconfig under its context."""
    configuration = yaml.safe_dump(build_kind_config(source, patches=str(paths.DEV / "kubeadm")))
    with step(f"kind cluster {CLUSTER}") as running:
        running.run(
            [kind, "create", "cluster", "--image", image, "--config", "-", "--wait", "120s"], input_text=configuration
        )
        # One node needs no second CoreDNS.
        running.run(kubectl("--namespace", "kube-system", "scale", "deployment", "coredns", "--replicas=1"))


def delete_cluster(kind: Path) -> None:
    """Delete the cluster, however broken it is."""
    with step(f"Delete kind cluster {CLUSTER}") as running:
        running.run([kind, "delete", "cluster", "--name", CLUSTER])


def ensure_storage(source: Source, image: str) -> None:
    """Have a default storage class that provides volumes; with the official node image kind has done it.

    Args:
        source: where images come from.
        image: the Python image that our provisioner runs on.
    """
    if source is Source.REGISTRY:
        return
    script = (STORAGE / "provisioner.py").read_text()
    objects = build_storage((STORAGE / "local-storage.yaml").read_text(), script=script, image=image)
    with step("Storage") as running:
        apply(running, objects)
        running.run(
            kubectl("--namespace", NAMESPACE, "rollout", "status", "deployment/local-storage", "--timeout=120s")
        )


def build_storage(manifests: str, *, script: str, image: str) -> list[dict[str, object]]:
    """The objects of our provisioner: the manifests with the image, and the script in a ConfigMap; both roll it."""
    objects = list(yaml.safe_load_all(manifests))
    for item in objects:
        if item["kind"] == "Deployment":
            template = item["spec"]["template"]
            template["spec"]["containers"][0]["image"] = image
            template["metadata"]["annotations"] = {"sensorpipeline.io/script": digest(script)}
    metadata = {"name": NAMESPACE, "namespace": NAMESPACE}
    return [
        *objects,
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"provisioner.py": script}},
    ]


def apply(running: Step, objects: list[dict[str, object]]) -> None:
    """Apply objects, in the order in which they are given."""
    text = yaml.safe_dump_all(objects)
    running.run(
        kubectl("apply", "--server-side", "--force-conflicts", "--field-manager=sensorpipeline-dev", "-f", "-"),
        input_text=text,
    )


def wait_until_ready() -> None:
    """Wait for the node and for the name service; everything else needs both."""
    with step("Node and name service ready") as running:
        timeout = f"--timeout={READY_SECONDS}s"
        running.run(kubectl("wait", "--for=condition=Ready", "node", "--all", timeout))
        running.run(kubectl("--namespace", "kube-system", "rollout", "status", "deployment/coredns", timeout))


def kubeconfig() -> Path:
    """The kubeconfig that kind writes to."""
    return Path(os.environ.get("KUBECONFIG", "").partition(":")[0] or Path.home() / ".kube" / "config")


def describe() -> dict[str, str]:
    """The state of the cluster in words, by what is described."""
    if not node_exists():
        return {"cluster": "none"}
    if not answers(patience_seconds=0):
        return {"cluster": "its API server does not answer; `sensorpipeline-dev cluster up` replaces it"}
    version = (
        json.loads(output(kubectl("version", "--output=json")) or "{}")
        .get("serverVersion", {})
        .get("gitVersion", "unknown")
    )
    pods = (output(kubectl("get", "pods", "--all-namespaces", "--no-headers")) or "").splitlines()
    classes = output(kubectl("get", "storageclass", "--output=jsonpath={.items[*].metadata.name}")) or "none"
    return {
        "cluster": CONTEXT,
        "kubernetes": version,
        "pods": str(len(pods)),
        "storage classes": classes,
        "kubeconfig": str(kubeconfig()),
    }


def require_cluster() -> None:
    """Check that there is a cluster.

    Raises:
        DevError: when there is none that answers.
    """
    if not node_exists() or not answers(patience_seconds=5):
        raise DevError("There is no cluster that answers", advice="Run sensorpipeline-dev cluster up.")
