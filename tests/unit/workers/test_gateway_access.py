"""Tokens of devices and fleets, and how fast they may post."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensorpipeline_workers.gateway import devices
from sensorpipeline_workers.gateway.devices import DeviceTokens, Grant
from sensorpipeline_workers.gateway.rate import Bucket


def mount(directory: Path, version: str, keys: dict[str, str]) -> None:
    """Mounts a Secret as Kubernetes does: files are links into a folder that is swapped by renaming a link."""
    data = directory / version
    data.mkdir(parents=True)
    for key, value in keys.items():
        (data / key).write_text(value)
        if not (directory / key).is_symlink():
            (directory / key).symlink_to(Path("..data") / key)
    (directory / "..new").symlink_to(version)
    os.replace(directory / "..new", directory / "..data")
    for entry in directory.iterdir():
        if not entry.exists():
            entry.unlink()


@pytest.fixture
def tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DeviceTokens:
    monkeypatch.setattr(devices, "CHECK_SECONDS", 0.0)
    mount(tmp_path / "field", "..1", {"S1": "one", "S2": "two"})
    mount(tmp_path / "barn", "..1", {"_fleet": "all\n"})
    return DeviceTokens(tmp_path, ["field", "barn"])


def test_a_token_is_a_devices_or_a_fleets(tokens: DeviceTokens) -> None:
    assert tokens.find("one") == Grant("field", "S1")
    assert tokens.find("all") == Grant("barn", None)
    assert tokens.find("three") is None
    assert tokens.find("") is None


def test_a_new_password_counts_at_once_and_the_old_one_no_more(tokens: DeviceTokens, tmp_path: Path) -> None:
    assert tokens.find("one") is not None
    mount(tmp_path / "field", "..2", {"S1": "new", "S3": "three"})
    assert tokens.find("new") == Grant("field", "S1")
    assert tokens.find("three") == Grant("field", "S3")
    assert tokens.find("one") is None
    assert tokens.find("two") is None


def test_an_empty_password_opens_nothing(tokens: DeviceTokens, tmp_path: Path) -> None:
    mount(tmp_path / "field", "..2", {"S1": "", "S2": "two"})
    assert tokens.find("") is None
    assert tokens.find("two") is not None


def test_a_password_that_two_users_share_tells_neither_from_the_other(tokens: DeviceTokens, tmp_path: Path) -> None:
    mount(tmp_path / "field", "..2", {"S1": "all", "S2": "two"})
    assert tokens.find("all") is None
    assert tokens.find("two") == Grant("field", "S2")


def test_while_files_cannot_be_read_the_known_tokens_stay(tokens: DeviceTokens, tmp_path: Path) -> None:
    assert tokens.find("one") is not None
    os.rename(tmp_path / "field", tmp_path / "away")
    assert tokens.find("one") is not None


def test_a_large_request_passes_and_is_paid_off_before_the_next() -> None:
    bucket = Bucket(rate=10, capacity=10, now=0.0)
    assert bucket.wait_seconds(now=0.0) == 0
    bucket.pay(45, now=0.0)
    assert bucket.wait_seconds(now=0.0) == 4
    assert bucket.wait_seconds(now=3.4) == 1
    assert bucket.wait_seconds(now=3.6) == 0


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 50)), min_size=1, max_size=60), st.integers(1, 100))
def test_the_mean_rate_holds_whatever_the_sizes_and_times(steps: list[tuple[float, int]], rate: int) -> None:
    bucket = Bucket(rate=rate, capacity=rate, now=0.0)
    now, total = 0.0, 0
    for pause, size in steps:
        now += pause
        if bucket.wait_seconds(now=now) == 0:
            bucket.pay(size, now=now)
            total += size
    assert total <= rate + rate * now + 50
