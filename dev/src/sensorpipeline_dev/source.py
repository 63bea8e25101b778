"""Decides where images come from: a container registry, or language and Debian packages."""

import urllib.error
import urllib.request
from collections.abc import Callable
from enum import StrEnum

from sensorpipeline_dev.errors import DevError

REGISTRIES = ("https://registry-1.docker.io/v2/", "https://registry.k8s.io/v2/")
TIMEOUT_SECONDS = 4.0


class Source(StrEnum):
    """Where images come from."""

    REGISTRY = "registry"
    PACKAGES = "packages"


def answers(url: str) -> bool:
    """Whether a registry speaks at `url`; 401 is an answer (it asks for a token)."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS):
            return True
    except urllib.error.HTTPError as error:
        return error.code == 401
    except OSError:
        return False


def choose_source(wish: str, *, probe: Callable[[str], bool] = answers) -> Source:
    """The source for a wish of auto, registry or packages.

    Raises:
        DevError: for any other wish.
    """
    if wish == "auto":
        return Source.REGISTRY if all(probe(url) for url in REGISTRIES) else Source.PACKAGES
    try:
        return Source(wish)
    except ValueError as error:
        raise DevError(
            f"IMAGES must be auto, registry or packages, not {wish!r}", advice="Leave it out for auto."
        ) from error
