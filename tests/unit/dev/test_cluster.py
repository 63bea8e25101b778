"""What kind is asked for, which images a node still needs, and which pids are stale."""

import os
from pathlib import Path

import yaml
from sensorpipeline_dev.cluster import STORAGE, build_storage
from sensorpipeline_dev.host import remove_stale_pid_file
from sensorpipeline_dev.image_loading import images_to_load
from sensorpipeline_dev.kind_config import build_kind_config
from sensorpipeline_dev.source import Source


def test_kind_config_maps_ports_to_this_machine_alone() -> None:
    config = build_kind_config(Source.PACKAGES, patches="/p")
    (node,) = config["nodes"]
    assert {mapping["listenAddress"] for mapping in node["extraPortMappings"]} == {"127.0.0.1"}
    assert {mapping["hostPort"] for mapping in node["extraPortMappings"]} == {30080, 30883, 30090}
    kinds = [yaml.safe_load(patch)["kind"] for patch in config["kubeadmConfigPatches"]]
    assert kinds == ["KubeletConfiguration", "InitConfiguration"]


def test_pod_network_is_kinds_own_with_its_own_node_image() -> None:
    networks = {source: build_kind_config(source, patches="/p")["networking"] for source in Source}
    assert networks[Source.PACKAGES]["disableDefaultCNI"] is True
    assert networks[Source.REGISTRY]["disableDefaultCNI"] is False


def test_only_changed_images_are_loaded() -> None:
    wanted = {"b:1": "sha256:b", "a:1": "sha256:a", "c:1": "sha256:new"}
    assert images_to_load(wanted, {"b:1": "sha256:b", "c:1": "sha256:old", "d:1": "sha256:d"}) == ["a:1", "c:1"]


def test_a_changed_script_rolls_the_provisioner() -> None:
    manifests = (STORAGE / "local-storage.yaml").read_text()

    def template(script: str) -> dict[str, object]:
        objects = {str(item["kind"]): item for item in build_storage(manifests, script=script, image="python:x")}
        assert objects["ConfigMap"]["data"] == {"provisioner.py": script}
        deployment = yaml.safe_load(yaml.safe_dump(objects["Deployment"]))
        pod: dict[str, object] = deployment["spec"]["template"]
        return pod

    first, second = template("print(1)"), template("print(2)")
    assert first != second
    assert first["spec"] == second["spec"]


def test_pid_file_of_another_program_is_stale(tmp_path: Path) -> None:
    pid_file = tmp_path / "docker.pid"
    pid_file.write_text(str(os.getpid()))
    remove_stale_pid_file(pid_file, "dockerd")
    assert not pid_file.exists()
    pid_file.write_text("999999999")
    remove_stale_pid_file(pid_file, "dockerd")
    assert not pid_file.exists()


def test_pid_file_of_the_running_program_is_kept(tmp_path: Path) -> None:
    pid_file = tmp_path / "docker.pid"
    pid_file.write_text(str(os.getpid()))
    remove_stale_pid_file(pid_file, Path("/proc/self/comm").read_text().strip())
    assert pid_file.exists()
