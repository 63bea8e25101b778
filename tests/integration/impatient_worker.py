"""A worker whose liveness has the patience of a test, and whose fetching hangs while a file exists."""

import asyncio
import os
from pathlib import Path
from typing import Any

from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from sensorpipeline_workers.runtime.health import Health
from sensorpipeline_workers.stream import app, main

HANG_VARIABLE = "HANG_WHILE_EXISTS"
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


if __name__ == "__main__":
    AIOKafkaConsumerThread._fetch_records = hang_or_fetch
    app.STALL_SECONDS = PATIENCE_SECONDS
    main.Health = lambda maximum_silence: Health(maximum_silence=PATIENCE_SECONDS)  # type: ignore[assignment,misc]
    main.run()
