"""Leadership by a Lease: of several replicas one acts, and another takes over within seconds."""

import asyncio
import logging

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
LEASE_SECONDS, RENEW_SECONDS, RETRY_SECONDS = 10, 6, 2


class Lock(LeaseLock):
    """The library's lock with its `create` mended: version 37 passes an argument there that its own client refuses."""

    async def create(self, name: str, namespace: str, election_record: LeaderElectionRecord) -> bool:
        """Creates the Lease; returns whether that went well."""
        body = client.V1Lease(metadata=client.V1ObjectMeta(name=name), spec=self.update_lease(election_record))
        try:
            await self.api_instance.create_namespaced_lease(namespace, body)
        except ApiException as error:
            log.warning("the Lease cannot be created: %s %s", error.status, error.reason)
            return False
        return True


class Leadership:
    """Whether this replica leads; `leads` is set while it does."""

    def __init__(self) -> None:
        self.leads = asyncio.Event()

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
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                log.warning("leader election: %s", error)
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
