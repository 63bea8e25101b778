"""kopf's side: watches pipelines and their children, and passes on which pipeline should be visited.

Event handlers alone are used: they write nothing on the watched objects, and a missed event is made good by the
interval, since every visit looks at everything.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, cast

import kopf
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from sensorpipeline_operator.cluster import CHILD_KINDS, GROUP_VERSION, KIND, Cluster, connect
from sensorpipeline_operator.dispatcher import Dispatcher, Key
from sensorpipeline_operator.kafka_calls import KafkaCalls
from sensorpipeline_operator.kafka_storage import KafkaStorage
from sensorpipeline_operator.kafka_topics import KafkaTopics
from sensorpipeline_operator.leader import Leadership
from sensorpipeline_operator.naming import MANAGER
from sensorpipeline_operator.reconcile import Outcome, Reconciler
from sensorpipeline_operator.settings import Settings

log = logging.getLogger(__name__)

STALL_SECONDS = 300.0


class Operator:
    """Everything that lives as long as the process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()
        self._election: asyncio.Task[None] | None = None
        self._cluster: Cluster | None = None
        self._leadership = Leadership(lambda: self._dispatcher.abandon())
        self._reconciler: Reconciler | None = None
        self._objects: dict[Key, dict[str, Any]] = {}
        self._dispatcher = Dispatcher(
            self._visit, self._tell, self._report, self._leadership.leads,
            interval=settings.reconcile_interval_seconds,
        )  # fmt: skip

    async def start(self) -> None:
        """Connects, joins the election, and serves health and metrics."""
        self._cluster = await self._stack.enter_async_context(connect())
        calls, images = KafkaCalls(), self._settings.component_images()
        self._reconciler = Reconciler(self._cluster, KafkaTopics(calls), KafkaStorage(calls), images)
        election = self._leadership.run(
            self._cluster.api, namespace=self._settings.pod_namespace, identity=self._settings.pod_name
        )
        self._election = asyncio.create_task(election)
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._metrics)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, port=self._settings.health_port).start()
        self._stack.push_async_callback(runner.cleanup)

    async def stop(self) -> None:
        """Ends everything."""
        if self._election is not None:
            self._election.cancel()
        await self._stack.aclose()

    def pipeline_event(self, body: dict[str, Any], kind: str | None) -> None:
        """Takes an event of a pipeline."""
        key = (body["metadata"]["namespace"], body["metadata"]["name"])
        if kind == "DELETED":
            known = self._objects.get(key)
            if known is not None and known["metadata"]["uid"] != body["metadata"]["uid"]:
                return  # there is another of this name already
            self._objects.pop(key, None)
            self._dispatcher.forget(key)
            if self._reconciler is not None:
                self._reconciler.forget(*key)
        else:
            self._objects[key] = body
            self._dispatcher.trigger(key)

    def child_event(self, body: dict[str, Any]) -> None:
        """Takes an event of a child."""
        pipeline = body["metadata"]["labels"].get("app.kubernetes.io/instance")
        self._dispatcher.trigger_known((body["metadata"]["namespace"], pipeline))

    async def _visit(self, key: Key) -> Outcome:
        assert self._reconciler is not None
        return await self._reconciler.reconcile(*key)

    async def _report(self, key: Key, message: str) -> Outcome:
        assert self._reconciler is not None
        return await self._reconciler.report(*key, message)

    async def _tell(self, key: Key, outcome: Outcome) -> None:
        body = self._objects.get(key)
        for notice in outcome.notices:
            log.info("%s/%s: %s %s", *key, notice.reason, notice.message)
            if body is not None:
                kopf.event(cast("kopf.Body", body), type=notice.kind, reason=notice.reason, message=notice.message)

    async def _healthz(self, _: web.Request) -> web.Response:
        if self._election is not None and self._election.done():
            return web.Response(status=503, text="this replica takes no part in the election any more\n")
        if self._dispatcher.stalled(STALL_SECONDS):
            return web.Response(status=503, text=f"no pipeline was visited for {STALL_SECONDS:.0f} s\n")
        return web.Response(text="alive\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        if self._cluster is None or not await self._cluster.ready():
            return web.Response(status=503, text="the API server does not answer\n")
        return web.Response(text="ready\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def register(registry: kopf.OperatorRegistry, settings: Settings) -> Operator:
    """Registers the operator's handlers and returns the operator."""
    operator = Operator(settings)

    @kopf.on.startup(registry=registry)
    async def startup(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.posting.loggers = False
        settings.posting.reporting_component = MANAGER
        settings.scanning.disabled = True
        settings.networking.request_timeout = 30
        settings.networking.connect_timeout = 10
        settings.watching.server_timeout = 600
        settings.persistence.finalizer = "sensorpipeline.io/unused"
        settings.queueing.worker_limit = None
        await operator.start()

    @kopf.on.cleanup(registry=registry)
    async def cleanup(**_: Any) -> None:
        await operator.stop()

    @kopf.on.event(GROUP_VERSION, KIND, registry=registry)
    async def pipeline(body: kopf.Body, type: str | None, **_: Any) -> None:
        operator.pipeline_event(dict(body), type)

    _register_children(registry, operator.child_event)
    return operator


def _register_children(registry: kopf.OperatorRegistry, pass_on: Callable[[dict[str, Any]], None]) -> None:
    labels = {"app.kubernetes.io/managed-by": MANAGER}
    for kind, version in CHILD_KINDS.items():

        @kopf.on.event(version, kind, labels=labels, registry=registry, id=f"child-{kind.lower()}")
        async def child(body: kopf.Body, **_: Any) -> None:
            pass_on(dict(body))
