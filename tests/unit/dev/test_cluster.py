"""What kind is asked for, which images a node still needs, and which pids are stale."""

import os
import shutil
from pathlib import Path

import pytest
import yaml
from sensorpipeline_dev import cluster, paths
from sensorpipeline_dev.cluster import STORAGE, build_storage, ensure_tools
from sensorpipeline_dev.errors import DevError
from sensorpipeline_dev.host import remove_stale_pid_file
from sensorpipeline_dev.image_loading import images_to_load
from sensorpipeline_dev.kind_config import build_kind_config
from sensorpipeline_dev.progress import Step
from sensorpipeline_dev.source import Source
from sensorpipeline_dev.versions import read_versions


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


NODE_IMAGE = "kindest/node:v1.2.3"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """A machine with an empty PATH and cache, whose Docker engine is played; yields what the engine is asked."""
    asked: list[list[str]] = []

    def output(command: list[str]) -> str:
        asked.append(command)
        return "0123\n"

    def run(_: Step, command: list[str | Path]) -> None:
        asked.append([str(word) for word in command])
        Path(command[-1]).write_text("#!/bin/sh\n")
        Path(command[-1]).chmod(0o755)

    monkeypatch.setattr(cluster, "output", output)
    monkeypatch.setattr(Step, "run", run)
    monkeypatch.setattr(cluster, "ensure_program", lambda program: tmp_path / program.name)
    monkeypatch.setattr(paths, "BINARIES", tmp_path / "binaries")
    monkeypatch.setattr(paths, "LOGS", tmp_path / "log")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return asked


def test_with_official_images_kubectl_comes_from_the_node_image(
    engine: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def link(binary: Path) -> None:
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / binary.name).symlink_to(binary)

    monkeypatch.setattr(cluster, "link_tool", link)
    assert ensure_tools(Source.REGISTRY, read_versions(), image=NODE_IMAGE) == tmp_path / "kind"
    assert [command[:3] for command in engine] == [
        ["docker", "container", "create"], ["docker", "cp", "0123:/usr/bin/kubectl"], ["docker", "container", "rm"],
    ]  # fmt: skip
    assert Path(shutil.which("kubectl") or "").resolve() == tmp_path / "binaries" / "kubectl-v1.2.3" / "kubectl"


@pytest.mark.usefixtures("engine")
def test_without_kubectl_nothing_is_judged_by_its_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A healthy cluster would seem not to answer, and be replaced."""
    monkeypatch.setattr(cluster, "link_tool", lambda _: None)
    with pytest.raises(DevError, match="kubectl"):
        ensure_tools(Source.REGISTRY, read_versions(), image=NODE_IMAGE)
