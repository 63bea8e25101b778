"""POST /v1/readings: nothing is answered for good before Kafka has it.

What a body holds ends in Kafka, as readings or as dead letters; then comes the answer. What is turned away before its
body was judged (401, 403, 408, 415, 429, 503) has not come in: the client keeps it and tries again.
"""

import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

import msgspec
from fastapi import FastAPI, Request, Response
from sensorpipeline_api.configuration import GatewayConfiguration
from sensorpipeline_api.records import DeadLetter, DeadLetterReason

from sensorpipeline_workers.gateway import openapi, problems
from sensorpipeline_workers.gateway.bodies import TooLargeError, read_body
from sensorpipeline_workers.gateway.devices import EVERYTHING, DeviceTokens, Grant
from sensorpipeline_workers.gateway.outbox import KafkaAwayError, Outbox
from sensorpipeline_workers.gateway.posted import (
    UNKNOWN_FLEET,
    ForbiddenError,
    Judge,
    RefusedBodyError,
    Rejection,
    Verdict,
)
from sensorpipeline_workers.gateway.problems import ProblemError
from sensorpipeline_workers.gateway.rate import Bucket
from sensorpipeline_workers.gateway.security import bearer
from sensorpipeline_workers.runtime import metrics

PATH = "/v1/readings"
SOURCE = f"http:{PATH}"
PENDING_BYTES = 32 * 1024 * 1024
"""What all requests under way may hold together; beyond it they are asked to come again."""
RETRY_SECONDS = 2
SUSPENDED_SECONDS = 30


class Intake:
    """Takes readings in."""

    def __init__(self, configuration: GatewayConfiguration, outbox: Outbox) -> None:
        fleets = [fleet.name for fleet in configuration.fleets]
        directory = configuration.device_tokens_directory
        self._tokens = DeviceTokens(Path(directory), fleets) if directory is not None else None
        self._limits = configuration.limits
        self._suspended = configuration.ingest_suspended
        self._judge = Judge(configuration.fleets, maximum_readings=self._limits.maximum_readings_per_request)
        self._outbox = outbox
        self._buckets: dict[Grant, Bucket] = {}
        self._pending = 0
        self._received = metrics.messages_received()

    def grant(self, request: Request) -> Grant:
        """Returns what a request's token permits. Raises ProblemError (401)."""
        if self._tokens is None:
            return EVERYTHING
        grant = self._tokens.find(bearer(request))
        if grant is None:
            message = "a bearer token of a device or fleet is required: Authorization: Bearer <password>"
            raise ProblemError(HTTPStatus.UNAUTHORIZED, message)
        return grant

    async def post(self, request: Request) -> Response:
        """Answers a request."""
        grant = self.grant(request)
        if self._suspended:
            message = "Kafka's volume is nearly full; nothing is taken until there is room"
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, message, retry_after=SUSPENDED_SECONDS)
        _check_type(request)
        bucket = self._bucket(grant)
        async with self._body(request, bucket) as body:
            if isinstance(body, TooLargeError):
                return await self._too_large(body, grant)
            now = time.time_ns() // 1_000_000
            try:
                verdict = self._judge.judge(body, grant, now=now)
            except ForbiddenError as error:
                bucket.pay(1, now=time.monotonic())
                raise ProblemError(
                    HTTPStatus.FORBIDDEN, f"reading {error.index}: {error}", field=error.field, index=error.index
                ) from error
            except RefusedBodyError as error:
                bucket.pay(1, now=time.monotonic())
                return await self._refuse_body(body, error, grant, now)
            bucket.pay(_count(verdict), now=time.monotonic())
            for fleet in {*verdict.accepted, *(rejection.fleet for rejection in verdict.rejected)}:
                self._received.labels(fleet).inc()
            await self._send(verdict, now)
        return _answer(verdict)

    async def _send(self, verdict: Verdict, now: int) -> None:
        letters = [
            _letter(rejection.payload, rejection.fleet, rejection.reason, rejection.detail, now)
            for rejection in verdict.rejected
        ]
        try:
            await self._outbox.send(verdict.accepted, letters)
        except KafkaAwayError as error:
            raise _away(error) from error

    async def _bury(self, payload: bytes, grant: Grant, reason: DeadLetterReason, message: str, now: int) -> None:
        """Makes a whole body a dead letter."""
        fleet = grant.fleet or UNKNOWN_FLEET
        self._received.labels(fleet).inc()
        try:
            await self._outbox.send({}, [_letter(payload, fleet, reason, message, now)])
        except KafkaAwayError as error:
            raise _away(error) from error

    async def _refuse_body(self, body: bytes, error: RefusedBodyError, grant: Grant, now: int) -> Response:
        await self._bury(body, grant, error.reason, str(error), now)
        if error.reason is DeadLetterReason.TOO_LARGE:
            status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        else:
            status = HTTPStatus.UNPROCESSABLE_ENTITY if error.parses else HTTPStatus.BAD_REQUEST
        return problems.respond(status, str(error), reason=error.reason)

    async def _too_large(self, error: TooLargeError, grant: Grant) -> Response:
        self._bucket(grant).pay(1, now=time.monotonic())
        kept = f"{error}; its first {len(error.kept)} bytes are kept"
        await self._bury(error.kept, grant, DeadLetterReason.TOO_LARGE, kept, time.time_ns() // 1_000_000)
        return problems.respond(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error), reason=DeadLetterReason.TOO_LARGE,
            headers={"Connection": "close"},
        )  # fmt: skip

    def _bucket(self, grant: Grant) -> Bucket:
        bucket = self._buckets.get(grant)
        if bucket is None:
            rate = self._limits.maximum_readings_per_second
            bucket = self._buckets[grant] = Bucket(rate=rate, capacity=rate, now=time.monotonic())
        return bucket

    @asynccontextmanager
    async def _body(self, request: Request, bucket: Bucket) -> AsyncIterator[bytes | TooLargeError]:
        """Reads a request's body, if the client's rate and the memory allow, and accounts for it while the context is
        open. Raises ProblemError (408, 429, 503)."""
        wait = bucket.wait_seconds(now=time.monotonic())
        if wait:
            rate = self._limits.maximum_readings_per_second
            message = f"this token may post {rate} readings/s on average; try again in {wait} s"
            raise ProblemError(HTTPStatus.TOO_MANY_REQUESTS, message, retry_after=wait)
        limit = self._limits.maximum_body_bytes
        announced = request.headers.get("Content-Length", "")
        reserved = min(int(announced), limit) if announced.isdecimal() else limit
        if self._pending + reserved > PENDING_BYTES:
            message = f"requests under way hold {self._pending} bytes, at most {PENDING_BYTES} together"
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, message, retry_after=RETRY_SECONDS)
        self._pending += reserved
        try:
            try:
                body: bytes | TooLargeError = await read_body(request, limit)
            except TooLargeError as error:
                body = error
            yield body
        finally:
            self._pending -= reserved


