"""Batches: one partition each, in order, by count and by time."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from sensorpipeline_api.records import Reading
from sensorpipeline_workers.ingest.batch import Batch, Batcher, partition_of


def reading(device: str, time: int = 0) -> Reading:
    return Reading(device, "m", time, 1.0)


def test_partitions_are_those_of_kafkas_default_partitioner() -> None:
    """murmur2 of "21" and "foobar" are the reference values of Kafka's own tests (UtilsTest)."""
    assert [partition_of(key, 1) for key in ("HVAC1", "x")] == [0, 0]
    assert partition_of("21", 1000) == (-973932308 & 0x7FFFFFFF) % 1000
    assert partition_of("foobar", 1000) == (-790332482 & 0x7FFFFFFF) % 1000


def test_a_batch_is_handed_out_when_it_is_full() -> None:
    batcher: Batcher[int] = Batcher({"t": 1}, maximum_readings=3, maximum_seconds=10)
    assert batcher.put(batcher.lane("t", "a"), [reading("a")], 1, now=0) is None
    assert batcher.put(batcher.lane("t", "b"), [reading("b")], 2, now=0) is None
    batch = batcher.put(batcher.lane("t", "a"), [reading("a", 1)], 3, now=0)
    assert batch is not None
    assert batch.tokens == [1, 2, 3]
    assert batch.key == b"a"
    assert msgspec.json.decode(batch.value(), type=list[Reading]) == [reading("a"), reading("b"), reading("a", 1)]


def test_a_batch_is_handed_out_when_it_is_old_enough() -> None:
    batcher: Batcher[int] = Batcher({"t": 1}, maximum_readings=100, maximum_seconds=0.25)
    batcher.put(batcher.lane("t", "a"), [reading("a")], 1, now=5.0)
    assert batcher.wait_seconds(now=5.125, default=1) == 0.125
    assert batcher.due(now=5.125) == []
    assert [b.tokens for b in batcher.due(now=5.25)] == [[1]]
    assert batcher.wait_seconds(now=6, default=1) == 1


@given(st.lists(st.tuples(st.sampled_from(["t", "u"]), st.text("abc", min_size=1, max_size=2)), max_size=50))
def test_every_message_is_in_exactly_one_batch_of_its_partition_in_order(messages: list[tuple[str, str]]) -> None:
    batcher: Batcher[int] = Batcher({"t": 3, "u": 2}, maximum_readings=4, maximum_seconds=1)
    batches: list[Batch[int]] = []
    for token, (topic, device) in enumerate(messages):
        batch = batcher.put(batcher.lane(topic, device), [reading(device, token)], token, now=0)
        batches += [batch] if batch else []
    batches += batcher.due(now=0, everything=True)
    assert sorted(token for batch in batches for token in batch.tokens) == list(range(len(messages)))
    for batch in batches:
        partitions = {"t": 3, "u": 2}[batch.topic]
        assert {partition_of(r.device, partitions) for r in batch.readings} == {batch.partition}
        assert [r.time for r in batch.readings] == sorted(r.time for r in batch.readings)
