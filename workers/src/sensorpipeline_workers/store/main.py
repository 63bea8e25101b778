"""Runs the store agent beside a mongod."""

import os
import signal
import socket
import threading

from pymongo.errors import PyMongoError
from sensorpipeline_api.configuration import StoreConfiguration

from sensorpipeline_workers.runtime.health import Health
from sensorpipeline_workers.store.agent import StoreAgent

VISIT_SECONDS = 5.0
HURRY_SECONDS = 0.5


def run() -> None:
    """Runs until SIGTERM. The ordinal of the pod's name says which member of the replica set this is."""
    configuration = StoreConfiguration.load()
    health = Health()
    health.serve(configuration.metrics_port)
    name = os.environ.get("POD_NAME") or socket.gethostname()
    agent = StoreAgent(configuration, ordinal=int(name.rsplit("-", 1)[-1]))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    while not stop.is_set():
        health.beat()
        try:
            waiting = agent.visit()
        except PyMongoError as error:
            waiting = f"mongod: {type(error).__name__}"
        if waiting is None:
            health.set_ready()
        else:
            health.set_waiting(waiting)
        stop.wait(VISIT_SECONDS if waiting is None else HURRY_SECONDS)
