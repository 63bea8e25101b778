"""A batch to the pipeline's database. A batch may be written again after any failure.

A reading is identified by its series and time; the first one that came stays. Time-series collections have no unique
index, so readings that may be stored already (`frontier.py`) are looked up first. Everything else is written over by
its `_id`.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import bson
import bson.json_util
import msgspec
import pymongo
from pymongo.errors import ConfigurationError, OperationFailure
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern
from sensorpipeline_api.configuration import StoreConnection
from sensorpipeline_api.records import Reading

from sensorpipeline_workers.sink.batch import Batch
from sensorpipeline_workers.sink.documents import (
    EncodedDocument,
    ReadingEncoder,
    Series,
    Upsert,
    moment,
    poison_upsert,
)
from sensorpipeline_workers.sink.fence import WRITE_CONCERN, Fence, raise_write_concern
from sensorpipeline_workers.sink.frontier import Found, Frontiers, LookUp, Readings

DUPLICATE_KEY = 11000
MAXIMUM_DOCUMENTS = 20_000
MAXIMUM_BYTES = 8 * 1024 * 1024
MAXIMUM_UPSERTS = 2_000
MAXIMUM_DEVICES = 20_000
ROWS_AT_ONCE = 10_000
SPARE_ROWS = 1_000

EARLY_MILLISECONDS = 2 * 24 * 3600 * 1000
"""MongoDB 6.0 does not find times of the first day of 1970 (as clocks that were reset send) by a lower bound: it
compares with an identifier of the bucket that is a bucket's span older, which wraps around."""

# Errors that mongod may give for one document. Those of the first list say that it will never take it: it becomes a
# dead letter, which holds all of it. Those of the second say nothing about it: the store is in trouble, the batch is
# written again. So it is after any other error, too, but only so often: it must not hold up all for ever.
OF_THE_DOCUMENT = frozenset({
    2,  # BadValue
    9,  # FailedToParse
    14,  # TypeMismatch
    15,  # Overflow
    22,  # InvalidBSON
    52,  # DollarPrefixedFieldName
    121,  # DocumentValidationFailure
    10334,  # BSONObjectTooLarge
    17280,  # KeyTooLong
    DUPLICATE_KEY,
})  # fmt: skip
ATTEMPTS = 10
"""How often a batch is written again after errors of neither list."""
TRANSIENT = frozenset({
    6,  # HostUnreachable
    13,  # Unauthorized
    18,  # AuthenticationFailed
    24,  # LockTimeout
    26,  # NamespaceNotFound
    39,  # FileStreamFailed
    50,  # MaxTimeMSExpired
    64,  # WriteConcernFailed
    89,  # NetworkTimeout
    91,  # ShutdownInProgress
    112,  # WriteConflict
    134,  # ReadConcernMajorityNotAvailableYet
    146,  # ExceededMemoryLimit
    189,  # PrimarySteppedDown
    202,  # NetworkInterfaceExceededTimeLimit
    251,  # NoSuchTransaction
    262,  # ExceededTimeLimit
    317,  # ConnectionPoolExpired
    391,  # ReauthenticationRequired
    9001,  # SocketException
    10107,  # NotWritablePrimary
    11600,  # InterruptedAtShutdown
    11601,  # Interrupted
    11602,  # InterruptedDueToReplStateChange
    13435,  # NotPrimaryNoSecondaryOk
    13436,  # NotPrimaryOrSecondary
    14031,  # OutOfDiskSpace
})  # fmt: skip


@dataclass
class Progress:
    """What is known of a batch that is being written, from its first attempt to its last: which of its readings the
    store did not have before, by fleet, and how many attempts have ended in an error that nobody has foreseen."""

    new: Counter[str] | None = None
    strange_ends: int = 0


@dataclass
class Outcome:
    """What writing a batch did, by fleet."""

    stored: Counter[str] = field(default_factory=Counter)
    duplicates: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)


