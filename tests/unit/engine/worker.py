"""The worker's real processor on one partition, and beside it what outlives a crash: the log, the stored states, the
committed offset, and the outputs, which are never taken back."""

from collections.abc import Callable
from typing import Any

import msgspec
from sensorpipeline_api.configuration import KafkaConnection, Topics, WorkerConfiguration
from sensorpipeline_api.records import Reading
from sensorpipeline_api.spec import Fleet
from sensorpipeline_workers.stream.processor import Processor
from unit.engine.pipelines import NOW

Row = tuple[str, int, float]
"""Device, time, value."""


class Worker:
    """What a process does between its start and a crash, step by step."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.log: list[bytes] = []
        self.stored: dict[bytes, bytes] = {}
        self.committed = 0
        self.out: list[Any] = []
        self.now = NOW
        self.deploy(spec)

    def deploy(self, spec: dict[str, Any]) -> None:
        """Starts a process with a fleet that may have been changed."""
        self.fleet = Fleet.model_validate(spec)
        self.start()

    def start(self) -> None:
        """Starts a new process from what is stored. Nothing of the log has been read by it."""
        topics = Topics(readings={"f": "r"}, aggregates="a", late="l", alerts="t", dead_letter="d")
        kafka = KafkaConnection(bootstrap_servers=["127.0.0.1:1"])
        self.processor = Processor(
            WorkerConfiguration(pipeline="p", kafka=kafka, topics=topics, fleet=self.fleet, application_id="w")
        )
        self.processor.load(0, self.stored.items())
        self.processor.look(1000)
        self.position = self.committed

    def read(self, count: int = 1_000_000) -> None:
        """Reads on in the log."""
        end = min(len(self.log), self.position + count)
        for offset in range(self.position, end):
            self.processor.record(topic="r", partition=0, offset=offset, value=self.log[offset], now=self.now)
        self.position = end

    def send(self, rows: list[Row]) -> None:
        """Puts a record at the end of the log, and reads up to there."""
        self.now += 1000
        self.log.append(msgspec.json.encode([Reading(device, "m", time, value) for device, time, value in rows]))
        self.read()

    def fall_silent(self, seconds: int | None = None) -> None:
        """Lets time pass (the fleet's idle time by default) in which nothing comes."""
        self.now += 1000 * (self.fleet.idle_seconds if seconds is None else seconds)
        self.processor.check(self.now)

    def deliver(self) -> list[Any]:
        """Writes the results, and returns them."""
        found: list[Any] = self.processor.take_results()[0]
        self.out += found
        return found

    def flush(self, *, commit: bool = True, written: Callable[[bytes], bool] = lambda key: True) -> None:
        """Writes results, then states, then the offset; after a crash amid the writes only some keys are `written`."""
        self.deliver()
        for _, key, data in self.processor.take_states():
            if written(key):
                self.stored.pop(key, None)
                if data is not None:
                    self.stored[key] = data
        if commit:
            self.committed = self.position
