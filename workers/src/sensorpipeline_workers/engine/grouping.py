"""The readings of a record, by series."""

from collections.abc import Iterable

from sensorpipeline_api.records import Reading

Series = tuple[str, str]
"""A device and a metric."""


def group(readings: Iterable[Reading]) -> dict[Series, tuple[list[int], list[float]]]:
    """Returns times and values of each series, in the order of the record."""
    groups: dict[Series, tuple[list[int], list[float]]] = {}
    for reading in readings:
        key = reading.device, reading.metric
        found = groups.get(key)
        if found is None:
            groups[key] = [reading.time], [reading.value]
        else:
            found[0].append(reading.time)
            found[1].append(reading.value)
    return groups
