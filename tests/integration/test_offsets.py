"""Asking Kafka for offsets, with a client that has been at it for long."""

import subprocess
import time

from integration.conftest import create_topics, run_kafka, until
from sensorpipeline_api.configuration import KafkaConnection
from sensorpipeline_workers.stream.offsets import Offsets

FENCED_SECONDS = 12
"""A broker that has been silent for 9 s loses its partitions, and gets them again in a new epoch."""


def test_offsets_are_told_again_after_partitions_have_changed_their_leaders() -> None:
    with run_kafka() as (container, server):
        topic = create_topics(server).readings["f"]
        offsets = Offsets(KafkaConnection(bootstrap_servers=[server]), topic)
        nothing = {0: (0, 0), 1: (0, 0)}
        until(lambda: offsets.ask({0, 1}) == nothing, what="a first answer")
        subprocess.run(["docker", "pause", container], check=True, capture_output=True)
        time.sleep(FENCED_SECONDS)
        subprocess.run(["docker", "unpause", container], check=True, capture_output=True)
        time.sleep(3)
        until(lambda: offsets.ask({0, 1}) == nothing, what="an answer after that", seconds=10)
