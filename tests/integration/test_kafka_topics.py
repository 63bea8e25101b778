"""What the operator asks of a real Kafka about topics."""

import uuid

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType
from integration.conftest import until
from sensorpipeline_operator.errors import TopicDiffersError
from sensorpipeline_operator.kafka_topics import Topic, keep_topics


def retention(client: AdminClient, topic: str) -> str | None:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    return str(client.describe_configs([resource])[resource].result(10)["retention.ms"].value)


def test_topics_are_created_set_and_created_again_when_they_are_lost(kafka: str) -> None:
    name = f"t{uuid.uuid4().hex[:8]}.readings"
    client = AdminClient({"bootstrap.servers": kafka})
    day, week = (Topic(name, 2, 1, {"retention.ms": str(days * 86400000)}) for days in (1, 7))
    assert keep_topics(client, [day]) == 1
    until(lambda: name in client.list_topics(timeout=10).topics, what="the topic", seconds=10)
    assert keep_topics(client, [week]) == 0
    until(lambda: retention(client, name) == "604800000", what="the new retention", seconds=10)
    with pytest.raises(TopicDiffersError, match="has 2 partitions"):
        keep_topics(client, [Topic(name, 3, 1)])
    client.delete_topics([name])[name].result(10)
    until(lambda: name not in client.list_topics(timeout=10).topics, what="the topic to be gone", seconds=10)
    assert keep_topics(client, [week]) == 1
