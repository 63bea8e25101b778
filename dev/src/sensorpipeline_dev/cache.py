"""The cache: what took long to make is made once per set of inputs.

An entry is a directory named after its inputs. It is made under another name and renamed when complete, so an
interrupted build leaves nothing that looks finished.
"""

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def digest(*parts: str) -> str:
    """Twelve hexadecimal digits that change whenever a part does; parts are kept apart."""
    state = hashlib.sha256()
    for part in parts:
        state.update(f"{len(part)}:{part}".encode())
    return state.hexdigest()[:12]


def digest_of_files(files: Iterable[Path], *, root: Path) -> str:
    """A digest over names (relative to `root`), executable bits and contents, independent of order and times."""
    state = hashlib.sha256()
    for file in sorted(files):
        content = file.read_bytes()
        state.update(f"{file.relative_to(root)}:{file.stat().st_mode & 0o111}:{len(content)}:".encode())
        state.update(content)
    return state.hexdigest()[:12]


def files_below(directory: Path) -> list[Path]:
    """All files of a source tree, without what Python leaves behind."""
    return [file for file in sorted(directory.rglob("*")) if file.is_file() and "__pycache__" not in file.parts]


def entry(directory: Path, make: Callable[[Path], None]) -> Path:
    """`directory`, made by `make(partial)` when it is absent.

    Args:
        directory: the finished entry.
        make: fills the directory that it is given; that one is renamed to `directory` when `make` returns.
    """
    if directory.is_dir():
        return directory
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    make(partial)
    partial.rename(directory)
    return directory


@contextmanager
def exclusive(file: Path, *, waiting: Callable[[], None]) -> Iterator[None]:
    """Let one process at a time into the block; `waiting` is called when another one is in it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
