"""Cache entries are complete or absent, and digests change with what they stand for."""

from pathlib import Path

import pytest
from sensorpipeline_dev.cache import digest, digest_of_files, entry, files_below


def test_digest_keeps_parts_apart() -> None:
    assert digest("ab", "c") != digest("a", "bc")
    assert digest("ab", "c") == digest("ab", "c")
    assert len(digest("x")) == 12


def test_digest_of_files_sees_names_contents_and_modes(tmp_path: Path) -> None:
    (tmp_path / "__pycache__").mkdir()
    file = tmp_path / "a"
    file.write_text("1")

    def now() -> str:
        return digest_of_files(files_below(tmp_path), root=tmp_path)

    first = now()
    (tmp_path / "__pycache__" / "a.pyc").write_text("compiled")
    assert now() == first
    file.write_text("2")
    second = now()
    file.chmod(0o755)
    third = now()
    file.rename(tmp_path / "b")
    assert len({first, second, third, now()}) == 4


def test_entry_is_made_once(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(partial: Path) -> None:
        made.append(partial)
        (partial / "file").write_text("content")

    target = tmp_path / "kubernetes-v1"
    assert entry(target, make) == target
    assert entry(target, make) == target
    assert (target / "file").read_text() == "content"
    assert len(made) == 1


def test_interrupted_entry_is_not_taken_for_a_finished_one(tmp_path: Path) -> None:
    def stop(partial: Path) -> None:
        (partial / "half").write_text("")
        raise KeyboardInterrupt

    target = tmp_path / "kubernetes-v1"
    with pytest.raises(KeyboardInterrupt):
        entry(target, stop)
    assert not target.exists()
    entry(target, lambda partial: (partial / "whole").touch())
    assert [file.name for file in target.iterdir()] == ["whole"]
