"""The binary form of a series' state as version 1 of the engine wrote it; only read."""

import zlib
from array import array
from itertools import accumulate
from typing import Any

import msgspec

from sensorpipeline_workers.engine import panes

VERSION = 1


class Pane(msgspec.Struct, array_like=True, gc=False):
    """What every function of version 1 needed of a window."""

    start: int
    count: int
    total: float
    compensation: float
    minimum: float
    maximum: float
    first_time: int
    first: float
    last_time: int
    last: float
    revision: int
    closed: bool


class WindowState(msgspec.Struct, array_like=True):
    """The live panes of one window by start."""

    panes: dict[int, Pane]
    dropped: bool
    dropped_last: float


class AlertState(msgspec.Struct, array_like=True):
    """One threshold on one series."""

    active: bool
    since: int | None


class SeriesState(msgspec.Struct, array_like=True):
    """One series."""

    version: int
    offset: int
    newest: int | None
    last_seen: int
    recent: set[int]
    kept: int
    windows: dict[str, WindowState]
    alerts: dict[str, AlertState]


_decoder = msgspec.msgpack.Decoder(tuple[SeriesState, int, bytes])


def is_mine(data: bytes) -> bool:
    """Whether the bytes begin as version 1 did: three parts, the first of which is the series' eight."""
    return data[:2] == b"\x93\x98"


def decode(data: bytes) -> SeriesState:
    """Returns the state. Raises msgspec.MsgspecError or ValueError."""
    state, first, packed = _decoder.decode(data)
    steps = array("q")
    try:
        steps.frombytes(zlib.decompress(packed))
    except zlib.error as error:
        raise ValueError(str(error)) from error
    state.recent = set(accumulate(steps, initial=first)) if first >= 0 else set()
    return state


def fill(pane: Any, old: Pane) -> bool:
    """Fills an empty pane; returns False when version 1 did not have what its function needs."""
    pane.count, pane.revision, pane.closed = old.count, old.revision, old.closed
    pane.reported = old.count if old.revision >= 0 else 0
    match pane:
        case panes.SumPane():
            pane.total, pane.compensation = old.total, old.compensation
        case panes.MinimumPane():
            pane.value = old.minimum
        case panes.MaximumPane():
            pane.value = old.maximum
        case panes.SpanPane():
            pane.first_time, pane.first, pane.last_time, pane.last = old.first_time, old.first, old.last_time, old.last
        case _:
            return type(pane) is panes.Pane
    return True
