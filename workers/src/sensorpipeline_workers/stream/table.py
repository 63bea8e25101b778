"""The table that holds series' states, backed by a changelog topic: Faust's, except for how it is read and written.

Faust declares the changelog and assigns its partitions beside those of the readings. What Faust would read back record
by record we read in bulk before it resumes (docs/decisions/0016), and tell Faust, as a store on disk would, that all
of it is here. Keys are `partition|device|metric`.
"""

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from faust.tables.table import Table
from faust.types import TP
from sensorpipeline_api.configuration import KafkaConnection

from sensorpipeline_workers.runtime.kafka import librdkafka_settings
from sensorpipeline_workers.stream.offsets import Offsets

log = logging.getLogger(__name__)

# So few that they are gone again before the garbage collector looks at what has stayed, all live series among it.
BATCH = 500
# What is waited for at most for a batch to be full, and for a partition to say that it has ended.
WAIT_SECONDS = 0.02
Items = dict[bytes, bytes | None]
T = TypeVar("T")


class StateTable(Table):  # type: ignore[type-arg]
    """A Faust table whose content lives elsewhere: `on_restored(partition, items)` gets it, `on_lost(partitions)` says
    that it is no longer valid. `on_progress` is called, from another thread, while a restore makes progress."""

    connection: KafkaConnection
    on_restored: Callable[[int, Iterable[tuple[bytes, bytes | None]]], None]
    on_lost: Callable[[set[int]], None]
    on_progress: Callable[[], None]
    unflushed: Callable[[], bool]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Bytes as they are, in the changelog and out of it; the default would write them as JSON texts.
        self.key_serializer = self.value_serializer = "raw"
        self._ends: dict[int, int] = {}
        self._missing: set[int] = set()
        self._generation: int | None = None
        self._rebalances = 0
        self._offsets: Offsets | None = None

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        """Keeps what stays ours and gives up the rest. Whoever was not in the last generation of the group cannot know
        what others have written since, and keeps nothing."""
        self._rebalances = self.app.rebalancing_count
        await super().on_rebalance(assigned, revoked, newly_assigned, generation_id)
        await self.changelog_topic.maybe_declare()
        mine = {tp.partition for tp in assigned if tp.topic == self.changelog_topic_name}
        fresh = {tp.partition for tp in newly_assigned if tp.topic == self.changelog_topic_name} | self._missing
        if generation_id != (self._generation or -1) + 1 or self.unflushed():
            fresh = mine
        self._generation = generation_id
        gone = {tp.partition for tp in revoked if tp.topic == self.changelog_topic_name}
        self.on_lost(fresh | gone)
        self._missing = fresh & mine
        self._ends = await self._in_thread(self._end_offsets, mine)

    @property
    def overtaken(self) -> bool:
        """Whether another rebalance has begun since the last assignment, or the end of the process."""
        return self.app.should_stop or self.app.rebalancing_count != self._rebalances

    def persisted_offset(self, tp: TP) -> int | None:
        """Tells Faust that it has nothing to restore of our partitions."""
        end = self._ends.get(tp.partition, 0)
        return end - 1 if end else None

    def apply_changelog_batch(self, batch: Iterable[Any]) -> None:
        """Takes what Faust reads all the same: nothing that is not in what we read."""

    async def restore(self) -> None:
        """Reads the changelog of the partitions that are newly ours up to its end. Ends early, with nothing taken in,
        when it is cancelled or overtaken."""
        partitions = set(self._missing)
        if not partitions:
            return
        begin = time.monotonic()
        found = await self._in_thread(self._read, partitions)
        if self.overtaken:
            return
        for partition, items in found.items():
            self.on_restored(partition, items.items())
        self._missing -= partitions
        log.info("restored partitions %s in %.2f s", sorted(partitions), time.monotonic() - begin)

    async def _in_thread(self, work: Callable[[set[int], Callable[[], bool]], T], partitions: set[int]) -> T:
        """Runs work that ends early when the second argument that it gets says so: when this is cancelled, or the
        process is to end, which would wait for its threads."""
        cancelled = threading.Event()
        try:
            return await asyncio.to_thread(work, partitions, lambda: cancelled.is_set() or self.app.should_stop)
        finally:
            cancelled.set()

    def _end_offsets(self, partitions: set[int], is_cancelled: Callable[[], bool]) -> dict[int, int]:
        if self._offsets is None:
            # Kept: a client that is new can take seconds to find out whom to ask.
            self._offsets = Offsets(self.connection, self.changelog_topic_name)
        while not is_cancelled():
            try:
                return {partition: end for partition, (_, end) in self._offsets.ask(partitions).items()}
            except KafkaException as error:
                log.info("waiting for the ends of %s: %s", self.changelog_topic_name, error.args[0].str())
                time.sleep(0.2)
        return {}

    def _read(self, partitions: set[int], is_cancelled: Callable[[], bool]) -> dict[int, Items]:
        found: dict[int, Items] = {partition: {} for partition in partitions}
        consumer = _reader(self.connection)
        try:
            consumer.assign([TopicPartition(self.changelog_topic_name, partition, 0) for partition in partitions])
            ended: set[int] = set()
            while ended != partitions and not is_cancelled():
                messages = consumer.consume(BATCH, WAIT_SECONDS)
                if messages:
                    self.on_progress()
                for message in messages:
                    error, partition, key = message.error(), message.partition(), message.key()
                    if error is None and partition is not None and key is not None:
                        found[partition][key] = message.value()
                    elif error is not None and error.code() == KafkaError._PARTITION_EOF and partition is not None:
                        ended.add(partition)
        finally:
            consumer.close()
        return found


def _reader(connection: KafkaConnection) -> Consumer:
    return Consumer(
        librdkafka_settings(connection)
        | {
            "group.id": f"none-{uuid.uuid4().hex}",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_uncommitted",
            "queued.max.messages.kbytes": 32 * 1024,
            "fetch.wait.max.ms": int(WAIT_SECONDS * 1000),
            # How long reading rests when so much has been read ahead; a second by default.
            "fetch.queue.backoff.ms": int(WAIT_SECONDS * 1000),
        }
    )
