"""Event-time windows of one series: readings in, emissions out.

A window [start, end) is final when the watermark reaches `end`; it is emitted then. A later reading is accepted while
the watermark is before `end + lateness`, and the window is emitted again with the next revision: one emission per
accepted reading, so revisions depend on the readings alone and not on how they were batched. After that it is refused.

`judged` is the watermark up to which windows have been closed: a pane that ends at or before it is closed, and a change
to it is emitted at once. Rollups take the content of their source's panes when these close, and single readings that a
closed pane still accepts.
"""

from bisect import bisect_left
from typing import Any

from sensorpipeline_api.records import Aggregate, Alert, Late, LateReason

from sensorpipeline_workers.engine.panes import share_samples
from sensorpipeline_workers.engine.plan import Kind, MetricPlan, WindowPlan
from sensorpipeline_workers.engine.state import WindowState

Emissions = list[Aggregate | Late | Alert]


class Emitter:
    """Collects what one series emits. `stale` says that panes were opened or closed."""

    __slots__ = ("device", "out", "plan", "stale")

    def __init__(self, plan: MetricPlan, device: str, out: Emissions) -> None:
        self.plan = plan
        self.device = device
        self.out = out
        self.stale = False

    def aggregate(self, window: WindowPlan, pane: Any, value: float, *, final: bool) -> None:
        """Emits a pane's value with its next revision."""
        pane.revision += 1
        pane.reported = pane.count
        self.out.append(
            Aggregate(
                window.name, self.plan.fleet, self.device, self.plan.metric, pane.start, pane.end, value, pane.count,
                pane.revision, final, window.unit,
            )
        )  # fmt: skip

    def late(self, window: WindowPlan, time: int, value: float, late_by: int) -> None:
        """Lists a reading that a window refused: for its lateness or, when it is not late enough for that, because the
        window's result stands (`WindowState.barrier`)."""
        reason = LateReason.LATENESS_EXCEEDED if late_by >= window.lateness else LateReason.RESULT_STANDS
        plan, late = self.plan, max(0, late_by) / 1000
        self.out.append(Late(plan.fleet, self.device, plan.metric, time, value, window.name, late, reason.value))


def add(window: WindowState, *, time: int, value: float, judged: int, watermark: int, emit: Emitter) -> None:
    """Takes a reading into each of the windows that hold its time, or lists it as late. `watermark` is with this
    reading seen; it differs from `judged` only for a reading newer than all before."""
    plan = window.plan
    if plan.kind is Kind.HOPPING:
        _add_hopping(window, time, value, judged, watermark, emit)
        return
    start, end = plan.bounds(time)
    if watermark >= end + plan.lateness or start <= window.barrier:
        emit.late(plan, time, value, watermark - end)
        return
    _accept(window, start, end, time, value, judged, emit)


def _add_hopping(window: WindowState, time: int, value: float, judged: int, watermark: int, emit: Emitter) -> None:
    """A reading that some of its windows refuse is listed once, by how late it is for the first of them."""
    plan = window.plan
    start = time - time % plan.slide
    starts = range(start, time - plan.period, -plan.slide)
    refused = None
    for start in reversed(starts):
        end = start + plan.period
        if watermark < end + plan.lateness and start > window.barrier:
            _accept(window, start, end, time, value, judged, emit)
        elif refused is None:
            refused = watermark - end
    if refused is not None:
        emit.late(plan, time, value, refused)


def _accept(window: WindowState, start: int, end: int, time: int, value: float, judged: int, emit: Emitter) -> None:
    pane = _pane(window, start, end, emit)
    before = pane.last if window.plan.compared and pane.count else None
    pane.add(time, value)
    if pane.merged:
        for child in window.children:
            start, end = child.plan.bounds(time)
            if start > child.barrier:
                _accept(child, start, end, time, value, judged, emit)
    settle(window, pane, before=before, judged=judged, emit=emit)


def _pane(window: WindowState, start: int, end: int, emit: Emitter) -> Any:
    starts = window.starts
    if starts and starts[-1] == start:
        return window.panes[-1]
    place = bisect_left(starts, start)
    if place < len(starts) and starts[place] == start:
        return window.panes[place]
    pane = window.plan.make(start, end)
    insert(window, place, pane, emit)
    return pane