class Writer:
    """The pipeline's database. Raises pymongo.errors.PyMongoError when it cannot be reached, and
    fence.SupersededError when another sink writes to it."""

    def __init__(self, connection: StoreConnection, *, beat: Callable[[], None] = lambda: None) -> None:
        self._connection = connection
        self._frontiers = Frontiers()
        self._encoder = ReadingEncoder()
        self._beat = beat
        self._progress = Progress()
        self._connect()

    def _connect(self) -> None:
        uri = Path(self._connection.uri_file).read_text().strip()
        self._client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
            uri, retryWrites=False, retryReads=False, serverSelectionTimeoutMS=5000, connectTimeoutMS=5000,
            appname="sink", tz_aware=True,
        )  # fmt: skip
        self._database: Any = self._client.get_database(
            self._connection.database, write_concern=WriteConcern(w="majority", j=True)
        )
        self._readings: Any = self._database.get_collection("readings", read_concern=ReadConcern("majority"))
        self._fence = Fence(self._client, self._database)

    def close(self) -> None:
        """Ends all connections."""
        self._client.close()

    def ready(self) -> bool:
        """Whether the collection of readings exists, which the store agent makes."""
        return "readings" in self._database.list_collection_names(filter={"name": "readings"})

    def write(self, batch: Batch, progress: Progress | None = None) -> Outcome:
        """Stores a batch, of which any part may be stored already. Give the attempts at one batch one `progress`: what
        an attempt that failed has stored then counts as stored, not as found."""
        self._progress = progress or Progress()
        try:
            return self._write(batch)
        except ConfigurationError:
            # A connection that was made before mongod had joined its replica set is taken for one without sessions
            # as long as it lasts.
            self._client.close()
            self._frontiers.forget()
            self._connect()
            raise

    def _write(self, batch: Batch) -> Outcome:
        outcome = Outcome()
        refused = self._write_readings(batch.readings, outcome)
        self._write_upserts([*batch.upserts.values(), *refused], outcome)
        new = self._progress.new or Counter()
        for fleet, count in batch.received.items():
            outcome.stored[fleet] = new[fleet] - outcome.refused[fleet]
            outcome.duplicates[fleet] = count - new[fleet]
        return outcome

    def _write_readings(self, readings: Readings, outcome: Outcome) -> list[Upsert]:
        """Returns the dead letters of readings that MongoDB refuses."""
        if not readings:
            return []
        self._fence.raise_()
        found = Found()
        for question in self._frontiers.look_ups(readings):
            self._look_up(question, found)
        new, after = self._frontiers.begin(readings, found)
        if self._progress.new is None:
            self._progress.new = Counter()
            for (fleet, _, _), values in new.items():
                self._progress.new[fleet] += len(values)
        refused: list[Upsert] = []
        for chunk in _chunks(new):
            refused += self._insert(chunk, outcome)
        self._frontiers.settle(after)
        return refused

    def _look_up(self, question: LookUp, found: Found) -> None:
        devices = list(question.times)
        for start in range(0, len(devices), MAXIMUM_DEVICES):
            part = {device: question.times[device] for device in devices[start : start + MAXIMUM_DEVICES]}
            self._ask(replace(question, times=part), found)

    def _ask(self, question: LookUp, found: Found) -> None:
        """Asks; a question for the newest times whose answer is too long is asked again without that."""
        query = _query(question)
        limit = 2 * question.size + SPARE_ROWS if question.last is None else 0
        rows = 0
        newest: dict[str, int] = {}
        for device, stored_time in self._rows(query, limit):
            rows += 1
            newest[device] = max(stored_time, newest.get(device, stored_time))
            if stored_time in question.times[device]:
                found.stored.setdefault((question.fleet, device, question.metric), set()).add(stored_time)
        if question.last is not None:
            return
        if rows == limit:
            found.incomplete.update((question.fleet, device, question.metric) for device in question.times)
            self._ask(question.closed(), found)
            return
        for device, newest_time in newest.items():
            found.stored.setdefault((question.fleet, device, question.metric), set()).add(newest_time)

    def _rows(self, query: dict[str, Any], limit: int) -> Iterator[tuple[str, int]]:
        """Returns device and time (ms) of stored readings."""
        shape = {"_id": 0, "d": "$series.device", "t": {"$toLong": "$time"}}
        cursor = self._readings.find(query, shape, limit=limit, batch_size=ROWS_AT_ONCE, session=self._fence.session)
        for number, row in enumerate(cursor):
            if number % ROWS_AT_ONCE == 0:
                self._beat()
            yield row["d"], row["t"]

    def _insert(self, chunk: Readings, outcome: Outcome) -> list[Upsert]:
        """Inserts readings, those of a series side by side; returns the dead letters of those that MongoDB refuses."""
        made: list[EncodedDocument] = []
        for series, values in chunk.items():
            made += self._encoder.documents(series, values)
        answer = self._fence.write("insert", "readings", documents=made)
        errors = answer.get("writeErrors", [])
        self._raise_transient(errors)
        if not errors:
            return []
        flat = [(series, time, value) for series, values in chunk.items() for time, value in values.items()]
        refused = [(*flat[error["index"]], str(error.get("errmsg"))) for error in errors]
        for (fleet, _, _), _, _, _ in refused:
            outcome.refused[fleet] += 1
        return [_refused_reading(*parts) for parts in refused]

    def _write_upserts(self, upserts: list[Upsert], outcome: Outcome) -> None:
        collections: dict[str, list[Upsert]] = {}
        for upsert in upserts:
            collections.setdefault(upsert.collection, []).append(upsert)
        for collection, group in collections.items():
            for part in _parts(group):
                poison = self._upsert(collection, part)
                outcome.refused[""] += len(poison)
                for letters in _parts(poison):
                    self._upsert("dead_letters", letters)

    def _upsert(self, collection: str, group: list[Upsert]) -> list[Upsert]:
        """Writes documents by their `_id`; returns the dead letters of those that MongoDB refuses.

        Most documents are new: those of revision 0 are inserted, which costs less, and written over where they exist.
        """
        new = [upsert for upsert in group if upsert.revision == 0]
        revised = [upsert for upsert in group if upsert.revision != 0]
        refused: list[Upsert] = []
        if new:
            errors = self._command("insert", collection, documents=[upsert.document for upsert in new])
            revised += [new[error["index"]] for error in errors if error["code"] == DUPLICATE_KEY]
            refused += [_refused(new[e["index"]], e) for e in errors if e["code"] != DUPLICATE_KEY]
        if revised:
            errors = self._command("update", collection, updates=[upsert.statement for upsert in revised])
            # An upsert that finds the key taken met a higher revision, which is what should stay.
            refused += [_refused(revised[e["index"]], e) for e in errors if e["code"] != DUPLICATE_KEY]
        return refused

    def _command(self, command: str, collection: str, **parameters: Any) -> list[dict[str, Any]]:
        """Runs a write command; returns the errors of single documents that are the documents' own."""
        answer = self._database.command(
            command, collection, ordered=False, writeConcern=WRITE_CONCERN, **parameters
        )  # fmt: skip
        raise_write_concern(answer)
        errors: list[dict[str, Any]] = answer.get("writeErrors", [])
        self._raise_transient(errors)
        return errors

    def _raise_transient(self, errors: list[dict[str, Any]]) -> None:
        """Raises OperationFailure for an error that is not the document's own, or is not known to be."""
        for error in errors:
            code = error["code"]
            strange = code not in TRANSIENT and code not in OF_THE_DOCUMENT
            if strange and self._progress.strange_ends >= ATTEMPTS:
                continue
            if strange:
                self._progress.strange_ends += 1
            if strange or code in TRANSIENT:
                raise OperationFailure(str(error.get("errmsg")), code, error)


