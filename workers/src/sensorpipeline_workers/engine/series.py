"""One series: readings in, emissions out. The entry point of the engine."""

from collections.abc import Iterable

from sensorpipeline_api.records import Aggregate, Alert, AlertState, Late

from sensorpipeline_workers.engine import thresholds, windows
from sensorpipeline_workers.engine.plan import MetricPlan, WindowPlan
from sensorpipeline_workers.engine.state import AlertState as SeriesAlert
from sensorpipeline_workers.engine.state import SeriesState, WindowState

MAXIMUM_TIMES = 400_000
"""How many times of one series are remembered at most: more than four days at one reading a second."""

Emissions = list[Aggregate | Late | Alert]


def process(
    plan: MetricPlan, state: SeriesState, *, device: str, readings: Iterable[tuple[int, float]], now: int
) -> Emissions:
    """Takes readings (time in ms, value) of one series in, in their order; changes `state` and returns what is to be
    emitted, in order. `now` is the clock in ms, remembered for the idle close."""
    out: Emissions = []
    for time, value in readings:
        state.last_seen = now
        newer = state.newest is None or time > state.newest
        if not newer and time in state.recent:
            continue
        if newer:
            state.newest = time
        assert state.newest is not None
        if plan.windows:
            state.recent.add(time)
            _windows(plan, state, device=device, time=time, value=value, newer=newer, out=out)
        if newer:
            _thresholds(plan, state, device=device, time=time, value=value, out=out)
    if plan.windows and state.newest is not None:
        _forget(state, oldest=state.newest - plan.horizon)
    return out


def close_idle(plan: MetricPlan, state: SeriesState, *, device: str, now: int) -> Emissions:
    """Emits the open windows of a series that has been silent for the fleet's idle time; nothing if it has not."""
    out: Emissions = []
    if now - state.last_seen < plan.idle:
        return out
    for window in plan.windows:
        emitted = windows.close_idle(window, _window_state(state, window.name))
        out += [_aggregate(plan, window, device, emission) for emission in emitted]
    return out


def active_alerts(state: SeriesState) -> dict[str, bool]:
    """Returns whether each threshold that was judged is active, by its name."""
    return {name: alert.active for name, alert in state.alerts.items()}


def _windows(
    plan: MetricPlan, state: SeriesState, *, device: str, time: int, value: float, newer: bool, out: Emissions
) -> None:
    assert state.newest is not None
    watermark = state.newest - plan.out_of_orderness
    for window in plan.windows:
        window_state = _window_state(state, window.name)
        emitted = windows.add(window, window_state, time=time, value=value, watermark=watermark)
        if emitted is None:
            end = time - time % window.period + window.period
            late_by = (watermark - end) / 1000
            out.append(Late(plan.fleet, device, plan.metric, time, value, window.name, late_by))
            continue
        if newer:
            emitted += windows.close(window, window_state, watermark=watermark)
        out += [_aggregate(plan, window, device, emission) for emission in emitted]


def _thresholds(plan: MetricPlan, state: SeriesState, *, device: str, time: int, value: float, out: Emissions) -> None:
    for threshold in plan.thresholds:
        alert = state.alerts.get(threshold.name)
        if alert is None:
            alert = state.alerts[threshold.name] = SeriesAlert()
        change = thresholds.judge(threshold, alert, time=time, value=value)
        if change is not None:
            kind = AlertState.FIRING if change else AlertState.RESOLVED
            severity = threshold.severity
            out.append(Alert(threshold.name, plan.fleet, device, plan.metric, severity, kind.value, time, value))


def _window_state(state: SeriesState, name: str) -> WindowState:
    found = state.windows.get(name)
    if found is None:
        found = state.windows[name] = WindowState()
    return found


def _forget(state: SeriesState, *, oldest: int) -> None:
    """Drops the times that no window can accept any more, whenever the set has doubled, and the oldest beyond
    `MAXIMUM_TIMES`: a duplicate of so old a reading is taken for a new one."""
    if len(state.recent) <= max(64, 2 * state.kept):
        return
    state.recent = {time for time in state.recent if time >= oldest}
    if len(state.recent) > MAXIMUM_TIMES:
        state.recent = set(sorted(state.recent)[-MAXIMUM_TIMES:])
    state.kept = len(state.recent)


def _aggregate(plan: MetricPlan, window: WindowPlan, device: str, emission: windows.Emission) -> Aggregate:
    pane, value, revision = emission
    return Aggregate(
        window=window.name,
        fleet=plan.fleet,
        device=device,
        metric=plan.metric,
        start=pane.start,
        end=pane.start + window.period,
        value=value,
        count=pane.count,
        revision=revision,
        final=True,
        unit=window.unit,
    )
