"""Long steps, told as they go: what is running, where its log is, how long it took.

Every command that this package runs goes through `Step.run`, so that its output always ends in a log file and
a failure always names it.
"""

import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from sensorpipeline_dev import paths
from sensorpipeline_dev.errors import DevError

# Progress goes to standard error, so that commands that print a result can be used in scripts.
console = Console(stderr=True, highlight=False, soft_wrap=True)
TAIL_LINES = 15


def slug(title: str) -> str:
    """A file name for a title: lower case, hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", title.lower()).strip("-")


def seconds(duration: float) -> str:
    """Seconds below two minutes, minutes and seconds above."""
    return f"{duration:.1f} s" if duration < 120 else f"{int(duration // 60)} min {int(duration % 60)} s"


class Step:
    """A running step; commands run through it append to its log."""

    def __init__(self, title: str, log: Path) -> None:
        self.title = title
        self.log = log

    def run(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        input_text: str | None = None,
    ) -> None:
        """Run a command with its output in the step's log.

        Raises:
            DevError: when it exits with anything but 0; the message holds the end of its output.
        """
        words = [str(word) for word in command]
        with self.log.open("a") as log:
            log.write(f"$ {shlex.join(words)}\n")
            log.flush()
            try:
                done = subprocess.run(
                    words,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=env,
                    cwd=cwd,
                    input=input_text,
                    text=True,
                    check=False,
                )
            except FileNotFoundError as error:
                raise DevError(
                    f"{self.title}: no command {words[0]}",
                    advice="Run dev/bootstrap, which installs the tools of the host.",
                ) from error
        if done.returncode != 0:
            self.fail(f"{shlex.join(words)[:200]} exited with {done.returncode}")

    def pipe(self, producer: Sequence[str], consumer: Sequence[str]) -> None:
        """Run `producer | consumer`, both with their messages in the step's log."""
        with self.log.open("a") as log:
            log.write(f"$ {shlex.join(producer)} | {shlex.join(consumer)}\n")
            log.flush()
            first = subprocess.Popen(producer, stdout=subprocess.PIPE, stderr=log)
            second = subprocess.run(consumer, stdin=first.stdout, stdout=log, stderr=subprocess.STDOUT, check=False)
            if first.stdout:
                first.stdout.close()
            first.wait()
        if first.returncode != 0 or second.returncode != 0:
            self.fail(f"{producer[0]} | {consumer[0]} failed ({first.returncode}, {second.returncode})")

    def fail(self, message: str) -> NoReturn:
        """Raise with the end of the log."""
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
        raise DevError(f"{self.title}: {message}\n{tail}", advice=f"The whole log is {self.log}")


@contextmanager
def step(title: str) -> Iterator[Step]:
    """Announce a step, time it, and say how it ended."""
    paths.LOGS.mkdir(parents=True, exist_ok=True)
    log = paths.LOGS / f"{slug(title)}.log"
    log.write_text("")
    started = time.monotonic()
    if not console.is_terminal:
        console.print(f"  … {title} [dim](log: {log})[/dim]")
    try:
        with console.status(f"{title} [dim](log: {log})[/dim]"):
            yield Step(title, log)
    except BaseException:
        console.print(f"  [red]✗[/red] {title} [dim]{seconds(time.monotonic() - started)}[/dim]")
        raise
    console.print(f"  [green]✓[/green] {title} [dim]{seconds(time.monotonic() - started)}[/dim]")


@contextmanager
def step_timer() -> Iterator[Callable[[], float]]:
    """Seconds since the start of the block."""
    started = time.monotonic()
    yield lambda: time.monotonic() - started


def note(message: str) -> None:
    """A line that is neither progress nor failure."""
    console.print(f"  [yellow]![/yellow] {message}")


def output(command: Sequence[str | Path], *, timeout: float | None = 60) -> str | None:
    """The standard output of a short query, or None when it fails or takes too long."""
    try:
        done = subprocess.run(
            [str(word) for word in command], capture_output=True, text=True, timeout=timeout, check=False
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
