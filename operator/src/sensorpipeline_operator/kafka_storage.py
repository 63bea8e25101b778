"""Looks at Kafka's volumes, and deletes what storage.py decides to delete."""

import contextlib
from collections.abc import Callable
from typing import Any

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import CoordinatorLoadInProgressError, CoordinatorNotAvailableError, KafkaError, NotCoordinatorError
from sensorpipeline_api.model import as_bytes
from sensorpipeline_api.spec import SensorPipelineSpec

from sensorpipeline_operator.errors import NotReadyError
from sensorpipeline_operator.kafka_calls import KafkaCalls
from sensorpipeline_operator.naming import KAFKA_PORT, Names
from sensorpipeline_operator.storage import Broker, Decision, Partition, Slot, decide, readers, readers_of_former

TIMEOUT_MILLISECONDS = 10_000
COORDINATOR_MOVES = (CoordinatorLoadInProgressError, CoordinatorNotAvailableError, NotCoordinatorError)


class KafkaStorage:
    """Keeps the volumes of pipelines from filling."""

    def __init__(self, calls: KafkaCalls) -> None:
        self._calls = calls

    async def keep(self, names: Names, spec: SensorPipelineSpec, *, password: str, suspended: bool) -> Decision:
        """Looks at the volumes and deletes what is needed. Raises NotReadyError when Kafka does not answer."""
        cluster = spec.kafka.cluster
        assert cluster is not None
        security = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_plain_username": "admin",
                    "sasl_plain_password": password}  # fmt: skip
        return await self._calls.run(
            f"volumes of {names.namespace}/{names.pipeline}", look_after, f"{names.host('kafka')}:{KAFKA_PORT}",
            security, capacity=as_bytes(cluster.storage_size), readers=readers(names, spec), suspended=suspended,
            former=lambda topic: readers_of_former(names, topic),
        )  # fmt: skip


def look_after(
    server: str, security: dict[str, str], *, capacity: int, readers: dict[str, tuple[str, ...]], suspended: bool,
    former: Callable[[str], tuple[str, ...]] = lambda topic: (),
) -> Decision:  # fmt: skip
    """Looks at the volumes of a cluster and deletes what is needed; `readers` are the groups of the topics that may be
    shortened, `former` gives those of other topics. Raises NotReadyError when Kafka does not answer."""
    try:
        with contextlib.closing(_connect(server, security)) as client:
            left = {topic: former(topic) for topic in client.list_topics() if topic not in readers}
            readers = readers | {topic: groups for topic, groups in left.items() if groups}
            decision = decide(
                capacity=capacity, brokers=describe_volumes(client), partitions=_offsets(client, readers),
                suspended=suspended,
            )  # fmt: skip
            if decision.delete:
                client.delete_records({TopicPartition(*slot): offset for slot, offset in decision.delete.items()})
    except (KafkaError, OSError) as error:
        raise NotReadyError(f"Kafka: {type(error).__name__} {error}".strip()) from error
    return decision


class _Client(KafkaAdminClient):  # type: ignore[misc]
    """A client that closes itself when it cannot connect, where the library leaves a thread and its sockets behind."""

    _closed = False

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except BaseException:
            self.close()
            raise


def _connect(server: str, security: dict[str, str]) -> KafkaAdminClient:
    return _Client(
        bootstrap_servers=server, client_id="operator", request_timeout_ms=TIMEOUT_MILLISECONDS,
        bootstrap_timeout_ms=TIMEOUT_MILLISECONDS, **security,
    )  # fmt: skip


def describe_volumes(client: KafkaAdminClient) -> list[Broker]:
    """Asks each broker what its log directories hold."""
    return [_broker(described) for described in client.describe_log_dirs()]


def _broker(described: dict[str, Any]) -> Broker:
    sizes: dict[Slot, int] = {}
    usable: list[int] = []
    for directory in described["log_dirs"]:
        usable += [directory["usable_bytes"]] if directory["usable_bytes"] >= 0 else []
        for topic in directory["topics"]:
            for partition in topic["partitions"]:
                sizes[topic["name"], partition["partition_index"]] = partition["partition_size"]
    return Broker(sizes, min(usable, default=None))


def _offsets(client: KafkaAdminClient, readers: dict[str, tuple[str, ...]]) -> dict[Slot, Partition]:
    described = client.describe_topics(list(readers))
    slots = [(topic["name"], p["partition_index"]) for topic in described for p in topic["partitions"]]
    low, high = (
        client.list_partition_offsets({TopicPartition(*slot): spec for slot in slots})
        for spec in (OffsetSpec.EARLIEST, OffsetSpec.LATEST)
    )
    committed = {
        group: _committed(client, group, [slot for slot in slots if group in readers[slot[0]]])
        for group in {group for groups in readers.values() for group in groups}
    }
    return {
        slot: Partition(
            low[TopicPartition(*slot)].offset, high[TopicPartition(*slot)].offset,
            {group: committed[group].get(slot) for group in readers[slot[0]]},
        )
        for slot in slots
    }  # fmt: skip


def _committed(client: KafkaAdminClient, group: str, slots: list[Slot]) -> dict[Slot, int]:
    """Returns what a group has committed; nothing where it has not, or its coordinator cannot say yet."""
    try:
        found = client.list_group_offsets({group: [TopicPartition(*slot) for slot in slots]})[group]
    except COORDINATOR_MOVES:
        return {}
    return {(at.topic, at.partition): committed.offset for at, committed in found.items() if committed.offset >= 0}
