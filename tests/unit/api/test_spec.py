"""The models of the resource: defaults, refusals, and agreement with the generated definition."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from sensorpipeline_api.schema import build_crd
from sensorpipeline_api.spec import Fleet, SensorPipelineSpec, Threshold

EXAMPLES = Path(__file__).parents[3] / "examples"
SCHEMA = build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]


def apply_defaults(value: Any, schema: dict[str, Any]) -> Any:
    """Fills in defaults as the API server does."""
    if isinstance(value, dict):
        for name, child in schema.get("properties", {}).items():
            if name not in value and "default" in child:
                value[name] = child["default"]
            if name in value:
                value[name] = apply_defaults(value[name], child)
    if isinstance(value, list):
        return [apply_defaults(item, schema["items"]) for item in value]
    return value


def documents(name: str) -> list[dict[str, Any]]:
    return [d for d in yaml.safe_load_all((EXAMPLES / name).read_text()) if d and d["kind"] == "SensorPipeline"]


@pytest.mark.parametrize("name", ["minimal.yaml", "building.yaml", "replay.yaml", "farm.yaml"])
def test_the_api_servers_defaults_and_the_models_agree_on_every_example(name: str) -> None:
    for document in documents(name):
        from_models = SensorPipelineSpec.model_validate(document["spec"])
        from_server = SensorPipelineSpec.model_validate(apply_defaults(document["spec"], SCHEMA))
        assert from_models == from_server


def test_the_smallest_useful_resource_fits_in_fifteen_lines() -> None:
    assert len((EXAMPLES / "minimal.yaml").read_text().strip().splitlines()) <= 15
    (document,) = documents("minimal.yaml")
    spec = SensorPipelineSpec.model_validate(document["spec"])
    assert spec.fleets[0].windows
    assert spec.mqtt.mosquitto is not None
    assert spec.kafka.cluster is not None
    assert spec.store.mongodb is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"topic": "rooms/{device}/#"}, "topic"),
        ({"topic": "rooms/x{device}/t"}, "topic"),
        ({"windows": [{"name": "A", "metric": "t", "function": "Sum", "periodSeconds": 0}]}, "periodSeconds"),
        ({"windows": [{"name": "A", "metric": "t", "function": "Median", "periodSeconds": 60}]}, "function"),
        ({"partitions": 0}, "partitions"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_a_fleet_out_of_bounds_is_refused_naming_the_field(change: dict[str, Any], message: str) -> None:
    good = {"name": "rooms", "topic": "rooms/{device}/temperature", "metrics": [{"name": "t"}]}
    assert Fleet.model_validate(good).partitions == 6
    with pytest.raises(ValidationError, match=message):
        Fleet.model_validate(good | change)


def test_decimal_fields_refuse_what_is_not_a_decimal_number() -> None:
    for bad in ("1e5", "NaN", "", "1,5", "--1"):
        with pytest.raises(ValidationError):
            Threshold.model_validate({"name": "T", "metric": "m", "above": bad})
    assert Threshold.model_validate({"name": "T", "metric": "m", "above": "-1.50"}).above == "-1.50"
