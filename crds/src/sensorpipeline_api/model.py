"""The base model and the constrained scalar types that every part of the resource is made of.

Kubernetes' API conventions want bounds on every field, no floats, no nulls and camelCase names; stating that once here
keeps `spec.py` readable.
"""

from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class Model(BaseModel):
    """A frozen model with camelCase names on the wire that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


def rules(*pairs: tuple[str, str]) -> dict[str, Any]:
    """Returns the schema extension for CEL rules, from pairs of (rule, message)."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in pairs]}


def list_map(*keys: str) -> dict[str, Any]:
    """Returns the schema extension for a list whose items are identified by `keys`: duplicates are refused."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


LIST_SET: dict[str, Any] = {"x-kubernetes-list-type": "set"}
LIST_ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}

LabelName = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=30)]
"""A DNS-1123 label that starts with a letter and leaves room for prefixes in children's names."""

ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$", min_length=1, max_length=253)]
"""The name of a Kubernetes object in the same namespace."""

SecretKey = Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$", min_length=1, max_length=253)]

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", min_length=1, max_length=63)]
"""A name that can stand in a CEL expression and in a metric label: windows, metrics, thresholds."""

DeviceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?$", min_length=1, max_length=128)]
"""A device: one MQTT topic level, a Secret key and an MQTT user name."""

DecimalString = Annotated[str, Field(pattern=r"^-?[0-9]{1,18}(\.[0-9]{1,12})?$", min_length=1, max_length=32)]
"""A decimal number as a string, since the API has no floats."""

Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$", min_length=1, max_length=32)]
"""A Kubernetes resource quantity such as `500m` or `1Gi`."""

ColumnName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$", min_length=1, max_length=63)]
"""A column of CSV lines, which carry no header."""

FieldPath = Annotated[
    str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*)*$", min_length=1, max_length=128)
]
"""A field of a JSON payload; dots descend into objects."""


def as_float(value: str) -> float:
    """Returns a `DecimalString` as the nearest float."""
    return float(Decimal(value))


_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def as_bytes(value: str) -> int:
    """Returns a `Quantity` of storage as a number of bytes."""
    number = value.rstrip("".join(_UNITS) + "m")
    unit = value[len(number) :]
    return int(Decimal(number) / 1000) if unit == "m" else int(Decimal(number) * _UNITS[unit])
