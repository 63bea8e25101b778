"""One series: readings in, emissions out. The entry point of the engine.

Most readings are newer than all before and stay inside the windows that are open: they are added in slices, with one
comparison each. The others (the first of a window, out of order, late, at an emission) are taken one by one.
"""

from bisect import bisect_left
from collections.abc import Sequence

from sensorpipeline_workers.engine import sessions, thresholds, windows
from sensorpipeline_workers.engine.plan import Kind, MetricPlan, Watch
from sensorpipeline_workers.engine.seen import Seen
from sensorpipeline_workers.engine.state import FAR, AlertState, SeriesState
from sensorpipeline_workers.engine.windows import Emissions, Emitter


def process(
    plan: MetricPlan,
    state: SeriesState,
    *,
    device: str,
    times: list[int],
    values: list[float],
    now: int,
    clocks: Sequence[int] | None = None,
) -> Emissions:
    """Takes readings (time in ms, value) of one series in, in their order; changes `state` and returns what is to be
    emitted, in order. `now` is the clock in ms, remembered for the idle close. With the fleet's clock, `clocks` is the
    newest time among all earlier readings of the partition, for each reading (see partition.py).

    The results do not depend on how readings are cut into calls.
    """
    state.last_seen = now
    if len(times) == 1 and plan.plain and state.newest < times[0] < state.limit:
        _single(plan, state, times[0], values[0])
        return []
    out: Emissions = []
    emit = Emitter(plan, device, out)
    if plan.watches_silence:
        thresholds.end_silence(plan, state, time=times[0], value=values[0], emit=emit)
    count = len(times)
    begin = 0
    while begin < count:
        time = times[begin]
        if state.newest < time < state.limit and (clocks is None or clocks[begin] < state.clock_limit):
            begin = _slice(plan, state, times, values, begin, clocks, emit)
        else:
            clock = state.clock if clocks is None else max(state.clock, clocks[begin])
            _one(plan, state, time, values[begin], clock, emit)
            begin += 1
    if len(state.seen) > state.seen.clear_at:
        state.seen.forget(state.clock - plan.horizon)
    return out


def advance(plan: MetricPlan, state: SeriesState, *, device: str, clock: int) -> Emissions:
    """Emits what is due when the fleet's clock has come to `clock`; there is something when `state.clock_limit` is not
    beyond it."""
    emit = Emitter(plan, device, [])
    _advance(plan, state, clock, emit)
    _refresh(plan, state)
    return emit.out


def next_due(plan: MetricPlan, state: SeriesState) -> int:
    """Returns the value of the fleet's clock at which `advance` has something to emit; FAR for none."""
    if state.retired:
        return FAR
    _refresh(plan, state)
    return state.clock_limit


def close_idle(plan: MetricPlan, state: SeriesState, *, device: str, now: int) -> Emissions:
    """Emits what a series' silence causes: open windows after the fleet's idle time, alerts on silence after theirs."""
    silence = now - state.last_seen
    emit = Emitter(plan, device, [])
    if state.newest < 0 or state.retired:
        return emit.out
    if silence >= plan.idle:
        _close_all(plan, state, emit)
    thresholds.watch_silence(plan, state, now=now, emit=emit)
    return emit.out


def is_expired(plan: MetricPlan, state: SeriesState, *, now: int) -> bool:
    """Whether a series has been silent for the fleet's time to live: `retire` it."""
    return plan.ttl > 0 and state.newest >= 0 and not state.retired and now - state.last_seen >= plan.ttl


def is_forgotten(plan: MetricPlan, state: SeriesState, *, now: int) -> bool:
    """Whether a retired series has been silent for so long that its state is deleted."""
    return state.retired and now - state.last_seen >= plan.forgotten


def retire(plan: MetricPlan, state: SeriesState, *, device: str) -> Emissions:
    """Emits what there is to say of a series that has gone: its open windows, active alerts resolved. Little is left of
    its state: the results so far stand, so if it comes back, what is for windows that start before is listed as late,
    and a Difference goes on from its last value."""
    emit = Emitter(plan, device, [])
    _close_all(plan, state, emit)
    for threshold, alert in zip(plan.thresholds, state.alerts, strict=True):
        if alert.active:
            alert.active, alert.since = False, None
            thresholds.transition(emit, threshold, active=False, time=state.newest, value=state.value)
    state.retired, state.seen = True, Seen()
    state.alerts = [AlertState() for _ in plan.thresholds]
    for window in state.windows:
        if window.panes and window.plan.compared:
            window.dropped, window.dropped_last = True, window.panes[-1].last
        window.panes.clear()
        window.starts.clear()
        window.refuse_to(state.newest)
    state.current, state.sessions = [], []
    state.limit = state.clock_limit = -1
    return emit.out


def next_check(plan: MetricPlan, state: SeriesState) -> int:
    """Returns the earliest time by the clock at which `close_idle` or `is_expired` can have something to say of a
    series that stays silent, or `is_forgotten` of one that is retired; FAR for never."""
    if state.retired:
        return state.last_seen + plan.forgotten
    waits = [plan.ttl] if plan.ttl else []
    if any(not pane.closed for window in state.windows for pane in window.panes):
        waits.append(plan.idle)
    for threshold, alert in zip(plan.thresholds, state.alerts, strict=True):
        if threshold.watch is Watch.SILENCE and not alert.active:
            waits.append(threshold.hold)
    return state.last_seen + min(waits) if waits else FAR


def active_alerts(plan: MetricPlan, state: SeriesState) -> dict[str, bool]:
    """Returns whether each threshold is active, by its name."""
    return {t.name: alert.active for t, alert in zip(plan.thresholds, state.alerts, strict=True)}


