"""Provides volumes on the node of a local cluster, where kind's own provisioner cannot be had.

Volumes are of type `local`, so that kubelet applies a pod's fsGroup to them (it does not to `hostPath`). The
loop looks at what is there and does what is missing, so it may be killed at any point. The standard library
alone is used: the script runs from a ConfigMap on the plain Python image.
"""

import json
import logging
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

PROVISIONER = "sensorpipeline.io/local-storage"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
STORAGE_CLASS = os.environ.get("STORAGE_CLASS", "standard")
VOLUMES = Path(os.environ.get("VOLUMES_DIRECTORY", "/var/local-volumes"))
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PAUSE_SECONDS = 1.0
CONFLICT = 409
NOT_FOUND = 404

log = logging.getLogger("local-storage")


def call(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One request to the API server; the token is read each time, as it is renewed while we run."""
    address = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}{path}"
    headers = {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}", "Content-Type": "application/json"}
    request = urllib.request.Request(
        address, method=method, headers=headers, data=json.dumps(body).encode() if body else None
    )
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    with urllib.request.urlopen(request, timeout=10, context=context) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def waiting_claims(claims: list[dict[str, Any]], volumes: set[str]) -> list[dict[str, Any]]:
    """The claims of our class that have a node and no volume yet."""
    return [
        claim
        for claim in claims
        if claim["spec"].get("storageClassName") == STORAGE_CLASS
        and SELECTED_NODE in claim["metadata"].get("annotations", {})
        and not claim["spec"].get("volumeName")
        and not claim["metadata"].get("deletionTimestamp")
        and volume_name(claim) not in volumes
    ]


def volume_name(claim: dict[str, Any]) -> str:
    """The same name for the same claim, so that a second attempt finds the first."""
    return f"pvc-{claim['metadata']['uid']}"


def build_volume(claim: dict[str, Any]) -> dict[str, Any]:
    """The volume for a claim."""
    metadata, spec = claim["metadata"], claim["spec"]
    node = metadata["annotations"][SELECTED_NODE]
    on_node = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}
    reference = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"} | {
        key: metadata[key] for key in ("name", "namespace", "uid")
    }
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": volume_name(claim), "annotations": {PROVISIONED_BY: PROVISIONER}},
        "spec": {
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": STORAGE_CLASS,
            "volumeMode": "Filesystem",
            "claimRef": reference,
            "local": {"path": str(VOLUMES / volume_name(claim))},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [on_node]}},
        },
    }


def provide(claim: dict[str, Any]) -> None:
    """Make the directory, then the volume that points to it."""
    directory = VOLUMES / volume_name(claim)
    directory.mkdir(exist_ok=True)
    directory.chmod(0o777)
    try:
        call("POST", "/api/v1/persistentvolumes", build_volume(claim))
    except urllib.error.HTTPError as error:
        if error.code != CONFLICT:
            raise
    log.info("provided %s for %s/%s", directory.name, claim["metadata"]["namespace"], claim["metadata"]["name"])


def remove(name: str) -> None:
    """Delete the data, then the volume: the other way round a crash would leave the data behind."""
    if (VOLUMES / name).is_dir():
        shutil.rmtree(VOLUMES / name)
    try:
        call("DELETE", f"/api/v1/persistentvolumes/{name}")
    except urllib.error.HTTPError as error:
        if error.code != NOT_FOUND:
            raise
    log.info("removed %s", name)


def pass_once() -> None:
    """Bring volumes in line with claims."""
    volumes = [item for item in call("GET", "/api/v1/persistentvolumes")["items"] if is_ours(item)]
    claims = call("GET", "/api/v1/persistentvolumeclaims")["items"]
    for claim in waiting_claims(claims, {volume["metadata"]["name"] for volume in volumes}):
        provide(claim)
    for volume in volumes:
        if volume.get("status", {}).get("phase") == "Released":
            remove(volume["metadata"]["name"])


def is_ours(volume: dict[str, Any]) -> bool:
    """Whether we made a volume."""
    return volume["metadata"].get("annotations", {}).get(PROVISIONED_BY) == PROVISIONER


def main() -> None:
    """Look and act once a second, for ever."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    while True:
        try:
            pass_once()
        except (OSError, KeyError, ValueError):
            log.exception("this pass failed; the next one tries again")
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main()
