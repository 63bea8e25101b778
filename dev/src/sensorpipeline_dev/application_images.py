"""Our own images: operator, workers, simulators.

Their tags are the digest of what goes in, so a changed image has a new name, and Kubernetes rolls out what
uses it. Dependencies come from uv.lock as a directory of wheels, which makes the builds free of the network
and keeps them in a layer of their own: changed code is a small layer.
"""

import shutil
from pathlib import Path

import yaml

from sensorpipeline_dev import docker, paths
from sensorpipeline_dev.cache import digest, digest_of_files, entry, files_below
from sensorpipeline_dev.component_images import ensure_component_image
from sensorpipeline_dev.errors import DevError
from sensorpipeline_dev.progress import Step, output, step
from sensorpipeline_dev.python_packages import IMAGE_PYTHON, build_wheel, locked_requirements, pip
from sensorpipeline_dev.source import Source
from sensorpipeline_dev.versions import Versions, tag

APPLICATIONS = ("operator", "workers", "simulators")
KEPT = 3


def ensure_application_images(source: Source, versions: Versions) -> dict[str, str]:
    """Have every application image; their names by application."""
    python_inputs = ensure_component_image("python", source, versions)
    return {
        application: ensure_application_image(application, versions.images["python"], python_inputs)
        for application in APPLICATIONS
    }


def ensure_application_image(application: str, base: str, base_inputs: str) -> str:
    """Have one application image, named after what goes into it; its name."""
    requirements = locked_requirements(f"sensorpipeline-{application}")
    if requirements is None:
        raise DevError(f"uv.lock does not fit {application}/pyproject.toml", advice="Run uv lock.")
    inputs = digest(base_inputs, requirements, digest_of_files(source_files(application), root=paths.PROJECT))
    image = f"sensorpipeline/{application}:{inputs}"
    if docker.is_current(image, inputs):
        return image
    wheels = ensure_wheelhouse(requirements)
    with step(f"Image {image}") as running:
        context = paths.BUILDS / application
        shutil.rmtree(context, ignore_errors=True)
        context.mkdir(parents=True)
        shutil.copytree(wheels, context / "wheelhouse", copy_function=hardlink)
        for package in ("sensorpipeline-api", f"sensorpipeline-{application}"):
            build_wheel(running, package, context / "packages")
        shutil.copy(paths.PROJECT / application / "Dockerfile", context / "Dockerfile")
        docker.build(running, image, context, inputs=inputs, arguments={"BASE": base})
        remove_older(running, application)
    return image


def source_files(application: str) -> list[Path]:
    """The project's files that go into an image."""
    members = [paths.PROJECT / "crds", paths.PROJECT / application]
    sources = [file for member in members for file in [*files_below(member / "src"), member / "pyproject.toml"]]
    return [*sources, paths.PROJECT / application / "Dockerfile"]


def ensure_wheelhouse(requirements: str) -> Path:
    """A directory with every wheel that the requirements name, and requirements.txt itself."""

    def make(partial: Path) -> None:
        with step("Wheels of the locked dependencies") as running:
            (partial / "requirements.txt").write_text(requirements)
            collect_wheels(running, partial)

    return entry(paths.CACHE / "wheels" / digest(IMAGE_PYTHON, requirements), make)


def collect_wheels(running: Step, directory: Path) -> None:
    """Download wheels, and build those of packages that publish none."""
    pip(
        running,
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        directory,
        "--requirement",
        directory / "requirements.txt",
    )


def hardlink(source: str, target: str) -> None:
    """A copy that costs nothing."""
    Path(target).hardlink_to(source)


def remove_older(running: Step, application: str) -> None:
    """Keep the newest few images of an application; a day's work makes many."""
    listed = (
        output(["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", f"sensorpipeline/{application}"]) or ""
    )
    for image in listed.split()[KEPT:]:
        running.run(["docker", "image", "rm", image])


def write_image_values(images: dict[str, str], file: Path = paths.IMAGE_VALUES) -> None:
    """Write the names of all images as values for the chart."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({"images": images}, sort_keys=True))


def image_values(versions: Versions, applications: dict[str, str]) -> dict[str, str]:
    """The images that the chart is to use, by component."""
    return {component: image for component, image in versions.images.items() if component != "python"} | applications


def describe(images: dict[str, str]) -> str:
    """Names and tags on one line."""
    return ", ".join(f"{name} {tag(image)}" for name, image in images.items())
