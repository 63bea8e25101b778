"""Faust's application of a fleet's worker: its settings, and where it must do otherwise than Faust does."""

import gc
from collections.abc import Callable, Coroutine, Mapping
from itertools import count
from typing import Any

import faust
from faust.transport.drivers import aiokafka
from faust.types import TP
from sensorpipeline_api.configuration import WorkerConfiguration

from sensorpipeline_workers.runtime.kafka import read_secret
from sensorpipeline_workers.stream.table import StateTable
from sensorpipeline_workers.stream.writer import MAXIMUM_MESSAGE_BYTES

PATIENT_LOOKS = 3


class Consumer(aiokafka.Consumer):
    """Faust's consumer, which begins no later than where the states end. What Faust commits is no measure of that: it
    also counts records that it has passed over in a rebalance (docs/decisions/0040)."""

    async def wait_empty(self) -> None:
        """Called by Faust before partitions are given up; waits until what was taken in is acknowledged. Faust's own
        collects all garbage at each look, for records that nobody holds and nobody will acknowledge. With many series
        alive that takes longer than everything else, so it is left until acknowledging takes long."""
        for look in count():
            if self.should_stop or not self._unacked_messages:
                break
            if look >= PATIENT_LOOKS:
                gc.collect()
            await self.commit()
            if self._unacked_messages:
                await self._wait_for_ack(timeout=1)
                self._clean_unacked_messages()
        await self.commit_and_end_transactions()

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Called by Faust after a rebalance; returns where each partition goes on."""
        offsets = dict(await super().seek_to_committed())
        for tp, committed in offsets.items():
            position = self.app.position(tp)  # type: ignore[attr-defined]
            # What was not committed is read again, passed by, and committed.
            if position is not None and committed is not None and position < committed:
                await self._seek(tp, position)
                offsets[tp] = position
        return offsets


class Transport(aiokafka.Transport):
    """Faust's transport with our consumer."""

    Consumer = Consumer


class App(faust.App):
    """Faust's application, with tasks that run from the start on (Faust's begin after the first recovery), and with a
    word in rebalances. `position` returns the offset that a partition goes on at, None where nothing is known."""

    tasks_from_start: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = ()
    on_rebalance_begun: Callable[[], None]
    is_overtaken: Callable[[], bool]
    position: Callable[[TP], int | None]

    def _new_transport(self) -> Any:
        return Transport(self.conf.broker_consumer, self, loop=self.loop)

    async def on_start(self) -> None:
        """Called by Faust before anything else runs."""
        await super().on_start()
        for task in self.tasks_from_start:
            self.add_future(task())

    def on_rebalance_start(self) -> None:
        """Called by Faust when a rebalance begins, in the consumer's thread."""
        super().on_rebalance_start()
        self.on_rebalance_begun()

    def on_rebalance_end(self) -> None:
        """Called by Faust when it has let readings flow again. If another rebalance began meanwhile, they are of
        partitions that are no longer ours."""
        if not self.is_overtaken():
            super().on_rebalance_end()
            return
        self.consumer.stop_flow()
        self.flow_control.suspend()
        self.consumer.pause_partitions(self.consumer.assignment())


def build_app(configuration: WorkerConfiguration) -> App:
    """Returns the Faust application of a fleet's worker, without its agents."""
    kafka = configuration.kafka
    credentials = None
    if kafka.username is not None and kafka.password_file is not None:
        credentials = faust.SASLCredentials(
            username=kafka.username, password=read_secret(kafka.password_file), mechanism="PLAIN"
        )
    return App(
        configuration.application_id,
        broker=[f"kafka://{server}" for server in kafka.bootstrap_servers],
        broker_credentials=credentials,
        broker_commit_interval=0.5,
        producer_max_request_size=MAXIMUM_MESSAGE_BYTES,
        # A killed worker's partitions are given to another one after this long.
        broker_session_timeout=10.0,
        # After this long at most it has heard that others have come or gone; until then theirs stands still.
        broker_heartbeat_interval=1.0,
        # What is read ahead of the agent is bounded by these three.
        broker_max_poll_records=500,
        consumer_max_fetch_size=1024 * 1024,
        stream_buffer_maxsize=256,
        consumer_auto_offset_reset="earliest",
        datadir="/tmp/faust",
        store="memory://",
        Table=StateTable,
        table_standby_replicas=0,
        stream_wait_empty=True,
        topic_disable_leader=True,
        topic_partitions=configuration.fleet.partitions,
        topic_replication_factor=configuration.replication_factor,
        web_enabled=False,
        worker_redirect_stdouts=False,
    )
