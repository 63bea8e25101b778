"""Runs the sink."""

import signal

from sensorpipeline_api.configuration import SinkConfiguration

from sensorpipeline_workers.runtime.health import Health
from sensorpipeline_workers.runtime.topics import wait_for_topics
from sensorpipeline_workers.sink.sink import Sink
from sensorpipeline_workers.sink.writer import Writer


def run() -> None:
    """Runs until SIGTERM; the batch at hand is written and committed first."""
    configuration = SinkConfiguration.load()
    health = Health()
    health.serve(configuration.metrics_port)
    topics = configuration.topics
    wanted = {*topics.readings.values(), topics.aggregates, topics.late, topics.alerts, topics.dead_letter}
    partitions = wait_for_topics(configuration.kafka, wanted, health)
    sink = Sink(configuration, partitions, Writer(configuration.store, beat=health.beat), health)
    signal.signal(signal.SIGTERM, lambda *_: sink.stop())
    signal.signal(signal.SIGINT, lambda *_: sink.stop())
    sink.run()
