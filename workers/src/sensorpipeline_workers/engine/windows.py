"""Tumbling event-time windows of one series.

A window [start, end) is final when the watermark reaches `end`; it is emitted then. A later reading is accepted while
the watermark is before `end + lateness`, and the window is emitted again with the next revision: one emission per
accepted reading, so revisions depend on the readings alone and not on how they were batched. After that it is refused.
"""

from sensorpipeline_workers.engine.plan import WindowPlan
from sensorpipeline_workers.engine.state import Pane, WindowState

Emission = tuple[Pane, float, int]
"""A pane, its value and its revision."""


def add(plan: WindowPlan, state: WindowState, *, time: int, value: float, watermark: int) -> list[Emission] | None:
    """Takes a reading into its window; returns what is to be emitted again, or None when the window refuses it.

    `watermark` is the series' watermark with this reading seen.
    """
    start = time - time % plan.period
    end = start + plan.period
    if watermark >= end + plan.lateness:
        return None
    pane = state.panes.get(start)
    if pane is None:
        pane = state.panes[start] = Pane(start=start)
    last_before = pane.last if pane.count else None
    pane.add(time, value)
    if watermark < end:
        pane.closed = False
        return []
    pane.closed = True
    out = _emit(plan, state, pane)
    if plan.result is None and pane.last != last_before:
        out += _emit_successor(plan, state, pane)
    return out


def close(plan: WindowPlan, state: WindowState, *, watermark: int) -> list[Emission]:
    """Emits the windows that the watermark has made final, and drops those that accept no reading any more."""
    out: list[Emission] = []
    for start in sorted(state.panes):
        end = start + plan.period
        if end > watermark:
            break
        pane = state.panes[start]
        if not pane.closed:
            pane.closed = True
            out += _emit(plan, state, pane)
        if end + plan.lateness <= watermark:
            state.dropped, state.dropped_last = True, pane.last
            del state.panes[start]
    return out


def close_idle(plan: WindowPlan, state: WindowState) -> list[Emission]:
    """Emits every open window of a series that has fallen silent; a reading that still comes continues it."""
    out: list[Emission] = []
    for start in sorted(state.panes):
        pane = state.panes[start]
        if not pane.closed:
            pane.closed = True
            out += _emit(plan, state, pane)
    return out


def _emit(plan: WindowPlan, state: WindowState, pane: Pane) -> list[Emission]:
    value = plan.result(pane) if plan.result is not None else _difference(state, pane)
    if value is None:
        return []
    pane.revision += 1
    return [(pane, value, pane.revision)]


def _difference(state: WindowState, pane: Pane) -> float | None:
    """Returns last value minus the last value of the previous window that has one; None when there is none."""
    before = max((start for start in state.panes if start < pane.start), default=None)
    if before is not None:
        return pane.last - state.panes[before].last
    return pane.last - state.dropped_last if state.dropped else None


def _emit_successor(plan: WindowPlan, state: WindowState, pane: Pane) -> list[Emission]:
    """Emits the next window again, whose difference this one's last value has changed."""
    after = min((start for start in state.panes if start > pane.start), default=None)
    if after is None or not state.panes[after].closed:
        return []
    return _emit(plan, state, state.panes[after])
