"""What the OpenAPI document says beside the routes themselves: problems, and the body of a POST."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field

from sensorpipeline_workers.gateway.problems import MEDIA_TYPE

_TEXTS = {
    400: "The body is no JSON, or no request of this protocol.",
    401: "The bearer token is missing or not known.",
    403: "The token does not permit readings of this device or fleet; nothing of the request was taken in.",
    408: "The body did not arrive in time.",
    413: "The body is too large, or holds too many readings.",
    415: "The body is not declared as plain JSON.",
    422: "A parameter or field is not valid; the detail names it.",
    429: "The token has posted too much; try again after `Retry-After` seconds.",
    503: "Kafka or the store does not answer; try again.",
}
INGEST_SCHEME = "ingestToken"
_RETRY = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}


class Rejected(BaseModel):
    """A reading that was not accepted."""

    index: int = Field(description="Its place in the request, from 0.")
    field: str | None = Field(None, description="The field at fault.")
    reason: str = Field(description="As in the dead letter.")
    detail: str = Field(description="What must be.")


class Accepted(BaseModel):
    """What came of the readings of a request."""

    accepted: int = Field(description="Readings that Kafka has.", ge=1)
    rejected: list[Rejected] = Field(description="The others; each is kept under /v1/dead-letters.")


class Problem(BaseModel):
    """Why a request was not answered (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str = Field(description="What must be, naming the field and the limit.")
    field: str | None = Field(None, description="The parameter or field at fault.")
    index: int | None = Field(None, description="Place of the reading at fault, from 0.")
    reason: str | None = Field(None, description="As in the dead letter.")
    rejected: list[Rejected] | None = Field(None, description="Every reading, when none was accepted.")


class Posted(BaseModel):
    """A reading. Fields other than these are ignored."""

    device: str = Field(description="Name of the device.", min_length=1, max_length=128)
    metric: str = Field(description="One of the fleet's metrics.", max_length=63)
    time: int | str = Field(
        description="When it was measured: milliseconds since the epoch, or RFC 3339 with a zone.",
        examples=["2026-01-01T06:00:00Z", 1767247200000],
    )
    value: float
    fleet: str | None = Field(
        None, description="Needed without authentication only, where it cannot be told from the device.", max_length=30
    )


_REFERENCE = {"$ref": "#/components/schemas/Posted"}
READINGS_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {"schema": {"oneOf": [_REFERENCE, {"type": "array", "items": _REFERENCE, "minItems": 1}]}}
    },
}

REMOTE_READ_BODY: dict[str, Any] = {
    "required": True,
    "description": "A ReadRequest of Prometheus' remote read protocol, compressed by snappy.",
    "content": {"application/x-protobuf": {"schema": {"type": "string", "format": "binary"}}},
}


def problems(*statuses: int, answer: str | None = None) -> dict[int | str, dict[str, Any]]:
    """Returns the declaration of a route's errors, and of the media type of its answer if that is not JSON."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    declared: dict[int | str, dict[str, Any]] = {
        status: {"description": _TEXTS.get(status, HTTPStatus(status).phrase), "content": content}
        | ({"headers": _RETRY} if status in {429, 503} else {})
        for status in statuses
    }
    return declared | ({200: {"description": "OK", "content": {answer: {}}}} if answer is not None else {})


def install(application: FastAPI) -> None:
    """Adds the schemas that routes refer to by name."""
    plain = application.openapi

    def document() -> dict[str, Any]:
        made = plain()
        schemas = made.setdefault("components", {}).setdefault("schemas", {})
        for model in (Problem, Posted, Rejected):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schema.pop("$defs", None)
            schemas[model.__name__] = schema
        made["components"].setdefault("securitySchemes", {})[INGEST_SCHEME] = {
            "type": "http",
            "scheme": "bearer",
            "description": "A device's or fleet's password: a key of the Secret `<pipeline>-devices-<fleet>`.",
        }
        return made

    application.openapi = document  # type: ignore[method-assign]
