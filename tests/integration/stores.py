"""Mongods of a test's own, which can be killed, stopped for a while and made slow."""

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pymongo
from integration.conftest import IMAGES, container, free_port, until
from sensorpipeline_api.configuration import StoreConfiguration, StoreConnection
from sensorpipeline_workers.store.agent import StoreAgent
from sensorpipeline_workers.store.collections import compute_collections

# mongod is started again when it ends, as Kubernetes does.
LOOP = "while true; do mongod --replSet rs0 --port {port} --bind_ip 127.0.0.1 --dbpath /tmp {options}; done"
OPTIONS = (
    "--pidfilepath /tmp/mongod.pid --wiredTigerCacheSizeGB 0.25 --quiet --setParameter enableTestCommands=1 "
    "--setParameter ttlMonitorSleepSecs=1"
)


class Mongod:
    """One mongod in a container of its own."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.host = f"127.0.0.1:{port}"
        self.port = port
        self.uri = f"mongodb://{self.host}/?directConnection=true"

    def client(self) -> "pymongo.MongoClient[dict[str, Any]]":
        """Returns a client that gives up soon."""
        return pymongo.MongoClient(self.uri, serverSelectionTimeoutMS=1000, tz_aware=True)

    def initiate(self) -> None:
        """Makes it the first member, and the primary, of the replica set rs0."""
        with self.client() as client:
            members = [{"_id": 0, "host": self.host}]
            client.admin.command("replSetInitiate", {"_id": "rs0", "members": members})
            until(lambda: client.admin.command("hello")["isWritablePrimary"], what="a primary")

    def kill(self) -> None:
        """Ends mongod as a power cut would; it is started again at once."""
        self._docker("exec", self.name, "/bin/sh", "-c", "kill -9 $(cat /tmp/mongod.pid)")

    def pause(self) -> None:
        """Stops mongod; connections stay."""
        self._docker("pause", self.name)

    def go_on(self) -> None:
        """Lets a stopped mongod go on."""
        self._docker("unpause", self.name)

    def delay(self, command: str, milliseconds: int) -> None:
        """Makes the next command of a kind wait before mongod begins with it."""
        with self.client() as client:
            data = {"failCommands": [command], "blockConnection": True, "blockTimeMS": milliseconds}
            client.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=data)

    def _docker(self, *arguments: str) -> None:
        subprocess.run(["docker", *arguments], check=True, capture_output=True)


@contextmanager
def mongods(number: int = 1, *, initiate: bool = True) -> Iterator[list[Mongod]]:
    """Runs mongods that are, or can become, members of the replica set rs0."""
    with ExitStack() as stack:
        made = []
        for _ in range(number):
            port = free_port()
            command = ("/bin/sh", "-c", LOOP.format(port=port, options=OPTIONS))
            made.append(
                Mongod(stack.enter_context(container(IMAGES["mongodb"], *command, options=("--entrypoint", ""))), port)
            )
        for mongod in made:
            with mongod.client() as client:
                until(partial(client.admin.command, "ping"), what="mongod")
        if initiate:
            made[0].initiate()
        yield made


def description(name: str, **changes: Any) -> StoreConfiguration:
    """Returns what a store without users should hold."""
    fields = {
        "pipeline": name, "replica_set": "rs0", "members": [], "database": name, "admin_username": "",
        "admin_password_file": "", "users": [], "reading_retention_days": 0, "aggregate_retention_days": 0,
    }  # fmt: skip
    return StoreConfiguration(**(fields | changes))


@contextmanager
def database(uri: str, directory: Path, **changes: Any) -> Iterator[tuple[StoreConnection, Any]]:
    """Makes a database with the pipeline's collections; yields how to reach it, and itself."""
    name = f"db{uuid.uuid4().hex[:8]}"
    file = directory / f"{name}.uri"
    file.write_text(uri)
    wanted = description(name, **changes)
    agent = StoreAgent(wanted, ordinal=0)
    with pymongo.MongoClient[dict[str, Any]](uri, tz_aware=True) as client:
        for collection in compute_collections(wanted):
            agent.keep_collection(client[name], collection)
        yield StoreConnection(uri_file=str(file), database=name), client[name]


def metric(text: str, name: str) -> float:
    """Returns the sum of a metric over its labels, from what /metrics answered."""
    rows = [
        line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(name + ("{" if "{" not in name else ""))
    ]
    return sum(float(value) for _, value in rows)


def as_records(readings: list[dict[str, Any]], size: int) -> list[tuple[str, Any]]:
    """Returns readings as records of one device each, `size` readings in each, in their order."""
    records: list[tuple[str, Any]] = []
    waiting: dict[str, list[dict[str, Any]]] = {}
    for reading in readings:
        group = waiting.setdefault(reading["device"], [])
        group.append(reading)
        if len(group) == size:
            records.append((reading["device"], waiting.pop(reading["device"])))
    return [*records, *waiting.items()]
