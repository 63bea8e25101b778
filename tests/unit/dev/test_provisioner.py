"""The volumes that our provisioner makes for claims, and the claims that it leaves alone."""

import importlib.util
from types import ModuleType
from typing import Any

import pytest
from sensorpipeline_dev.cluster import STORAGE


@pytest.fixture(scope="module")
def provisioner() -> ModuleType:
    specification = importlib.util.spec_from_file_location("provisioner", STORAGE / "provisioner.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def claim(**spec: object) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "data-kafka-0",
            "namespace": "plant",
            "uid": "u1",
            "annotations": {"volume.kubernetes.io/selected-node": "node-1"},
        },
        "spec": {
            "storageClassName": "standard",
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "5Gi"}},
            **spec,
        },
    }


def test_volume_is_local_and_reserved_for_its_claim(provisioner: ModuleType) -> None:
    volume = provisioner.build_volume(claim())
    assert volume["metadata"]["name"] == "pvc-u1"
    assert volume["spec"]["local"] == {"path": "/var/local-volumes/pvc-u1"}
    assert volume["spec"]["claimRef"]["uid"] == "u1"
    assert volume["spec"]["capacity"] == {"storage": "5Gi"}
    assert volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
    assert "node-1" in str(volume["spec"]["nodeAffinity"])


def test_waiting_claims(provisioner: ModuleType) -> None:
    unscheduled = claim()
    unscheduled["metadata"]["annotations"] = {}
    deleted = claim()
    deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    others = [claim(storageClassName="fast"), claim(volumeName="pvc-u1"), unscheduled, deleted]
    assert provisioner.waiting_claims([claim(), *others], set()) == [claim()]
    assert provisioner.waiting_claims([claim()], {"pvc-u1"}) == []
