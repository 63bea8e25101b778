"""What we ask of the Docker engine, in words of this project.

Images that we build carry a label with the digest of what went into them; an image whose label fits is not
built again.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from sensorpipeline_dev import paths
from sensorpipeline_dev.cache import digest, digest_of_files, files_below
from sensorpipeline_dev.progress import Step, output, step

INPUTS_LABEL = "io.sensorpipeline.inputs"
Prepare = Callable[[Step, Path], None]
PROXIES = ("http_proxy", "https_proxy", "no_proxy")


def image_id(image: str) -> str | None:
    """The content identity of a local image, or None."""
    found = output(["docker", "image", "inspect", "--format", "{{.Id}}", image])
    return found.strip() if found else None


def inputs_of(image: str) -> str | None:
    """The inputs that a local image was built from, or None when we did not build it."""
    found = output(["docker", "image", "inspect", "--format", f'{{{{index .Config.Labels "{INPUTS_LABEL}"}}}}', image])
    return found.strip() if found else None


def is_current(image: str, inputs: str) -> bool:
    """Whether the local image was built from exactly these inputs."""
    return inputs_of(image) == inputs


def ensure_image(
    image: str,
    recipe: Path,
    *,
    depends: Sequence[str] = (),
    arguments: Mapping[str, str] | None = None,
    prepare: Prepare | None = None,
) -> str:
    """Have an image that was built from a recipe (a directory with a Dockerfile), building it when its inputs changed.

    Args:
        image: its name and tag.
        recipe: the directory; its files are the build context.
        depends: what else goes in: the inputs of the base image, versions of downloaded files.
        arguments: build arguments.
        prepare: adds files that are not in the project to a copy of the recipe.

    Returns:
        the digest of its inputs.
    """
    inputs = digest(
        digest_of_files(files_below(recipe), root=recipe),
        *depends,
        *[f"{name}={value}" for name, value in sorted((arguments or {}).items())],
    )
    if is_current(image, inputs):
        return inputs
    paths.BUILDS.mkdir(parents=True, exist_ok=True)
    with step(f"Image {image}") as running, TemporaryDirectory(dir=paths.BUILDS, prefix="image-") as directory:
        context = Path(directory) / "context"
        shutil.copytree(recipe, context, symlinks=True)
        if prepare:
            prepare(running, context)
        build(running, image, context, inputs=inputs, arguments=arguments)
    return inputs


def build(running: Step, image: str, context: Path, *, inputs: str, arguments: Mapping[str, str] | None = None) -> None:
    """Build an image and label it with its inputs.

    The classic builder is asked for: it takes base images from the engine alone, where BuildKit would ask a registry
    for them. The host's network lets a build reach the package mirror in the way that this machine does.
    """
    command = ["docker", "build", "--network", "host", "--tag", image, "--label", f"{INPUTS_LABEL}={inputs}"]
    for name, value in {**(arguments or {}), **proxies()}.items():
        command += ["--build-arg", f"{name}={value}"]
    running.run([*command, str(context)], env={**os.environ, "DOCKER_BUILDKIT": "0"})


def proxies() -> dict[str, str]:
    """The proxies of this shell: builds need the same ones, and Docker keeps these arguments out of the image."""
    return {name: os.environ[name] for name in PROXIES if name in os.environ}


def pull(image: str) -> None:
    """Have an image from its registry; one that is here already is taken as it is, as tags are pinned."""
    if image_id(image) is None:
        with step(f"Pull {image}") as running:
            running.run(["docker", "pull", "--quiet", image])
