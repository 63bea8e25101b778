"""What follows from how full Kafka's volumes are. Sizes are in MiB; the controllers' log takes 64 of them."""

from collections.abc import Mapping

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sensorpipeline_api.model import as_bytes
from sensorpipeline_api.spec import SensorPipelineSpec
from sensorpipeline_operator.naming import Names
from sensorpipeline_operator.storage import (
    LARGEST_SEGMENT,
    MEBIBYTE,
    SMALLEST_SEGMENT,
    Broker,
    Decision,
    Partition,
    compute_segment_bytes,
    decide,
    readers,
    readers_of_former,
)

SLOT = ("p.f.readings", 0)
CAPACITY = 1000


def work(size: int, *, read: Mapping[str, int | None], suspended: bool = False, usable: int | None = None) -> Decision:
    broker = Broker({SLOT: size * MEBIBYTE}, usable * MEBIBYTE if usable is not None else None)
    partitions = {SLOT: Partition(low=100, high=1100, read=read)}
    return decide(capacity=CAPACITY * MEBIBYTE, brokers=[broker], partitions=partitions, suspended=suspended)


def test_with_room_nothing_is_deleted_and_nothing_suspended() -> None:
    decision = work(400, read={"sink": 1100, "worker": 1100})
    assert (decision.delete, decision.suspend) == ({}, False)


def test_what_every_group_has_read_is_deleted_when_the_volume_is_half_full() -> None:
    decision = work(500, read={"sink": 900, "worker": 1100})
    assert decision.delete == {SLOT: 900}
    assert not decision.suspend


@pytest.mark.parametrize("read", [{"sink": None, "worker": 1100}, {"sink": 100, "worker": 1100}, {}])
def test_what_somebody_has_not_read_is_never_deleted(read: dict[str, int | None]) -> None:
    assert work(900, read=read).delete == {}


def test_ingest_is_suspended_when_little_room_is_left_and_the_message_says_who_lags() -> None:
    decision = work(740, read={"sink": 100, "worker": 1000})
    assert decision.suspend
    assert "1000 MiB is 80% full" in decision.message
    assert "sink has about 740 MiB to read; worker has about 74 MiB to read" in decision.message


def test_it_goes_on_only_when_there_is_clearly_room() -> None:
    assert not work(700, read={"sink": 100}).suspend
    assert work(700, read={"sink": 100}, suspended=True).suspend
    assert not work(600, read={"sink": 100}, suspended=True).suspend


def test_a_file_system_with_less_room_than_was_asked_for_counts() -> None:
    assert work(10, read={"sink": 100}, usable=150).suspend


def test_the_fullest_broker_counts() -> None:
    brokers = [Broker({SLOT: 10 * MEBIBYTE}), Broker({SLOT: 800 * MEBIBYTE})]
    assert decide(capacity=CAPACITY * MEBIBYTE, brokers=brokers, partitions={}, suspended=False).suspend


@given(
    st.integers(0, 1000), st.dictionaries(st.sampled_from("abc"), st.none() | st.integers(0, 1200), max_size=3),
    st.booleans(),
)  # fmt: skip
def test_deletion_never_passes_what_a_group_has_read(size: int, read: dict[str, int | None], suspended: bool) -> None:
    decision = work(size, read=read, suspended=suspended)
    for offset in decision.delete.values():
        assert all(position is not None and offset <= position for position in read.values())
        assert offset <= 1100


def spec(storage: str, partitions: int) -> SensorPipelineSpec:
    text = f"""
kafka: {{cluster: {{storageSize: {storage}}}}}
fleets: [{{name: f, topic: "x/{{device}}", partitions: {partitions}, metrics: [{{name: m}}]}}]
"""
    return SensorPipelineSpec.model_validate(yaml.safe_load(text))


@pytest.mark.parametrize(("storage", "partitions"), [("5Gi", 6), ("20Gi", 128), ("100Gi", 6)])
def test_segments_that_cannot_be_deleted_yet_take_a_small_part_of_the_volume(storage: str, partitions: int) -> None:
    segment = compute_segment_bytes(spec(storage, partitions))
    assert SMALLEST_SEGMENT <= segment <= LARGEST_SEGMENT
    assert segment * (2 * partitions + 20) <= as_bytes(storage) / 5


def test_the_largest_record_fits_into_a_segment_of_the_smallest_volume() -> None:
    assert compute_segment_bytes(spec("100Mi", 128)) > 4 * MEBIBYTE


def test_topics_that_are_read_anew_are_not_shortened() -> None:
    names = Names("p", "default")
    found = readers(names, spec("1Gi", 6))
    assert found["p.f.readings"] == ("p.sink", "p.f.worker")
    assert found["p.late"] == ("p.sink",)
    assert "p.aggregates" not in found


@pytest.mark.parametrize(
    ("text", "size"), [("1Gi", 2**30), ("1.5k", 1500), ("128", 128), ("2M", 2_000_000), ("5000m", 5)]
)
def test_quantities_of_storage_are_bytes(text: str, size: int) -> None:
    assert as_bytes(text) == size


def test_the_readings_of_a_removed_fleet_wait_for_the_sink_alone_and_other_topics_are_left_alone() -> None:
    names = Names("building", "default")
    assert readers_of_former(names, "building.motion.readings") == ("building.sink",)
    for topic in ("building.aggregates", "building.hvac.worker-states-changelog", "farm.motion.readings"):
        assert readers_of_former(names, topic) == (), topic
