"""A worker whose liveness has the patience of a test, whose fetching hangs while a file exists, and which restores as
slowly as it is told to."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from sensorpipeline_workers.runtime.health import Health
from sensorpipeline_workers.stream import app, main, table

HANG_VARIABLE = "HANG_WHILE_EXISTS"
RESTORE_VARIABLE = "RESTORE_SECONDS_PER_RECORD"
PATIENCE_SECONDS = 4.0

fetch = AIOKafkaConsumerThread._fetch_records


def hangs() -> bool:
    """Whether the file exists."""
    return Path(os.environ[HANG_VARIABLE]).exists()


async def hang_or_fetch(*arguments: Any, **options: Any) -> Any:
    """Fetches, while the file does not exist."""
    if hangs():
        await asyncio.sleep(0.1)
        return {}
    return await fetch(*arguments, **options)


class SlowReader:
    """A reader of the changelog that takes its time for each record."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def consume(self, _: int, timeout: float) -> Any:
        """Gives one record."""
        time.sleep(float(os.environ.get(RESTORE_VARIABLE, "0")))
        return self._reader.consume(1, timeout)


if __name__ == "__main__":
    AIOKafkaConsumerThread._fetch_records = hang_or_fetch
    reader = table._reader
    table._reader = lambda connection: SlowReader(reader(connection))  # type: ignore[assignment,return-value]
    app.STALL_SECONDS = app.REBALANCE_SECONDS = PATIENCE_SECONDS
    main.Health = lambda maximum_silence: Health(maximum_silence=PATIENCE_SECONDS)  # type: ignore[assignment,misc]
    main.run()
