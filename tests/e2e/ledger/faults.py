"""The faults, each a function that deals it and comes back when it is over, recovered from or not."""

import asyncio
import base64
import contextlib
import json
import os
import time
from typing import Any

from e2e import kube
from e2e.ledger import node, pipeline
from e2e.ledger.book import Book, Entry
from e2e.ledger.devices import HttpDevice, MqttDevice
from e2e.ledger.plant import RECOVERY_SECONDS, Fault, Plant
from e2e.ledger.schedule import MAXIMUM
from e2e.ledger.storm import Storm
from e2e.ledger.verdict import letter

KAFKA_PORT = 9092
CUT_SECONDS = 20.0
NEARLY_FULL = "StorageNearlyFull"
BULK_BYTES, BULK_STEP, BULK_LIMIT = 150_000, 10, 2000
MAXIMUM_FUTURE_MS = 300_000


def kill(component: str) -> Fault:
    """SIGKILL for the main process of each pod of a component. In a soak it may hit pods that are down already."""

    def deal(plant: Plant) -> None:
        for process in node.main_processes(pipeline.pods(component)):
            node.kill(process)

    return deal


def kill_broker(plant: Plant) -> None:
    """SIGKILL for Mosquitto, when the bridge keeps up: what waits for a bridge that is away is written to the broker's
    volume every few seconds only (docs/reliability.md), so nothing is promised for that."""
    plant.wait_bridge_keeping_up(seconds=RECOVERY_SECONDS)
    kill("mosquitto")(plant)


def cut_bridge_from_kafka(plant: Plant) -> None:
    """For a while every packet between the bridge and Kafka disappears."""
    with contextlib.ExitStack() as stack:
        for process in node.main_processes(pipeline.pods("bridge")):
            stack.enter_context(node.cut_off(process, KAFKA_PORT))
        time.sleep(CUT_SECONDS)


def freeze(component: str) -> Fault:
    """For a while the main process of a component stands still, its connections open."""

    def deal(plant: Plant) -> None:
        with contextlib.ExitStack() as stack:
            for process in node.main_processes(pipeline.pods(component)):
                stack.enter_context(node.frozen(process))
            time.sleep(CUT_SECONDS)

    return deal


def restart_everything(plant: Plant) -> None:
    """A rolling restart of all workloads at once, as `kubectl rollout restart` does it."""
    workloads = [
        f"{item['kind'].lower()}/{item['metadata']['name']}"
        for item in kube.get_list("deployments,statefulsets", namespace=pipeline.NAMESPACE)
    ]
    kube.kubectl("rollout", "restart", *workloads, namespace=pipeline.NAMESPACE)
    for workload in workloads:
        kube.kubectl("rollout", "status", workload, "--timeout=180s", namespace=pipeline.NAMESPACE, timeout=200)


def scale(*steps: dict[str, Any]) -> Fault:
    """Changes the resource step by step, each when the one before is in place."""

    def deal(plant: Plant) -> None:
        for step in steps:
            pipeline.patch(step)
            kube.wait_ready(pipeline.NAME, namespace=pipeline.NAMESPACE, seconds=180)
            time.sleep(3)

    return deal


def scale_workers(replicas: int) -> dict[str, Any]:
    """Returns the change of the spec that gives the fleet of meters so many workers."""
    fleets = json.loads(json.dumps(pipeline.document()["spec"]["fleets"]))
    fleets[0]["workers"] = {"minReplicas": replicas}
    return {"fleets": fleets}


def scale_bridge(replicas: int) -> dict[str, Any]:
    """Returns the change of the spec that gives the bridge so many members."""
    return {"bridge": {"replicas": replicas}}


def jump_clock(plant: Plant) -> None:
    """A device's clock is wrong: first a little ahead, which is taken; then far ahead, which is refused; then right."""
    now = time.time_ns() // 1_000_000
    device = mqtt_device(plant, "meters", pipeline.JUMPER)
    jumps = [(0, ""), (MAXIMUM_FUTURE_MS - 60_000, ""), (0, ""), (MAXIMUM_FUTURE_MS + 3_600_000, "FutureTimestamp"),
             (0, "")]  # fmt: skip
    entries = [
        Entry("meters", pipeline.JUMPER, "energy", now - 20_000 + number * 1000 + ahead, number, refused)
        for number, (ahead, refused) in enumerate(jump for jump in jumps for _ in range(20))
    ]
    device.send(entries)
    kube.until(lambda: device.unanswered() == 0, what="the jumping device's messages to be acknowledged", seconds=180)
    device.close()


