"""Asks derive how its metrics are: a JSON document on its metrics port. The only module that talks to derive."""

import logging
from typing import Protocol

import aiohttp
from pydantic import TypeAdapter, ValidationError
from sensorpipeline_api.configuration import DERIVED_PATH
from sensorpipeline_api.status import DerivedMetricStatus

from sensorpipeline_operator.naming import METRICS_PORT

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 2.0
MAXIMUM_BYTES = 1024 * 1024
_states = TypeAdapter(list[DerivedMetricStatus])


class DerivedPort(Protocol):
    """What a visit needs of derive."""

    async def read(self, address: str) -> list[DerivedMetricStatus] | None: ...


class DerivedStates:
    """Reads from pods by their IP address."""

    def __init__(self, port: int = METRICS_PORT) -> None:
        self._port = port

    async def read(self, address: str) -> list[DerivedMetricStatus] | None:
        """Returns the state of each derived metric, or None when derive does not answer: what was known then stays."""
        host = f"[{address}]" if ":" in address else address
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"http://{host}:{self._port}{DERIVED_PATH}", raise_for_status=True) as response,
            ):
                body = bytearray()
                async for chunk in response.content.iter_chunked(65536):
                    body += chunk
                    if len(body) > MAXIMUM_BYTES:
                        raise ValueError(f"more than {MAXIMUM_BYTES} bytes")
            return _states.validate_json(bytes(body))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, ValidationError) as error:
            log.info("derive at %s does not say how its metrics are: %s", address, str(error)[:200])
            return None
