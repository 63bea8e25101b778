"""The FastAPI application and its routes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError
from sensorpipeline_api.configuration import GatewayConfiguration

from sensorpipeline_workers.gateway import openapi, problems, queries, remote_read
from sensorpipeline_workers.gateway.intake import Intake, add_intake
from sensorpipeline_workers.gateway.live import Live
from sensorpipeline_workers.gateway.outbox import Outbox
from sensorpipeline_workers.gateway.problems import ProblemError
from sensorpipeline_workers.gateway.queries import Listing
from sensorpipeline_workers.gateway.security import Token, query_scheme

MAXIMUM_LIMIT = 1000
Name = Annotated[str | None, Query(max_length=128)]
Limit = Annotated[int, Query(ge=1, le=MAXIMUM_LIMIT, description="Items on a page.")]
Cursor = Annotated[str | None, Query(max_length=1024, description="`next` of the page before.")]
Begin = Annotated[datetime | None, Query(alias="from", description="RFC 3339; included.")]
End = Annotated[datetime | None, Query(alias="to", description="RFC 3339; not included.")]


class Page(BaseModel):
    """A page of a list."""

    items: list[dict[str, Any]]
    next: str | None = Field(description="Cursor of the next page; null on the last.")


class Counts(BaseModel):
    """How many of each there are."""

    readings: dict[str, int] = Field(description="Stored readings by fleet.")
    late: dict[str, int] = Field(description="Refused late readings by window.")
    deadLetters: dict[str, int] = Field(description="Dead letters by reason.")


def build_application(configuration: GatewayConfiguration) -> FastAPI:
    """Returns the application. It connects to MongoDB and Kafka when it starts, and waits for them."""
    uri = Path(configuration.store.uri_file).read_text().strip()
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
        uri, serverSelectionTimeoutMS=3000, tz_aware=True, appname="gateway"
    )
    database = client[configuration.store.database]
    live = Live(configuration)
    outbox = Outbox(configuration)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(live.run()), asyncio.create_task(outbox.run())]
        yield
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await client.close()

    application = FastAPI(
        title=f"SensorPipeline {configuration.pipeline}",
        description="Takes readings in; answers with readings, window results, late readings, alerts and dead letters.",
        version="v1",
        lifespan=lifespan,
    )
    problems.install(application)
    openapi.install(application)
    token = [Depends(query_scheme), Depends(Token(configuration.token_file))]
    add_intake(application, Intake(configuration, outbox))
    _add_lists(application, database, token)
    _add_overviews(application, database, configuration, token)
    _add_streams(application, database, live, token)
    _add_health(application, database, outbox, token)
    return application


async def _page(
    database: Any, listing: Listing, parameters: dict[str, str | None], limit: int, cursor: str | None,
    begin: datetime | None, end: datetime | None,
) -> Page:  # fmt: skip
    query = queries.query(listing, parameters, begin=begin, end=end, cursor=cursor)
    found = database[listing.collection].find(query).sort(queries.sort(listing)).limit(limit + 1)
    documents = await _answer(found.to_list())
    more = len(documents) > limit
    documents = documents[:limit]
    following = queries.encode_cursor(listing, documents[-1]) if more else None
    return Page(items=[queries.item(listing, document) for document in documents], next=following)


async def _answer(query: Any) -> Any:
    """Awaits a query; MongoDB being away is a 503."""
    try:
        return await query
    except PyMongoError as error:
        message = f"the store does not answer: {type(error).__name__}"
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, message) from error


def _add_lists(application: FastAPI, database: Any, token: list[Any]) -> None:
    @application.get("/v1/readings", dependencies=token, tags=["data"], responses=openapi.problems(401, 422, 503))
    async def readings(
        fleet: Name = None, device: Name = None, metric: Name = None, limit: Limit = 100, cursor: Cursor = None,
        begin: Begin = None, end: End = None,
    ) -> Page:  # fmt: skip
        """Stored readings in the order of their event time."""
        names = {"fleet": fleet, "device": device, "metric": metric}
        return await _page(database, queries.READINGS, names, limit, cursor, begin, end)

    @application.get("/v1/aggregates", dependencies=token, tags=["data"], responses=openapi.problems(401, 422, 503))
    async def aggregates(
        window: Name = None, fleet: Name = None, device: Name = None, metric: Name = None, limit: Limit = 100,
        cursor: Cursor = None, begin: Begin = None, end: End = None,
    ) -> Page:  # fmt: skip
        """Window results in the order of their start; each in its highest revision."""
        names = {"window": window, "fleet": fleet, "device": device, "metric": metric}
        return await _page(database, queries.AGGREGATES, names, limit, cursor, begin, end)

    @application.get("/v1/late", dependencies=token, tags=["data"], responses=openapi.problems(401, 422, 503))
    async def late(
        window: Name = None, fleet: Name = None, device: Name = None, metric: Name = None, limit: Limit = 100,
        cursor: Cursor = None, begin: Begin = None, end: End = None,
    ) -> Page:  # fmt: skip
        """Readings that a window refused as too late, once for each window; they are stored all the same."""
        names = {"window": window, "fleet": fleet, "device": device, "metric": metric}
        return await _page(database, queries.LATE, names, limit, cursor, begin, end)

    @application.get("/v1/alerts", dependencies=token, tags=["data"], responses=openapi.problems(401, 422, 503))
    async def alerts(
        threshold: Name = None, fleet: Name = None, device: Name = None, state: Name = None, limit: Limit = 100,
        cursor: Cursor = None, begin: Begin = None, end: End = None,
    ) -> Page:  # fmt: skip
        """Transitions of thresholds: Firing and Resolved."""
        names = {"threshold": threshold, "fleet": fleet, "device": device, "state": state}
        return await _page(database, queries.ALERTS, names, limit, cursor, begin, end)

    @application.get("/v1/dead-letters", dependencies=token, tags=["data"], responses=openapi.problems(401, 422, 503))
    async def dead_letters(
        fleet: Name = None, reason: Name = None, limit: Limit = 100, cursor: Cursor = None, begin: Begin = None,
        end: End = None,
    ) -> Page:  # fmt: skip
        """Messages that could not be read, whole (`payload` is base64), with the reason."""
        names = {"fleet": fleet, "reason": reason}
        return await _page(database, queries.DEAD_LETTERS, names, limit, cursor, begin, end)


def _add_overviews(application: FastAPI, database: Any, configuration: GatewayConfiguration, token: list[Any]) -> None:
    @application.get("/v1/devices", dependencies=token, tags=["overview"], responses=openapi.problems(401, 503))
    async def devices() -> Page:
        """Devices that were provisioned or have reported, with their metrics and the time of the newest reading."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for fleet in configuration.fleets:
            for device in fleet.devices:
                found[fleet.name, device] = {"fleet": fleet.name, "device": device, "metrics": [], "lastTime": None}
        group = {"_id": "$series", "last": {"$max": "$time"}}
        cursor = await _answer(database["readings"].aggregate([{"$group": group}]))
        for row in await _answer(cursor.to_list()):
            series, last = row["_id"], queries.format_time(row["last"])
            key = series["fleet"], series["device"]
            entry = found.setdefault(key, {"fleet": key[0], "device": key[1], "metrics": [], "lastTime": None})
            entry["metrics"] = sorted({*entry["metrics"], series["metric"]})
            entry["lastTime"] = max(entry["lastTime"] or last, last)
        return Page(items=[found[key] for key in sorted(found)], next=None)

    @application.get("/v1/counts", dependencies=token, tags=["overview"], responses=openapi.problems(401, 503))
    async def counts() -> Counts:
        """How much was stored, refused and dead-lettered."""

        async def count(collection: str, by: str) -> dict[str, int]:
            stages = [{"$group": {"_id": f"${by}", "count": {"$sum": 1}}}]
            cursor = await _answer(database[collection].aggregate(stages))
            return {str(row["_id"]): int(row["count"]) for row in await _answer(cursor.to_list())}

        return Counts(
            readings=await count("readings", "series.fleet"),
            late=await count("late", "window"),
            deadLetters=await count("dead_letters", "reason"),
        )


