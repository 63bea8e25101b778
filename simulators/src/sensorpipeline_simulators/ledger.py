"""The ledger: one line for each message that the broker has acknowledged, in the order of acknowledgement.

It is also the simulation's memory: a device's messages are acknowledged in order, so the number of its lines says
where to go on.
"""

import json
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

FLUSH_SECONDS = 0.5


class Ledger:
    """The ledger file; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self.acknowledged: Counter[str] = Counter()
        self.last_due = 0.0
        if path.exists():
            self._recover(path)
        self._file = path.open("a")
        self._last_flush = time.monotonic()

    def _recover(self, path: Path) -> None:
        """Counts the lines; a last line that was written in part is cut off: its message is sent again."""
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            path.write_bytes(whole)
        for line in whole.splitlines():
            entry = json.loads(line)
            self.acknowledged[entry["device"]] += 1
            self.last_due = max(self.last_due, entry["due"])

    def write(self, entry: dict[str, Any]) -> None:
        """Appends a line."""
        with self._lock:
            self.acknowledged[entry["device"]] += 1
            self._file.write(json.dumps(entry) + "\n")
            if time.monotonic() - self._last_flush > FLUSH_SECONDS:
                self._flush()

    def flush(self) -> None:
        """Brings what was written to the disk."""
        with self._lock:
            self._flush()

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._file.close()

    def _flush(self) -> None:
        self._file.flush()
        self._last_flush = time.monotonic()