def _query(question: LookUp) -> dict[str, Any]:
    """Returns the MongoDB query of a question, which the index series_time answers. The span of times selects buckets,
    the times themselves then spare us the rows between them."""
    query: dict[str, Any] = {
        "series.fleet": question.fleet,
        "series.device": {"$in": list(question.times)},
        "series.metric": question.metric,
    }
    span: dict[str, Any] = {} if question.last is None else {"$lte": moment(question.last)}
    if question.first >= EARLY_MILLISECONDS:
        span["$gte"] = moment(question.first)
        if question.last is not None:
            span["$in"] = [moment(wanted) for wanted in sorted(set().union(*question.times.values()))]
    return query | {"time": span} if span else query


def _chunks(readings: Readings) -> Iterator[Readings]:
    """Splits readings into parts that one command can hold."""
    chunk: Readings = {}
    documents = size = 0
    for series, values in readings.items():
        each = 100 + 4 * sum(map(len, series))
        rest = list(values.items())
        while rest:
            room = max(1, min(MAXIMUM_DOCUMENTS - documents, (MAXIMUM_BYTES - size) // each))
            part, rest = rest[:room], rest[room:]
            chunk[series] = dict(part)
            documents += len(part)
            size += len(part) * each
            if documents >= MAXIMUM_DOCUMENTS or size >= MAXIMUM_BYTES:
                yield chunk
                chunk, documents, size = {}, 0, 0
    if chunk:
        yield chunk


def _parts(upserts: list[Upsert]) -> Iterator[list[Upsert]]:
    """Splits upserts into parts that one command can hold: dead letters may be as large as the messages were."""
    part: list[Upsert] = []
    size = 0
    for upsert in upserts:
        own = len(upsert.document.raw)
        if part and (len(part) >= MAXIMUM_UPSERTS or size + own > MAXIMUM_BYTES):
            yield part
            part, size = [], 0
        part.append(upsert)
        size += own
    if part:
        yield part


def _refused_reading(series: Series, time: int, value: float, message: str) -> Upsert:
    fleet, device, metric = series
    record = msgspec.json.encode([Reading(device, metric, time, value)])
    source = f"store:readings/{fleet}/{device}/{metric}/{time}"
    return poison_upsert(record, source=source, fleet=fleet, now=_now(), error=message)


def _refused(upsert: Upsert, error: dict[str, Any]) -> Upsert:
    document = bson.json_util.dumps(bson.decode(upsert.document.raw)).encode()
    source = f"store:{upsert.collection}/{upsert.key}"
    return poison_upsert(document, source=source, fleet="", now=_now(), error=str(error.get("errmsg")))


def _now() -> int:
    return time.time_ns() // 1_000_000
