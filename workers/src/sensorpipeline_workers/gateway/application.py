"""The FastAPI application and its routes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, BeforeValidator, Field
from pymongo import AsyncMongoClient
from sensorpipeline_api.configuration import GatewayConfiguration

from sensorpipeline_workers.gateway import openapi, problems, queries, remote_read
from sensorpipeline_workers.gateway.bodies import TooLargeError, read_body
from sensorpipeline_workers.gateway.intake import Intake, add_intake
from sensorpipeline_workers.gateway.live import Live
from sensorpipeline_workers.gateway.outbox import Outbox
from sensorpipeline_workers.gateway.problems import ProblemError
from sensorpipeline_workers.gateway.queries import Listing
from sensorpipeline_workers.gateway.security import Token, query_scheme
from sensorpipeline_workers.gateway.store import answer

MAXIMUM_LIMIT = 1000
Name = Annotated[str | None, Query(max_length=128)]
Limit = Annotated[int, Query(ge=1, le=MAXIMUM_LIMIT, description="Items on a page.")]
Cursor = Annotated[
    str | None, Query(max_length=1024, pattern=r"^[-_=A-Za-z0-9]+$", description="`next` of the page before.")
]
Moment = Annotated[datetime, BeforeValidator(queries.check_time)]
Begin = Annotated[Moment | None, Query(alias="from", description="RFC 3339; included.")]
End = Annotated[Moment | None, Query(alias="to", description="RFC 3339; not included.")]


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
        # Whatever one of them ended with, each is waited for: the outbox flushes what it holds.
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()

    application = FastAPI(
        title=f"SensorPipeline {configuration.pipeline}",
        description="Takes readings in; answers with readings, window results, late readings, alerts and dead letters.",
        version="v1",
        lifespan=lifespan,
    )
    problems.install(application)
    openapi.install(application)
    token = [Depends(query_scheme), Depends(Token(configuration.token_file)), Depends(_known_parameters)]
    add_intake(application, Intake(configuration, outbox))
    _add_lists(application, database, token)
    _add_overviews(application, database, configuration, token)
    _add_streams(application, database, live, token)
    _add_health(application, database, outbox, token)
    return application


async def _known_parameters(request: Request) -> None:
    """Raises ProblemError (422) for a parameter that the route does not have, or that is given twice: a name that is
    spelled wrong would otherwise be a filter that is not applied."""
    known = {parameter.alias for parameter in request.scope["route"].dependant.query_params}
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name not in known:
            message = f"parameter {name!r} must be one of {', '.join(sorted(known)) or 'none'}"
            raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, message, field=name)
        if name in seen:
            raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, f"parameter {name} must be given once", field=name)
        seen.add(name)


async def _page(
    database: Any, listing: Listing, parameters: dict[str, str | None], limit: int, cursor: str | None,
    begin: datetime | None, end: datetime | None,
) -> Page:  # fmt: skip
    query = queries.query(listing, parameters, begin=begin, end=end, cursor=cursor)
    found = database[listing.collection].find(query).sort(queries.sort(listing)).limit(limit + 1)
    documents = await answer(found.to_list())
    more = len(documents) > limit
    documents = documents[:limit]
    following = queries.encode_cursor(listing, documents[-1]) if more else None
    return Page(items=[queries.item(listing, document) for document in documents], next=following)


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
    @application.get("/v1/devices", dependencies=token, tags=["overview"], responses=openapi.problems(401, 422, 503))
    async def devices() -> Page:
        """Devices that were provisioned or have reported, with their metrics and the time of the newest reading."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for fleet in configuration.fleets:
            for device in fleet.devices:
                found[fleet.name, device] = {"fleet": fleet.name, "device": device, "metrics": [], "lastTime": None}
        group = {"_id": "$series", "last": {"$max": "$time"}}
        cursor = await answer(database["readings"].aggregate([{"$group": group}]))
        for row in await answer(cursor.to_list()):
            series, last = row["_id"], queries.format_time(row["last"])
            key = series["fleet"], series["device"]
            entry = found.setdefault(key, {"fleet": key[0], "device": key[1], "metrics": [], "lastTime": None})
            entry["metrics"] = sorted({*entry["metrics"], series["metric"]})
            entry["lastTime"] = max(entry["lastTime"] or last, last)
        return Page(items=[found[key] for key in sorted(found)], next=None)

    @application.get("/v1/counts", dependencies=token, tags=["overview"], responses=openapi.problems(401, 422, 503))
    async def counts() -> Counts:
        """How much was stored, refused and dead-lettered."""

        async def count(collection: str, by: str) -> dict[str, int]:
            stages = [{"$group": {"_id": f"${by}", "count": {"$sum": 1}}}]
            cursor = await answer(database[collection].aggregate(stages))
            return {str(row["_id"]): int(row["count"]) for row in await answer(cursor.to_list())}

        return Counts(
            readings=await count("readings", "series.fleet"),
            late=await count("late", "window"),
            deadLetters=await count("dead_letters", "reason"),
        )


def _add_streams(application: FastAPI, database: Any, live: Live, token: list[Any]) -> None:
    @application.get(
        "/v1/live", dependencies=token, tags=["stream"], response_class=StreamingResponse,
        responses=openapi.problems(401, 422, 503, answer="text/event-stream"),
    )  # fmt: skip
    async def events(device: Name = None, metric: Name = None) -> StreamingResponse:
        """Readings as they come, as server-sent events."""
        live.ensure_room()

        async def stream() -> AsyncIterator[str]:
            listener = live.open(device, metric)
            try:
                await live.reading()
                yield ": connected\n\n"
                async for event in listener.events():
                    yield event
            finally:
                live.close(listener)

        headers = {"Cache-Control": "no-store"}
        return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)

    @application.post(
        "/prometheus/read", dependencies=token, tags=["stream"], response_class=Response,
        responses=openapi.problems(400, 401, 408, 413, 422, 503, answer="application/x-protobuf"),
        openapi_extra={"requestBody": openapi.REMOTE_READ_BODY},
    )  # fmt: skip
    async def prometheus_read(request: Request) -> Response:
        """Prometheus' remote read."""
        try:
            body = await read_body(request, remote_read.MAXIMUM_BYTES)
        except TooLargeError as error:
            raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error)) from error
        decoded = remote_read.decode_request(body)
        results = [await answer(remote_read.read(database, query)) for query in decoded.queries]
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
            await answer(database["readings"].find_one({}, {"_id": 1}))
            if not outbox.ready:
                raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, "Kafka, or a topic of it, is waited for")
            answered = True
        return "ready\n"

    @application.get(
        "/metrics", dependencies=token, tags=["health"], response_class=PlainTextResponse,
        responses=openapi.problems(401, 422),
    )  # fmt: skip
    async def metrics() -> Response:
        """Metrics of this process, for Prometheus."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
