"""The tokens by which devices and fleets post: the same generated passwords that they use with MQTT.

Looked up by their digest, so that the time of a look-up says nothing of a token; read again when the Secret changes.
"""

import hashlib
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

FLEET_KEY = "_fleet"
CHECK_SECONDS = 1.0


@dataclass(frozen=True)
class Grant:
    """What a client may post: readings of a device of a fleet; `device` None: of any device, `fleet` None: of any
    fleet, which is so without authentication only."""

    fleet: str | None
    device: str | None


EVERYTHING = Grant(None, None)


class DeviceTokens:
    """The tokens in a directory that holds one directory per fleet, with one file per device or the file `_fleet`."""

    def __init__(self, directory: Path, fleets: list[str]) -> None:
        self._directories = {fleet: directory / fleet for fleet in fleets}
        self._grants: dict[bytes, Grant] = {}
        self._signature: object = None
        self._checked = -CHECK_SECONDS

    def find(self, token: str) -> Grant | None:
        """Returns what a token permits; None for one that is not known."""
        now = time.monotonic()
        if now - self._checked >= CHECK_SECONDS:
            self._checked = now
            self._refresh()
        return self._grants.get(_digest(token))

    def _refresh(self) -> None:
        """Reads the files again when they have changed. While they cannot be read, what was known stays."""
        try:
            signature = [_signature(directory) for directory in self._directories.values()]
            if signature == self._signature:
                return
            self._grants = self._read()
            self._signature = signature
        except OSError as error:
            log.warning("tokens of devices cannot be read: %s", error)

    def _read(self) -> dict[bytes, Grant]:
        grants: dict[bytes, Grant] = {}
        shared: set[bytes] = set()
        for fleet, directory in self._directories.items():
            for path in sorted(directory.iterdir()):
                token = path.read_text().strip() if not path.name.startswith(".") else ""
                if not token:
                    continue
                digest = _digest(token)
                if digest in grants:
                    log.warning("%s of fleet %s shares its password with another user: neither may post", path.name,
                                fleet)  # fmt: skip
                    shared.add(digest)
                grants[digest] = Grant(fleet, None if path.name == FLEET_KEY else path.name)
        return {digest: grant for digest, grant in grants.items() if digest not in shared}


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _signature(directory: Path) -> object:
    """Returns what changes when the files do. Kubernetes swaps the link `..data` of a mounted Secret."""
    link = directory / "..data"
    if link.is_symlink():
        return os.readlink(link)
    return sorted((entry.name, entry.stat().st_mtime_ns) for entry in os.scandir(directory))
