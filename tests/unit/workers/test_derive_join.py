"""Derived metrics: joined when complete, again when revised, the same whatever the order."""

from itertools import permutations

import pytest
from sensorpipeline_api.configuration import DerivedInput, DerivedPlan
from sensorpipeline_api.expressions import ExpressionError, compile_expression, only_adds, parse_expression
from sensorpipeline_api.records import Aggregate
from sensorpipeline_api.spec import DerivedMetric
from sensorpipeline_workers.derive.join import Join

EXPRESSION = 'D["E"] - A["x"] * 2'


def plan(expression: str = EXPRESSION, name: str = "Rest", unit: str = "") -> DerivedPlan:
    metric = DerivedMetric(name=name, expression=expression)
    return DerivedPlan(metric=metric, inputs=parse_expression(expression), unit=unit)


def aggregate(window: str, device: str, value: float, revision: int = 0, start: int = 0) -> Aggregate:
    return Aggregate(window, "f", device, "m", start, start + 10, value, 3, revision, True)


def test_nothing_is_emitted_before_all_inputs_are_there() -> None:
    join = Join("building", [plan()])
    join.add(aggregate("D", "E", 10))
    assert join.results() == ([], [])
    join.add(aggregate("A", "x", 2, start=10))
    assert join.results() == ([], [])
    join.add(aggregate("A", "x", 2))
    assert join.results() == ([Aggregate("Rest", "derived", "building", "Rest", 0, 10, 6.0, 6, 0, True)], [])
    assert join.results() == ([], [])


def test_a_revised_input_gives_the_next_revision() -> None:
    join = Join("building", [plan()])
    join.add(aggregate("D", "E", 10))
    join.add(aggregate("A", "x", 2))
    join.results()
    join.add(aggregate("A", "x", 3, revision=1))
    ((result,), _) = join.results()
    assert (result.value, result.revision) == (4.0, 1)


def test_the_last_result_is_the_same_in_any_order_of_the_inputs() -> None:
    inputs = [aggregate("D", "E", 10), aggregate("D", "E", 11, 1), aggregate("A", "x", 2), aggregate("A", "x", 3, 1)]
    last: set[tuple[float, int]] = set()
    for order in permutations(inputs):
        join = Join("building", [plan()])
        results: list[Aggregate] = []
        for item in order:
            join.add(item)
            results += join.results()[0]
        best = max(results, key=lambda r: r.revision)
        last.add((best.value, best.revision))
    assert last == {(5.0, 2)}


def test_a_division_by_zero_is_reported_and_the_next_window_goes_on() -> None:
    join = Join("building", [plan('D["E"] / A["x"]')])
    for start, value in ((0, 0.0), (10, 2.0)):
        join.add(aggregate("D", "E", 10, start=start))
        join.add(aggregate("A", "x", value, start=start))
    results, problems = join.results()
    assert [r.value for r in results] == [5.0]
    assert len(problems) == 1


def chain() -> Join:
    """Share = Rest / D[E]; Rest = D[E] - A[x] * 2."""
    return Join("building", [plan(unit="Wh"), plan('Rest / D["E"]', "Share")])


def test_a_derived_metric_of_a_derived_metric_comes_after_it_at_the_same_start() -> None:
    join = chain()
    join.add(aggregate("D", "E", 10))
    assert join.results() == ([], [])
    join.add(aggregate("A", "x", 2))
    rest = Aggregate("Rest", "derived", "building", "Rest", 0, 10, 6.0, 6, 0, True, "Wh")
    share = Aggregate("Share", "derived", "building", "Share", 0, 10, 0.6, 9, 0, True)
    assert join.results() == ([rest, share], [])


def test_a_revision_at_the_bottom_revises_the_whole_chain() -> None:
    join = chain()
    join.add(aggregate("D", "E", 10))
    join.add(aggregate("A", "x", 2, revision=1))
    join.results()
    join.add(aggregate("A", "x", 3, revision=2))
    assert [(r.window, r.value, r.revision) for r in join.results()[0]] == [("Rest", 4.0, 2), ("Share", 0.4, 2)]
    join.add(aggregate("D", "E", 20, revision=1))
    assert [(r.window, r.value, r.revision) for r in join.results()[0]] == [("Rest", 14.0, 3), ("Share", 0.7, 4)]


