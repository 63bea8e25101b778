"""Kafka's clients block, so they are called in threads: few ones of their own, one call at a time for each pipeline,
and nobody waits for ever for a Kafka that does not answer."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from sensorpipeline_operator.errors import NotReadyError

CALL_SECONDS = 20.0
THREADS = 8

T = TypeVar("T")


class KafkaCalls:
    """Calls that block, each with a key; a call whose key has one under way is refused."""

    def __init__(self, threads: int = THREADS) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="kafka")
        self._under_way: dict[str, Future[Any]] = {}

    async def run(self, key: str, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Returns what the function returns. Raises NotReadyError when that takes too long, or an earlier call that
        took too long has not ended yet."""
        if self.busy(key):
            raise NotReadyError("Kafka has not answered what it was asked earlier.")
        future = self._pool.submit(function, *arguments, **options)
        self._under_way[key] = future
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise NotReadyError(f"Kafka has not answered within {CALL_SECONDS:.0f} s.") from None

    def busy(self, key: str) -> bool:
        """Whether a call with this key is under way."""
        last = self._under_way.get(key)
        return last is not None and not last.done()

    def forget(self, key: str) -> None:
        """Drops what is remembered of a key, unless a call is under way."""
        if not self.busy(key):
            self._under_way.pop(key, None)
