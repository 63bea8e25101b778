"""What the engine remembers of one series, and its versioned binary form.

Times are event times in milliseconds since the epoch, except `last_seen`, which is by the clock. A state belongs to a
plan: windows and alerts stand in the plan's order. In the binary form they stand by name, so a state outlives a change
of the fleet: what is no longer asked for is dropped, and a window whose shape, function or source has changed begins
anew with the first one that starts after all readings so far, since the results of those before stand.
"""

from array import array
from typing import Any

import msgspec

from sensorpipeline_workers.engine import state_v1
from sensorpipeline_workers.engine.panes import AnyPane, Times, Values, share_samples
from sensorpipeline_workers.engine.plan import MetricPlan, WindowPlan
from sensorpipeline_workers.engine.seen import Seen

VERSION = 3
_FIRST_LIKE_IT = 2
"""From this version on the form differs by what is missing at the end."""
FAR = 1 << 62
"""Beyond every time."""


class WindowState:
    """The live panes of one window in the order of time, `starts` beside them for searching; what Difference needs of
    the last pane that was dropped; `tick` counts the update intervals that have passed, -1 before the first reading;
    `children` are the rollups that read this window. Panes that start at or before `barrier` are refused: results of
    theirs that the state knows nothing of stand."""

    __slots__ = ("barrier", "children", "dropped", "dropped_last", "panes", "plan", "starts", "tick")

    def __init__(self, plan: WindowPlan) -> None:
        self.plan = plan
        self.panes: list[Any] = []
        self.starts: list[int] = []
        self.dropped = False
        self.dropped_last = 0.0
        self.tick = -1
        self.barrier = -FAR
        self.children: list[WindowState] = []

    def refuse_to(self, newest: int) -> None:
        """Lets the results of all panes that start up to `newest` stand."""
        if newest >= 0:
            self.barrier = newest


class AlertState(msgspec.Struct, array_like=True):
    """One threshold on one series: active or not, and since when (event time) the condition has held."""

    active: bool = False
    since: int | None = None


class SeriesState:
    """One series. `offset` is the last Kafka offset whose readings are in it; `newest` is its newest reading's time, -1
    for none, and `value` that reading's value; `clock` is the event time by which its windows were judged last.
    `retired` says that silence has ended it: what is left keeps its results from being overwritten if it comes back.

    Not stored: readings in order and before `limit` go into the panes `current` (`sessions` are those of them whose end
    they move, with the gap), as long as the clock is before `clock_limit`, where a window is to be emitted.
    """

    __slots__ = (
        "alerts", "clock", "clock_limit", "current", "last_seen", "limit", "newest", "offset", "retired", "seen",
        "sessions", "value", "windows",
    )  # fmt: skip

    def __init__(self, plan: MetricPlan) -> None:
        self.offset = -1
        self.newest = -1
        self.clock = -1
        self.last_seen = 0
        self.retired = False
        self.value = 0.0
        self.seen = Seen()
        self.windows = [WindowState(window) for window in plan.windows]
        self.alerts = [AlertState() for _ in plan.thresholds]
        for window in self.windows:
            if window.plan.source >= 0:
                self.windows[window.plan.source].children.append(window)
        self.limit = self.clock_limit = -1
        self.current: list[Any] = []
        self.sessions: list[tuple[Any, int]] = []


_Seen = tuple[int, int, int, list[int], list[int], list[int], bytes]


class _Window(msgspec.Struct, array_like=True):
    signature: str
    panes: list[AnyPane]
    dropped: bool
    dropped_last: float
    tick: int
    barrier: int = -1


class _Stored(msgspec.Struct, array_like=True):
    version: int
    offset: int
    newest: int
    clock: int
    last_seen: int
    value: float
    seen: _Seen
    windows: dict[str, _Window]
    alerts: dict[str, AlertState]
    retired: bool = False


def _plain(value: Any) -> Any:
    if isinstance(value, array):
        return value.tobytes()
    raise NotImplementedError


