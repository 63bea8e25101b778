"""Parameters to MongoDB queries, documents to items, and cursors. Pure.

Lists have a stable order by one or more fields and `_id`; a cursor holds the last item's values of them.
"""

import base64
import binascii
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from bson import ObjectId

from sensorpipeline_workers.gateway.problems import ProblemError

Document = dict[str, Any]


@dataclass(frozen=True)
class Listing:
    """A list of the API: its collection, the time field that `from` and `to` speak of, its filters (parameter to
    document field), and the values of fields that documents of earlier versions lack."""

    collection: str
    time: str
    filters: dict[str, str]
    defaults: dict[str, str] = field(default_factory=dict)


READINGS = Listing("readings", "time", {"fleet": "series.fleet", "device": "series.device", "metric": "series.metric"})
AGGREGATES = Listing(
    "aggregates", "start", {"window": "window", "fleet": "fleet", "device": "device", "metric": "metric"}, {"unit": ""}
)
LATE = Listing("late", "time", {"window": "window", "fleet": "fleet", "device": "device", "metric": "metric"})
ALERTS = Listing("alerts", "time", {"threshold": "threshold", "fleet": "fleet", "device": "device", "state": "state"})
DEAD_LETTERS = Listing("dead_letters", "receivedTime", {"fleet": "fleet", "reason": "reason"})


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
        time, identity = decode_cursor(cursor)
        after = [{listing.time: {"$gt": time}}, {listing.time: time, "_id": {"$gt": identity}}]
        conditions.append({"$or": after})
    return {"$and": conditions} if conditions else {}


def sort(listing: Listing) -> list[tuple[str, int]]:
    """Returns the order of a list: by time, then by `_id`."""
    return [(listing.time, 1), ("_id", 1)]


def encode_cursor(listing: Listing, document: Document) -> str:
    """Returns the cursor that points behind a document."""
    identity = document["_id"]
    kind = "o" if isinstance(identity, ObjectId) else "s"
    content = [round(document[listing.time].timestamp() * 1000), kind, str(identity)]
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode()


def decode_cursor(cursor: str) -> tuple[datetime, ObjectId | str]:
    """Returns time and `_id` of a cursor. Raises ProblemError."""
    try:
        milliseconds, kind, identity = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        moment = datetime.fromtimestamp(milliseconds / 1000, tz=UTC)
        return moment, ObjectId(identity) if kind == "o" else str(identity)
    except (ValueError, TypeError, KeyError, binascii.Error, OverflowError, OSError) as error:
        message = "cursor must be the value of `next` of an earlier answer"
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, message, field="cursor") from error


def item(listing: Listing, document: Document) -> Document:
    """Returns a document as the API shows it: no internals, series flattened, times as text."""
    shown = listing.defaults | document
    out = {key: value for key, value in shown.items() if key not in {"_id", "series", "p", "o", "i"}}
    out |= document.get("series", {})
    return {key: format_time(value) if isinstance(value, datetime) else value for key, value in out.items()}


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
