"""The operator on the local cluster, installed as users do: with helm from the chart."""

from pathlib import Path

from sensorpipeline_dev import paths
from sensorpipeline_dev.kind_config import CONTEXT
from sensorpipeline_dev.kubernetes_build import ensure_program, programs
from sensorpipeline_dev.progress import step
from sensorpipeline_dev.versions import read_versions

NAMESPACE = "sensorpipeline-system"
RELEASE = "sensorpipeline"
CHART = paths.PROJECT / "charts" / "sensorpipeline-operator"


def install_operator() -> None:
    """Install the chart, or upgrade it to this source tree's state, and wait until the operator is ready."""
    helm = ensure_program(programs(read_versions())["helm"])
    options: list[str | Path] = [
        "--namespace",
        NAMESPACE,
        "--create-namespace",
        "--values",
        paths.IMAGE_VALUES,
        "--wait",
        # A CRD that somebody applied with kubectl, or that an uninstalled release kept, becomes this release's.
        "--take-ownership",
    ]
    with step("Operator (helm upgrade --install)") as running:
        running.run([helm, "upgrade", "--install", RELEASE, CHART, "--kube-context", CONTEXT, *options,
                     "--timeout", "90s"])  # fmt: skip
