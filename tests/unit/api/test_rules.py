"""The CEL rules of windows and thresholds, evaluated on good and bad ones with the API server's defaults."""

from typing import Any

import celpy
import pytest
from sensorpipeline_api.schema import build_crd

SPEC = build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
FLEET = SPEC["properties"]["fleets"]["items"]["properties"]
WINDOW, THRESHOLD = FLEET["windows"]["items"], FLEET["thresholds"]["items"]


def refusals(schema: dict[str, Any], item: dict[str, Any]) -> list[str]:
    """Returns the messages of the rules that an item breaks."""
    defaults = {name: child["default"] for name, child in schema["properties"].items() if "default" in child}
    subject = celpy.json_to_cel(defaults | item)
    environment = celpy.Environment()
    found = []
    for rule in schema["x-kubernetes-validations"]:
        program = environment.program(environment.compile(rule["rule"]))
        if not program.evaluate({"self": subject}):
            found.append(rule["message"])
    return found


def window(**fields: Any) -> dict[str, Any]:
    return {"name": "W", "metric": "m", "function": "Sum"} | fields


GOOD_WINDOWS = [
    window(periodSeconds=60),
    window(periodSeconds=60, slideSeconds=60),
    window(periodSeconds=640, slideSeconds=10),
    window(gapSeconds=60),
    window(calendar="Day", timeZone="Europe/Athens"),
    window(periodSeconds=60, function="Quantile", quantile="0.9"),
    window(periodSeconds=60, function="Availability", expectedEverySeconds=10),
    window(periodSeconds=60, function="Rate", resetPolicy="Reset"),
    window(periodSeconds=60, emit="Updates", emitSeconds=5),
    window(periodSeconds=3600, source="Minute"),
]


@pytest.mark.parametrize("good", GOOD_WINDOWS, ids=str)
def test_a_good_window_breaks_no_rule(good: dict[str, Any]) -> None:
    assert refusals(WINDOW, good) == []


BAD_WINDOWS = [
    (window(), "exactly one of periodSeconds, gapSeconds and calendar"),
    (window(periodSeconds=60, gapSeconds=60), "exactly one of periodSeconds, gapSeconds and calendar"),
    (window(gapSeconds=60, slideSeconds=10), "slideSeconds must go with periodSeconds"),
    (window(periodSeconds=60, slideSeconds=61), "less than or equal to periodSeconds"),
    (window(periodSeconds=65, slideSeconds=1), "at least a 64th of periodSeconds"),
    (window(periodSeconds=60, timeZone="Europe/Athens"), "timeZone must go with calendar"),
    (window(periodSeconds=60, function="Quantile"), "quantile must be set"),
    (window(periodSeconds=60, quantile="0.5"), "quantile must be set"),
    (window(periodSeconds=60, function="Availability"), "expectedEverySeconds must be set"),
    (window(gapSeconds=60, function="Difference"), "function must not be Difference or Availability with gapSeconds"),
    (window(periodSeconds=60, slideSeconds=6, function="Difference"), "must not be Difference with slideSeconds"),
    (window(periodSeconds=60, resetPolicy="Reset"), "resetPolicy must be Negative"),
    (window(periodSeconds=60, emit="Updates"), "emitSeconds must be set"),
    (window(periodSeconds=60, emitSeconds=5), "emitSeconds must be set"),
    (window(gapSeconds=60, source="Minute"), "source must go with periodSeconds or calendar"),
    (window(periodSeconds=60, source="Minute", allowedLatenessSeconds=5), "allowedLatenessSeconds must be 0"),
    (window(periodSeconds=60, source="W"), "source must name another window"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "message"), BAD_WINDOWS, ids=str)
def test_a_bad_window_breaks_the_rule_that_says_so(bad: dict[str, Any], message: str) -> None:
    (found,) = refusals(WINDOW, bad)
    assert message in found


def test_thresholds_have_one_condition_and_silence_goes_alone() -> None:
    threshold = {"name": "T", "metric": "m"}
    for condition in ("above", "below", "risingFasterThan", "fallingFasterThan"):
        assert refusals(THRESHOLD, threshold | {condition: "5", "clear": "1", "forSeconds": 9}) == []
    assert refusals(THRESHOLD, threshold | {"silentForSeconds": 60}) == []
    for bad in ({}, {"above": "5", "silentForSeconds": 60}, {"above": "5", "below": "1"}):
        assert "exactly one of above" in refusals(THRESHOLD, threshold | bad)[0]
    (found,) = refusals(THRESHOLD, threshold | {"silentForSeconds": 60, "forSeconds": 5})
    assert "must not be set with silentForSeconds" in found
