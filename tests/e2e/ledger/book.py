"""The ledger: every reading that the pipeline has taken responsibility for, in the order of acknowledgement."""

import threading
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

BURST_SECONDS = 5.0
Key = tuple[str, str, int]
"""Device, metric and event time (ms): what makes a reading the same reading."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A reading as a device sent it. `refused` is the reason with which it must end as a dead letter; empty for one
    that must be stored. `pad` makes its message larger."""

    fleet: str
    device: str
    metric: str
    time: int
    value: float
    refused: str = ""
    pad: str = ""

    @property
    def key(self) -> Key:
        """Returns what identifies the reading."""
        return self.device, self.metric, self.time

    def row(self) -> dict[str, Any]:
        """Returns the reading as the recompute takes it."""
        return {"fleet": self.fleet, "device": self.device, "metric": self.metric, "time": self.time,
                "value": self.value}  # fmt: skip


class Book:
    """The ledger of one run; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._moments: dict[Key, float] = {}
        self._good: Counter[str] = Counter()
        self._newest: dict[str, int] = {}
        self._noted: dict[str, float] = {}
        self.events: Counter[str] = Counter()

    def acknowledge(self, entry: Entry) -> None:
        """Writes down a reading that was acknowledged; a device may send the same one twice."""
        with self._lock:
            self._entries.append(entry)
            first = entry.key not in self._moments
            self._moments[entry.key] = time.time()
            if not entry.refused:
                self._good[entry.fleet] += first
                self._newest[entry.device] = max(self._newest.get(entry.device, 0), entry.time)

    def note(self, what: str) -> None:
        """Counts something that happened on the way, such as a retry; the first of a burst is told."""
        now = time.monotonic()
        with self._lock:
            self.events[what] += 1
            if now - self._noted.get(what, 0.0) > BURST_SECONDS:
                print(f"  {datetime.now(UTC):%H:%M:%S} {what}")
            self._noted[what] = now

    def position(self) -> int:
        """Returns how many acknowledgements there are."""
        with self._lock:
            return len(self._entries)

    def since(self, position: int = 0) -> list[Entry]:
        """Returns the acknowledgements from a position on, in their order."""
        with self._lock:
            return self._entries[position:]

    def acknowledged(self, keys: list[Key]) -> dict[str, int]:
        """Returns how many of these readings were (last) acknowledged in each second of the clock, as HH:MM:SS."""
        with self._lock:
            moments = sorted(self._moments[key] for key in keys)
        return dict(Counter(f"{datetime.fromtimestamp(moment, UTC):%H:%M:%S}" for moment in moments))

    def progress(self) -> tuple[dict[str, int], dict[str, int]]:
        """Returns how many different readings of each fleet must be stored, and the newest time of each device (ms)."""
        with self._lock:
            return dict(self._good), dict(self._newest)
