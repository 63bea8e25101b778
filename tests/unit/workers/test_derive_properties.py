"""The join against a plain recompute: whatever the order, the batches, the repetitions and the crashes, what stands at
the end is the same. Consumers keep the highest revision of each result, and the later of equal ones."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensorpipeline_api.configuration import DerivedPlan
from sensorpipeline_api.expressions import Evaluate, ExpressionError, parse_expression
from sensorpipeline_api.records import Aggregate
from sensorpipeline_api.spec import DerivedMetric
from sensorpipeline_workers.derive.join import Join

LEAVES = [("A", "x"), ("A", "y"), ("B", "x"), ("C", "z")]
EXPRESSIONS = {
    "Sum": "A.x + A.y",
    "Ratio": "Sum / B.x",
    "Top": "Ratio * 2 - Sum + C.z",
    "Alone": "C.z",
}


def ratio(values: Mapping[tuple[str, str], float]) -> float:
    """Sum / B.x"""
    if values["B", "x"] == 0:
        raise ExpressionError("division by zero")
    return values["Sum", ""] / values["B", "x"]


ARITHMETIC: dict[str, Evaluate] = {
    EXPRESSIONS["Sum"]: lambda v: v["A", "x"] + v["A", "y"],
    EXPRESSIONS["Ratio"]: ratio,
    EXPRESSIONS["Top"]: lambda v: v["Ratio", ""] * 2 - v["Sum", ""] + v["C", "z"],
    EXPRESSIONS["Alone"]: lambda v: v["C", "z"],
}
PLANS = [
    DerivedPlan(metric=DerivedMetric(name=n, expression=e), inputs=parse_expression(e)) for n, e in EXPRESSIONS.items()
]


@pytest.fixture(scope="module", autouse=True)
def plain_arithmetic() -> Iterator[None]:
    """The same expressions without CEL, which is too slow for so many examples and has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sensorpipeline_workers.derive.join.compile_expression", ARITHMETIC.__getitem__)
        yield


@dataclass(frozen=True)
class Result:
    """What a consumer keeps of a derived metric at a start."""

    value: float
    revision: int
    count: int


def plain(windows: dict[tuple[str, str, int], Aggregate]) -> dict[tuple[str, int], Result]:
    """The results from the last revision of each window, in plain Python."""
    out: dict[tuple[str, int], Result] = {}
    for start in {start for _, _, start in windows}:
        a = {d: windows.get(("A", d, start)) for d in "xy"}
        b, c = windows.get(("B", "x", start)), windows.get(("C", "z", start))
        ax, ay = a["x"], a["y"]
        if c:
            out["Alone", start] = Result(c.value, c.revision, c.count)
        if not ax or not ay:
            continue
        total = Result(ax.value + ay.value, ax.revision + ay.revision, ax.count + ay.count)
        out["Sum", start] = total
        if not b or b.value == 0:
            continue
        ratio = Result(total.value / b.value, total.revision + b.revision, total.count + b.count)
        out["Ratio", start] = ratio
        if c:
            top = ratio.value * 2 - total.value + c.value
            parts = (ratio, total, c)
            out["Top", start] = Result(top, sum(p.revision for p in parts), sum(p.count for p in parts))
    return out


@st.composite
def logs(draw: st.DrawFn) -> list[list[Aggregate]]:
    """Per window and start its revisions in their order, as a partition of the topic keeps them, some of them repeated
    as after a worker's crash: from an earlier revision on."""
    out: list[list[Aggregate]] = []
    for window, device in LEAVES:
        for start in range(draw(st.integers(0, 3))):
            values = draw(st.lists(st.integers(-2, 2), min_size=1, max_size=4))
            made = [
                Aggregate(window, "f", device, "m", start * 10, start * 10 + 10, float(v), n + 1, n, True)
                for n, v in enumerate(values)
            ]
            again = draw(st.integers(0, len(made)))
            out.append(made + made[again:])
    return out


def interleave(queues: list[list[Aggregate]], chance: random.Random) -> list[Aggregate]:
    rest = [list(queue) for queue in queues]
    out: list[Aggregate] = []
    while rest := [queue for queue in rest if queue]:
        out.append(chance.choice(rest).pop(0))
    return out


def keep(kept: dict[tuple[str, int], Aggregate], results: list[Aggregate]) -> None:
    """What the sink does."""
    for result in results:
        known = kept.get((result.window, result.start))
        if known is None or result.revision >= known.revision:
            kept[result.window, result.start] = result


def shown(kept: dict[tuple[str, int], Aggregate]) -> dict[tuple[str, int], Result]:
    return {key: Result(a.value, a.revision, a.count) for key, a in kept.items()}


def run(log: list[Aggregate], chance: random.Random) -> dict[tuple[str, int], Aggregate]:
    """Derive over a log: in batches, killed before or after the commit of any of them and started again."""
    kept: dict[tuple[str, int], Aggregate] = {}
    join, committed, position = Join("p", PLANS), 0, 0
    while position < len(log):
        batch = log[position : position + chance.randint(1, 4)]
        for item in batch:
            join.add(item)
        results, _ = join.results()
        fate = chance.choice(["lives", "lives", "dies before its results are out", "dies before the commit"])
        if fate == "dies before its results are out":
            results = results[: chance.randint(0, len(results))]
        keep(kept, results)
        if fate == "lives":
            position = committed = position + len(batch)
            continue
        join, position = Join("p", PLANS), committed
        for item in log[:committed]:
            join.add(item)
        join.forget_changes()
    return kept


@given(logs(), st.randoms(use_true_random=False))
def test_any_order_any_batches_any_crash_give_the_plain_results(
    queues: list[list[Aggregate]], chance: random.Random
) -> None:
    log = interleave(queues, chance)
    kept = shown(run(log, chance))
    last: dict[tuple[str, str, int], Aggregate] = {}
    for item in log:
        known = last.get((item.window, item.device, item.start))
        if known is None or item.revision >= known.revision:
            last[item.window, item.device, item.start] = item
    wanted = plain(last)
    stale = {  # a ratio that had a value before its divisor was revised to 0 keeps the last one that it had
        key for key in kept.keys() - wanted.keys()
        if key[0] in {"Ratio", "Top"} and last["B", "x", key[1]].value == 0
    }  # fmt: skip
    assert {key: result for key, result in kept.items() if key not in stale} == wanted


@given(logs(), st.randoms(use_true_random=False))
def test_revisions_of_a_result_never_fall(queues: list[list[Aggregate]], chance: random.Random) -> None:
    join, seen = Join("p", PLANS), {}
    for item in interleave(queues, chance):
        join.add(item)
        for result in join.results()[0]:
            key = result.window, result.start
            assert result.revision >= seen.get(key, -1)
            seen[key] = result.revision