def _from_plain(kind: type, value: Any) -> Any:
    if kind is Times:
        return Times("q", value)
    if kind is Values:
        return Values("d", value)
    raise NotImplementedError


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
_decoder = msgspec.msgpack.Decoder(_Stored, dec_hook=_from_plain)


class StateVersionError(Exception):
    """The bytes were written by a version of the engine that this one cannot read, or are damaged."""


def encode(plan: MetricPlan, state: SeriesState) -> bytes:
    """Returns the binary form of a state."""
    windows = {
        w.plan.name: (w.plan.signature, w.panes, w.dropped, w.dropped_last, w.tick, max(-1, w.barrier))
        for w in state.windows
    }
    alerts = {threshold.name: alert for threshold, alert in zip(plan.thresholds, state.alerts, strict=True)}
    return _encoder.encode(
        (
            VERSION, state.offset, state.newest, state.clock, state.last_seen, state.value, state.seen.dump(), windows,
            alerts, state.retired,
        )
    )  # fmt: skip


def decode(plan: MetricPlan, data: bytes) -> SeriesState:
    """Returns the state from its binary form, of this version or an earlier one. Raises StateVersionError for an
    unknown version or damaged bytes."""
    state = SeriesState(plan)
    try:
        version = state_v1.VERSION if state_v1.is_mine(data) else msgspec.msgpack.decode(data)[0]
        if version == state_v1.VERSION:
            _upgrade(plan, state, state_v1.decode(data))
        elif _FIRST_LIKE_IT <= version <= VERSION:
            _fill(plan, state, _decoder.decode(data))
        else:
            raise StateVersionError(f"series state has version {version}, this engine reads 1 to {VERSION}")
    except (msgspec.MsgspecError, ValueError, TypeError, LookupError) as error:
        raise StateVersionError(f"series state cannot be read: {error}") from error
    return state


def _fill(plan: MetricPlan, state: SeriesState, stored: _Stored) -> None:
    state.offset, state.newest, state.clock = stored.offset, stored.newest, stored.clock
    state.last_seen, state.value, state.seen = stored.last_seen, stored.value, Seen.load(stored.seen)
    state.retired = stored.retired
    for window in state.windows:
        found = stored.windows.get(window.plan.name)
        if found is None:
            continue
        wanted = window.plan.signature if stored.version >= VERSION else window.plan.former_signature
        if found.signature == wanted:
            window.panes, window.tick = found.panes, found.tick
            window.dropped, window.dropped_last = found.dropped, found.dropped_last
            window.starts = [pane.start for pane in window.panes]
            _bound(window)
            window.barrier = found.barrier if found.barrier >= 0 else -FAR
        else:
            window.refuse_to(stored.newest)
    state.alerts = [stored.alerts.get(threshold.name, AlertState()) for threshold in plan.thresholds]


def _bound(window: WindowState) -> None:
    """Holds stored panes to what the plan of today lets them keep."""
    plan = window.plan
    if plan.most:
        for pane in window.panes:
            pane.keep(plan.most)
    if plan.shared:
        share_samples(window.panes, plan.shared, beyond=3 * plan.shared)


def _upgrade(plan: MetricPlan, state: SeriesState, stored: state_v1.SeriesState) -> None:
    """Fills a state in from version 1, whose panes held what each of its functions needs."""
    state.offset, state.last_seen = stored.offset, stored.last_seen
    state.newest = state.clock = -1 if stored.newest is None else stored.newest
    for time in sorted(stored.recent):
        state.seen.append(time)
    for window in state.windows:
        found = stored.windows.get(window.plan.name)
        if found is None:
            continue
        window.dropped, window.dropped_last = found.dropped, found.dropped_last
        for old in sorted(found.panes.values(), key=lambda pane: pane.start):
            pane = window.plan.make(old.start, old.start + window.plan.period)
            if state_v1.fill(pane, old) and window.plan.bounds(old.start) == (pane.start, pane.end):
                window.panes.append(pane)
                window.starts.append(pane.start)
    state.alerts = [
        AlertState(old.active, old.since) if old is not None else AlertState()
        for old in (stored.alerts.get(threshold.name) for threshold in plan.thresholds)
    ]
