"""Runs the bridge."""

import os
import signal
import socket

from sensorpipeline_api.configuration import BridgeConfiguration

from sensorpipeline_workers.bridge.bridge import Bridge
from sensorpipeline_workers.bridge.carrier import Counters
from sensorpipeline_workers.runtime.health import Health
from sensorpipeline_workers.runtime.topics import wait_for_topics


def run() -> None:
    """Runs until SIGTERM; what was received is carried over and acknowledged first.

    The client id is the host's name: a StatefulSet keeps it, so a restarted bridge finds its session again.
    """
    configuration = BridgeConfiguration.load()
    health = Health()
    health.serve(configuration.metrics_port)
    topics = configuration.topics
    partitions = wait_for_topics(configuration.kafka, {*topics.readings.values(), topics.dead_letter}, health)
    bridge = Bridge(configuration, partitions, Counters(), health)
    signal.signal(signal.SIGTERM, lambda *_: bridge.stop())
    signal.signal(signal.SIGINT, lambda *_: bridge.stop())
    bridge.run(client_id=os.environ.get("POD_NAME") or socket.gethostname())
