"""Waiting for Kafka: components start before the broker and its topics are there, and must not end because of it."""

import time

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from sensorpipeline_api.configuration import KafkaConnection

from sensorpipeline_workers.runtime.health import Health
from sensorpipeline_workers.runtime.kafka import librdkafka_settings


def wait_for_topics(connection: KafkaConnection, topics: set[str], health: Health) -> dict[str, int]:
    """Waits until every topic exists; returns its number of partitions. Kafka being away is waited for, too."""
    client = AdminClient(librdkafka_settings(connection) | {"log_level": 0})
    while True:
        health.beat()
        try:
            known = client.list_topics(timeout=5).topics
        except KafkaException as error:
            health.set_waiting(f"Kafka: {error.args[0].str()}")
        else:
            missing = topics - known.keys()
            if not missing:
                return {topic: len(known[topic].partitions) for topic in topics}
            health.set_waiting(f"topics {', '.join(sorted(missing))}")
        time.sleep(1)
