"""How fast the gateway takes readings in: posted one by one and in arrays, each answer after Kafka has them.

The limit is librdkafka itself, in the same run: the same arrays given to a producer with the gateway's settings from
one Python process. Client, gateway and Kafka share the machine. Run by `make bench-gateway`.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import requests
import uvloop
from confluent_kafka import Producer
from integration.conftest import Part, create_topics, free_port, run_kafka, until
from sensorpipeline_api.configuration import GatewayConfiguration, IngestLimits, KafkaConnection, StoreConnection
from sensorpipeline_api.spec import Fleet

from bench.report import update_section

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
SIZES = (1, 10, 500)
CONNECTIONS = 64
SECONDS = 8.0
FLEET = Fleet.model_validate({"name": "f", "topic": "f/{device}/m", "metrics": [{"name": "m"}], "partitions": 2})


@dataclass(frozen=True)
class Result:
    """What was measured with arrays of one size. Rates are readings/s, latencies ms."""

    size: int
    raw: float
    accepted: float
    processor: float
    median: float
    slowest_hundredth: float


def body(size: int, connection: int) -> bytes:
    """Returns an array of readings of one device."""
    now = int(time.time() * 1000) - 100_000
    device = f"device-{connection:03d}"
    return json.dumps([{"device": device, "metric": "m", "time": now + n, "value": 41.7} for n in range(size)]).encode()


def produce_raw(server: str, topic: str, size: int) -> float:
    """Returns how many readings per second a bare producer gets acknowledged, in records of `size` readings."""
    settings = {"enable.idempotence": True, "acks": "all", "linger.ms": 1, "compression.type": "lz4"}
    producer = Producer(settings | {"bootstrap.servers": server, "queue.buffering.max.messages": 100_000})
    values = [body(size, n) for n in range(CONNECTIONS)]
    count, begin = 0, time.monotonic()
    while time.monotonic() - begin < SECONDS / 2:
        for number, value in enumerate(values):
            while True:
                try:
                    producer.produce(topic, value, key=f"device-{number:03d}".encode())
                    break
                except BufferError:
                    producer.poll(0.01)
        count += len(values)
        producer.poll(0)
    assert producer.flush(60) == 0
    return count * size / (time.monotonic() - begin)


class Client(asyncio.Protocol):
    """One connection that posts the same body again as soon as it is answered."""

    def __init__(self, request: bytes, latencies: list[float]) -> None:
        self._request = request
        self._latencies = latencies
        self._buffer = b""
        self.stopped = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends the first request."""
        self._transport = cast(asyncio.Transport, transport)
        self._post()

    def data_received(self, data: bytes) -> None:
        """Takes an answer, and posts again."""
        self._buffer += data
        if not self._buffer.endswith(b"}"):
            return
        if not self._buffer.startswith(b"HTTP/1.1 202"):
            sys.exit(f"the gateway answered {self._buffer[:400]!r}")
        self._buffer = b""
        self._latencies.append(time.perf_counter() - self._begin)
        if not self.stopped:
            self._post()

    def _post(self) -> None:
        self._begin = time.perf_counter()
        self._transport.write(self._request)


def _same(client: Client) -> Client:
    return client


async def post(port: int, size: int) -> list[float]:
    """Posts for `SECONDS` over all connections; returns the latency of each request, in seconds."""
    latencies: list[float] = []
    clients = []
    for number in range(CONNECTIONS):
        content = body(size, number)
        head = (
            f"POST /v1/readings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
        )
        request = head.encode() + b"\r\n\r\n" + content
        client = Client(request, latencies)
        await asyncio.get_running_loop().create_connection(partial(_same, client), "127.0.0.1", port)
        clients.append(client)
    await asyncio.sleep(SECONDS)
    for client in clients:
        client.stopped = True
    return latencies[:]


def measure_size(server: str, topic: str, gateway: Part, port: int, size: int) -> Result:
    """Measures the bare producer, then the gateway, with arrays of one size."""
    raw = produce_raw(server, topic, size)
    before = gateway.processor_seconds
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        latencies = runner.run(post(port, size))
    count = len(latencies) * size
    spent = gateway.processor_seconds - before
    hundredths = statistics.quantiles(latencies, n=100)
    return Result(size, raw, count / SECONDS, spent / count * 1e6, hundredths[49] * 1000, hundredths[98] * 1000)


def accepts(port: int) -> bool:
    """Whether the gateway accepts a reading."""
    return requests.post(f"http://127.0.0.1:{port}/v1/readings", json=json.loads(body(1, 0)), timeout=15).ok


def measure() -> list[Result]:
    """Runs Kafka and the gateway, and measures each size."""
    with run_kafka() as (_, server), tempfile.TemporaryDirectory() as directory:
        topics = create_topics(server)
        uri = Path(directory) / "uri"
        uri.write_text("mongodb://127.0.0.1:1")  # nothing is asked of the store
        port = free_port()
        gateway = Part("gateway", GatewayConfiguration(
            pipeline="bench", kafka=KafkaConnection(bootstrap_servers=[server]), topics=topics, fleets=[FLEET],
            store=StoreConnection(uri_file=str(uri), database="bench"), port=port, metrics_port=free_port(),
            limits=IngestLimits(maximum_readings_per_second=10**9),
        ), Path(directory))  # fmt: skip
        gateway.start()
        try:
            until(lambda: accepts(port), what="the gateway to accept readings")
            return [measure_size(server, topics.readings["f"], gateway, port, size) for size in SIZES]
        finally:
            gateway.close()


def report(results: list[Result]) -> str:
    """Returns the section for the page."""
    rows = "\n".join(
        f"| {r.size} | {r.accepted:,.0f} | {r.raw:,.0f} | {r.accepted / r.raw:.0%} | {r.processor:.1f} "
        f"| {r.median:.1f} | {r.slowest_hundredth:.1f} |"
        for r in results
    )
    return f"""
## HTTP ingest

{CONNECTIONS} clients post arrays of readings to one gateway process, each as soon as it has its answer, which
comes after Kafka's acknowledgement (`acks=all`, idempotent). Client, gateway and Kafka share {os.cpu_count()} cores.
The limit in the same run is librdkafka in one Python process: the same arrays as records, not decoded, not validated.

| readings per request | accepted, readings/s | bare producer | share | CPU-seconds per million | p50 ms | p99 ms |
| --- | --- | --- | --- | --- | --- | --- |
{rows}

Repeat: `make bench-gateway`.
"""


def main() -> None:
    """Measures, prints, and writes the page."""
    results = measure()
    text = report(results)
    print(text)
    update_section(PAGE, "gateway", text)
    best = results[-1]
    print(f"readings/s over HTTP in arrays of {best.size}: {best.accepted:,.0f}")


if __name__ == "__main__":
    main()
