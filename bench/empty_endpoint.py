"""What HTTP alone costs: the gateway's server and framework, with an endpoint that reads the body and accepts it."""

from fastapi import FastAPI, Request
from fastapi.responses import Response

application = FastAPI()
ANSWER = b'{"accepted":1,"rejected":[]}'


@application.post("/v1/readings")
async def accept(request: Request) -> Response:
    """Takes a body and promises nothing."""
    await request.body()
    return Response(ANSWER, status_code=202, media_type="application/json")
