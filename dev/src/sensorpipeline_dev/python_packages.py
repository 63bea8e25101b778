"""Calls of uv and pip for the packages that go into images.

pip comes through uv, as the project's own environment has none; and always for the Python that the images
have.
"""

import os
from pathlib import Path

from sensorpipeline_dev import paths
from sensorpipeline_dev.progress import Step, output

IMAGE_PYTHON = "3.11"
PIP = (
    "uv",
    "run",
    "--no-project",
    "--isolated",
    "--python",
    IMAGE_PYTHON,
    "--with",
    "pip",
    "--with",
    "setuptools",
    "python",
    "-m",
    "pip",
)


def pip(running: Step, *arguments: str | Path) -> None:
    """Run pip for the Python of the images."""
    running.run([*PIP, *arguments], env=environment())


def environment() -> dict[str, str]:
    """This shell's environment without the project's own virtual environment."""
    return {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}


def locked_requirements(package: str) -> str | None:
    """What a workspace member needs besides other members, as uv.lock has it; None when uv.lock does not fit."""
    options = [
        "--frozen",
        "--quiet",
        "--no-dev",
        "--no-emit-workspace",
        "--no-header",
        "--no-annotate",
        "--project",
        str(paths.PROJECT),
    ]
    return output(["uv", "export", *options, "--package", package])


def build_wheel(running: Step, package: str, directory: Path) -> None:
    """Build the wheel of a workspace member."""
    running.run(["uv", "build", "--wheel", "--quiet", "--package", package, "--out-dir", directory], cwd=paths.PROJECT)
