"""What we ask of kind: one node, its ports on this machine, and a control plane that leaves room for pipelines."""

from typing import Any

import yaml

from sensorpipeline_dev.source import Source

CLUSTER = "sensorpipeline"
NODE = f"{CLUSTER}-control-plane"
CONTEXT = f"kind-{CLUSTER}"
NODE_PORTS = {"gateway": 30080, "mqtt": 30883, "prometheus": 30090}
PATCHES_IN_NODE = "/kind/patches"


def build_kind_config(source: Source, *, patches: str) -> dict[str, Any]:
    """kind's configuration.

    Args:
        source: a node built from packages brings its own pod network.
        patches: the directory on this machine with kubeadm's patches.
    """
    kubelet = {"kind": "KubeletConfiguration", "failSwapOn": False, "failCgroupV1": False, "maxPods": 250}
    init = {"kind": "InitConfiguration", "patches": {"directory": PATCHES_IN_NODE}}
    ports = [{"containerPort": port, "hostPort": port, "listenAddress": "127.0.0.1"} for port in NODE_PORTS.values()]
    return {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "name": CLUSTER,
        "networking": {"apiServerAddress": "127.0.0.1", "disableDefaultCNI": source is Source.PACKAGES},
        "kubeadmConfigPatches": [yaml.safe_dump(kubelet), yaml.safe_dump(init)],
        "nodes": [
            {
                "role": "control-plane",
                "extraPortMappings": ports,
                "extraMounts": [{"hostPath": patches, "containerPath": PATCHES_IN_NODE, "readOnly": True}],
            }
        ],
    }
