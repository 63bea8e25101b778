"""Parameters to MongoDB queries, documents to items, and cursors. Pure.

Lists have a stable order by time and what identifies a document; a cursor holds the last item's values of them.
"""

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from sensorpipeline_workers.gateway.problems import ProblemError

Document = dict[str, Any]


@dataclass(frozen=True)
class Listing:
    """A list of the API: its collection, the time field that `from` and `to` speak of, its filters (parameter to
    document field), the values of fields that documents of earlier versions lack, and what identifies a document among
    those of the same time."""

    collection: str
    time: str
    filters: dict[str, str]
    defaults: dict[str, str] = field(default_factory=dict)
    identity: tuple[str, ...] = ("_id",)


READINGS = Listing(
    "readings", "time", {"fleet": "series.fleet", "device": "series.device", "metric": "series.metric"},
    identity=("series.device", "series.metric", "series.fleet"),
)  # fmt: skip
AGGREGATES = Listing(
    "aggregates", "start", {"window": "window", "fleet": "fleet", "device": "device", "metric": "metric"}, {"unit": ""}
)
LATE = Listing("late", "time", {"window": "window", "fleet": "fleet", "device": "device", "metric": "metric"})
ALERTS = Listing("alerts", "time", {"threshold": "threshold", "fleet": "fleet", "device": "device", "state": "state"})
DEAD_LETTERS = Listing("dead_letters", "receivedTime", {"fleet": "fleet", "reason": "reason"})


_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?([Zz]|[+-]\d{2}:\d{2})?", re.ASCII)


def check_time(text: Any) -> Any:
    """Returns a parameter that has the form of an RFC 3339 time; the zone may be left out. Raises ValueError."""
    if isinstance(text, str) and not _RFC3339.fullmatch(text):
        raise ValueError("must be an RFC 3339 time, for example 2026-01-01T06:00:00Z")
    return text


def format_time(moment: datetime) -> str:
    """Returns RFC 3339 UTC with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def query(
    listing: Listing, parameters: dict[str, str | None], *, begin: datetime | None, end: datetime | None,
    cursor: str | None,
) -> Document:  # fmt: skip
    """Returns the MongoDB query for a page. `begin` is included, `end` is not. Raises ProblemError for a bad cursor."""
    conditions: list[Document] = []
    for name, value in parameters.items():
        if value is not None:
            conditions.append({listing.filters[name]: value})
    bounds = {op: _utc(moment) for op, moment in (("$gte", begin), ("$lt", end)) if moment is not None}
    if bounds:
        conditions.append({listing.time: bounds})
    if cursor is not None:
        time, identity = decode_cursor(listing, cursor)
        conditions.append({"$or": _after(listing, time, identity)})
    return {"$and": conditions} if conditions else {}


def _after(listing: Listing, time: datetime, identity: list[str]) -> list[Document]:
    """Returns the alternatives, one of which holds for documents behind a place in the list."""
    same: Document = {listing.time: time}
    out: list[Document] = [{listing.time: {"$gt": time}}]
    for name, value in zip(listing.identity, identity, strict=True):
        out.append(same | {name: {"$gt": value}})
        same = same | {name: value}
    return out


def sort(listing: Listing) -> list[tuple[str, int]]:
    """Returns the order of a list: by time, then by what identifies a document."""
    return [(listing.time, 1), *((name, 1) for name in listing.identity)]


def encode_cursor(listing: Listing, document: Document) -> str:
    """Returns the cursor that points behind a document."""
    content = [round(document[listing.time].timestamp() * 1000)]
    content += [_value(document, name) for name in listing.identity]
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode()


def decode_cursor(listing: Listing, cursor: str) -> tuple[datetime, list[str]]:
    """Returns time and identity of the document that a cursor points behind. Raises ProblemError."""
    try:
        milliseconds, *identity = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        moment = datetime.fromtimestamp(milliseconds / 1000, tz=UTC)
        if len(identity) != len(listing.identity) or not all(isinstance(value, str) for value in identity):
            raise ValueError("the cursor is of another list")
        for value in identity:
            value.encode()  # half a surrogate pair is no text that the store could compare
    except (ValueError, TypeError, KeyError, binascii.Error, OverflowError, OSError, RecursionError) as error:
        message = "cursor must be the value of `next` of an earlier answer"
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, message, field="cursor") from error
    return moment, identity


def _value(document: Document, path: str) -> Any:
    """Returns the value of a field by its dotted path."""
    value: Any = document
    for name in path.split("."):
        value = value[name]
    return value


def item(listing: Listing, document: Document) -> Document:
    """Returns a document as the API shows it: no internals, series flattened, times as text."""
    shown = listing.defaults | document
    out = {key: value for key, value in shown.items() if key not in {"_id", "series", "p", "o", "i"}}
    out |= document.get("series", {})
    return {key: format_time(value) if isinstance(value, datetime) else value for key, value in out.items()}


def _utc(moment: datetime) -> datetime:
    """Returns a moment in UTC, by default its own zone. Raises ProblemError for one that UTC cannot express."""
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        message = "from and to must be between the years 1 and 9999 in UTC"
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, message) from error
