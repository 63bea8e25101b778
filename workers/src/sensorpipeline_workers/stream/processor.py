"""From records to what must be written at the next flush. Knows the engine and the records, not Kafka's clients.

States stay here while their partition is ours, and are written once per flush, however many readings came. Series that
may fall silent stand in a schedule, so that a look at the clock costs nothing while none is due.
"""

import base64
import heapq
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from itertools import count

import msgspec
from sensorpipeline_api.configuration import WorkerConfiguration
from sensorpipeline_api.records import (
    Aggregate,
    Alert,
    DeadLetter,
    DeadLetterReason,
    Late,
    Reading,
    UnreadableRecordError,
    decode_readings,
)
from sensorpipeline_api.spec import Clock

from sensorpipeline_workers.engine.grouping import group
from sensorpipeline_workers.engine.partition import PartitionClock
from sensorpipeline_workers.engine.plan import MetricPlan, compile_fleet
from sensorpipeline_workers.engine.series import (
    active_alerts,
    advance,
    close_idle,
    is_expired,
    is_forgotten,
    next_check,
    next_due,
    process,
    retire,
)
from sensorpipeline_workers.engine.state import FAR, SeriesState
from sensorpipeline_workers.stream.progress import GAP
from sensorpipeline_workers.stream.store import Series, Store, clock_key, position_key

Emission = Aggregate | Late | Alert | DeadLetter
Message = tuple[str, bytes, bytes]
"""Topic, key and value."""

_encode = msgspec.json.Encoder().encode


