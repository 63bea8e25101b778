"""Runs the bridge."""

import os
import signal
import socket
import threading

from sensorpipeline_api.configuration import BridgeConfiguration

from sensorpipeline_workers.bridge.adoption import Adoption
from sensorpipeline_workers.bridge.arrivals import Arrivals
from sensorpipeline_workers.bridge.bridge import Bridge
from sensorpipeline_workers.bridge.sending import Counters
from sensorpipeline_workers.runtime.garbage import look_seldom
from sensorpipeline_workers.runtime.health import Health
from sensorpipeline_workers.runtime.topics import wait_for_topics


def run() -> None:
    """Runs until SIGTERM; what was received is carried over and acknowledged first.

    The client id is the pod's name: a StatefulSet keeps it, so a restarted bridge finds its session again. The first
    member also adopts the sessions of members that are gone for good.
    """
    look_seldom()
    configuration = BridgeConfiguration.load()
    health = Health()
    health.serve(configuration.metrics_port)
    topics = configuration.topics
    partitions = wait_for_topics(configuration.kafka, {*topics.readings.values(), topics.dead_letter}, health)
    client_id = os.environ.get("POD_NAME") or socket.gethostname()
    group, _, ordinal = client_id.rpartition("-")
    counters, arrivals = Counters(), Arrivals(int(ordinal) if ordinal.isdigit() else 0)
    adoption = Adoption(group, partitions, counters, arrivals)
    first = ordinal == "0"
    bridge = Bridge(configuration, partitions, counters, arrivals, health, adoption.empty_guards if first else None)
    signal.signal(signal.SIGTERM, lambda *_: bridge.stop())
    signal.signal(signal.SIGINT, lambda *_: bridge.stop())
    if first:
        threading.Thread(target=adoption.run, name="adoption", daemon=True).start()
    bridge.run(client_id)
    adoption.stop()