def fill_volume(plant: Plant) -> None:
    """MongoDB stands still, and large messages fill Kafka's volume: ingest is suspended in time, and goes on when there
    is room again. The large messages are all found as dead letters."""
    book = Book()
    device = mqtt_device(plant, pipeline.BULK_FLEET, pipeline.BULK_DEVICE, book)
    with contextlib.ExitStack() as stack:
        for process in node.main_processes(pipeline.pods("mongodb")):
            stack.enter_context(node.frozen(process))
        while kafka_condition()["reason"] != NEARLY_FULL:
            assert book.position() < BULK_LIMIT, f"{BULK_LIMIT} large messages have not filled Kafka's volume"
            device.send([bulk_entry(book.position() + number) for number in range(BULK_STEP)])
            kube.until(lambda: device.unanswered() == 0, what="PUBACKs of large messages", seconds=120, every=0.2)
        assert "% full" in kafka_condition()["message"]
        kube.until(lambda: not pipeline.pods("bridge"), what="the bridge to end", seconds=60)
    device.close()
    kube.until(lambda: kafka_condition()["status"] == "True", what="room in Kafka's volume", seconds=300)
    wanted = {entry.time for entry in book.since()}
    kube.until(lambda: bulk_letters(plant) >= wanted, what="the large messages as dead letters", seconds=120, every=5)


def kafka_condition() -> dict[str, Any]:
    """Returns the condition KafkaReady."""
    return kube.condition(kube.get("sensorpipeline", pipeline.NAME, namespace=pipeline.NAMESPACE), "KafkaReady")


def bulk_entry(number: int) -> Entry:
    """Returns a reading that is out of range, in a message that does not compress."""
    pad = base64.b64encode(os.urandom(BULK_BYTES * 3 // 4)).decode()
    return Entry(pipeline.BULK_FLEET, pipeline.BULK_DEVICE, "noise", number, MAXIMUM + 1.0, "OutOfRange", pad)


def bulk_letters(plant: Plant) -> set[int]:
    """Returns the times of the large messages that are dead letters."""
    times: set[int] = set()
    cursor: dict[str, str] = {}
    while True:
        page = plant.quick.get("/v1/dead-letters", fleet=pipeline.BULK_FLEET, limit=20, **cursor)
        if page.status_code != 200:
            return set()
        body = page.json()
        times |= {letter(item)[0][2] for item in body["items"]}
        if body["next"] is None:
            return times
        cursor = {"cursor": body["next"]}


def storm(clients: int = 2000, rounds: int = 3) -> Fault:
    """Clients that all connect at once, publish, and are cut off, again and again."""

    def deal(plant: Plant) -> None:
        secret = kube.secret_value(f"{pipeline.NAME}-devices-storm", "_fleet", namespace=pipeline.NAMESPACE)
        begin = plant.traffic.next_time()
        blown = Storm(plant.broker, ("storm", secret), clients=clients, rounds=rounds, time=begin)
        asyncio.run(blown.blow(plant.book))

    return deal


def mqtt_device(plant: Plant, fleet: str, name: str, book: Book | None = None) -> MqttDevice:
    """Returns a connected device of a fleet with its own credentials."""
    metric = next(f["metrics"][0]["name"] for f in pipeline.document()["spec"]["fleets"] if f["name"] == fleet)
    password = kube.secret_value(f"{pipeline.NAME}-devices-{fleet}", name, namespace=pipeline.NAMESPACE)
    return MqttDevice(name, f"{fleet}/{name}/{metric}", address=plant.broker, credentials=(name, password),
                      book=book or plant.book)  # fmt: skip


def http_device(plant: Plant, fleet: str, name: str) -> HttpDevice:
    """Returns a device of a fleet that posts to the gateway with its own token."""
    token = kube.secret_value(f"{pipeline.NAME}-devices-{fleet}", name, namespace=pipeline.NAMESPACE)
    return HttpDevice(f"{plant.gateway.url}/v1/readings", token, plant.book)
