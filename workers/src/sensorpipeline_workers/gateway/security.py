"""The bearer token of queries: read again when its file changes, compared in constant time."""

import hmac
from http import HTTPStatus
from pathlib import Path

from fastapi import Request
from fastapi.security import HTTPBearer

from sensorpipeline_workers.gateway.problems import ProblemError

query_scheme = HTTPBearer(
    scheme_name="queryToken", description="Key `token` of the Secret `<pipeline>-gateway`.", auto_error=False
)


def bearer(request: Request) -> str:
    """Returns the bearer token of a request; empty when there is none."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


class Token:
    """Checks requests against the token in a file; without a file every request passes."""

    def __init__(self, path: str | None) -> None:
        self._path = Path(path) if path is not None else None

    async def __call__(self, request: Request) -> None:
        """Raises ProblemError (401) when the request does not carry the token."""
        if self._path is None:
            return
        expected = self._path.read_text().strip()
        if not hmac.compare_digest(bearer(request).encode(), expected.encode()):
            raise ProblemError(HTTPStatus.UNAUTHORIZED, "a bearer token is required: Authorization: Bearer <token>")
