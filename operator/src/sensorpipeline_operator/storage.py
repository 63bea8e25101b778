"""How full Kafka's volumes are, and what follows from it. Pure.

A broker whose volume is full stops and does not start again, so it must not come to that. Nothing that somebody has
still to read may be deleted for it, either. So, in this order: what everybody has read is deleted, before its time; and
when what is left comes near the size of the volume, ingest is suspended: the bridge ends, so that messages wait with
the MQTT broker, and the gateway asks clients to come again, until there is room.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sensorpipeline_api.model import as_bytes
from sensorpipeline_api.spec import SensorPipelineSpec

from sensorpipeline_operator.naming import Names

DELETE_ABOVE = 0.5
"""Share of the volume above which what everybody has read is deleted."""
SUSPEND_ABOVE, RESUME_BELOW = 0.8, 0.7
"""Shares of the volume above which ingest is suspended, and below which it goes on. What comes in until the bridge has
ended must fit into the rest of the volume."""
MEBIBYTE = 1024 * 1024
METADATA_BYTES = 64 * MEBIBYTE
"""What the controllers' own log may take; brokers do not report it."""

SMALLEST_SEGMENT, LARGEST_SEGMENT = 8 * MEBIBYTE, 64 * MEBIBYTE
"""A broker refuses a batch that is larger than a segment; the largest records have 4 MiB."""

Slot = tuple[str, int]
"""A topic and the number of a partition."""


@dataclass(frozen=True)
class Partition:
    """Offsets of a partition: where its log begins and ends, and what each group that reads it has committed; None for
    a group that has not begun."""

    low: int
    high: int
    read: Mapping[str, int | None]


@dataclass(frozen=True)
class Broker:
    """What a broker reports: the size of each partition on its volume, and the free bytes of the file system."""

    sizes: Mapping[Slot, int]
    usable: int | None = None


@dataclass(frozen=True)
class Decision:
    """What is to be done: records to delete (before an offset), and whether ingest is to be suspended. `share` is how
    full the fullest volume is; `message` says it all to people."""

    share: float
    suspend: bool
    message: str
    delete: Mapping[Slot, int] = field(default_factory=dict)


def readers(names: Names, spec: SensorPipelineSpec) -> dict[str, tuple[str, ...]]:
    """Returns the groups that read each topic whose records are of no use once they have been read. Derive reads the
    aggregates anew when it starts, so those stay."""
    sink = names.application("sink")
    out = {names.readings_topic(fleet.name): (sink, names.application("worker", fleet.name)) for fleet in spec.fleets}
    return out | {names.topic(what): (sink,) for what in ("late", "alerts", "dead-letter")}


def readers_of_former(names: Names, topic: str) -> tuple[str, ...]:
    """Returns the groups that a topic of no fleet waits for: of the readings of a fleet that was removed, the sink's,
    which stores them. The fleet has no workers any more, and who removed it asks for no windows of it."""
    prefix, suffix = names.readings_topic("\0").split("\0")
    return (names.application("sink"),) if topic.startswith(prefix) and topic.endswith(suffix) else ()


def compute_segment_bytes(spec: SensorPipelineSpec) -> int:
    """Returns the size of a log segment. Records are deleted by whole segments, except the last of each partition, so
    all the last ones together should be a small part of the volume, where it is not too small for that."""
    cluster = spec.kafka.cluster
    if cluster is None:
        return LARGEST_SEGMENT
    # Readings and the workers' changelogs, and about twenty partitions of other topics.
    partitions = 2 * sum(fleet.partitions for fleet in spec.fleets) + 20
    share = as_bytes(cluster.storage_size) // 5 // partitions
    return max(SMALLEST_SEGMENT, min(LARGEST_SEGMENT, share // MEBIBYTE * MEBIBYTE))


def decide(
    *, capacity: int, brokers: Sequence[Broker], partitions: Mapping[Slot, Partition], suspended: bool
) -> Decision:
    """Returns what is to be done with volumes of `capacity` bytes. `suspended` says whether ingest is so now."""
    share = max((_share(broker, capacity) for broker in brokers), default=0.0)
    suspend = share > SUSPEND_ABOVE or (suspended and share > RESUME_BELOW)
    delete: dict[Slot, int] = {}
    if share > DELETE_ABOVE:
        for slot, partition in partitions.items():
            read = min((-1 if offset is None else offset for offset in partition.read.values()), default=-1)
            if read > partition.low:
                delete[slot] = min(read, partition.high)
    message = f"Kafka's fullest volume of {capacity // MEBIBYTE} MiB is {share:.0%} full."
    if suspend:
        message += _unread(brokers, partitions)
        message += (
            f" Ingest is suspended until it is below {RESUME_BELOW:.0%}: messages wait with the MQTT broker, HTTP"
            " clients are asked to come again."
        )
    return Decision(share, suspend, message, delete)


def _share(broker: Broker, capacity: int) -> float:
    left = capacity - METADATA_BYTES - sum(broker.sizes.values())
    if broker.usable is not None:
        left = min(left, broker.usable)
    return 1 - left / capacity


def _unread(brokers: Sequence[Broker], partitions: Mapping[Slot, Partition]) -> str:
    """Returns who has how much still to read, in words."""
    sizes: dict[Slot, int] = {}
    for broker in brokers:
        for slot, size in broker.sizes.items():
            sizes[slot] = max(size, sizes.get(slot, 0))
    unread: Counter[str] = Counter()
    for slot, partition in partitions.items():
        kept = max(1, partition.high - partition.low)
        for group, offset in partition.read.items():
            behind = partition.high - max(partition.low, offset or 0)
            unread[group] += sizes.get(slot, 0) * max(0, behind) // kept
    waiting = [
        f"{group} has about {size // MEBIBYTE} MiB to read" for group, size in unread.most_common(2) if size >= MEBIBYTE
    ]
    return f" {'; '.join(waiting)}." if waiting else ""
