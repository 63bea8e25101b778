"""What the database should hold: collections, indexes and how long documents stay."""

from dataclasses import dataclass
from typing import Any

from sensorpipeline_api.configuration import StoreConfiguration

DAY_SECONDS = 86400


@dataclass(frozen=True)
class Index:
    """An index by its name and keys; `expire_after` (s) makes documents expire by the date in its one key."""

    name: str
    keys: tuple[tuple[str, int], ...]
    expire_after: int | None = None


@dataclass(frozen=True)
class Collection:
    """A collection; `options` are those of `create`, `expire_after` (s) is that of a time-series collection.
    `former_indexes` are the names of those that earlier versions made."""

    name: str
    options: dict[str, Any]
    indexes: tuple[Index, ...]
    expire_after: int | None = None
    former_indexes: tuple[str, ...] = ()


def compute_collections(configuration: StoreConfiguration) -> tuple[Collection, ...]:
    """Returns the collections of a pipeline."""
    # Buckets of up to a day (decision 29): with those of an hour, a device that reports every 15 minutes fills each
    # with four readings, at ten times the cost. Buckets end after 1,000 readings anyway.
    series = {"timeField": "time", "metaField": "series", "granularity": "minutes"}
    readings_expire = configuration.reading_retention_days * DAY_SECONDS or None
    aggregates_expire = configuration.aggregate_retention_days * DAY_SECONDS or None
    device = (("fleet", 1), ("device", 1), ("time", 1))
    time = Index("time", (("time", 1),), readings_expire)
    return (
        Collection(
            name="readings",
            options={"timeseries": series},
            indexes=(
                Index("series_time", (("series.fleet", 1), ("series.device", 1), ("series.metric", 1), ("time", 1))),
            ),
            expire_after=readings_expire,
            former_indexes=("position",),
        ),
        Collection(
            name="aggregates",
            options={},
            indexes=(
                Index("start", (("start", 1),), aggregates_expire),
                Index("window_device", (("window", 1), ("device", 1), ("start", 1))),
            ),
        ),
        # What is said of readings stays as long as they do.
        Collection(name="late", options={}, indexes=(Index("device_time", device), time)),
        Collection(name="alerts", options={}, indexes=(Index("device_time", device), time)),
        Collection(
            name="dead_letters",
            options={},
            indexes=(Index("received", (("receivedTime", 1),), readings_expire),),
        ),
    )
