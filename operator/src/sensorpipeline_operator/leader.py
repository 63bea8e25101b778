"""Leadership by a Lease: of several replicas one acts, and another takes over within seconds."""

import asyncio
import logging
from collections.abc import Callable

import aiohttp
from kubernetes.aio import client
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

from sensorpipeline_operator import metrics

log = logging.getLogger(__name__)

LEASE = "sensorpipeline-operator"
LEASE_SECONDS, RENEW_SECONDS, RETRY_SECONDS = 10, 4, 1
REQUEST_SECONDS = 1.0
"""How long a request may take; the client's own five minutes would let a leader whose connection hangs act on long
after its Lease ran out. From the last renewal it takes at most a retry period, the deadline, a get and an update that
began just before it, and another retry period until this replica leads no more: 8 s, which is within the Lease."""

FAILURES = (aiohttp.ClientError, OSError, TimeoutError)
"""How a connection to the API server fails."""


class Lock(LeaseLock):
    """The library's lock with its `create` mended: version 37 passes an argument there that its own client refuses.
    A request that is not answered in time is one that failed."""

    async def get(
        self, name: str, namespace: str
    ) -> tuple[bool, LeaderElectionRecord] | tuple[bool, Exception] | tuple[bool, None]:
        """Returns whether the Lease was read, and its record or the error."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                return await super().get(name, namespace)
        except FAILURES as error:
            return False, ApiException(reason=f"{type(error).__name__} {error}".strip())

    async def update(self, name: str, namespace: str, updated_record: LeaderElectionRecord) -> bool:
        """Renews or takes the Lease; returns whether that went well."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                return bool(await super().update(name, namespace, updated_record))
        except FAILURES as error:
            log.warning("the Lease cannot be updated: %s %s", type(error).__name__, error)
            return False

    async def create(self, name: str, namespace: str, election_record: LeaderElectionRecord) -> bool:
        """Creates the Lease; returns whether that went well."""
        body = client.V1Lease(metadata=client.V1ObjectMeta(name=name), spec=self.update_lease(election_record))
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self.api_instance.create_namespaced_lease(namespace, body)
        except ApiException as error:
            log.warning("the Lease cannot be created: %s %s", error.status, error.reason)
            return False
        except FAILURES as error:
            log.warning("the Lease cannot be created: %s %s", type(error).__name__, error)
            return False
        return True


class Leadership:
    """Whether this replica leads; `leads` is set while it does. `lost` is called when it ceases to."""

    def __init__(self, lost: Callable[[], None] = lambda: None) -> None:
        self.leads = asyncio.Event()
        self._lost = lost

    async def run(self, api: client.ApiClient, *, namespace: str, identity: str) -> None:
        """Takes part in the election for ever."""
        while True:
            lock = Lock(LEASE, namespace, identity, api)
            election = LeaderElection(
                Config(
                    lock,
                    lease_duration=LEASE_SECONDS,
                    renew_deadline=RENEW_SECONDS,
                    retry_period=RETRY_SECONDS,
                    onstarted_leading=self._started,
                    onstopped_leading=self._stopped,
                )
            )
            try:
                await election.run()
            except Exception:
                # Whatever it was, this replica cannot say that it leads; and it must take part again.
                log.exception("leader election failed")
                await self._stopped()
                await asyncio.sleep(RETRY_SECONDS)

    async def _started(self) -> None:
        log.info("this replica leads")
        metrics.LEADER.set(1)
        self.leads.set()

    async def _stopped(self) -> None:
        if self.leads.is_set():
            log.warning("this replica leads no longer")
        metrics.LEADER.set(0)
        self.leads.clear()
        self._lost()
