"""Which capabilities a machine lacks, and what the wrapped runtime does about it."""

import json
import subprocess
from pathlib import Path

import pytest
from sensorpipeline_dev.capabilities import NAMES, missing_capabilities, render_wrapper

LAST = 40


@pytest.mark.parametrize(
    ("bounding", "missing"),
    [
        ("000001ffffffffff", []),
        ("000001fffeffffff", ["CAP_SYS_RESOURCE"]),
        ("000001fffeffdfff", ["CAP_NET_RAW", "CAP_SYS_RESOURCE"]),
    ],
)
def test_missing_capabilities(bounding: str, missing: list[str]) -> None:
    status = f"Name:\tpython\nCapEff:\t0000000000000000\nCapBnd:\t{bounding}\nCapAmb:\t0000000000000000\n"
    assert missing_capabilities(status, LAST) == missing


def test_capabilities_that_an_older_kernel_does_not_know_are_not_missing() -> None:
    assert missing_capabilities("CapBnd:\t0000003fffffffff\n", 37) == []


def test_names_are_in_the_order_of_the_kernel() -> None:
    assert len(NAMES) == LAST + 1
    assert (NAMES[0], NAMES[13], NAMES[21], NAMES[24], NAMES[40]) == (
        "CHOWN",
        "NET_RAW",
        "SYS_ADMIN",
        "SYS_RESOURCE",
        "CHECKPOINT_RESTORE",
    )


@pytest.mark.parametrize("form", ["bundle", "process"])
def test_wrapper_drops_what_is_missing_and_calls_runc(tmp_path: Path, form: str) -> None:
    capabilities = ["CAP_CHOWN", "CAP_SYS_RESOURCE", "CAP_SYS_ADMIN", "CAP_NET_RAW"]
    specification = tmp_path / "config.json"
    specification.write_text(
        json.dumps({"process": {"capabilities": {"bounding": capabilities}}}, separators=(",", ":"))
    )
    wrapper = tmp_path / "runc-bounded"
    wrapper.write_text(render_wrapper(["CAP_SYS_RESOURCE", "CAP_NET_RAW"], runc="echo"))
    wrapper.chmod(0o755)
    arguments = ["--bundle", str(tmp_path)] if form == "bundle" else ["--process", str(specification)]
    called = subprocess.run([str(wrapper), "create", *arguments, "name"], capture_output=True, text=True, check=True)
    assert called.stdout.split() == ["create", *arguments, "name"]
    assert json.loads(specification.read_text())["process"]["capabilities"]["bounding"] == [
        "CAP_CHOWN",
        "CAP_SYS_ADMIN",
    ]
