"""Takes images from the Docker engine into the node, but only those that the node does not have.

The node keeps a list of what was loaded, by name and identity, which ends with the node itself. All images go
in one stream, so that layers that they share are sent once.
"""

import json
import subprocess

from sensorpipeline_dev import docker
from sensorpipeline_dev.kind_config import NODE
from sensorpipeline_dev.progress import output, step

LIST = "/kind/loaded-images.json"


def images_to_load(wanted: dict[str, str], loaded: dict[str, str]) -> list[str]:
    """The images whose identity differs from what the node has, in a stable order."""
    return sorted(image for image, identity in wanted.items() if loaded.get(image) != identity)


def loaded_images() -> dict[str, str]:
    """What the node has, as far as we loaded it."""
    try:
        loaded: dict[str, str] = json.loads(output(["docker", "exec", NODE, "cat", LIST]) or "{}")
    except ValueError:
        return {}
    return loaded


def load_images(images: list[str]) -> list[str]:
    """Load what is missing; the names of what was loaded."""
    wanted = {image: docker.image_id(image) or "" for image in images}
    loaded = loaded_images()
    missing = images_to_load(wanted, loaded)
    if missing:
        with step(f"Load {len(missing)} images into the cluster") as running:
            into = [
                "docker",
                "exec",
                "-i",
                NODE,
                "ctr",
                "--namespace",
                "k8s.io",
                "images",
                "import",
                "--snapshotter",
                "overlayfs",
                "-",
            ]
            running.pipe(["docker", "save", *missing], into)
            remember(loaded | {image: wanted[image] for image in missing})
    return missing


def remember(loaded: dict[str, str]) -> None:
    """Write the list into the node."""
    text = json.dumps(loaded, indent=2)
    subprocess.run(
        ["docker", "exec", "-i", NODE, "tee", LIST], input=text, text=True, stdout=subprocess.DEVNULL, check=True
    )
