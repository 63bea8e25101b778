"""A failed write cannot come into effect later.

A write that failed for us (connection lost, process killed, mongod stopped for a minute) may still be waiting in mongod
and be carried out after we have looked whether it was. So all writes of readings are numbered statements of one MongoDB
session ("retryable writes"): mongod carries out one at a time, and none whose number is lower than the highest it has
seen. Whoever writes the fence with a new number has then seen the last of all former writes.

The session is kept in the database and used by every sink of the pipeline in turn; each one takes the next epoch, and
with it higher numbers than all before it. A sink that is still alive somewhere is thereby shut out.
"""

import uuid
from typing import Any, cast

import pymongo
from bson import Binary, Int64
from bson.binary import UUID_SUBTYPE
from pymongo import ReturnDocument
from pymongo.client_session import ClientSession
from pymongo.errors import OperationFailure, WriteConcernError
from pymongo.read_concern import ReadConcern

COLLECTION = "sink"
TRANSACTION_TOO_OLD = 225
NUMBERS_PER_EPOCH = 2**32
WRITE_CONCERN = {"w": "majority", "j": True}


class SupersededError(Exception):
    """Another sink of this pipeline has taken over; this one must end."""

    def __init__(self) -> None:
        super().__init__("another sink of this pipeline has taken over")


def raise_write_concern(answer: dict[str, Any]) -> None:
    """Raises WriteConcernError if a write may be lost with the primary, or be lost already."""
    if trouble := answer.get("writeConcernError"):
        raise WriteConcernError(trouble.get("errmsg", ""), trouble.get("code"), trouble)


class Fence:
    """The session of the sinks of a pipeline. Every method raises PyMongoError or SupersededError."""

    def __init__(self, client: "pymongo.MongoClient[dict[str, Any]]", database: Any) -> None:
        self._client = client
        self._database = database
        self._session: ClientSession | None = None
        self._number = 0
        self._raised = False

    @property
    def session(self) -> ClientSession:
        """The session for writes, and for reads that must see all of them; `raise_` first."""
        assert self._session is not None
        return self._session

    def raise_(self) -> None:
        """Makes sure that no write begun before now can come into effect any more, and that what did is durable."""
        if self._raised:
            return
        if self._session is None:
            self._open()
        update = {"q": {"_id": "fence"}, "u": {"$set": {"number": Int64(self._number + 1)}}, "upsert": True}
        self.write("update", COLLECTION, updates=[update])
        self._raised = True

    def write(self, command: str, collection: str, **parameters: Any) -> dict[str, Any]:
        """Runs a write command as the next statement of the session; returns mongod's answer, which may hold
        writeErrors. When it fails, the fence must be raised again."""
        raised, self._raised = self._raised, False
        self._number += 1
        try:
            answer: dict[str, Any] = self._database.command(
                command, collection, ordered=False, writeConcern=WRITE_CONCERN, txnNumber=Int64(self._number),
                session=self.session, **parameters,
            )  # fmt: skip
        except OperationFailure as error:
            if error.code == TRANSACTION_TOO_OLD:
                raise SupersededError from error
            raise
        if any(error["code"] == TRANSACTION_TOO_OLD for error in answer.get("writeErrors", ())):
            raise SupersededError
        raise_write_concern(answer)
        self._raised = raised
        return answer

    def _open(self) -> None:
        """Takes the next epoch. Epochs are counted in the database: clocks of two machines need not agree."""
        fence = self._database.get_collection(COLLECTION, read_concern=ReadConcern("majority")).find_one_and_update(
            {"_id": "fence"},
            {"$inc": {"epoch": 1}, "$setOnInsert": {"session": Binary(uuid.uuid4().bytes, UUID_SUBTYPE)}},
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        session = self._client.start_session(causal_consistency=True)
        # The driver draws a random identifier; ours is shared by the sinks of the pipeline.
        cast(dict[str, Any], session.session_id)["id"] = Binary(bytes(fence["session"]), UUID_SUBTYPE)
        self._session, self._number = session, int(fence["epoch"]) * NUMBERS_PER_EPOCH