class Processor:
    """The fleet's series that are live in this worker."""

    def __init__(self, configuration: WorkerConfiguration) -> None:
        self._fleet = configuration.fleet.name
        self._topics = configuration.topics
        self._plans = compile_fleet(configuration.fleet)
        self.store = Store(self._plans)
        self._dirty: dict[Series, None] = {}
        self._told: dict[Series, None] = {}
        self._retired: dict[tuple[int, bytes], None] = {}
        self._shared_clock = configuration.fleet.lateness.clock is Clock.FLEET
        self._clocks: defaultdict[int, PartitionClock[Series]] = defaultdict(PartitionClock)
        self._positions: dict[int, int] = {}
        self._moved: set[int] = set()
        self._emissions: list[Emission] = []
        self._unseen: deque[Series] = deque()
        self._schedule: list[tuple[int, int, Series]] = []
        self._number = count()

    @property
    def unsent(self) -> int:
        """How many results wait for the next flush."""
        return len(self._emissions)

    @property
    def unseen(self) -> int:
        """How many restored series have not been looked at."""
        return len(self._unseen)

    def position(self, partition: int) -> int | None:
        """Returns the offset of the next record of a partition; None for one of which nothing is known."""
        return self._positions.get(partition)

    def load(self, partition: int, items: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Takes in what the changelog holds of a partition that is newly ours."""
        stored = dict(items)
        position = stored.pop(position_key(partition), None)
        if position is not None:
            self._positions[partition] = int(position)
        clock = stored.pop(clock_key(partition), None)
        if clock is not None:
            self._clocks[partition].restore(clock)
        self._unseen += self.store.load(partition, stored.items())

    def drop(self, partitions: set[int]) -> set[str]:
        """Forgets partitions, and what of them has not been flushed: for them the changelog and the committed offsets
        rule. Returns their devices; what another partition holds of one of them is to be looked at again."""
        lost: set[str] = set()
        for partition in partitions:
            lost |= self.store.drop(partition)
            self._clocks.pop(partition, None)
            self._positions.pop(partition, None)
        self._moved -= partitions
        self._dirty = {series: None for series in self._dirty if series.partition not in partitions}
        self._told = {series: None for series in self._told if series.partition not in partitions}
        self._retired = {key: None for key in self._retired if key[0] not in partitions}
        self._unseen = deque(series for series in self._unseen if series.partition not in partitions)
        self._schedule = [entry for entry in self._schedule if entry[2].partition not in partitions]
        heapq.heapify(self._schedule)
        if lost:
            self._unseen += [series for series in self.store if series.device in lost]
        return lost

    @property
    def changed(self) -> bool:
        """Whether there are states to write."""
        return bool(self._dirty or self._retired)

    def discard(self) -> None:
        """Forgets the results that have not been sent and that states have changed. Live states are then ahead of what
        is stored: their partitions must be loaded again before anything of them is written."""
        self._emissions.clear()
        self._dirty.clear()
        self._told.clear()
        self._retired.clear()
        self._moved.clear()

    def record(self, *, topic: str, partition: int, offset: int, value: bytes | None, now: int) -> None:
        """Takes one record of the readings topic in, unless it has been taken in before; `position` must have come to
        its offset. A record that cannot be read becomes a dead letter."""
        if offset < self._positions.get(partition, 0):
            return
        self._positions[partition] = offset + 1
        self._moved.add(partition)
        try:
            readings = decode_readings(value, metrics=self._plans)
        except UnreadableRecordError as error:
            source = f"kafka:{topic}/{partition}/{offset}"
            payload = base64.b64encode(value or b"").decode()
            reason = DeadLetterReason.INVALID_JSON.value
            self._emissions.append(DeadLetter(source, self._fleet, now, payload, reason, str(error)))
            return
        if self._shared_clock:
            self._record_by_clock(partition, offset, readings, now)
            return
        find, dirty = self.store.find, self._dirty
        for identity, (times, values) in group(readings).items():
            series = find(partition, identity)
            state = series.state or series.live()
            if state.offset >= offset:
                continue  # a replay of what the state already holds
            state.offset = offset
            dirty[series] = None
            emitted = process(series.plan, state, device=series.device, times=times, values=values, now=now)
            if emitted:
                self._emissions += emitted

    def _record_by_clock(self, partition: int, offset: int, readings: list[Reading], now: int) -> None:
        """Takes a record in by the fleet's clock, and closes the windows of all series that it has come to."""
        clock = self._clocks[partition]
        for identity, (times, values, clocks) in clock.group(offset, readings).items():
            series = self.store.find(partition, identity)
            state = series.live()
            if state.offset < offset:
                state.offset = offset
                self._dirty[series] = None
                self._emissions += process(
                    series.plan, state, device=series.device, times=times, values=values, now=now, clocks=clocks
                )
            clock.wait(series, state.clock_limit)
        for series in clock.due():
            state = series.live()
            emitted = advance(series.plan, state, device=series.device, clock=clock.newest)
            if emitted:
                self._dirty[series] = None
                self._emissions += emitted
            clock.wait(series, state.clock_limit)

    def look(self, limit: int) -> dict[tuple[str, str], bool]:
        """Looks at so many of the series that were restored: puts them in the schedule; returns for each (threshold,
        device) whether it is active."""
        alerts: dict[tuple[str, str], bool] = {}
        for _ in range(min(limit, len(self._unseen))):
            series = self._unseen.popleft()
            state = series.look()
            for name, active in active_alerts(series.plan, state).items():
                alerts[name, series.device] = active
            self._plan_check(series, state)
            if self._shared_clock:
                self._clocks[series.partition].wait(series, next_due(series.plan, state))
        return alerts

    def check(self, now: int, known: Mapping[int, tuple[int, int]] | None = None) -> None:
        """Closes the open windows of our silent series, and retires those that have been silent for too long. `known`
        says for each partition from when until when all that was published has been read (see progress.py): silence
        is what lies between, since a reading that waits in Kafka is none. Without it, all has been read.

        What silence has closed is not closed again before the state is taken: after a crash, a replay without the
        silence has one revision less at most, so the fuller result has at least the same (docs/decisions/0004)."""
        while self._schedule and self._schedule[0][0] <= now:
            time, _, series = heapq.heappop(self._schedule)
            if series.check != time:
                continue  # an earlier check has taken its place
            series.check = 0
            if series in self._told:
                continue  # `take_states` puts it back
            since, until = (0, now) if known is None else known.get(series.partition, (0, 0))
            if until < now - GAP:
                self._put(series, now + GAP)
                continue
            state = series.look()
            if _due(series.plan, state, since) <= until:
                could_speak = until - since >= series.plan.idle
                if could_speak and is_forgotten(series.plan, state, now=until):
                    self._forget(series)
                    continue
                shift = max(0, since - state.last_seen)
                emitted = close_idle(series.plan, series.live(), device=series.device, now=until - shift)
                if emitted:
                    self._emissions += emitted
                    self._dirty[series] = None
                if any(isinstance(emission, Aggregate) for emission in emitted):
                    self._told[series] = None
                if could_speak and is_expired(series.plan, series.live(), now=until):
                    self._emissions += retire(series.plan, series.live(), device=series.device)
                    self._clocks[series.partition].forget(series)
                    self._dirty[series] = self._told[series] = None
            due = _due(series.plan, series.look(), since)
            if due < FAR:
                self._put(series, max(now + 1, due + now - until))

    def _forget(self, series: Series) -> None:
        """Forgets a series that was retired long ago; its state is deleted at the next flush."""
        self.store.remove(series)
        self._dirty.pop(series, None)
        self._retired[series.partition, series.key] = None

    def take_results(self) -> tuple[list[Emission], list[Message]]:
        """Returns the results since the last call, as they are and as messages."""
        emissions, self._emissions = self._emissions, []
        return emissions, [self._message(emission) for emission in emissions]

    def take_states(self) -> list[tuple[int, bytes, bytes | None]]:
        """Returns (partition, key, data) of the series that have changed since the last call; None: to be deleted. A
        forgotten series that has come back stands after its own deletion."""
        dirty, self._dirty = self._dirty, {}
        self._told.clear()
        retired, self._retired = self._retired, {}
        out: list[tuple[int, bytes, bytes | None]] = [(partition, key, None) for partition, key in retired]
        for series in dirty:
            out.append((series.partition, series.key, self.store.encode(series)))
            self._plan_check(series, series.look())
        if self._shared_clock:
            out += [(partition, clock_key(partition), clock.flush()) for partition, clock in self._clocks.items()]
        return out

    def take_positions(self) -> list[tuple[int, bytes, bytes]]:
        """Returns (partition, key, data) of the positions that have changed since the last call. To be written behind
        the states: where a position is stored, all that has come to it is."""
        moved, self._moved = self._moved, set()
        return [(partition, position_key(partition), str(self._positions[partition]).encode()) for partition in moved]

    def _plan_check(self, series: Series, state: SeriesState) -> None:
        time = next_check(series.plan, state)
        if time < FAR and (series.check == 0 or time < series.check):
            self._put(series, time)

    def _put(self, series: Series, time: int) -> None:
        series.check = time
        heapq.heappush(self._schedule, (time, next(self._number), series))

    def _message(self, emission: Emission) -> Message:
        value = _encode(emission)
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


def _due(plan: MetricPlan, state: SeriesState, since: int) -> int:
    """Returns when a series that stays silent is to be checked, its silence being counted from `since` at the earliest.
    What has been silent for its time to live goes once it has had the idle time to say something."""
    time = next_check(plan, state)
    if time >= FAR:
        return FAR
    wait = time - state.last_seen
    return max(time, since + (min(wait, plan.idle) if wait in {plan.ttl, plan.forgotten} else wait))
