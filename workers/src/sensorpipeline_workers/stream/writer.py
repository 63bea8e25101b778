"""Writes to Kafka, many messages at once, on librdkafka: Faust's own producer costs fifty times as much per message."""

import asyncio
from collections.abc import Callable, Iterable

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as Delivered
from sensorpipeline_api.configuration import KafkaConnection

from sensorpipeline_workers.runtime.kafka import librdkafka_settings

MAXIMUM_MESSAGE_BYTES = 4 * 1024 * 1024
WAIT_SECONDS = 1.0
YIELD_EVERY = 500


class WriteError(Exception):
    """Kafka refuses a message for good."""


class Writer:
    """Messages in, durable when `write` returns. `waiting` is called every second that Kafka takes longer."""

    def __init__(self, connection: KafkaConnection, waiting: Callable[[], None]) -> None:
        self._waiting = waiting
        self._refused: str | None = None
        self._producer = Producer(
            librdkafka_settings(connection)
            | {
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 5,
                "compression.type": "lz4",
                "partitioner": "murmur2_random",
                "message.max.bytes": MAXIMUM_MESSAGE_BYTES,
                "queue.buffering.max.messages": 1_000_000,
                "queue.buffering.max.kbytes": 128 * 1024,
                # Whoever is away is waited for: a message is given up when the process is.
                "message.timeout.ms": 0,
                "delivery.report.only.error": True,
                "on_delivery": self._on_delivery,
            }
        )

    async def write(self, messages: Iterable[tuple[str, int, bytes, bytes | None]]) -> None:
        """Writes messages (topic, partition or -1, key, value) and waits until Kafka has them. The event loop goes on
        meanwhile. Raises WriteError, saying which message Kafka refuses; others may have been written."""
        loop = asyncio.get_running_loop()
        sent = 0
        for topic, partition, key, value in messages:
            while True:
                try:
                    self._producer.produce(topic, value, key, partition)
                    break
                except BufferError:
                    await loop.run_in_executor(None, self._producer.flush, WAIT_SECONDS)
                    self._waiting()
                except KafkaException as error:
                    raise WriteError(_explain(error.args[0], topic, key, value)) from error
            sent += 1
            if sent % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        while sent and await loop.run_in_executor(None, self._producer.flush, WAIT_SECONDS):
            self._waiting()
        if self._refused is not None:
            raise WriteError(self._refused)

    def _on_delivery(self, error: KafkaError | None, delivered: Delivered) -> None:
        if error is not None:
            self._refused = _explain(error, delivered.topic(), delivered.key(), delivered.value())


def _explain(error: KafkaError, topic: str | None, key: str | bytes | None, value: str | bytes | None) -> str:
    return f"{error.str()}: {len(value or b'')} bytes under the key {key!r} of {topic}"
