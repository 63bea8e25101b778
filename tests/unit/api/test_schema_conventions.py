"""Holds the generated definition to the Kubernetes API conventions that bite."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from sensorpipeline_api.schema import build_crd, structural

SCHEMA = build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def walk(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    if "items" in node:
        yield from walk(node["items"], f"{path}[]")


NODES = list(walk(SCHEMA["properties"]["spec"], "spec")) + list(walk(SCHEMA["properties"]["status"], "status"))
SPEC_NODES = [pair for pair in NODES if pair[0].startswith("spec")]


def nodes_of_type(kind: str, among: list[tuple[str, dict[str, Any]]] = NODES) -> list[Any]:
    return [pytest.param(path, node, id=path) for path, node in among if node.get("type") == kind]


@pytest.mark.parametrize(("path", "node"), [pytest.param(*pair, id=pair[0]) for pair in NODES])
def test_every_node_has_a_type_and_is_structural(path: str, node: dict[str, Any]) -> None:
    assert "type" in node, path
    assert node["type"] in {"object", "array", "string", "integer", "boolean"}, f"{path}: floats are not allowed"
    assert not {"$ref", "anyOf", "oneOf", "allOf", "additionalProperties", "nullable"} & node.keys(), path


@pytest.mark.parametrize(("path", "node"), nodes_of_type("array"))
def test_every_list_has_a_list_type_and_a_maximum(path: str, node: dict[str, Any]) -> None:
    assert node["x-kubernetes-list-type"] in {"map", "set", "atomic"}
    assert node["maxItems"] >= 1
    if node["x-kubernetes-list-type"] == "map":
        assert set(node["x-kubernetes-list-map-keys"]) <= set(node["items"]["required"]), path


@pytest.mark.parametrize(("path", "node"), nodes_of_type("string"))
def test_every_string_is_bounded(path: str, node: dict[str, Any]) -> None:
    assert "maxLength" in node or "enum" in node or node.get("format") == "date-time", path


@pytest.mark.parametrize(("path", "node"), nodes_of_type("integer", SPEC_NODES))
def test_every_number_has_both_bounds(path: str, node: dict[str, Any]) -> None:
    assert node["minimum"] <= node["maximum"], path


@pytest.mark.parametrize(("path", "node"), [pytest.param(*pair, id=pair[0]) for pair in NODES if "." in pair[0]])
def test_every_field_is_described_and_camel_case(path: str, node: dict[str, Any]) -> None:
    assert node.get("description") or path.endswith("[]"), path
    assert re.fullmatch(r"[a-z][A-Za-z0-9]*(\[\])?", path.rsplit(".", 1)[-1]), path


def test_enums_are_camel_case_words() -> None:
    for path, node in NODES:
        for value in node.get("enum", []):
            assert not isinstance(value, str) or re.fullmatch(r"[A-Z][A-Za-z0-9]*", value), path


def test_optional_scalar_fields_have_visible_defaults() -> None:
    """What may be left out and has no default must be a member of a union or have a documented meaning of absence."""
    meaning_of_absence = {
        "periodSeconds", "slideSeconds", "gapSeconds", "calendar", "source", "quantile", "expectedEverySeconds",
        "emitSeconds", "risingFasterThan", "fallingFasterThan", "silentForSeconds",
        "cpu", "memory", "minimum", "maximum", "clear", "above", "below", "metric",
        "discord", "slack", "webhook", "uniform", "counter", "event", "replay",
        "mosquitto", "external", "tls", "secretName", "issuerRef", "caSecretName", "credentialsSecretName",
            "cluster", "mongodb", "prometheus", "server", "alerting", "grafana", "simulation",
    }  # fmt: skip
    for path, node in SPEC_NODES:
        for name, child in node.get("properties", {}).items():
            if name not in node.get("required", []) and "default" not in child:
                assert name in meaning_of_absence, f"{path}.{name}"


def test_a_union_of_two_models_is_refused_by_the_generator() -> None:
    with pytest.raises(ValueError, match="no structural form"):
        structural({"type": "object", "properties": {"a": {"anyOf": [{"type": "string"}, {"type": "integer"}]}}})


def test_the_definition_has_the_status_subresource_and_the_printer_columns() -> None:
    version = build_crd()["spec"]["versions"][0]
    assert version["subresources"] == {"status": {}}
    assert [column["name"] for column in version["additionalPrinterColumns"]] == [
        "Ready", "Reason", "Fleets", "Workers", "Age",
    ]  # fmt: skip
