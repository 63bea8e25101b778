"""The live stream: one Kafka consumer for the process while anybody listens, and a bounded queue per listener.

A listener that is slower than the stream loses its oldest events and is told how many.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from http import HTTPStatus

import msgspec
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from sensorpipeline_api.configuration import GatewayConfiguration
from sensorpipeline_api.records import Reading, UnreadableRecordError, decode_readings

from sensorpipeline_workers.gateway.problems import ProblemError
from sensorpipeline_workers.runtime.kafka import aiokafka_settings

log = logging.getLogger(__name__)
QUEUE_LENGTH = 1000
KEEP_ALIVE_SECONDS = 15.0
MAXIMUM_LISTENERS = 100
RETRY_SECONDS = 2


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
    """Reads every fleet's readings as they come while there are listeners, and hands them out."""

    def __init__(self, configuration: GatewayConfiguration) -> None:
        self._configuration = configuration
        self._fleets = {topic: fleet for fleet, topic in configuration.topics.readings.items()}
        self._listeners: set[Listener] = set()
        self._wanted = asyncio.Event()
        self._reading = asyncio.Event()

    def ensure_room(self) -> None:
        """Raises ProblemError (503) when there are too many listeners."""
        if len(self._listeners) >= MAXIMUM_LISTENERS:
            message = f"{MAXIMUM_LISTENERS} clients listen already, which is the most that this gateway serves"
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, message, retry_after=RETRY_SECONDS)

    def open(self, device: str | None, metric: str | None) -> Listener:
        """Registers a listener, until `close`."""
        listener = Listener(device, metric)
        self._listeners.add(listener)
        self._wanted.set()
        return listener

    def close(self, listener: Listener) -> None:
        """Forgets a listener."""
        self._listeners.discard(listener)
        if not self._listeners:
            self._wanted.clear()

    async def reading(self) -> None:
        """Waits until what comes to Kafka from now on is handed out."""
        await self._reading.wait()

    async def run(self) -> None:
        """Runs until cancelled; Kafka being away is waited for, and no error ends the stream for good."""
        while True:
            await self._wanted.wait()
            try:
                await self._read()
            except KafkaError as error:
                log.warning("live stream: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:  # a mistake of ours: those who listen must not wait for ever
                log.exception("live stream")
                await asyncio.sleep(RETRY_SECONDS)

    async def _read(self) -> None:
        """Hands out what comes while anybody listens. Raises KafkaError."""
        consumer = AIOKafkaConsumer(*self._fleets, **aiokafka_settings(self._configuration.kafka))
        try:
            await consumer.start()
            await consumer.seek_to_end()
            self._reading.set()
            while self._wanted.is_set():
                for partition, messages in (await consumer.getmany(timeout_ms=500)).items():
                    for message in messages:
                        self._hand_out(self._fleets[partition.topic], message.value)
        finally:
            self._reading.clear()
            with suppress(KafkaError):
                await consumer.stop()

    def _hand_out(self, fleet: str, value: bytes | None) -> None:
        with suppress(UnreadableRecordError):  # the worker dead-letters it
            for reading in decode_readings(value, metrics=None):
                for listener in self._listeners:
                    listener.offer(fleet, reading)
