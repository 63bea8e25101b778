"""Topics: created, looked after, set to what the spec says, and never changed where state would be lost."""

from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import ConfigEntry
from sensorpipeline_operator import kafka_topics
from sensorpipeline_operator.errors import NotReadyError, TopicDiffersError
from sensorpipeline_operator.kafka_calls import KafkaCalls
from sensorpipeline_operator.kafka_topics import LEAVE_SECONDS, VERIFY_SECONDS, KafkaTopics, Topic, keep_topics
from sensorpipeline_operator.naming import Names

NAMES = Names("building", "default")
TOPIC = Topic("building.hvac.readings", 6, 1, {"retention.ms": "1000"})


def done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


class FakeAdmin:
    """Kafka's admin interface; keeps each topic's partitions and configuration."""

    def __init__(self) -> None:
        self.topics: dict[str, tuple[int, dict[str, str]]] = {}
        self.error: KafkaException | None = None
        self.requests: list[str] = []

    def list_topics(self, *, timeout: float) -> Any:
        self.requests.append("list")
        if self.error is not None:
            raise self.error
        return SimpleNamespace(
            topics={n: SimpleNamespace(partitions=dict.fromkeys(range(count))) for n, (count, _) in self.topics.items()}
        )

    def create_topics(self, new: list[Any], *, operation_timeout: float, request_timeout: float) -> dict[str, Any]:
        self.requests.append("create")
        self.topics |= {topic.topic: (topic.num_partitions, dict(topic.config)) for topic in new}
        return {topic.topic: done(None) for topic in new}

    def describe_configs(self, resources: list[Any], *, request_timeout: float) -> dict[Any, Any]:
        defaults = {"retention.ms": "604800000", "max.message.bytes": "1048588"}
        return {
            r: done({k: ConfigEntry(k, v) for k, v in (defaults | self.topics[r.name][1]).items()}) for r in resources
        }

    def incremental_alter_configs(self, resources: list[Any], *, request_timeout: float) -> dict[Any, Any]:
        self.requests.append("alter")
        for resource in resources:
            self.topics[resource.name][1].update({e.name: e.value for e in resource.incremental_configs})
        return {resource: done(None) for resource in resources}


@pytest.fixture
def admin() -> FakeAdmin:
    return FakeAdmin()


def keep(admin: FakeAdmin, topics: list[Topic]) -> int:
    admin.requests.clear()
    return keep_topics(cast("Any", admin), topics)


def test_what_is_missing_is_created_and_what_is_there_is_left_alone(admin: FakeAdmin) -> None:
    assert keep(admin, [TOPIC]) == 1
    assert keep(admin, [TOPIC]) == 0
    assert admin.requests == ["list"]


def test_a_changed_retention_is_set_on_the_topic_and_what_others_have_set_stays(admin: FakeAdmin) -> None:
    admin.topics[TOPIC.name] = (6, {"retention.ms": "5000", "cleanup.policy": "delete"})
    assert keep(admin, [TOPIC]) == 0
    assert admin.topics[TOPIC.name] == (6, {"retention.ms": "1000", "cleanup.policy": "delete"})


def test_a_topic_with_other_partitions_is_not_touched_and_says_what_to_do(admin: FakeAdmin) -> None:
    other = Topic("building.late", 1, 1)
    admin.topics[TOPIC.name] = (4, {"retention.ms": "1000"})
    with pytest.raises(TopicDiffersError, match=r"has 4 partitions .* partitions: 4"):
        keep(admin, [TOPIC, other])
    assert admin.topics[TOPIC.name][0] == 4
    assert other.name in admin.topics, "the others are kept"


def test_a_kafka_that_does_not_answer_is_not_ready(admin: FakeAdmin) -> None:
    admin.error = KafkaException(KafkaError(KafkaError._TIMED_OUT))
    with pytest.raises(NotReadyError, match="Kafka: "):
        keep(admin, [TOPIC])


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch, admin: FakeAdmin) -> list[dict[str, Any]]:
    """The settings of each client that was made; all of them reach the same Kafka."""
    made: list[dict[str, Any]] = []

    def make(settings: dict[str, Any]) -> FakeAdmin:
        made.append(settings)
        return admin

    monkeypatch.setattr(kafka_topics, "AdminClient", make)
    return made


async def keeping(subject: KafkaTopics, *, incarnation: str = "one", password: str = "p") -> int:
    return await subject.keep(NAMES, [TOPIC], password=password, incarnation=incarnation)


@pytest.mark.usefixtures("clients")
async def test_a_topic_that_is_lost_is_created_again_without_a_restart(admin: FakeAdmin) -> None:
    clock = Clock()
    subject = KafkaTopics(KafkaCalls(), clock=clock)
    assert await keeping(subject) == 1
    admin.topics.clear()
    clock.now += VERIFY_SECONDS / 2
    assert await keeping(subject) == 0, "Kafka is not asked at every visit"
    clock.now += VERIFY_SECONDS / 2
    assert await keeping(subject) == 1


@pytest.mark.usefixtures("clients")
async def test_a_kafka_that_does_not_answer_lacks_topics_only_if_they_were_never_seen(admin: FakeAdmin) -> None:
    clock = Clock()
    subject = KafkaTopics(KafkaCalls(), clock=clock)
    error = KafkaException(KafkaError(KafkaError._TIMED_OUT))
    admin.error = error
    with pytest.raises(NotReadyError):
        await keeping(subject)
    admin.error = None
    await keeping(subject)
    clock.now += VERIFY_SECONDS
    admin.error = error
    assert await keeping(subject) == 0
    admin.error = None
    admin.topics.clear()
    assert await keeping(subject) == 1, "it is asked again at the next visit"


@pytest.mark.parametrize("change", [{"incarnation": "two"}, {}])
@pytest.mark.usefixtures("clients")
async def test_kafka_is_asked_at_once_when_the_cluster_is_another(admin: FakeAdmin, change: dict[str, str]) -> None:
    subject = KafkaTopics(KafkaCalls(), clock=Clock())
    await keeping(subject)
    admin.topics.clear()
    assert await keeping(subject, **change) == len(change)


async def test_one_client_per_pipeline_is_kept_while_it_is_needed_and_not_for_ever(
    clients: list[dict[str, Any]],
) -> None:
    clock = Clock()
    subject = KafkaTopics(KafkaCalls(), clock=clock)
    for password, incarnation in (("p", "one"), ("p", "two"), ("q", "three")):
        await keeping(subject, password=password, incarnation=incarnation)
    assert [settings["sasl.password"] for settings in clients] == ["p", "q"]
    subject.forget(NAMES)
    assert subject._clients == {}
    assert len(subject._leaving) == 2, "its last answer may be on its way"
    clock.now += LEAVE_SECONDS
    await subject.keep(Names("farm", "default"), [TOPIC], password="r", incarnation="four")
    assert subject._leaving == []


def test_the_creation_of_topics_is_bounded_in_time(admin: FakeAdmin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_topics, "RESULT_SECONDS", 0.01)
    never: Callable[..., dict[str, Any]] = lambda new, **_: {topic.topic: Future() for topic in new}  # noqa: E731
    monkeypatch.setattr(admin, "create_topics", never)
    with pytest.raises(NotReadyError, match="timed out"):
        keep(admin, [TOPIC])
