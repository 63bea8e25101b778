"""The table that holds series' states, backed by a changelog topic.

Keys are `partition|device|metric`, so that a write needs no current event to know its partition, and the futures of
writes are kept, so that a flush can wait until Kafka has them.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from faust.tables.table import Table


def table_key(partition: int, device: str, metric: str) -> bytes:
    """Returns the key of a series in the table."""
    return f"{partition}|{device}|{metric}".encode()


def split_key(key: bytes) -> tuple[int, str, str]:
    """Returns (partition, device, metric) from a key of the table."""
    partition, device, metric = key.decode().split("|", 2)
    return int(partition), device, metric


class StateTable(Table):  # type: ignore[type-arg]
    """A Faust table whose writes can be waited for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Bytes as they are, in the changelog and out of it; the default would write them as JSON texts.
        self.key_serializer = self.value_serializer = "raw"
        self.pending: list[asyncio.Future[Any]] = []

    def partition_for_key(self, key: bytes) -> int:
        """Returns the partition that the key names."""
        return split_key(key)[0]

    def on_key_set(self, key: bytes, value: bytes) -> None:
        """Sends the write to the changelog and remembers its future."""
        self.pending.append(self.send_changelog(self.partition_for_key(key), key, value))

    async def write(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Writes items and waits until the changelog has them."""
        for key, value in items:
            self[key] = value
        pending, self.pending = self.pending, []
        await asyncio.gather(*pending)