def insert(window: WindowState, place: int, pane: Any, emit: Emitter) -> None:
    """Puts a new pane among the live ones."""
    shared = window.plan.shared
    if shared:
        share_samples(window.panes, shared, beyond=shared)
    window.starts.insert(place, pane.start)
    window.panes.insert(place, pane)
    emit.stale = True


def settle(window: WindowState, pane: Any, *, before: float | None, judged: int, emit: Emitter) -> None:
    """After a change to a pane: opens it again, or emits it when it should have been final already. `before` is the
    last value that the next window's Difference was worked out from: if that has changed, so has the Difference."""
    shared = window.plan.shared
    if shared and 2 * len(pane.times) * len(window.panes) > shared:
        share_samples(window.panes, shared, beyond=shared * 3 // 2)
    if pane.end <= judged:
        _finish(window, pane, judged, emit)
    elif pane.closed:
        _reopen(pane, emit)
    if window.plan.compared and pane.last != before:
        after = bisect_left(window.starts, pane.start) + 1
        if after < len(window.panes) and window.panes[after].closed:
            following = window.panes[after]
            if following.end <= judged:
                report(window, following, emit, final=True)
            else:
                _reopen(following, emit)


def _reopen(pane: Any, emit: Emitter) -> None:
    """Takes back that silence has closed a pane: it is emitted again when the watermark or the next silence closes
    it. Nothing is emitted now, so that one silence costs one revision (see Processor.check)."""
    pane.closed = False
    emit.stale = True


def close(window: WindowState, *, judged: int, watermark: int, emit: Emitter) -> None:
    """Emits the windows that the watermark has made final, and drops those that accept no reading any more."""
    panes = window.panes
    place = len(panes)
    while place and panes[place - 1].end > judged:
        place -= 1
    for pane in panes[place:]:
        if pane.end > watermark:
            break
        emit.stale = True
        if not pane.closed:
            _finish(window, pane, judged, emit)
    drop, keep = 0, window.plan.keep
    while drop < len(panes) and panes[drop].end + keep <= watermark:
        drop += 1
    if drop:
        if window.plan.compared:
            window.dropped, window.dropped_last = True, panes[drop - 1].last
        del panes[:drop], window.starts[:drop]


def update(window: WindowState, *, watermark: int, emit: Emitter) -> None:
    """Emits the open windows that have changed, when the watermark has passed a multiple of the update interval."""
    tick = watermark // window.plan.update
    if tick <= window.tick:
        return
    emit.stale = True
    first, window.tick = window.tick < 0, tick
    if not first:
        for pane in window.panes:
            if not pane.closed and pane.count != pane.reported:
                report(window, pane, emit, final=False)


def close_idle(window: WindowState, *, judged: int, emit: Emitter) -> None:
    """Emits every open window of a series that has fallen silent; a reading that still comes continues it."""
    for pane in window.panes:
        if not pane.closed:
            emit.stale = True
            _finish(window, pane, judged, emit)


def _finish(window: WindowState, pane: Any, judged: int, emit: Emitter) -> None:
    pane.closed = True
    emit.stale = True
    report(window, pane, emit, final=True)
    if window.children and not pane.merged:
        pane.merged = True
        for child in window.children:
            _absorb(child, pane, judged, emit)


def _absorb(window: WindowState, source: Any, judged: int, emit: Emitter) -> None:
    """Takes the content of a pane of the source in."""
    start, end = window.plan.bounds(source.start)
    if start <= window.barrier:
        return
    pane = _pane(window, start, end, emit)
    before = pane.last if window.plan.compared and pane.count else None
    pane.merge(source)
    if pane.merged:
        for child in window.children:
            _absorb(child, source, judged, emit)
    settle(window, pane, before=before, judged=judged, emit=emit)


def report(window: WindowState, pane: Any, emit: Emitter, *, final: bool) -> None:
    """Emits a pane, if it has a value."""
    plan = window.plan
    value = plan.result(pane, _before(window, pane)) if plan.compared else plan.result(pane)
    if value is not None:
        emit.aggregate(plan, pane, value, final=final)


def _before(window: WindowState, pane: Any) -> float | None:
    """Returns the last value of the previous window that has one."""
    place = bisect_left(window.starts, pane.start)
    if place:
        last: float = window.panes[place - 1].last
        return last
    return window.dropped_last if window.dropped else None
