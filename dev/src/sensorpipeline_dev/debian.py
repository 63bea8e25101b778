"""The Debian base that images are built on where no registry answers, from the mirror that this machine itself
uses.
"""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from sensorpipeline_dev import paths
from sensorpipeline_dev.cache import digest
from sensorpipeline_dev.docker import INPUTS_LABEL, is_current
from sensorpipeline_dev.errors import DevError
from sensorpipeline_dev.host import require
from sensorpipeline_dev.progress import step

APT = Path("/etc/apt")
# Like the official slim images: no manuals, no translations; and no suggestions pulled along.
EXCLUDED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "var/cache/apt",
    "var/lib/apt/lists",
)
DPKG_EXCLUDES = "".join(f"path-exclude /{directory}/*\n" for directory in EXCLUDED[:4])
APT_SETTINGS = 'APT::Install-Recommends "false";\nDpkg::Options:: "--force-confold";\n'


def mirrors(sources: Iterable[str]) -> dict[str, str]:
    """The mirror of each suite that apt sources name, in both formats of apt; the first mention counts.

    Returns:
        suite to address, such as `{"bookworm": "http://mirror.example/debian"}`.
    """
    found: dict[str, str] = {}
    for text in sources:
        for address, suite in re.findall(r"^deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)", text, re.MULTILINE):
            found.setdefault(suite, address)
        for paragraph in re.split(r"\n\s*\n", text):
            fields = dict(re.findall(r"^(URIs|Suites):[ \t]*(.+)$", paragraph, re.MULTILINE))
            for suite in fields.get("Suites", "").split():
                found.setdefault(suite, fields.get("URIs", "").split()[0])
    return found


def host_mirrors() -> dict[str, str]:
    """The mirrors of this machine."""
    files = [APT / "sources.list", *sorted((APT / "sources.list.d").glob("*"))]
    return mirrors(file.read_text() for file in files if file.is_file() and file.suffix in (".list", ".sources"))


def render_sources(suite: str, known: dict[str, str]) -> str:
    """The sources.list of the base image: the suite, its updates and its backports.

    Raises:
        DevError: when this machine has no mirror of the suite.
    """
    if suite not in known:
        raise DevError(
            f"The apt sources of this machine name no mirror of Debian {suite}",
            advice="Building from packages needs a Debian machine of that release; otherwise use IMAGES=registry.",
        )
    chosen = {
        f"{suite}-backports": known[suite],
        **{name: uri for name, uri in known.items() if name.startswith(suite)},
    }
    return "".join(f"deb {uri} {name} main\n" for name, uri in sorted(chosen.items()))


def ensure_base(suite: str) -> tuple[str, str]:
    """The base image, made when it is absent: its name and its inputs."""
    image = f"sensorpipeline/debian:{suite}"
    inputs = digest("debian", suite, DPKG_EXCLUDES, APT_SETTINGS)
    if is_current(image, inputs):
        return image, inputs
    require("debootstrap")
    known = host_mirrors()
    sources = render_sources(suite, known)
    with step(f"Debian {suite} base image") as running:
        root = paths.BUILDS / "debian"
        shutil.rmtree(root, ignore_errors=True)
        root.parent.mkdir(parents=True, exist_ok=True)
        running.run(["debootstrap", "--variant=minbase", "--include=ca-certificates", suite, root, known[suite]])
        (root / "etc/apt/sources.list").write_text(sources)
        (root / "etc/apt/apt.conf.d/90image").write_text(APT_SETTINGS)
        (root / "etc/dpkg/dpkg.cfg.d/90image").write_text(DPKG_EXCLUDES)
        for directory in EXCLUDED:
            empty(root / directory)
        changes = [f"LABEL {INPUTS_LABEL}={inputs}", "ENV DEBIAN_FRONTEND=noninteractive"]
        arguments = [word for change in changes for word in ("--change", change)]
        running.pipe(["tar", "-C", str(root), "-c", "."], ["docker", "import", *arguments, "-", image])
        shutil.rmtree(root)
    return image, inputs


def empty(directory: Path) -> None:
    """Remove what is in a directory, not the directory."""
    for child in directory.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()
