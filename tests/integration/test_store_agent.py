"""The store agent against real mongods: a replica set that grows and shrinks, retention that changes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.conftest import until
from integration.stores import Mongod, description, mongods
from pymongo.errors import PyMongoError
from pymongo.write_concern import WriteConcern
from sensorpipeline_api.configuration import StoreConfiguration
from sensorpipeline_workers.store.agent import StoreAgent
from sensorpipeline_workers.store.collections import compute_collections

DAY = 86400


@pytest.fixture
def three() -> Iterator[list[Mongod]]:
    """Three mongods that are members of nothing yet."""
    with mongods(3, initiate=False) as made:
        yield made


class Store:
    """Three mongods with an agent beside each, which are given a description and visited in turn."""

    def __init__(self, members: list[Mongod], directory: Path) -> None:
        self._members = members
        self._password = directory / "password"
        self._password.write_text("secret")

    def describe(self, number: int) -> StoreConfiguration:
        return description(
            "db", members=[m.host for m in self._members[:number]], admin_username="admin",
            admin_password_file=str(self._password),
        )  # fmt: skip

    def visit_until(self, number: int) -> None:
        """Visits every member until the replica set has the first `number` of them, all of them healthy."""
        wanted = self.describe(number)
        agents = [StoreAgent(wanted, ordinal=n, port=member.port) for n, member in enumerate(self._members)]

        def settled() -> bool:
            waiting = []
            for agent in agents:
                try:
                    waiting.append(agent.visit())
                except PyMongoError as error:
                    waiting.append(str(error))
            return waiting[:number] == [None] * number and self._healthy() == wanted.members

        until(settled, what=f"{number} members", seconds=120)

    def _healthy(self) -> list[str]:
        with self._members[0].client() as client:
            members = client.admin.command("replSetGetStatus")["members"]
            return [m["name"] for m in members if m["stateStr"] in ("PRIMARY", "SECONDARY")]

    def primary(self) -> Mongod:
        def find() -> Mongod | None:
            for member in self._members:
                with member.client() as client:
                    if client.admin.command("hello").get("isWritablePrimary"):
                        return member
            return None

        return until(find, what="a primary")


def write(member: Mongod, key: str) -> None:
    with member.client() as client:
        concern = WriteConcern(w="majority", j=True, wtimeout=20_000)
        client["db"].get_collection("aggregates", write_concern=concern).insert_one({"_id": key})


def read(member: Mongod) -> set[str]:
    with member.client() as client:
        return {document["_id"] for document in client["db"]["aggregates"].find()}


def test_a_replica_set_grows_to_three_and_shrinks_to_one_and_keeps_what_it_has(
    three: list[Mongod], tmp_path: Path
) -> None:
    store = Store(three, tmp_path)
    store.visit_until(1)
    write(three[0], "one")
    store.visit_until(3)
    write(store.primary(), "three")
    for member in three:
        until(lambda m=member: read(m) == {"one", "three"}, what="every member to have all")
    three[0].kill()
    until(lambda: store.primary() is not three[0], what="another primary")
    store.visit_until(3)
    write(store.primary(), "killed")
    store.visit_until(1)  # the primary, which may be one that goes, hands over first
    assert store.primary() is three[0]
    write(three[0], "one again")
    assert read(three[0]) == {"one", "three", "killed", "one again"}


def test_retention_is_changed_where_it_differs(mongodb: str, tmp_path: Path) -> None:
    import pymongo

    with pymongo.MongoClient[dict[str, Any]](mongodb) as client:
        client.drop_database("retention")
        database = client["retention"]
        for readings, aggregates in ((90, 3650), (7, 30), (0, 0), (30, 90)):
            wanted = description("retention", reading_retention_days=readings, aggregate_retention_days=aggregates)
            for _ in range(2):  # the second visit finds nothing to do
                for collection in compute_collections(wanted):
                    StoreAgent(wanted, ordinal=0).keep_collection(database, collection)
            (options,) = [c["options"] for c in database.list_collections(filter={"name": "readings"})]
            (index,) = [i for i in database["aggregates"].list_indexes() if i["name"] == "start"]
            assert options.get("expireAfterSeconds", 0) == readings * DAY
            assert index.get("expireAfterSeconds", 0) == aggregates * DAY
        client.drop_database("retention")
