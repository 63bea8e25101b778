"""The series of the partitions that are ours: each as stored bytes until it is needed, then as a live state.

Pure: it knows the engine, and neither Kafka nor the clock.
"""

from collections.abc import Iterable, Iterator, Mapping

from sensorpipeline_workers.engine.plan import MetricPlan
from sensorpipeline_workers.engine.state import SeriesState, decode, encode

Identity = tuple[str, str]
"""A device and a metric."""


def table_key(partition: int, device: str, metric: str) -> bytes:
    """Returns the key of a series in the table."""
    return f"{partition}|{device}|{metric}".encode()


def clock_key(partition: int) -> bytes:
    """Returns the key of the fleet's clock of a partition in the table: no series has an empty name."""
    return table_key(partition, "", "")


def position_key(partition: int) -> bytes:
    """Returns the key in the table of how far a partition has been read: no metric has such a name."""
    return table_key(partition, "", "@")


def split_key(key: bytes) -> tuple[int, str, str]:
    """Returns (partition, device, metric) from a key of the table. A device's name may hold any character."""
    partition, _, rest = key.decode().partition("|")
    device, _, metric = rest.rpartition("|")
    return int(partition), device, metric


class Series:
    """One series. Either `state` or `data` is set; `size` is that of its last stored form, and `check` the earliest
    time (ms, by the clock) for which it stands in the schedule of silent series, 0 for none."""

    __slots__ = ("check", "data", "device", "partition", "plan", "size", "state")

    def __init__(self, partition: int, device: str, plan: MetricPlan, data: bytes | None = None) -> None:
        self.partition = partition
        self.device = device
        self.plan = plan
        self.data = data
        self.size = len(data) if data is not None else 0
        self.state: SeriesState | None = None
        self.check = 0

    @property
    def key(self) -> bytes:
        """The key in the table."""
        return table_key(self.partition, self.device, self.plan.metric)

    def live(self) -> SeriesState:
        """Returns the state to work on; the stored bytes are given up for it."""
        if self.state is None:
            self.state, self.data = self.look(), None
        return self.state

    def look(self) -> SeriesState:
        """Returns the state to look at, without keeping it alive."""
        if self.state is not None:
            return self.state
        return decode(self.plan, self.data) if self.data is not None else SeriesState(self.plan)


class Store:
    """All series, by partition."""

    def __init__(self, plans: Mapping[str, MetricPlan]) -> None:
        self._plans = plans
        self._partitions: dict[int, dict[Identity, Series]] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return sum(len(series) for series in self._partitions.values())

    def __iter__(self) -> Iterator[Series]:
        for series in self._partitions.values():
            yield from series.values()

    def find(self, partition: int, identity: Identity) -> Series:
        """Returns a series, a new one if it is not known yet. The metric must be one of the fleet's."""
        known = self._partitions.get(partition)
        if known is None:
            known = self._partitions[partition] = {}
        series = known.get(identity)
        if series is None:
            device, metric = identity
            series = known[identity] = Series(partition, device, self._plans[metric])
        return series

    def remove(self, series: Series) -> None:
        """Forgets a series."""
        del self._partitions[series.partition][series.device, series.plan.metric]
        self.bytes -= series.size

    def encode(self, series: Series) -> bytes:
        """Returns the stored form of a live series; a retired one is not kept alive."""
        state = series.live()
        data = encode(series.plan, state)
        if state.retired:
            series.state, series.data = None, data
        self.bytes += len(data) - series.size
        series.size = len(data)
        return data

    def load(self, partition: int, items: Iterable[tuple[bytes, bytes | None]]) -> list[Series]:
        """Puts stored series in the place of all that a partition holds, the last of each key; returns them. Those of a
        metric that the fleet no longer has are left out."""
        self.drop(partition)
        found: dict[Identity, Series] = {}
        for key, data in items:
            _, device, metric = split_key(key)
            plan = self._plans.get(metric)
            if plan is None:
                continue
            if data is None:
                found.pop((device, metric), None)
            else:
                found[device, plan.metric] = Series(partition, device, plan, data)
        self._partitions[partition] = found
        self.bytes += sum(series.size for series in found.values())
        return list(found.values())

    def drop(self, partition: int) -> set[str]:
        """Forgets a partition; returns its devices."""
        dropped = self._partitions.pop(partition, {})
        self.bytes -= sum(series.size for series in dropped.values())
        return {device for device, _ in dropped}
