"""Bodies of requests, read within bounds of size and time."""

import asyncio
from http import HTTPStatus

from fastapi import Request
from starlette.requests import ClientDisconnect

from sensorpipeline_workers.gateway.problems import ProblemError

BODY_SECONDS = 30.0
DISCARDED_BYTES = 16 * 1024 * 1024
"""How much of a body that is too large is read, and thrown away, so that the client gets to read the answer."""


class TooLargeError(Exception):
    """A body is larger than is allowed; `kept` is its beginning, the text says how large it is."""

    def __init__(self, kept: bytes, message: str) -> None:
        super().__init__(message)
        self.kept = kept


async def read_body(request: Request, limit: int) -> bytes:
    """Returns the body. Raises ProblemError (408, 400) when it does not come to its end, TooLargeError."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _read(request, limit)
    except TimeoutError:
        message = f"the body did not arrive within {BODY_SECONDS:.0f} s"
        raise ProblemError(HTTPStatus.REQUEST_TIMEOUT, message) from None
    except ClientDisconnect:
        raise ProblemError(HTTPStatus.BAD_REQUEST, "the client left before the end of the body") from None


async def _read(request: Request, limit: int) -> bytes:
    """Returns the body. Of one that is too large the beginning is kept; the rest is read, within bounds, since a client
    that still sends does not read the answer."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        if size <= limit:
            chunks.append(chunk)
        size += len(chunk)
        if size > max(DISCARDED_BYTES, limit):
            message = f"body has more than {DISCARDED_BYTES} bytes, must be at most {limit}"
            raise TooLargeError(b"".join(chunks)[:limit], message)
    body = b"".join(chunks)
    if size > limit:
        raise TooLargeError(body[:limit], f"body has {size} bytes, must be at most {limit}")
    return body
