"""How fast the gateway takes readings in: posted one by one and in arrays, each answer after Kafka has them.

The limit is HTTP itself, in the same run: the same requests to an endpoint that does nothing with them, in the same
server and framework (empty_endpoint.py). Client, gateway and Kafka share the machine. Run by `make bench-gateway`.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import requests
import uvloop
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
    limit: float
    accepted: float
    processor: float
    median: float
    slowest_hundredth: float


def body(size: int, connection: int) -> bytes:
    """Returns an array of readings of one device."""
    now = int(time.time() * 1000) - 100_000
    device = f"device-{connection:03d}"
    return json.dumps([{"device": device, "metric": "m", "time": now + n, "value": 41.7} for n in range(size)]).encode()


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


def measure_size(gateway: Part, ports: tuple[int, int], size: int) -> Result:
    """Measures the empty endpoint, then the gateway, at these ports, with arrays of one size."""
    rates, latencies, spent = [], [0.0], 0.0
    for port in ports:
        before = gateway.processor_seconds
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            latencies = runner.run(post(port, size))
        spent = gateway.processor_seconds - before
        rates.append(len(latencies) * size / SECONDS)
    hundredths = statistics.quantiles(latencies, n=100)
    per_million = spent / (len(latencies) * size) * 1e6
    return Result(size, rates[0], rates[1], per_million, hundredths[49] * 1000, hundredths[98] * 1000)


@contextmanager
def empty_endpoint() -> Iterator[int]:
    """Runs the empty endpoint; gives its port."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "bench.empty_endpoint:application", "--port", str(port)]
    process = subprocess.Popen([*command, "--log-level", "warning", "--no-access-log"])
    try:
        until(lambda: accepts(port), what="the empty endpoint")
        yield port
    finally:
        process.terminate()
        process.wait()


def accepts(port: int) -> bool:
    """Whether the gateway accepts a reading."""
    return requests.post(f"http://127.0.0.1:{port}/v1/readings", json=json.loads(body(1, 0)), timeout=15).ok


def measure() -> list[Result]:
    """Runs Kafka and the gateway, and measures each size."""
    with run_kafka() as (_, server), tempfile.TemporaryDirectory() as directory, empty_endpoint() as empty:
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
            return [measure_size(gateway, (empty, port), size) for size in SIZES]
        finally:
            gateway.close()


def report(results: list[Result]) -> str:
    """Returns the section for the page."""
    rows = "\n".join(
        f"| {r.size} | {r.accepted:,.0f} | {r.limit:,.0f} | {r.accepted / r.limit:.0%} | {r.processor:.1f} "
        f"| {r.median:.1f} | {r.slowest_hundredth:.1f} |"
        for r in results
    )
    return f"""
## HTTP ingest

{CONNECTIONS} clients post arrays of readings to one gateway process, each as soon as it has its answer, which
comes after Kafka's acknowledgement (`acks=all`, idempotent). Client, gateway and Kafka share {os.cpu_count()} cores.
The limit in the same run is HTTP itself: the same requests to an endpoint of the same server and framework that reads
the body, does nothing with it and answers.

| readings per request | accepted, readings/s | empty endpoint | share | CPU-seconds per million | p50 ms | p99 ms |
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
    for result in results:
        print(f"share of an empty endpoint, arrays of {result.size}: {result.accepted / result.limit:.0%}")


if __name__ == "__main__":
    main()
