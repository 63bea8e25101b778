"""The bearer token: read again when its file changes, compared in constant time."""

import hmac
from http import HTTPStatus
from pathlib import Path

from fastapi import Request

from sensorpipeline_workers.gateway.problems import ProblemError


class Token:
    """Checks requests against the token in a file; without a file every request passes."""

    def __init__(self, path: str | None) -> None:
        self._path = Path(path) if path is not None else None

    async def __call__(self, request: Request) -> None:
        """Raises ProblemError (401) when the request does not carry the token."""
        if self._path is None:
            return
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        expected = self._path.read_text().strip()
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), expected.encode()):
            raise ProblemError(HTTPStatus.UNAUTHORIZED, "a bearer token is required: Authorization: Bearer <token>")