def _single(plan: MetricPlan, state: SeriesState, time: int, value: float) -> None:
    """Takes in the only reading of a record, newer than all before, that changes no window's being open: what `_slice`
    does, for fleets of so many devices that each sends one reading per record."""
    seen = state.seen
    if time - seen.last == seen.step:
        seen.last = time
    else:
        seen.append(time)
        if len(seen) > seen.clear_at:
            seen.forget(time - plan.horizon)
    for pane in state.current:
        pane.add(time, value)
    state.newest = time
    if time > state.clock:
        state.clock = time
    state.value = value


def _slice(
    plan: MetricPlan,
    state: SeriesState,
    times: list[int],
    values: list[float],
    begin: int,
    clocks: Sequence[int] | None,
    emit: Emitter,
) -> int:
    """Takes readings from `begin` on in that are in order and change no window's being open; returns where they end."""
    limit, seen = state.limit, state.seen
    newest, step = seen.last, seen.step
    expected = newest + step if step else -1
    end = begin
    if clocks is not None:
        times = times[: bisect_left(clocks, state.clock_limit, begin)]
    for time in times[begin:] if begin else times:
        if time != expected:
            if time <= newest or time >= limit:
                break
            seen.last = newest
            seen.append(time)
            step = seen.step
        elif time >= limit:
            break
        newest = time
        expected = time + step if step else -1
        end += 1
    seen.last = newest
    if clocks is not None:
        state.clock = max(state.clock, clocks[end - 1])
    if begin or end < len(values):
        times, values = times[begin:end], values[begin:end]
    for pane in state.current:
        pane.extend(times, values)
    if plan.thresholds:
        thresholds.watch(plan, state, times=times, values=values, emit=emit)
    state.newest = newest
    state.value = values[-1]
    if newest > state.clock:
        state.clock = newest
    if state.sessions:
        for pane, gap in state.sessions:
            pane.end = newest + gap
        _refresh(plan, state)
    return end


def _one(plan: MetricPlan, state: SeriesState, time: int, value: float, clock: int, emit: Emitter) -> None:
    """Takes one reading in, whatever it is. `clock` is the newest time before it."""
    emit.stale = state.retired
    state.retired = False
    if clock > state.clock:
        _advance(plan, state, clock, emit)
    newer = time > state.newest
    if plan.windows:
        horizon = max(clock, time) - plan.horizon
        if newer:
            state.seen.append(time)
        elif time >= horizon:
            if time in state.seen:
                return
            state.seen.insert(time)
        judged = clock - plan.out_of_orderness
        watermark = max(clock, time) - plan.out_of_orderness
        for window in state.windows:
            if window.plan.kind is Kind.SESSION:
                sessions.add(window, time=time, value=value, judged=judged, watermark=watermark, emit=emit)
            elif window.plan.kind is not Kind.ROLLUP:
                windows.add(window, time=time, value=value, judged=judged, watermark=watermark, emit=emit)
    if newer:
        if plan.thresholds:
            thresholds.watch(plan, state, times=[time], values=[value], emit=emit)
        state.newest, state.value = time, value
    if time > clock:
        _advance(plan, state, time, emit)
    if emit.stale or newer:
        _refresh(plan, state)


def _advance(plan: MetricPlan, state: SeriesState, clock: int, emit: Emitter) -> None:
    """Closes windows, and emits updates, up to where the clock has come."""
    judged, watermark = state.clock - plan.out_of_orderness, clock - plan.out_of_orderness
    state.clock = clock
    for window in state.windows:
        windows.close(window, judged=judged, watermark=watermark, emit=emit)
        if window.plan.update:
            windows.update(window, watermark=watermark, emit=emit)


def _close_all(plan: MetricPlan, state: SeriesState, emit: Emitter) -> None:
    for window in state.windows:
        windows.close_idle(window, judged=state.clock - plan.out_of_orderness, emit=emit)
    _refresh(plan, state)


def _refresh(plan: MetricPlan, state: SeriesState) -> None:
    """Works out how far readings can be added in slices, and to which panes."""
    newest, held_back = state.newest, plan.out_of_orderness
    judged = state.clock - held_back
    limit = clock_limit = FAR
    current = []
    state.sessions = []
    for window in state.windows:
        kind, panes = window.plan.kind, window.panes
        found = kind is Kind.ROLLUP
        assigned = 0
        for place in range(len(panes) - 1, -1, -1):
            pane = panes[place]
            if pane.end <= judged:
                break
            if not pane.closed:
                clock_limit = min(clock_limit, pane.end + held_back)
            if kind is not Kind.ROLLUP and pane.start <= newest < pane.end:
                found = not (pane.closed or pane.merged)
                limit = min(limit, pane.end) if found else -1
                current.append(pane)
                assigned += 1
                if kind is Kind.SESSION:
                    state.sessions.append((pane, window.plan.gap))
        if not found:
            limit = -1
        if kind is Kind.HOPPING:
            # A window that refused the newest reading refuses the next one, too, which must be listed.
            whole = len(range(newest - newest % window.plan.slide, newest - window.plan.period, -window.plan.slide))
            next_start = newest - newest % window.plan.slide + window.plan.slide
            limit = min(limit, next_start) if assigned == whole else -1
        if window.plan.update:
            clock_limit = min(clock_limit, (window.tick + 1) * window.plan.update + held_back)
    state.current = current
    state.limit = min(limit, clock_limit)
    state.clock_limit = clock_limit