def _add_streams(application: FastAPI, database: Any, live: Live, token: list[Any]) -> None:
    @application.get("/v1/live", dependencies=token, tags=["stream"], response_class=StreamingResponse)
    async def events(device: Name = None, metric: Name = None) -> StreamingResponse:
        """Readings as they come, as server-sent events."""

        async def stream() -> AsyncIterator[str]:
            async with live.listener(device, metric) as listener:
                yield ": connected\n\n"
                async for event in listener.events():
                    yield event

        return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    @application.post("/prometheus/read", dependencies=token, tags=["stream"])
    async def prometheus_read(request: Request) -> Response:
        """Prometheus' remote read."""
        decoded = remote_read.decode_request(await request.body())
        results = [await _answer(remote_read.read(database, query)) for query in decoded.queries]
        headers = {"Content-Encoding": "snappy"}
        return Response(remote_read.encode_response(results), media_type="application/x-protobuf", headers=headers)


def _add_health(application: FastAPI, database: Any, outbox: Outbox, token: list[Any]) -> None:
    answered = False

    @application.get("/healthz", tags=["health"], response_class=PlainTextResponse)
    async def healthz() -> str:
        """Whether the process answers."""
        return "alive\n"

    @application.get("/readyz", tags=["health"], response_class=PlainTextResponse, responses=openapi.problems(503))
    async def readyz() -> str:
        """Whether Kafka and the store have both answered, once: from then on each request says itself what is away, and
        what the one is needed for goes on while the other is."""
        nonlocal answered
        if not answered:
            await _answer(database["readings"].find_one({}, {"_id": 1}))
            if not outbox.ready:
                raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, "Kafka, or a topic of it, is waited for")
            answered = True
        return "ready\n"

    @application.get("/metrics", dependencies=token, tags=["health"])
    async def metrics() -> Response:
        """Metrics of this process, for Prometheus."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