def test_a_metric_that_an_input_does_not_touch_is_not_emitted_again() -> None:
    join = Join("building", [plan(), plan("B.y", "Other")])
    for item in (aggregate("D", "E", 10), aggregate("A", "x", 2), aggregate("B", "y", 1)):
        join.add(item)
    join.results()
    join.add(aggregate("B", "y", 2, revision=1))
    assert [r.window for r in join.results()[0]] == ["Other"]


def test_the_same_window_read_twice_emits_once() -> None:
    join = Join("building", [plan("B.y")])
    join.add(aggregate("B", "y", 1))
    assert len(join.results()[0]) == 1
    join.add(aggregate("B", "y", 1))
    assert join.results() == ([], [])


def test_a_failed_input_fails_what_is_made_of_it_and_is_reported_once() -> None:
    join = Join("building", [plan("A.x / B.y", "Ratio"), plan("Ratio * 2", "Double")])
    join.add(aggregate("A", "x", 1))
    join.add(aggregate("B", "y", 0))
    results, problems = join.results()
    assert results == []
    assert len(problems) == 1
    assert problems[0].startswith("Ratio at 0: the value is not finite (inf): a division by zero")


def test_the_oldest_starts_are_dropped_and_the_newest_still_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensorpipeline_workers.derive.join.MAXIMUM_STARTS", 5)
    monkeypatch.setattr("sensorpipeline_workers.derive.join.SLACK_STARTS", 2)
    join = Join("building", [plan("A.x + B.y")])
    for start in range(20):
        join.add(aggregate("A", "x", start, start=start))
    assert join.starts(("A", "x")) == set(range(13, 20)) - {13}
    for start in range(20):
        join.add(aggregate("B", "y", 0, start=start))
    assert [r.start for r in join.results()[0]] == list(range(14, 20))


def test_derived_results_are_not_their_own_input() -> None:
    join = Join("building", [plan('Rest["building"] + D["E"]')])
    join.add(Aggregate("Rest", "derived", "building", "Rest", 0, 10, 1.0, 1, 0, True))
    join.add(aggregate("D", "E", 10))
    assert join.results() == ([], [])


@pytest.mark.parametrize(
    ("expression", "inputs"),
    [
        ('A["x"] + B.y', [("A", "x"), ("B", "y")]),
        ("A['x'] > 1.0 ? A['x'] : B['z z']", [("A", "x"), ("B", "z z")]),
        ("Other - A.x / (Third)", [("A", "x"), ("Other", ""), ("Third", "")]),
    ],
)
def test_expressions_name_their_inputs(expression: str, inputs: list[tuple[str, str]]) -> None:
    assert parse_expression(expression) == [DerivedInput(window=w, device=d) for w, d in inputs]


@pytest.mark.parametrize(
    ("expression", "message"),
    [('A["x"] > 1', "must give a number"), ('A["x"]["y"]', "cannot be evaluated"),
     ('A["x"] + "s"', "cannot be evaluated"), (" + ".join(["A.x"] * 1000), "too many terms"),
     ("(" * 300 + "A.x" + ")" * 300, "nested too deeply"), ('A["x"] +', "does not parse"),
     ("1 + 2", "at least one window"),
     ("A + A.x", 'either always as A\\["<device>"\\] or always as A'),
     ("A[B] + 1", "must be used as"), ('A[""] + 1', "must be used as"), ("A.x.y + 1", "cannot be evaluated"),
     ("A.exists(v, v > 1.0) ? 1.0 : 2.0", "must be used as"), ("", "does not parse")],
)  # fmt: skip
def test_an_expression_that_cannot_work_is_refused(expression: str, message: str) -> None:
    with pytest.raises(ExpressionError, match=message):
        parse_expression(expression)


@pytest.mark.parametrize(
    ("expression", "adds"),
    [("A.x", True), ('A["x"] + B.y - (C - 3)', True), ("-A.x + Other", True), ("A.x * 2", False), ("A.x / B.y", False),
     ("A.x + B.y % 2.0", False), ("A.x > B.y ? A.x : B.y", False), ("double(A.x) + B.y", False)],
)  # fmt: skip
def test_an_expression_says_whether_it_only_adds(expression: str, adds: bool) -> None:
    assert only_adds(expression) is adds


def test_whole_numbers_mix_with_values() -> None:
    assert compile_expression("A.x * 2 - 1")({("A", "x"): 2.5}) == 4.0
    assert compile_expression("2 * A.x")({("A", "x"): 2.5}) == 5.0
    assert compile_expression("A.x == 10 ? 5 : 6")({("A", "x"): 10}) == 5.0
