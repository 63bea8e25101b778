"""What the gateway does at its end."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sensorpipeline_api.configuration import GatewayConfiguration, KafkaConnection, StoreConnection, Topics
from sensorpipeline_workers.gateway import application


class DeadLive:
    """A live stream that has ended by a mistake."""

    def __init__(self, _: GatewayConfiguration) -> None:
        pass

    async def run(self) -> None:
        raise RuntimeError("a mistake")


class SlowOutbox:
    """An outbox that takes a moment to flush what it holds."""

    flushed = False

    def __init__(self, _: GatewayConfiguration) -> None:
        pass

    async def run(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            SlowOutbox.flushed = True


def test_the_outbox_is_flushed_though_another_task_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "Live", DeadLive)
    monkeypatch.setattr(application, "Outbox", SlowOutbox)
    (tmp_path / "uri").write_text("mongodb://127.0.0.1:1/")
    topics = Topics(readings={}, aggregates="a", late="l", alerts="t", dead_letter="d")
    configuration = GatewayConfiguration(
        pipeline="p", kafka=KafkaConnection(bootstrap_servers=["127.0.0.1:1"]), topics=topics, fleets=[], port=1,
        store=StoreConnection(uri_file=str(tmp_path / "uri"), database="p"), token_file=None, metrics_port=2,
        device_tokens_directory=None,
    )  # fmt: skip

    async def live_and_end() -> None:
        made: Any = application.build_application(configuration)
        async with made.router.lifespan_context(made):
            await asyncio.sleep(0.01)

    asyncio.run(live_and_end())
    assert SlowOutbox.flushed
