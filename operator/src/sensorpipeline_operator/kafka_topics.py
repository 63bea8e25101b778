"""The Kafka topics of a pipeline: computed from the spec, and brought about through Kafka's admin interface."""

import asyncio
from dataclasses import dataclass, field

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic
from sensorpipeline_api.spec import SensorPipelineSpec

from sensorpipeline_operator.errors import NotReadyError
from sensorpipeline_operator.naming import KAFKA_PORT, Names

TIMEOUT_SECONDS = 10
HOUR_MILLISECONDS = 3600 * 1000
DEAD_LETTER_BYTES = 4 * 1024 * 1024
AGGREGATE_RETENTION_HOURS = 24 * 365
"""Derive joins what this topic holds, so window results stay long; they are few."""


@dataclass(frozen=True)
class Topic:
    """A topic as it should be."""

    name: str
    partitions: int
    replication: int
    configuration: dict[str, str] = field(default_factory=dict)


def compute_topics(names: Names, spec: SensorPipelineSpec) -> list[Topic]:
    """Returns the topics of a pipeline with a managed cluster."""
    cluster = spec.kafka.cluster
    if cluster is None:
        return []
    replication = min(3, cluster.replicas)
    retention = {"retention.ms": str(cluster.retention_hours * HOUR_MILLISECONDS)}
    aggregates = {"retention.ms": str(max(cluster.retention_hours, AGGREGATE_RETENTION_HOURS) * HOUR_MILLISECONDS)}
    letters = retention | {"max.message.bytes": str(DEAD_LETTER_BYTES)}
    return [
        *(Topic(names.readings_topic(f.name), f.partitions, replication, retention) for f in spec.fleets),
        Topic(names.topic("aggregates"), 3, replication, aggregates),
        Topic(names.topic("late"), 1, replication, retention),
        Topic(names.topic("alerts"), 1, replication, retention),
        Topic(names.topic("dead-letter"), 1, replication, letters),
    ]


class KafkaTopics:
    """Keeps topics; remembers what it has seen, so Kafka is asked only when something may have changed."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], list[Topic]] = {}
        # A client that goes while its last answer is being delivered takes the process with it: they stay.
        self._clients: dict[tuple[str, str], AdminClient] = {}

    async def keep(self, names: Names, topics: list[Topic], *, password: str, incarnation: str) -> int:
        """Creates what is missing; returns how many topics it created. `incarnation` changes with the cluster. Raises
        NotReadyError when Kafka does not answer."""
        key = (f"{names.namespace}/{names.pipeline}", incarnation)
        if self._kept.get(key) == topics:
            return 0
        created = await asyncio.to_thread(_create_missing, self._client(names, password), topics)
        self._kept[key] = topics
        return created

    def _client(self, names: Names, password: str) -> AdminClient:
        key = (f"{names.host('kafka')}:{KAFKA_PORT}", password)
        if key not in self._clients:
            self._clients[key] = AdminClient(
                {
                    "bootstrap.servers": key[0],
                    "security.protocol": "SASL_PLAINTEXT",
                    "sasl.mechanism": "PLAIN",
                    "sasl.username": "admin",
                    "sasl.password": password,
                    "log_level": 0,
                }
            )
        return self._clients[key]


def _create_missing(client: AdminClient, topics: list[Topic]) -> int:
    try:
        known = client.list_topics(timeout=TIMEOUT_SECONDS).topics
        missing = [topic for topic in topics if topic.name not in known]
        if missing:
            new = [
                NewTopic(t.name, num_partitions=t.partitions, replication_factor=t.replication, config=t.configuration)
                for t in missing
            ]
            for future in client.create_topics(new, operation_timeout=TIMEOUT_SECONDS).values():
                future.result()
    except KafkaException as error:
        raise NotReadyError(f"Kafka: {error.args[0].str()}") from error
    return len(missing)
