"""The image that a kind node runs from: the official one, or one that we build as kind's own `build node-image`
does.

Building: a Debian with systemd, containerd and kubelet; the images of the control plane are imported into its
containerd in a running container, which is then committed.
"""

import subprocess
import time
from pathlib import Path

from sensorpipeline_dev import docker, paths
from sensorpipeline_dev.cache import digest, digest_of_files, files_below
from sensorpipeline_dev.debian import ensure_base
from sensorpipeline_dev.errors import DevError
from sensorpipeline_dev.kubernetes_build import ensure_kubernetes, ensure_program, programs
from sensorpipeline_dev.progress import Step, output, step
from sensorpipeline_dev.source import Source
from sensorpipeline_dev.versions import Versions

BUILD_CONTAINER = "sensorpipeline-node-build"
CONTAINERD_START_SECONDS = 30
STATIC = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")


def ensure_node_image(source: Source, versions: Versions) -> str:
    """Have the node image; its name."""
    if source is Source.REGISTRY:
        docker.pull(versions.node_image)
        return versions.node_image
    image = versions.built_node_image
    recipes = [
        file
        for name in ("node", "control-plane", "coredns", "kube-proxy", "pause")
        for file in files_below(paths.IMAGES / name)
    ]
    base, base_inputs = ensure_base(versions.packages["debian"])
    inputs = digest(
        digest_of_files(recipes, root=paths.IMAGES), base_inputs, versions.kubernetes, versions.etcd, versions.coredns
    )
    if not docker.is_current(image, inputs):
        build_node_image(image, inputs, versions, base=base, base_inputs=base_inputs)
    return image


def build_node_image(image: str, inputs: str, versions: Versions, *, base: str, base_inputs: str) -> None:
    """Build the control plane's images, a node without them, and put them in."""
    kubernetes = ensure_kubernetes(versions)
    names = control_plane_names(kubernetes / "kubeadm", versions)
    build_control_plane_images(names, kubernetes, versions, base=base, base_inputs=base_inputs)
    empty_node = f"sensorpipeline/node:v{versions.kubernetes}"

    def prepare(running: Step, context: Path) -> None:
        for command in ("kubelet", "kubeadm", "kubectl"):
            (context / command).hardlink_to(kubernetes / command)
        configuration = context / "containerd.toml"
        configuration.write_text(configuration.read_text().replace("@PAUSE@", names["pause"]))

    arguments = {"BASE": base, "VERSION": versions.kubernetes}
    docker.ensure_image(
        empty_node, paths.IMAGES / "node", depends=[base_inputs, names["pause"]], arguments=arguments, prepare=prepare
    )
    with step(f"Image {image}") as running:
        import_and_commit(running, empty_node, image, inputs, list(names.values()))


def control_plane_names(kubeadm: Path, versions: Versions) -> dict[str, str]:
    """The names that kubeadm gives to the images it runs, by component, such as `pause`.

    Raises:
        DevError: when kubeadm does not say.
    """
    listed = output([kubeadm, "config", "images", "list", "--kubernetes-version", f"v{versions.kubernetes}"])
    if listed is None:
        raise DevError("kubeadm does not list its images", advice=f"Remove {kubeadm.parent} to have it built again.")
    return names_by_component(listed)


def names_by_component(listed: str) -> dict[str, str]:
    """Image names, one a line, by component."""
    return {image.rpartition("/")[2].partition(":")[0]: image for image in listed.split()}


def build_control_plane_images(
    names: dict[str, str], kubernetes: Path, versions: Versions, *, base: str, base_inputs: str
) -> None:
    """Build each image of the control plane under the name that kubeadm uses."""
    known = programs(versions)

    def put(binary: Path) -> docker.Prepare:
        return lambda running, context: (context / binary.name).hardlink_to(binary)

    static = {name: kubernetes / name for name in STATIC} | {"etcd": ensure_program(known["etcd"])}
    for name, binary in static.items():
        version = versions.etcd if name == "etcd" else versions.kubernetes
        docker.ensure_image(
            names[name],
            paths.IMAGES / "control-plane",
            depends=[version],
            arguments={"BINARY": name},
            prepare=put(binary),
        )
    docker.ensure_image(
        names["coredns"],
        paths.IMAGES / "coredns",
        depends=[versions.coredns],
        prepare=put(ensure_program(known["coredns"])),
    )
    docker.ensure_image(
        names["kube-proxy"],
        paths.IMAGES / "kube-proxy",
        depends=[base_inputs, versions.kubernetes],
        arguments={"BASE": base},
        prepare=put(kubernetes / "kube-proxy"),
    )
    docker.ensure_image(names["pause"], paths.IMAGES / "pause", depends=[base_inputs], arguments={"BASE": base})


def import_and_commit(running: Step, empty_node: str, image: str, inputs: str, images: list[str]) -> None:
    """Import images into the containerd of a node, and commit the node as an image."""
    inside = ["docker", "exec", "-i", BUILD_CONTAINER]
    subprocess.run(["docker", "rm", "--force", "--volumes", BUILD_CONTAINER], capture_output=True, check=False)
    running.run(
        [
            "docker",
            "run",
            "--detach",
            "--privileged",
            "--name",
            BUILD_CONTAINER,
            "--entrypoint",
            "sleep",
            empty_node,
            "infinity",
        ]
    )
    try:
        running.run(["docker", "exec", "--detach", BUILD_CONTAINER, "containerd"])
        deadline = time.monotonic() + CONTAINERD_START_SECONDS
        while output([*inside, "ctr", "version"]) is None:
            if time.monotonic() > deadline:
                running.fail("containerd does not start in the node image")
            time.sleep(0.3)
        importing = ["ctr", "--namespace", "k8s.io", "images", "import", "--all-platforms", "--no-unpack", "-"]
        running.pipe(["docker", "save", *images], [*inside, *importing])
        running.run([*inside, "pkill", "containerd"])
        entrypoint = 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]'
        changes = ["--change", entrypoint, "--change", f"LABEL {docker.INPUTS_LABEL}={inputs}"]
        running.run(["docker", "commit", *changes, BUILD_CONTAINER, image])
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", BUILD_CONTAINER], capture_output=True, check=False)
