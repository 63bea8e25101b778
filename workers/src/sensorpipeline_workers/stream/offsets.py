"""Asks Kafka itself where partitions begin and end, by a client that does nothing else."""

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from sensorpipeline_api.configuration import KafkaConnection

from sensorpipeline_workers.runtime.kafka import librdkafka_settings

ANSWER_SECONDS = 2.0


class Offsets:
    """The offsets of the partitions of a topic. The client is made at the first question."""

    def __init__(self, connection: KafkaConnection, topic: str) -> None:
        self._connection = connection
        self._topic = topic
        self._client: AdminClient | None = None

    def ask(self, partitions: set[int]) -> dict[int, tuple[int, int]]:
        """Returns the first offset and the end of each partition. Blocks for a few seconds at most; raises
        KafkaException when no answer comes, or not for all."""
        if self._client is None:
            self._client = AdminClient(librdkafka_settings(self._connection) | {"log_level": 0})
        try:
            firsts = self._ask(partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
            ends = self._ask(partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        except KafkaException as error:
            # What a client knows of leaders it goes on believing when a broker says that they have changed.
            if error.args[0].code() != KafkaError._TIMED_OUT:
                self._client = None
            raise
        return {partition: (firsts[partition], ends[partition]) for partition in partitions}

    def _ask(self, partitions: set[int], what: OffsetSpec) -> dict[int, int]:
        assert self._client is not None
        wanted = {TopicPartition(self._topic, partition): what for partition in partitions}
        answers = self._client.list_offsets(wanted, request_timeout=ANSWER_SECONDS)
        return {wanted.partition: answer.result().offset for wanted, answer in answers.items()}
