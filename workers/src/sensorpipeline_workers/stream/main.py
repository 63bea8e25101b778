"""Runs the stream worker of a fleet."""

import logging

import faust
from sensorpipeline_api.configuration import WorkerConfiguration

from sensorpipeline_workers.runtime.health import Health
from sensorpipeline_workers.runtime.topics import wait_for_topics
from sensorpipeline_workers.stream.app import StreamWorker


def run() -> None:
    """Runs until SIGTERM; what is in flight is flushed and committed first."""
    configuration = WorkerConfiguration.load()
    health = Health(maximum_silence=120)
    health.serve(configuration.metrics_port)
    topics = configuration.topics
    readings = topics.readings[configuration.fleet.name]
    wait_for_topics(
        configuration.kafka, {readings, topics.aggregates, topics.late, topics.alerts, topics.dead_letter}, health
    )
    # The client warns at every connection that passwords cross the pod network, which is what the spec asks for.
    logging.getLogger("aiokafka.conn").setLevel(logging.ERROR)
    worker = StreamWorker(configuration, health)
    process = faust.Worker(worker.app, loglevel="WARNING", quiet=True)
    process.spinner = None  # it would have every debug message of every library formatted
    process.execute_from_commandline()
