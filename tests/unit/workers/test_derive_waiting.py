"""What is said of derived metrics that wait: only what has lasted, only what is missing now."""

from datetime import UTC, datetime

import pytest
from sensorpipeline_api.configuration import DerivedPlan
from sensorpipeline_api.expressions import parse_expression
from sensorpipeline_api.records import Aggregate
from sensorpipeline_api.spec import DerivedMetric
from sensorpipeline_api.status import DerivedMetricStatus
from sensorpipeline_workers.derive.join import Join
from sensorpipeline_workers.derive.waiting import GRACE_SECONDS, Waiting


def plan(name: str, expression: str, unit: str = "") -> DerivedPlan:
    metric = DerivedMetric(name=name, expression=expression)
    return DerivedPlan(metric=metric, inputs=parse_expression(expression), unit=unit)


class Watched:
    """A join that is watched; `later` returns what is said after the grace."""

    def __init__(self, *plans: DerivedPlan) -> None:
        self.join = Join("p", list(plans))
        self.waiting = Waiting(self.join)
        self.now = 0.0

    def add(self, window: str, device: str, *starts: int, value: float = 1.0) -> None:
        for start in starts:
            self.join.add(Aggregate(window, "f", device, "m", start * 1000, start * 1000 + 1, value, 1, 0, True))
        self.join.results()

    def report(self) -> dict[str, DerivedMetricStatus]:
        return {state.name: state for state in self.waiting.report(self.now)}

    def later(self) -> dict[str, DerivedMetricStatus]:
        self.report()
        self.now += GRACE_SECONDS
        return self.report()


def test_an_input_that_stays_away_is_named_with_the_start_of_the_last_result() -> None:
    watched = Watched(plan("Sum", "A.x + B.y + C.z", "Wh"))
    watched.add("A", "x", 0, 1, 2, 3, 4)
    watched.add("C", "z", 0, 1, 2, 3)
    watched.add("B", "y", 0, 1)
    assert watched.report()["Sum"] == DerivedMetricStatus(name="Sum", unit="Wh"), "not before the grace"
    assert watched.later()["Sum"] == DerivedMetricStatus(
        name="Sum", unit="Wh", last_start=datetime.fromtimestamp(1, UTC), missing_inputs=["B[y]"],
        message="Waits for 1 of 3 inputs.",
    )  # fmt: skip


def test_what_is_said_stays_the_same_while_the_others_go_on_and_ends_when_the_input_comes() -> None:
    watched = Watched(plan("Sum", "A.x + B.y"))
    watched.add("A", "x", *range(5))
    watched.add("B", "y", 0)
    first = watched.later()
    assert first["Sum"].missing_inputs == ["B[y]"]
    watched.add("A", "x", 5, 6)
    assert watched.report() == first
    watched.add("B", "y", *range(1, 6))
    assert watched.report()["Sum"] == DerivedMetricStatus(name="Sum")


@pytest.mark.parametrize("starts", [[0], [0, 1], [0, 1, 2]])
def test_two_newer_starts_must_be_there(starts: list[int]) -> None:
    watched = Watched(plan("Sum", "A.x + B.y"))
    watched.add("A", "x", *starts)
    assert bool(watched.later()["Sum"].missing_inputs) == (len(starts) > 2)


def test_a_gap_before_the_newest_result_is_history() -> None:
    watched = Watched(plan("Sum", "A.x + B.y"))
    watched.add("A", "x", *range(6))
    watched.add("B", "y", 5)
    assert watched.later()["Sum"] == DerivedMetricStatus(name="Sum")


def test_an_input_that_goes_and_comes_within_the_grace_is_not_named() -> None:
    watched = Watched(plan("Sum", "A.x + B.y"))
    for end in range(4, 40, 4):
        watched.add("A", "x", *range(end))
        assert watched.report()["Sum"].missing_inputs == []
        watched.now += GRACE_SECONDS * 0.6
        watched.add("B", "y", *range(end))
        assert watched.report()["Sum"].missing_inputs == []
        watched.now += GRACE_SECONDS * 0.6


def test_a_chained_metric_names_the_derived_input_that_it_waits_for() -> None:
    watched = Watched(plan("Sum", "A.x + B.y"), plan("Twice", "Sum * 2 + A.x"))
    watched.add("A", "x", *range(4))
    said = watched.later()
    assert said["Sum"].missing_inputs == ["B[y]"]
    assert said["Twice"].missing_inputs == ["Sum"]


def test_a_division_by_zero_is_said_until_a_newer_start_has_a_value() -> None:
    watched = Watched(plan("Ratio", "A.x / B.y"))
    watched.add("A", "x", 0, 1, 2, 3)
    watched.add("B", "y", 0)
    watched.add("B", "y", 1, 2, value=0)
    said = watched.later()["Ratio"]
    assert said.message.startswith("Has no value: the value is not finite")
    assert (said.last_start, said.missing_inputs) == (datetime.fromtimestamp(0, UTC), [])
    watched.add("B", "y", 3)
    assert watched.report()["Ratio"] == DerivedMetricStatus(name="Ratio")


def test_after_a_restart_the_newest_result_is_found_in_what_was_read_again() -> None:
    watched = Watched(plan("Sum", "A.x + B.y"))
    for start in range(5):
        watched.join.add(Aggregate("A", "f", "x", "m", start * 1000, start * 1000 + 1, 1.0, 1, 0, True))
    watched.join.add(Aggregate("B", "f", "y", "m", 1000, 1001, 1.0, 1, 0, True))
    watched.join.forget_changes()
    assert watched.later()["Sum"].last_start == datetime.fromtimestamp(1, UTC)
