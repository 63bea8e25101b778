"""From records to what must be written at the next flush. Knows the engine and the records, not Kafka's clients.

States are decoded from the table when a series is first seen after an assignment, kept here while the partition is
ours, and written once per flush, however many readings came.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from sensorpipeline_api.configuration import WorkerConfiguration
from sensorpipeline_api.records import (
    Aggregate,
    Alert,
    DeadLetter,
    DeadLetterReason,
    Late,
    UnreadableRecordError,
    decode_readings,
)

from sensorpipeline_workers.engine.plan import compile_fleet
from sensorpipeline_workers.engine.series import close_idle, process
from sensorpipeline_workers.engine.state import SeriesState, decode, encode
from sensorpipeline_workers.stream.table import split_key, table_key


@dataclass
class Flush:
    """What one flush writes: outputs as (topic, key, value), then states as (key, value)."""

    outputs: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    states: list[tuple[bytes, bytes]] = field(default_factory=list)
    emissions: list[Aggregate | Late | Alert | DeadLetter] = field(default_factory=list)


class Processor:
    """The fleet's series that are live in this worker. `stored` is the table: key to binary state."""

    def __init__(self, configuration: WorkerConfiguration, stored: Mapping[bytes, bytes]) -> None:
        self._fleet = configuration.fleet.name
        self._topics = configuration.topics
        self._plans = compile_fleet(configuration.fleet)
        self._stored = stored
        self._live: dict[bytes, SeriesState] = {}
        self._dirty: set[bytes] = set()
        self._emissions: list[Aggregate | Late | Alert | DeadLetter] = []

    def forget(self) -> None:
        """Drops everything that was not flushed: after a rebalance the table and the committed offsets rule."""
        self._live.clear()
        self._dirty.clear()
        self._emissions.clear()

    def record(self, *, topic: str, partition: int, offset: int, value: bytes | None, now: int) -> None:
        """Takes one record of the readings topic in. A record that cannot be read becomes a dead letter."""
        try:
            readings = decode_readings(value, metrics=self._plans)
        except UnreadableRecordError as error:
            source = f"kafka:{topic}/{partition}/{offset}"
            payload = base64.b64encode(value or b"").decode()
            reason = DeadLetterReason.INVALID_JSON.value
            self._emissions.append(DeadLetter(source, self._fleet, now, payload, reason, str(error)))
            return
        groups: dict[tuple[str, str], list[tuple[int, float]]] = {}
        for reading in readings:
            groups.setdefault((reading.device, reading.metric), []).append((reading.time, reading.value))
        for (device, metric), pairs in groups.items():
            key = table_key(partition, device, metric)
            state = self._state(key)
            if state.offset >= offset:
                continue  # a replay of what the state already holds
            state.offset = offset
            self._dirty.add(key)
            self._emissions += process(self._plans[metric], state, device=device, readings=pairs, now=now)

    def close_idle(self, partitions: set[int], now: int) -> None:
        """Closes the open windows of our silent series."""
        for key in self._stored.keys() | self._live.keys():
            partition, device, metric = split_key(key)
            if partition not in partitions or metric not in self._plans:
                continue
            state = self._state(key)
            emitted = close_idle(self._plans[metric], state, device=device, now=now)
            if emitted:
                self._emissions += emitted
                self._dirty.add(key)

    def alerts(self, partitions: set[int]) -> dict[tuple[str, str], bool]:
        """Returns whether each (threshold, device) of our partitions is active."""
        out: dict[tuple[str, str], bool] = {}
        for key in self._stored.keys() | self._live.keys():
            partition, device, _ = split_key(key)
            if partition in partitions:
                for name, alert in self._state(key).alerts.items():
                    out[name, device] = alert.active
        return out

    def flush(self) -> Flush:
        """Returns what must be written, and starts the next flush empty."""
        emissions, self._emissions = self._emissions, []
        dirty, self._dirty = self._dirty, set()
        return Flush(
            outputs=[self._output(emission) for emission in emissions],
            states=[(key, encode(self._live[key])) for key in dirty],
            emissions=emissions,
        )

    def _state(self, key: bytes) -> SeriesState:
        state = self._live.get(key)
        if state is None:
            stored = self._stored.get(key)
            state = self._live[key] = decode(stored) if stored is not None else SeriesState()
        return state

    def _output(self, emission: Aggregate | Late | Alert | DeadLetter) -> tuple[str, bytes, bytes]:
        value = msgspec.json.encode(emission)
        match emission:
            case Aggregate():
                key = f"{emission.window}|{emission.device}|{emission.metric}"
                return self._topics.aggregates, key.encode(), value
            case Late():
                return self._topics.late, emission.device.encode(), value
            case Alert():
                key = f"{emission.threshold}|{emission.device}|{emission.metric}"
                return self._topics.alerts, key.encode(), value
            case DeadLetter():
                return self._topics.dead_letter, emission.fleet.encode(), value
