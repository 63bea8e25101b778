"""The Kafka topics of a pipeline: computed from the spec, and brought about through Kafka's admin interface."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType
from sensorpipeline_api.spec import SensorPipelineSpec

from sensorpipeline_operator.errors import NotReadyError, TopicDiffersError
from sensorpipeline_operator.kafka_calls import KafkaCalls
from sensorpipeline_operator.naming import KAFKA_PORT, Names

TIMEOUT_SECONDS, REQUEST_SECONDS, RESULT_SECONDS = 10, 15, 20
VERIFY_SECONDS = 60.0
"""How often Kafka is asked whether all is still there."""
LEAVE_SECONDS = 60.0
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


@dataclass(frozen=True)
class _Kept:
    topics: list[Topic]
    incarnation: str
    since: float


@dataclass(frozen=True)
class _Client:
    client: AdminClient
    password: str


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
    """Keeps topics. Kafka is asked when the wanted ones have changed, and every now and then, for they may be lost with
    a volume, or deleted or changed by somebody."""

    def __init__(self, calls: KafkaCalls, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._calls = calls
        self._clock = clock
        self._kept: dict[Names, _Kept] = {}
        self._clients: dict[Names, _Client] = {}
        # A client that goes while its last answer is being delivered takes the process with it: they stay for a while.
        self._leaving: list[tuple[float, AdminClient]] = []

    async def keep(self, names: Names, topics: list[Topic], *, password: str, incarnation: str) -> int:
        """Creates what is missing and changes what differs; returns how many topics it created. `incarnation` changes
        with the cluster. Raises NotReadyError when Kafka does not answer and was never seen to have them,
        TopicDiffersError when a topic cannot be made as it should be."""
        now = self._clock()
        self._leaving = [(since, client) for since, client in self._leaving if now - since < LEAVE_SECONDS]
        kept = self._kept.get(names)
        same = kept is not None and (kept.topics, kept.incarnation) == (topics, incarnation)
        if same and kept is not None and now - kept.since < VERIFY_SECONDS:
            return 0
        try:
            created = await self._calls.run(_key(names), keep_topics, self._client(names, password), topics)
        except TopicDiffersError:
            raise
        except NotReadyError:
            if not same:
                raise
            return 0  # they were there; whether Kafka answers is for the look at its volumes to say
        self._kept[names] = _Kept(topics, incarnation, now)
        return created

    def forget(self, names: Names) -> None:
        """Drops what is remembered of a pipeline that is gone, and its client."""
        self._kept.pop(names, None)
        self._leave(names)
        self._calls.forget(_key(names))

    def _leave(self, names: Names) -> None:
        client = self._clients.pop(names, None)
        if client is not None:
            self._leaving.append((self._clock(), client.client))

    def _client(self, names: Names, password: str) -> AdminClient:
        known = self._clients.get(names)
        if known is None or known.password != password:
            self._leave(names)
            settings: dict[str, str | int | float | bool] = {
                "bootstrap.servers": f"{names.host('kafka')}:{KAFKA_PORT}",
                "security.protocol": "SASL_PLAINTEXT",
                "sasl.mechanism": "PLAIN",
                "sasl.username": "admin",
                "sasl.password": password,
                "log_level": 0,
            }
            known = self._clients[names] = _Client(AdminClient(settings), password)
        return known.client


def _key(names: Names) -> str:
    return f"topics of {names.namespace}/{names.pipeline}"


def keep_topics(client: AdminClient, topics: list[Topic]) -> int:
    """Creates the topics that are missing and sets what differs in the configuration of the others; returns how many it
    created. Raises NotReadyError when Kafka does not answer, TopicDiffersError when one has other partitions."""
    try:
        known = client.list_topics(timeout=TIMEOUT_SECONDS).topics
        missing = [topic for topic in topics if topic.name not in known]
        if missing:
            _create(client, missing)
        present = [topic for topic in topics if topic.name in known]
        if present:
            _configure(client, present)
    except KafkaException as error:
        raise NotReadyError(f"Kafka: {error.args[0].str()}") from error
    except TimeoutError as error:
        raise NotReadyError("Kafka: a request timed out.") from error
    for topic in present:
        have = len(known[topic.name].partitions)
        if have not in {0, topic.partitions}:  # 0: it is being created
            raise TopicDiffersError(
                f"Topic {topic.name} has {have} partitions of an earlier fleet, and {topic.partitions} are wanted."
                f" State and offsets are kept per partition: give the fleet partitions: {have}, or another name."
            )
    return len(missing)


def _create(client: AdminClient, topics: list[Topic]) -> None:
    new = [
        NewTopic(t.name, num_partitions=t.partitions, replication_factor=t.replication, config=t.configuration)
        for t in topics
    ]
    futures = client.create_topics(new, operation_timeout=TIMEOUT_SECONDS, request_timeout=REQUEST_SECONDS)
    for future in futures.values():
        future.result(RESULT_SECONDS)


def _configure(client: AdminClient, topics: list[Topic]) -> None:
    """Sets what differs, and leaves alone what we say nothing of."""
    resources = [ConfigResource(ResourceType.TOPIC, topic.name) for topic in topics]
    described = client.describe_configs(resources, request_timeout=REQUEST_SECONDS)
    found = {resource.name: future.result(RESULT_SECONDS) for resource, future in described.items()}
    changed = []
    for topic in topics:
        differing = {k: v for k, v in topic.configuration.items() if found[topic.name][k].value != v}
        if differing:
            entries = [ConfigEntry(k, v, incremental_operation=AlterConfigOpType.SET) for k, v in differing.items()]
            changed.append(ConfigResource(ResourceType.TOPIC, topic.name, incremental_configs=entries))
    if changed:
        for future in client.incremental_alter_configs(changed, request_timeout=REQUEST_SECONDS).values():
            future.result(RESULT_SECONDS)
