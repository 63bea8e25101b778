"""Derived metrics: joined when complete, again when revised, the same whatever the order."""

from itertools import permutations

import pytest
from sensorpipeline_api.configuration import DerivedInput, DerivedPlan
from sensorpipeline_api.expressions import ExpressionError, compile_expression, parse_expression
from sensorpipeline_api.records import Aggregate
from sensorpipeline_api.spec import DerivedMetric
from sensorpipeline_workers.derive.join import Join

EXPRESSION = 'D["E"] - A["x"] * 2'


def plan(expression: str = EXPRESSION) -> DerivedPlan:
    return DerivedPlan(metric=DerivedMetric(name="Rest", expression=expression), inputs=parse_expression(expression))


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
     ("A + 1", 'used as A\\["<device>"\\]'),
     ("A[B] + 1", "must be used as"), ("", "does not parse")],
)  # fmt: skip
def test_an_expression_that_cannot_work_is_refused(expression: str, message: str) -> None:
    with pytest.raises(ExpressionError, match=message):
        parse_expression(expression)


def test_whole_numbers_mix_with_values() -> None:
    assert compile_expression("A.x * 2 - 1")({("A", "x"): 2.5}) == 4.0
    assert compile_expression("2 * A.x")({("A", "x"): 2.5}) == 5.0
    assert compile_expression("A.x == 10 ? 5 : 6")({("A", "x"): 10}) == 5.0
