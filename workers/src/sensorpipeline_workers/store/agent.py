"""Brings mongod to the described state, again and again; every step may be repeated.

The agent talks to the mongod of its own pod. While that has no users yet, MongoDB lets a client on the same host
create the first one (its "localhost exception").
"""

import logging
from typing import Any

import pymongo
from pymongo.errors import OperationFailure
from sensorpipeline_api.configuration import StoreConfiguration, StoreUser

from sensorpipeline_workers.runtime.kafka import read_secret
from sensorpipeline_workers.store.collections import Collection, Index, compute_collections

log = logging.getLogger(__name__)

AUTHENTICATION_FAILED = 18
STEP_DOWN_SECONDS = 60
HOST = "127.0.0.1"


class StoreAgent:
    """One visit is `visit`; it returns what is still being waited for, or None when all is as described."""

    def __init__(self, configuration: StoreConfiguration, *, ordinal: int, port: int = 27017) -> None:
        self._configuration = configuration
        self._ordinal = ordinal
        self._port = port
        self._passwords: dict[str, str] = {}

    def visit(self) -> str | None:
        """Brings the state nearer to the description. Raises PyMongoError when mongod cannot be reached."""
        password = read_secret(self._configuration.admin_password_file)
        with self._client(username=self._configuration.admin_username, password=password) as client:
            try:
                role = self._role(client)
            except OperationFailure as error:
                if error.code != AUTHENTICATION_FAILED:
                    raise
                return self._first_steps(password)
            if role == "secondary":
                return None
            if role != "primary":
                return f"a primary to be elected ({role})"
            self._keep_members(client)
            database = client[self._configuration.database]
            for user in self._configuration.users:
                self._keep_user(database, user)
            for collection in compute_collections(self._configuration):
                self.keep_collection(database, collection)
        return None

    def _client(self, username: str | None = None, password: str | None = None) -> pymongo.MongoClient[dict[str, Any]]:
        return pymongo.MongoClient(
            HOST,
            self._port,
            directConnection=True,
            serverSelectionTimeoutMS=3000,
            appname="store-agent",
            username=username,
            password=password,
        )

    def _role(self, client: pymongo.MongoClient[dict[str, Any]]) -> str:
        client.admin.command("connectionStatus")  # authenticates, which `hello` does not
        hello = client.admin.command("hello")
        if hello.get("isWritablePrimary"):
            return "primary"
        return "secondary" if hello.get("secondary") else "neither primary nor secondary"

    def _first_steps(self, password: str) -> str:
        """Initiates the replica set and creates the administrator, on the first member alone."""
        if self._ordinal != 0:
            return "the first member to initiate the replica set"
        with self._client() as client:
            hello = client.admin.command("hello")
            if not hello.get("setName"):
                client.admin.command("replSetInitiate", self._replica_set(version=1))
                log.info("initiated the replica set")
                return "the first election"
            if not hello.get("isWritablePrimary"):
                return "the first election"
            roles = [{"role": "root", "db": "admin"}]
            client.admin.command("createUser", self._configuration.admin_username, pwd=password, roles=roles)
            log.info("created the administrator")
        return "users and collections"

    def _replica_set(self, *, version: int) -> dict[str, Any]:
        members = [{"_id": number, "host": host} for number, host in enumerate(self._configuration.members)]
        return {"_id": self._configuration.replica_set, "version": version, "members": members}

    def _keep_members(self, client: pymongo.MongoClient[dict[str, Any]]) -> None:
        """Adds or removes one member at a time, as MongoDB asks for."""
        current = client.admin.command("replSetGetConfig")["config"]
        have = [member["host"] for member in current["members"]]
        wanted = self._configuration.members
        if have == wanted:
            return
        extra = [member for member in current["members"] if member["host"] not in wanted]
        lacking = [(number, host) for number, host in enumerate(wanted) if host not in have]
        own = client.admin.command("hello")["me"]
        others = [member for member in extra if member["host"] != own]
        if lacking:
            number, host = lacking[0]
            current["members"].append({"_id": number, "host": host})
        elif others:
            current["members"].remove(others[-1])
        else:  # only this primary is left to go, and the one that stays removes it
            client.admin.command("replSetStepDown", STEP_DOWN_SECONDS)
            log.info("handed over to %s", wanted)
            return
        current["version"] += 1
        client.admin.command("replSetReconfig", current)
        log.info("changed the members from %s", have)

    def _keep_user(self, database: Any, user: StoreUser) -> None:
        password = read_secret(user.password_file)
        if self._passwords.get(user.username) == password:
            return
        roles = [{"role": user.role, "db": self._configuration.database}]
        known = database.command("usersInfo", user.username)["users"]
        database.command("updateUser" if known else "createUser", user.username, pwd=password, roles=roles)
        self._passwords[user.username] = password
        log.info("%s user %s", "updated" if known else "created", user.username)

    def keep_collection(self, database: Any, collection: Collection) -> None:
        """Creates a collection and its indexes, and changes what differs."""
        found = next(iter(database.list_collections(filter={"name": collection.name})), None)
        if found is None:
            expire = {"expireAfterSeconds": collection.expire_after} if collection.expire_after else {}
            database.create_collection(collection.name, **collection.options, **expire)
            log.info("created the collection %s", collection.name)
        elif found["type"] == "timeseries":
            self._keep_time_series(database, collection, found["options"])
        existing = {index["name"]: index for index in database[collection.name].list_indexes()}
        for index in collection.indexes:
            self._keep_index(database, collection.name, index, existing.get(index.name))
        for name in existing.keys() & set(collection.former_indexes):
            database[collection.name].drop_index(name)

    def _keep_time_series(self, database: Any, collection: Collection, options: dict[str, Any]) -> None:
        """Changes retention and granularity; MongoDB lets granularity become coarser by one step."""
        if options.get("expireAfterSeconds") != collection.expire_after:
            database.command("collMod", collection.name, expireAfterSeconds=collection.expire_after or "off")
        granularity = collection.options["timeseries"]["granularity"]
        if options["timeseries"].get("granularity") != granularity:
            database.command("collMod", collection.name, timeseries={"granularity": granularity})
            log.info("changed the granularity of %s to %s", collection.name, granularity)

    def _keep_index(self, database: Any, collection: str, index: Index, existing: dict[str, Any] | None) -> None:
        if existing is not None and existing.get("expireAfterSeconds") != index.expire_after:
            database[collection].drop_index(index.name)
            existing = None
        if existing is None:
            expire = {"expireAfterSeconds": index.expire_after} if index.expire_after else {}
            database[collection].create_index(list(index.keys), name=index.name, **expire)
