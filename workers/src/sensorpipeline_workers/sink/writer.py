"""Documents to collections. Each write may be repeated: readings are looked up by their Kafka position where it is
uncertain whether they are there, everything else has an `_id` made from its content."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pymongo
from pymongo.errors import BulkWriteError
from pymongo.operations import ReplaceOne, UpdateOne
from pymongo.write_concern import WriteConcern
from sensorpipeline_api.configuration import StoreConnection

from sensorpipeline_workers.sink.documents import Document

DUPLICATE_KEY = 11000
Position = tuple[str, int]
"""A fleet and a partition of its readings topic."""


class Writer:
    """The pipeline's database. Raises pymongo.errors.PyMongoError when it cannot be reached."""

    def __init__(self, connection: StoreConnection) -> None:
        uri = Path(connection.uri_file).read_text().strip()
        self._client: pymongo.MongoClient[Document] = pymongo.MongoClient(
            uri, retryWrites=False, serverSelectionTimeoutMS=5000, appname="sink", tz_aware=True
        )
        database = self._client.get_database(connection.database, write_concern=WriteConcern(w="majority", j=True))
        self._database: Any = database
        self._uncertain: set[Position] = set()

    def ready(self) -> bool:
        """Whether the collection of readings exists, which the store agent makes. Raises PyMongoError."""
        return "readings" in self._database.list_collection_names(filter={"name": "readings"})

    def doubt(self, positions: Iterable[Position]) -> None:
        """Says that more may be stored of these partitions than was committed."""
        self._uncertain |= set(positions)

    def readings(self, documents: list[Document]) -> int:
        """Inserts readings that are not there yet, grouped by series; returns how many it inserted."""
        missing, settled = self._missing(documents)
        if missing:
            missing.sort(key=lambda d: (d["series"]["device"], d["series"]["metric"]))
            touched = {(d["series"]["fleet"], d["p"]) for d in missing}
            before = self._uncertain & touched
            self.doubt(touched)
            self._database["readings"].insert_many(missing, ordered=False)
            self._uncertain -= touched - before
        self._uncertain -= settled
        return len(missing)

    def _missing(self, documents: list[Document]) -> tuple[list[Document], set[Position]]:
        """Returns the documents that are not stored, and the partitions of which nothing more is in doubt."""
        first: dict[Position, int] = {}
        for document in documents:
            position = document["series"]["fleet"], document["p"]
            if position in self._uncertain:
                first[position] = min(first.get(position, document["o"]), document["o"])
        stored: set[tuple[str, int, int, int]] = set()
        settled: set[Position] = set()
        for (fleet, partition), offset in first.items():
            query = {"series.fleet": fleet, "p": partition, "o": {"$gte": offset}}
            found = {
                (fleet, partition, row["o"], row["i"])
                for row in self._database["readings"].find(query, {"p": 1, "o": 1, "i": 1, "_id": 0})
            }
            if not found:
                settled.add((fleet, partition))
            stored |= found
        missing = [d for d in documents if (d["series"]["fleet"], d["p"], d["o"], d["i"]) not in stored]
        return missing, settled

    def aggregates(self, documents: list[Document]) -> None:
        """Writes aggregates; of one window the highest revision stays, and the later one of equal revisions."""
        newest: dict[str, Document] = {}
        for document in documents:
            known = newest.get(document["_id"])
            if known is None or document["revision"] >= known["revision"]:
                newest[document["_id"]] = document
        operations = [
            UpdateOne(
                {"_id": key, "revision": {"$lte": document["revision"]}},
                {"$set": {k: v for k, v in document.items() if k != "_id"}},
                upsert=True,
            )
            for key, document in newest.items()
        ]
        try:
            if operations:
                self._database["aggregates"].bulk_write(operations, ordered=False)
        except BulkWriteError as error:
            # An upsert that finds the key taken met a higher revision, which is what should stay.
            if any(e["code"] != DUPLICATE_KEY for e in error.details["writeErrors"]):
                raise

    def replace(self, collection: str, documents: list[Document]) -> None:
        """Writes documents by their `_id`."""
        newest = {document["_id"]: document for document in documents}
        operations = [ReplaceOne({"_id": key}, document, upsert=True) for key, document in newest.items()]
        if operations:
            self._database[collection].bulk_write(operations, ordered=False)
