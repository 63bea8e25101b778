"""Generates the custom resource definition from the models of `spec.py` and `status.py`.

Pydantic's JSON schema is nearly the structural schema that the API server wants. What differs is changed here:
references are inlined, optional members lose their `null`, titles and other keywords the server refuses go away, and
Kubernetes' integer formats are added.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from sensorpipeline_api.spec import SensorPipelineSpec
from sensorpipeline_api.status import SensorPipelineStatus

GROUP = "sensorpipeline.io"
VERSION = "v1alpha1"
KIND = "SensorPipeline"
PLURAL = "sensorpipelines"

_NAME_RULES = [
    {
        "rule": "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "message": "metadata.name must be a DNS label: lower case letters, digits and '-', starting with a letter",
    },
    {
        "rule": "self.metadata.name.size() <= 30",
        "message": "metadata.name must be no longer than 30 characters",
    },
]

_COLUMNS = [
    {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
    {"name": "Reason", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].reason'},
    {"name": "Fleets", "type": "string", "jsonPath": ".status.fleetNames"},
    {"name": "Workers", "type": "string", "jsonPath": ".status.workers"},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
]

_UNWANTED = {"title", "$defs", "uniqueItems"}


def build_crd() -> dict[str, Any]:
    """Returns the CustomResourceDefinition as plain data."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["sp"],
                "categories": ["all"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": _COLUMNS,
                    "schema": {"openAPIV3Schema": _root()},
                }
            ],
        },
    }


def _root() -> dict[str, Any]:
    return {
        "description": "A complete IoT telemetry pipeline: MQTT, Kafka, stream workers, MongoDB and monitoring.",
        "type": "object",
        "required": ["spec"],
        "x-kubernetes-validations": _NAME_RULES,
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural(SensorPipelineSpec.model_json_schema(by_alias=True, mode="validation")),
            "status": structural(SensorPipelineStatus.model_json_schema(by_alias=True, mode="validation")),
        },
    }


def structural(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns a pydantic JSON schema as a structural schema: no references, no nulls, only known keywords."""
    definitions = schema.get("$defs", {})
    return _convert(schema, definitions)


def _convert(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    node = _resolve(node, definitions)
    out = {key: value for key, value in node.items() if key not in _UNWANTED}
    if "default" in out:
        out["default"] = _without_null(out["default"])
        if out["default"] is None:
            del out["default"]
    if "properties" in out:
        out["properties"] = {name: _convert(child, definitions) for name, child in out["properties"].items()}
    if isinstance(out.get("items"), dict):
        out["items"] = _convert(out["items"], definitions)
    if out.get("additionalProperties") is False:
        del out["additionalProperties"]  # unknown fields are pruned or, with strict validation, refused
    if out.get("type") == "integer":
        out["format"] = "int64"
    if "enum" in out and out.get("type") == "string":
        out["enum"] = list(out["enum"])
    return out


def _without_null(value: Any) -> Any:
    """Returns a default without the members that are null: what is left out has no default."""
    if isinstance(value, dict):
        return {key: _without_null(member) for key, member in value.items() if member is not None}
    return value


def _resolve(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Follows `$ref`, `allOf` of one and `anyOf` with null; the outer keywords win over the definition's."""
    for keyword in ("anyOf", "allOf"):
        if keyword in node:
            members = [member for member in node[keyword] if member.get("type") != "null"]
            if len(members) != 1:
                raise ValueError(f"{keyword} of several members has no structural form: {node}")
            outer = {key: value for key, value in node.items() if key != keyword}
            return _resolve(members[0] | outer, definitions)
    if "$ref" in node:
        target = definitions[node["$ref"].rsplit("/", 1)[-1]]
        outer = {key: value for key, value in node.items() if key != "$ref"}
        return _resolve({**target, **outer}, definitions)
    return node


def render() -> str:
    """Returns the definition as YAML text, with the line that says where it comes from."""
    header = "# Generated from crds/src/sensorpipeline_api by `make crds`. Do not edit.\n"
    return header + yaml.safe_dump(build_crd(), sort_keys=False, width=120, allow_unicode=True)


def main() -> None:
    """Writes the definition to the given files, or with --check exits 1 when one of them is not current."""
    parser = argparse.ArgumentParser(description="Generate the custom resource definition.")
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing, fail when a file is not current")
    arguments = parser.parse_args()
    text = render()
    stale = [path for path in arguments.paths if not path.exists() or path.read_text() != text]
    if arguments.check:
        if stale:
            sys.exit(f"not current: {', '.join(map(str, stale))}; run `make crds`")
        return
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(f"wrote {path}")
