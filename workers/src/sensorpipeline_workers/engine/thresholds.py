"""Alert transitions of one threshold on one series.

Only readings newer than all before are judged: an old reading says nothing about now. Holding times are event time.
"""

from sensorpipeline_workers.engine.plan import ThresholdPlan
from sensorpipeline_workers.engine.state import AlertState


def judge(plan: ThresholdPlan, state: AlertState, *, time: int, value: float) -> bool | None:
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
