"""Alert transitions of the thresholds on one series.

Only readings newer than all before are judged: an old reading says nothing about now. Holding times are event time;
silence goes by the clock, since a device that sends nothing moves no event time.
"""

from sensorpipeline_api.records import Alert, AlertState

from sensorpipeline_workers.engine.numbers import slope
from sensorpipeline_workers.engine.plan import MetricPlan, ThresholdPlan, Watch
from sensorpipeline_workers.engine.state import AlertState as SeriesAlert
from sensorpipeline_workers.engine.state import SeriesState
from sensorpipeline_workers.engine.windows import Emitter


def judge(plan: ThresholdPlan, state: SeriesAlert, *, time: int, value: float) -> bool | None:
    """Returns True when the alert becomes active, False when it is cleared, None when nothing changes."""
    if state.active:
        if plan.sign * value <= plan.sign * plan.clear:
            state.active, state.since = False, None
            return False
        return None
    if plan.sign * value <= plan.sign * plan.bound:
        state.since = None
        return None
    if state.since is None:
        state.since = time
    if time - state.since < plan.hold:
        return None
    state.active = True
    return True


def watch(plan: MetricPlan, state: SeriesState, *, times: list[int], values: list[float], emit: Emitter) -> None:
    """Judges readings in the order of time, newer than the state's newest, by all thresholds."""
    for threshold, alert in zip(plan.thresholds, state.alerts, strict=True):
        compared = values
        if threshold.watch is Watch.LEVEL:
            if not alert.active and alert.since is None:
                extreme = max(values) if threshold.sign > 0 else min(values)
                if threshold.sign * extreme <= threshold.sign * threshold.bound:
                    continue
        elif threshold.watch is Watch.RATE:
            if state.newest < 0 and len(times) == 1:
                continue
            compared = _rates(state, times, values)
        else:
            continue
        for time, value in zip(times[len(times) - len(compared) :], compared, strict=True):
            change = judge(threshold, alert, time=time, value=value)
            if change is not None:
                transition(emit, threshold, active=change, time=time, value=value)


def end_silence(plan: MetricPlan, state: SeriesState, *, time: int, value: float, emit: Emitter) -> None:
    """Clears the alerts on silence: a reading has come, whatever its time."""
    for threshold, alert in zip(plan.thresholds, state.alerts, strict=True):
        if threshold.watch is Watch.SILENCE and alert.active:
            alert.active = False
            transition(emit, threshold, active=False, time=max(time, state.newest), value=value)


def watch_silence(plan: MetricPlan, state: SeriesState, *, now: int, emit: Emitter) -> None:
    """Raises the alerts of thresholds on silence, with the newest reading's time and the length of the silence in s."""
    for threshold, alert in zip(plan.thresholds, state.alerts, strict=True):
        if threshold.watch is Watch.SILENCE and not alert.active and now - state.last_seen >= threshold.hold:
            alert.active = True
            transition(emit, threshold, active=True, time=state.newest, value=threshold.hold / 1000)


def transition(emit: Emitter, threshold: ThresholdPlan, *, active: bool, time: int, value: float) -> None:
    """Emits a transition."""
    kind = AlertState.FIRING if active else AlertState.RESOLVED
    plan = emit.plan
    emit.out.append(
        Alert(threshold.name, plan.fleet, emit.device, plan.metric, threshold.severity, kind.value, time, value)
    )


def _rates(state: SeriesState, times: list[int], values: list[float]) -> list[float]:
    """Returns the change per second from each reading to the next, from the newest known one on if there is one."""
    if state.newest >= 0:
        times, values = [state.newest, *times], [state.value, *values]
    return [
        slope(values[n], values[n + 1], times[n + 1] - times[n])
        for n in range(len(times) - 1)
    ]  # fmt: skip
