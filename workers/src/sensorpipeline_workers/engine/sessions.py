"""Session windows of one series: readings less than the gap apart.

A reading is refused when its own gap, [time, time + gap), ended more than the lateness before the watermark. The
sessions are those of the accepted readings, whatever their order; so a session is kept until no accepted reading can
touch it.

A session is known by its start. When an accepted reading gives a session an earlier start, or joins two of them, the
start that is no more is taken back: an emission with count 0 and the next revision, whether it was emitted or not,
since an emission by the clock may have been forgotten in a crash. A session that the watermark had made
final and that goes on is emitted as not final; one that silence had closed goes on without a word, as all windows do.
"""

from bisect import bisect_right
from typing import Any

from sensorpipeline_api.records import Aggregate

from sensorpipeline_workers.engine.state import WindowState
from sensorpipeline_workers.engine.windows import Emitter, insert, report, settle


def add(window: WindowState, *, time: int, value: float, judged: int, watermark: int, emit: Emitter) -> None:
    """Takes a reading into its session, or lists it as late."""
    plan, panes, starts = window.plan, window.panes, window.starts
    end = time + plan.gap
    if watermark >= end + plan.lateness or time <= window.barrier:
        emit.late(plan, time, value, watermark - end)
        return
    place = bisect_right(starts, time)
    left = panes[place - 1] if place and time < panes[place - 1].end else None
    right = panes[place] if place < len(panes) and starts[place] < end else None
    if right is not None:
        _take_back(window, right, emit)
    if left is not None:
        pane = left
        if right is not None:
            del panes[place], starts[place]
            pane.merge(right)
            end = right.end
    elif right is not None:
        pane = right
        pane.start = starts[place] = time
        pane.revision, pane.reported = -1, 0
    else:
        pane = plan.make(time, end)
        insert(window, place, pane, emit)
    emit.stale = True
    final = pane.closed and pane.end <= judged
    pane.add(time, value)
    pane.end = max(pane.end, end)
    continued = final and pane.end > judged
    settle(window, pane, before=None, judged=judged, emit=emit)
    if continued:
        report(window, pane, emit, final=False)


def _take_back(window: WindowState, pane: Any, emit: Emitter) -> None:
    emit.out.append(
        Aggregate(
            window.plan.name, emit.plan.fleet, emit.device, emit.plan.metric, pane.start, pane.end, 0.0, 0,
            pane.revision + 1, True, window.plan.unit,
        )
    )  # fmt: skip
