"""The CEL rules of the definition, evaluated: what they refuse and what they let through.

The API server has the last word (tests/e2e); here a rule that says the opposite of its message is seen within a second.
"""

from typing import Any

import celpy
import pytest
from sensorpipeline_api.schema import build_crd

SPEC = build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
FLEET = SPEC["properties"]["fleets"]["items"]


def with_defaults(value: Any, schema: dict[str, Any]) -> Any:
    """Fills in defaults as the API server does."""
    if isinstance(value, dict):
        out = dict(value)
        for name, child in schema.get("properties", {}).items():
            if name not in out and "default" in child:
                out[name] = child["default"]
            if name in out:
                out[name] = with_defaults(out[name], child)
        return out
    if isinstance(value, list):
        return [with_defaults(item, schema["items"]) for item in value]
    return value


def broken(value: Any, schema: dict[str, Any]) -> list[str]:
    """Returns the messages of the rules that a value breaks, itself and what is in it."""
    out = []
    environment = celpy.Environment()
    for rule in schema.get("x-kubernetes-validations", []):
        if "oldSelf" in rule["rule"]:
            continue
        program = environment.program(environment.compile(rule["rule"]))
        if not program.evaluate({"self": celpy.json_to_cel(value)}):
            out.append(rule["message"])
    if isinstance(value, dict):
        for name, child in schema.get("properties", {}).items():
            out += broken(value[name], child) if name in value else []
    if isinstance(value, list):
        out += [message for item in value for message in broken(item, schema["items"])]
    return out


def fleet(**changes: Any) -> dict[str, Any]:
    return {"name": "f", "topic": "f/{device}/m", "metrics": [{"name": "m"}]} | changes


TWO = [{"name": "m"}, {"name": "n"}]
SPARKPLUG = "spBv1.0/plant/DDATA/node/{device}"
CASES: list[tuple[dict[str, Any], str | None]] = [
    (fleet(), None),
    (fleet(payload={"format": "Csv"}), "payload.columns must be set"),
    (fleet(payload={"columns": ["ts"]}), "payload.columns must be set"),
    (fleet(payload={"format": "Csv", "columns": ["ts", "value"]}), None),
    (fleet(payload={"format": "Csv", "columns": ["value"]}), "payload.columns must hold timeField"),
    (fleet(payload={"format": "Csv", "columns": ["value"], "timeUnit": "ReceiveTime"}), None),
    (fleet(payload={"format": "Csv", "columns": ["ts", "v"]}), "metrics[].field must be one of payload.columns"),
    (fleet(payload={"format": "Number"}), "payload.timeUnit must be ReceiveTime"),
    (fleet(payload={"format": "Number", "timeUnit": "ReceiveTime"}), None),
    (fleet(payload={"format": "Number", "timeUnit": "ReceiveTime"}, metrics=TWO), "needs one metric"),
    (fleet(payload={"format": "Number", "timeUnit": "ReceiveTime"}, metrics=TWO, topic="f/{device}/{metric}"), None),
    (fleet(payload={"format": "SparkplugB"}), "topic must be spBv1.0"),
    (fleet(payload={"format": "SparkplugB"}, topic=SPARKPLUG), None),
    (fleet(payload={"format": "SparkplugB"}, topic="spBv1.0/plant/NDATA/{device}"), None),
    (fleet(payload={"format": "SparkplugB"}, topic="spBv1.0/plant/DBIRTH/node/{device}"), "topic must be spBv1.0"),
    (fleet(payload={"format": "SparkplugB", "timeUnit": "Seconds"}, topic=SPARKPLUG), "timeUnit must be Milliseconds"),
]


@pytest.mark.parametrize(("value", "message"), CASES)
def test_a_fleet_is_refused_by_the_rule_that_names_what_must_be(value: dict[str, Any], message: str | None) -> None:
    found = broken(with_defaults(value, FLEET), FLEET)
    if message is None:
        assert found == []
    else:
        assert any(message in text for text in found), found
