"""Errors as application/problem+json (RFC 9457): a title, the status, and a detail that names the field and limit."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

MEDIA_TYPE = "application/problem+json"


class ProblemError(Exception):
    """A request that cannot be answered; `field` names the parameter at fault and `index` the item, if one is.
    `retry_after` is in seconds."""

    def __init__(
        self, status: HTTPStatus, detail: str, *, field: str | None = None, index: int | None = None,
        retry_after: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(detail)
        self.status = status
        self.field = field
        self.index = index
        self.retry_after = retry_after


def respond(status: int, detail: str, *, headers: dict[str, str] | None = None, **members: Any) -> JSONResponse:
    """Returns a problem document; members that are None are left out."""
    body: dict[str, Any] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    body["detail"] = detail
    body |= {name: value for name, value in members.items() if value is not None}
    return JSONResponse(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def install(application: FastAPI) -> None:
    """Makes every error of an application a problem document."""

    @application.exception_handler(ProblemError)
    async def problem(_: Request, error: ProblemError) -> JSONResponse:
        headers = {"WWW-Authenticate": "Bearer"} if error.status == HTTPStatus.UNAUTHORIZED else {}
        if error.retry_after is not None:
            headers["Retry-After"] = str(error.retry_after)
        return respond(error.status, str(error), field=error.field, index=error.index, headers=headers)

    @application.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return respond(error.status_code, str(error.detail), headers=dict(error.headers or {}))

    @application.exception_handler(RequestValidationError)
    async def validation(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:])
        return respond(HTTPStatus.UNPROCESSABLE_ENTITY, f"{field}: {first['msg']}", field=field)

    @application.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> JSONResponse:
        message = f"the request could not be dealt with: {type(error).__name__}"
        return respond(HTTPStatus.INTERNAL_SERVER_ERROR, message)
