"""Errors as application/problem+json (RFC 9457): a title, the status, and a detail that names the field and limit."""

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

MEDIA_TYPE = "application/problem+json"


class ProblemError(Exception):
    """A request that cannot be answered; `field` names the parameter at fault, if one is."""

    def __init__(self, status: HTTPStatus, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.field = field


def respond(
    status: int, detail: str, *, field: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """Returns a problem document."""
    body: dict[str, object] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    body["detail"] = detail
    if field is not None:
        body["field"] = field
    return JSONResponse(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def install(application: FastAPI) -> None:
    """Makes every error of an application a problem document."""

    @application.exception_handler(ProblemError)
    async def problem(_: Request, error: ProblemError) -> JSONResponse:
        headers = {"WWW-Authenticate": "Bearer"} if error.status == HTTPStatus.UNAUTHORIZED else None
        return respond(error.status, str(error), field=error.field, headers=headers)

    @application.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return respond(error.status_code, str(error.detail), headers=dict(error.headers or {}))

    @application.exception_handler(RequestValidationError)
    async def validation(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:])
        return respond(HTTPStatus.UNPROCESSABLE_ENTITY, f"{field}: {first['msg']}", field=field)
