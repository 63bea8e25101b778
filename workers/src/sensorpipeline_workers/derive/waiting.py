"""What derived metrics wait for: the inputs that stay away and what cannot be computed, for the pipeline's status.

Windows of different series close at different moments, so nothing is said before two newer starts are there and the
state has lasted for a while by the clock. Gaps that lie before a metric's newest result are history.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

from sensorpipeline_api.records import Aggregate
from sensorpipeline_api.status import MAXIMUM_MISSING, DerivedMetricStatus

from sensorpipeline_workers.derive.join import Failure, Found, Input, Join, Metric

GRACE_SECONDS = 60.0
NEWER_STARTS = 2
LOOK_BACK_STARTS = 10
"""How many of the newest starts are looked at for the newest result, after a restart."""

Complaint = Input | str
"""A missing input, or why the value cannot be computed."""


class Waiting:
    """Watches a join. It remembers since when (s, any clock that only goes forward) each complaint has lasted."""

    def __init__(self, join: Join) -> None:
        self._join = join
        self._since: dict[tuple[str, Complaint], float] = {}
        self._newest: dict[str, int] = {}

    def report(self, now: float) -> list[DerivedMetricStatus]:
        """Returns the state of each derived metric."""
        found: dict[int, dict[str, Found]] = {}
        complaints = {name: self._complaints(metric, found) for name, metric in self._join.metrics.items()}
        current = [(name, complaint) for name, all_of_it in complaints.items() for complaint in all_of_it]
        self._since = {key: self._since.get(key, now) for key in current}
        return [
            self._state(metric, [c for c in complaints[name] if now - self._since[name, c] >= GRACE_SECONDS])
            for name, metric in self._join.metrics.items()
        ]

    def _complaints(self, metric: Metric, found: dict[int, dict[str, Found]]) -> list[Complaint]:
        starts = sorted(set[int]().union(*(self._join.starts(window) for window in metric.windows)))
        newest = starts[: -LOOK_BACK_STARTS - 1 : -1]
        complete = [
            (start, result)
            for start in newest
            if start > self._newest.get(metric.name, start - 1)
            and (result := self._join.find(metric.name, start, found.setdefault(start, {}))) is not None
        ]
        last = next((start for start, result in complete if isinstance(result, Aggregate)), None)
        if last is not None:
            self._newest[metric.name] = last
        if complete and isinstance(complete[0][1], Failure):
            return [complete[0][1].message]
        overdue = newest[NEWER_STARTS] if len(newest) > NEWER_STARTS else None
        if overdue is None or overdue <= self._newest.get(metric.name, overdue - 1):
            return []
        return list(self._join.missing(metric.name, overdue))

    def _state(self, metric: Metric, complaints: Iterable[Complaint]) -> DerivedMetricStatus:
        missing = sorted(c for c in complaints if isinstance(c, tuple))
        problems = [c for c in complaints if isinstance(c, str)]
        message = f"Waits for {len(missing)} of {len(metric.inputs)} inputs." if missing else ""
        last = self._newest.get(metric.name)
        return DerivedMetricStatus(
            name=metric.name,
            unit=metric.unit,
            last_start=datetime.fromtimestamp(last / 1000, UTC) if (missing or problems) and last is not None else None,
            missing_inputs=[_text(item) for item in missing[:MAXIMUM_MISSING]],
            message=f"Has no value: {problems[0]}."[:1024] if problems else message,
        )


def _text(item: Input) -> str:
    window, device = item
    return f"{window}[{device}]" if device else window
