"""The live stream: one Kafka consumer for the process, and a bounded queue per listener.

A listener that is slower than the stream loses its oldest events and is told how many.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from sensorpipeline_api.configuration import GatewayConfiguration
from sensorpipeline_api.records import Reading

from sensorpipeline_workers.runtime.kafka import aiokafka_settings

log = logging.getLogger(__name__)
_decoder = msgspec.json.Decoder(list[Reading])
QUEUE_LENGTH = 1000
KEEP_ALIVE_SECONDS = 15.0


class Listener:
    """One client of the stream and what it wants to see."""

    def __init__(self, device: str | None, metric: str | None) -> None:
        self._device = device
        self._metric = metric
        self._queue: asyncio.Queue[str] = asyncio.Queue(QUEUE_LENGTH)
        self._lost = 0

    def offer(self, fleet: str, reading: Reading) -> None:
        """Gives the listener a reading, at the cost of the oldest when its queue is full."""
        if self._device not in {None, reading.device} or self._metric not in {None, reading.metric}:
            return
        if self._queue.full():
            self._queue.get_nowait()
            self._lost += 1
        self._queue.put_nowait(json.dumps({"fleet": fleet} | msgspec.to_builtins(reading)))

    async def events(self) -> AsyncIterator[str]:
        """Yields server-sent events for ever; a comment when there is nothing to say for a while."""
        while True:
            try:
                data = await asyncio.wait_for(self._queue.get(), KEEP_ALIVE_SECONDS)
            except TimeoutError:
                yield ": alive\n\n"
                continue
            if self._lost:
                lost, self._lost = self._lost, 0
                yield f"event: lost\ndata: {lost}\n\n"
            yield f"event: reading\ndata: {data}\n\n"


class Live:
    """Reads every fleet's readings from now on, and hands them to the listeners."""

    def __init__(self, configuration: GatewayConfiguration) -> None:
        self._configuration = configuration
        self._fleets = {topic: fleet for fleet, topic in configuration.topics.readings.items()}
        self._listeners: set[Listener] = set()

    @asynccontextmanager
    async def listener(self, device: str | None, metric: str | None) -> AsyncIterator[Listener]:
        """Registers a listener while the context is open."""
        listener = Listener(device, metric)
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    async def run(self) -> None:
        """Runs until cancelled; Kafka being away is waited for."""
        while True:
            consumer = AIOKafkaConsumer(
                *self._fleets, **aiokafka_settings(self._configuration.kafka), auto_offset_reset="latest"
            )
            try:
                await consumer.start()
                async for message in consumer:
                    self._hand_out(self._fleets[message.topic], message.value)
            except KafkaError as error:
                log.warning("live stream: %s", error)
                await asyncio.sleep(2)
            finally:
                with suppress(KafkaError):
                    await consumer.stop()

    def _hand_out(self, fleet: str, value: bytes) -> None:
        if not self._listeners:
            return
        with suppress(msgspec.MsgspecError):
            for reading in _decoder.decode(value):
                for listener in self._listeners:
                    listener.offer(fleet, reading)