def _check_type(request: Request) -> None:
    """Raises ProblemError (415) when a body is not declared as plain JSON."""
    kind = request.headers.get("Content-Type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Content-Type must be application/json, got {kind!r}")
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity":
        message = f"Content-Encoding must be identity or left out, got {encoding!r}"
        raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, message)


def _letter(payload: bytes, fleet: str, reason: DeadLetterReason, message: str, now: int) -> DeadLetter:
    return DeadLetter(
        source=SOURCE, fleet=fleet, received_time=now, payload=base64.b64encode(payload).decode(),
        reason=reason.value, message=message,
    )  # fmt: skip


def _away(error: KafkaAwayError) -> ProblemError:
    message = f"Kafka does not acknowledge: {error}; nothing is promised, send it again"
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, message, retry_after=RETRY_SECONDS)


def _count(verdict: Verdict) -> int:
    return sum(len(items) for items in verdict.accepted.values()) + len(verdict.rejected)


def _answer(verdict: Verdict) -> Response:
    rejected = [_shown(rejection) for rejection in verdict.rejected]
    accepted = _count(verdict) - len(rejected)
    if accepted:
        content = msgspec.json.encode({"accepted": accepted, "rejected": rejected})
        return Response(content, HTTPStatus.ACCEPTED, media_type="application/json")
    first = verdict.rejected[0]
    return problems.respond(
        HTTPStatus.UNPROCESSABLE_ENTITY, f"reading {first.index}: {first.detail}", field=first.field or None,
        index=first.index, reason=first.reason, rejected=rejected,
    )  # fmt: skip


def _shown(rejection: Rejection) -> dict[str, object]:
    shown: dict[str, object] = {"index": rejection.index}
    if rejection.field:
        shown["field"] = rejection.field
    return shown | {"reason": rejection.reason.value, "detail": rejection.detail}


def add_intake(application: FastAPI, intake: Intake) -> None:
    """Adds the route."""

    @application.post(
        PATH, status_code=HTTPStatus.ACCEPTED, tags=["ingest"], response_model=openapi.Accepted,
        responses=openapi.problems(400, 401, 403, 408, 413, 415, 422, 429, 503),
        openapi_extra={"requestBody": openapi.READINGS_BODY, "security": [{openapi.INGEST_SCHEME: []}]},
    )  # fmt: skip
    async def post_readings(request: Request) -> Response:
        """Takes one reading or an array of readings in.

        202 says that Kafka has, on disk, every reading that is not listed under `rejected`; from then on they are ours.
        Each reading is judged alone: 202 when at least one is accepted, 422 when none is. What is rejected for good
        (400, 413, 422, and each item of `rejected`) is kept with its reason under `/v1/dead-letters`. What is turned
        away for now (408, 429, 503) is not: send it again, after `Retry-After` seconds where that is given.

        Device, metric and time identify a reading: sending one again, for example because the answer was lost, is
        harmless. It is stored once and counts once.

        The token is the password that the device, or its fleet, uses with MQTT (Secret `<pipeline>-devices-<fleet>`). A
        device's token permits its own readings alone, a fleet's those of any device of the fleet.
        """
        return await intake.post(request)
