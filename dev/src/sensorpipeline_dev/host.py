"""The machine that everything runs on: its tools, and a Docker engine that answers.

On machines without a service manager the engine is started here, detached, with its log in the cache.
"""

import json
import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from sensorpipeline_dev import paths
from sensorpipeline_dev.capabilities import host_missing_capabilities, render_wrapper
from sensorpipeline_dev.errors import DevError
from sensorpipeline_dev.progress import output, step

ENGINE_START_SECONDS = 60
PID_FILES = {Path("/run/docker.pid"): "dockerd", Path("/run/docker/containerd/containerd.pid"): "containerd"}
INOTIFY_LIMITS = {"max_user_instances": 1024, "max_user_watches": 524288}


def engine_answers() -> bool:
    """Whether a Docker engine answers."""
    return output(["docker", "version", "--format", "{{.Server.Version}}"], timeout=15) is not None


def ensure_engine() -> bool:
    """Have a Docker engine answer.

    Returns:
        whether it had died: no service manager had stopped it in order, so what ran on it is not to be trusted.

    Raises:
        DevError: when there is none to be started, or it does not come up.
    """
    if engine_answers():
        return False
    require("docker", "dockerd")
    managed = Path("/run/systemd/system").is_dir()
    with step("Docker engine") as running:
        if managed:
            running.run(["systemctl", "start", "docker"])
        else:
            start_engine(paths.LOGS / "dockerd.log")
        deadline = time.monotonic() + ENGINE_START_SECONDS
        while not engine_answers():
            if time.monotonic() > deadline:
                raise DevError("The Docker engine does not answer", advice=f"See {paths.LOGS / 'dockerd.log'}")
            time.sleep(0.5)
    return not managed


def start_engine(log: Path) -> None:
    """Start dockerd in a session of its own, so that it outlives the command that needed it."""
    for pid_file, command in PID_FILES.items():
        remove_stale_pid_file(pid_file, command)
    raise_inotify_limits()
    with log.open("ab") as out:
        subprocess.Popen(
            ["dockerd", "--config-file", str(write_engine_configuration())],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
        )


def remove_stale_pid_file(pid_file: Path, command: str) -> None:
    """Remove a pid file whose process is gone, or is another program that was given the same number."""
    try:
        running = Path(f"/proc/{int(pid_file.read_text())}/comm").read_text().strip()
    except (OSError, ValueError):
        running = ""
    if running != command:
        pid_file.unlink(missing_ok=True)


def write_engine_configuration() -> Path:
    """The engine's configuration: none, except a wrapped runc on a machine that lacks capabilities."""
    directory = paths.CACHE / "docker"
    directory.mkdir(parents=True, exist_ok=True)
    configuration: dict[str, object] = {}
    missing = host_missing_capabilities()
    if missing:
        wrapper = directory / "runc-bounded"
        wrapper.write_text(render_wrapper(missing, runc=shutil.which("runc") or "/usr/sbin/runc"))
        wrapper.chmod(0o755)
        configuration = {"runtimes": {"bounded": {"path": str(wrapper)}}, "default-runtime": "bounded"}
    file = directory / "daemon.json"
    file.write_text(json.dumps(configuration, indent=2))
    return file


def raise_inotify_limits() -> None:
    """A node in a container shares these limits with the host; Debian's defaults are too small for it."""
    for name, wanted in INOTIFY_LIMITS.items():
        file = Path("/proc/sys/fs/inotify") / name
        with suppress(OSError):
            if int(file.read_text()) < wanted:
                file.write_text(str(wanted))


def require(*commands: str) -> None:
    """Check that commands are installed.

    Raises:
        DevError: naming those that are not.
    """
    absent = [command for command in commands if shutil.which(command) is None]
    if absent:
        raise DevError(
            f"Not installed: {', '.join(absent)}",
            advice="Run dev/bootstrap (as root, or install them with your package manager).",
        )


def link_tool(binary: Path) -> None:
    """Put a built tool on the PATH, for every user where that may be, when the machine has none of that name."""
    directory = Path("/usr/local/bin")
    if shutil.which(binary.name) is None:
        if not os.access(directory, os.W_OK):
            directory = Path.home() / ".local" / "bin"
            directory.mkdir(parents=True, exist_ok=True)
        link = directory / binary.name
        link.unlink(missing_ok=True)
        link.symlink_to(binary)
