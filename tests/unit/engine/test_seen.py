"""The memory for duplicates: the same as a set of times, with little kept of regular devices."""

from hypothesis import given
from hypothesis import strategies as st
from sensorpipeline_workers.engine.seen import Seen

steps = st.lists(st.sampled_from([1, 10, 10, 10, 10, 10, 25]), max_size=60)


@given(steps, st.lists(st.integers(0, 800), max_size=30), st.integers(-1, 900))
def test_it_holds_what_a_set_would_hold(steps: list[int], others: list[int], oldest: int) -> None:
    """`steps` come in order; `others` in any order, each at a place of its own."""
    seen, wanted, time = Seen(), set[int](), 0
    for place, step in enumerate(steps):
        time += step
        seen.append(time)
        wanted.add(time)
        for other in others[place::60]:
            if other < time and other not in seen:
                seen.insert(other)
                wanted.add(other)
    assert {candidate for candidate in range(1000) if candidate in seen} == wanted
    restored = Seen.load(seen.dump())
    restored.forget(oldest)
    assert {t for t in range(max(0, oldest), 1000) if t in restored} == {t for t in wanted if t >= oldest}


def test_a_regular_device_costs_one_run_and_a_gap_one_more() -> None:
    seen = Seen()
    for second in range(100_000):
        if second != 50_000:
            seen.append(second * 1000)
    assert len(seen) == 1
    assert 49_999_000 in seen
    assert 50_000_000 not in seen


def test_what_is_forgotten_is_bounded_by_count_too() -> None:
    seen = Seen()
    for number in range(500_000):
        seen.append(number * 1000 + number % 7 * 13)
    seen.forget(0)
    assert len(seen) <= 200_000
