"""Questions to the store: bounded in time, and the store being away is a problem document of its own."""

from collections.abc import Awaitable
from http import HTTPStatus
from typing import TypeVar

import pymongo
from pymongo.errors import OperationFailure, PyMongoError

from sensorpipeline_workers.gateway.problems import ProblemError

T = TypeVar("T")

QUERY_SECONDS = 25.0
RETRY_SECONDS = 2
BAD_VALUE = {2, 51091}
"""What MongoDB says of a query that is not valid: a regular expression, for example, that it cannot read."""


async def answer(query: Awaitable[T]) -> T:
    """Awaits a query. Raises ProblemError: 503 when the store does not answer in time, 422 when it cannot read the
    query."""
    try:
        with pymongo.timeout(QUERY_SECONDS):
            return await query
    except PyMongoError as error:
        if isinstance(error, OperationFailure) and error.code in BAD_VALUE:
            message = f"the store cannot read the query: {error.details and error.details.get('errmsg')}"
            raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, message) from error
        if error.timeout:
            message = f"the store did not answer within {QUERY_SECONDS:.0f} s: ask for less, or again"
        else:
            message = f"the store does not answer: {type(error).__name__}"
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, message, retry_after=RETRY_SECONDS) from error
