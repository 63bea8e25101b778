"""JSON schemas for kubeconform, made from Kubernetes' own API description and from our definition: strict, so that a
field that does not exist is an error."""

import json
from pathlib import Path
from typing import Any

from sensorpipeline_api.schema import KIND, build_crd

NUMBER_OR_TEXT = {"io.k8s.apimachinery.pkg.util.intstr.IntOrString", "io.k8s.apimachinery.pkg.api.resource.Quantity"}
OPEN = {"io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps"}
"""Definitions whose objects may have any field: schemas have extensions."""


def write_schemas(swagger: Path, directory: Path) -> None:
    """Writes `<kind>.json` for every kind of Kubernetes and for ours into a directory."""
    definitions = json.loads(swagger.read_text())["definitions"]
    kinds: dict[str, str] = {}
    for name, definition in definitions.items():
        if "properties" in definition and name not in OPEN:
            definition["additionalProperties"] = False
        for kind in definition.get("x-kubernetes-group-version-kind", []):
            parts = [kind["kind"].lower(), kind["group"].split(".")[0], kind["version"]]
            kinds["-".join(part for part in parts if part)] = name
    definitions |= {name: {"type": ["string", "number"]} for name in NUMBER_OR_TEXT}
    (directory / "definitions.json").write_text(json.dumps({"definitions": definitions}))
    for file, name in kinds.items():
        reference = f"file://{directory}/definitions.json#/definitions/{name}"
        (directory / f"{file}.json").write_text(json.dumps({"$ref": reference}))
    ours = build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    strict = _strict(ours)
    strict["properties"]["metadata"] = {"type": "object"}
    (directory / f"{KIND.lower()}-sensorpipeline-v1alpha1.json").write_text(json.dumps(strict))


def _strict(node: dict[str, Any]) -> dict[str, Any]:
    """Returns a schema that refuses unknown fields, as the API server does with strict validation."""
    out = {key: value for key, value in node.items() if not key.startswith("x-kubernetes")}
    if "properties" in out:
        out["properties"] = {name: _strict(child) for name, child in out["properties"].items()}
        out["additionalProperties"] = False
    if "items" in out:
        out["items"] = _strict(out["items"])
    return out
