"""What the engine remembers of one series, and its versioned binary form.

Times are event times in milliseconds since the epoch, except `last_seen`, which is by the clock.
"""

import zlib
from array import array
from copy import copy
from itertools import accumulate, pairwise

import msgspec

VERSION = 1


class Pane(msgspec.Struct, array_like=True, gc=False):
    """The running content of one window. `revision` is the last one emitted, -1 for none; `closed` says that the
    window was emitted as final and has not been continued since."""

    start: int
    count: int = 0
    total: float = 0.0
    compensation: float = 0.0
    minimum: float = float("inf")
    maximum: float = float("-inf")
    first_time: int = 0
    first: float = 0.0
    last_time: int = 0
    last: float = 0.0
    revision: int = -1
    closed: bool = False

    def add(self, time: int, value: float) -> None:
        """Takes a reading in. The sum is compensated (Neumaier), so its error does not grow with the count."""
        total = self.total + value
        if abs(self.total) >= abs(value):
            self.compensation += (self.total - total) + value
        else:
            self.compensation += (value - total) + self.total
        self.total = total
        if value < self.minimum:
            self.minimum = value
        if value > self.maximum:
            self.maximum = value
        if self.count == 0 or time < self.first_time:
            self.first_time, self.first = time, value
        if self.count == 0 or time > self.last_time:
            self.last_time, self.last = time, value
        self.count += 1


class WindowState(msgspec.Struct, array_like=True):
    """The live panes of one window by start, and what Difference needs of the last pane that was dropped."""

    panes: dict[int, Pane] = msgspec.field(default_factory=dict)
    dropped: bool = False
    dropped_last: float = 0.0


class AlertState(msgspec.Struct, array_like=True):
    """One threshold on one series: active or not, and since when (event time) the condition has held."""

    active: bool = False
    since: int | None = None


class SeriesState(msgspec.Struct, array_like=True):
    """One series. `offset` is the last Kafka offset whose readings are in it; `recent` holds the times of the
    readings within the lateness horizon, by which duplicates are recognised, and `kept` how many were left when it was
    last cleared out."""

    version: int = VERSION
    offset: int = -1
    newest: int | None = None
    last_seen: int = 0
    recent: set[int] = msgspec.field(default_factory=set)
    kept: int = 0
    windows: dict[str, WindowState] = msgspec.field(default_factory=dict)
    alerts: dict[str, AlertState] = msgspec.field(default_factory=dict)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[SeriesState, int, bytes])


class StateVersionError(Exception):
    """The bytes were written by a version of the engine that this one cannot read."""


def encode(state: SeriesState) -> bytes:
    """Returns the binary form of a state. The remembered times, which can be hundreds of thousands, are kept as
    compressed differences: a device that reports regularly costs next to nothing."""
    times = sorted(state.recent)
    steps = array("q", (later - earlier for earlier, later in pairwise(times)))
    rest = copy(state)
    rest.recent = set()
    return _encoder.encode((rest, times[0] if times else -1, zlib.compress(steps.tobytes(), 1)))


def decode(data: bytes) -> SeriesState:
    """Returns the state from its binary form. Raises StateVersionError for an unknown version or damaged bytes."""
    try:
        state, first, packed = _decoder.decode(data)
        steps = array("q")
        steps.frombytes(zlib.decompress(packed))
    except (msgspec.MsgspecError, zlib.error, ValueError) as error:
        raise StateVersionError(f"series state cannot be read: {error}") from error
    if state.version != VERSION:
        raise StateVersionError(f"series state has version {state.version}, this engine reads {VERSION}")
    state.recent = set(accumulate(steps, initial=first)) if first >= 0 else set()
    return state
