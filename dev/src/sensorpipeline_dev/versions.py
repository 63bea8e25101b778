"""Reads versions.toml, the one place where versions are pinned."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from sensorpipeline_dev import paths


def tag(image: str) -> str:
    """The tag of an image reference: `prom/prometheus:v2.42.0` → `v2.42.0`."""
    return image.rpartition(":")[2]


@dataclass(frozen=True)
class Versions:
    """The tables of versions.toml."""

    kubernetes: str
    etcd: str
    coredns: str
    node_image: str
    tools: dict[str, str]
    images: dict[str, str]
    packages: dict[str, str]

    @property
    def built_node_image(self) -> str:
        """The name of the node image that we build ourselves."""
        return f"kindest/node:v{self.kubernetes}"


def read_versions(file: Path = paths.PROJECT / "versions.toml") -> Versions:
    """Parse versions.toml."""
    tables = tomllib.loads(file.read_text())
    kubernetes = tables["kubernetes"]
    return Versions(
        kubernetes=kubernetes["version"],
        etcd=kubernetes["etcd"],
        coredns=kubernetes["coredns"],
        node_image=kubernetes["node-image"],
        tools=tables["tools"],
        images=tables["images"],
        packages=tables["packages"],
    )
