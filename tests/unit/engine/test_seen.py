"""The memory for duplicates: the same as a set of times, with little kept of regular devices."""

from collections.abc import Iterable

import msgspec
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


def filled(times: Iterable[int], most: int) -> Seen:
    """Returns a memory that has been cleared whenever it was worth it, with nothing too old to be forgotten, and never
    held more than so many entries."""
    seen = Seen()
    for time in times:
        seen.append(time)
        if len(seen) > seen.clear_at:
            assert len(seen) <= most
            seen.forget(0)
    return seen


def test_single_times_are_bounded_by_count_at_any_time() -> None:
    seen = filled((number * 1000 + number % 7 * 13 for number in range(500_000)), 210_010)
    assert len(seen) <= 210_000
    assert len(msgspec.msgpack.encode(seen.dump())) < 1_700_000
    assert 499_999_000 + 499_999 % 7 * 13 in seen
    assert 0 not in seen


def test_runs_are_bounded_by_count_at_any_time() -> None:
    """Five readings at equal steps, then a gap, again and again, as of a device that wakes up for some seconds."""
    times = (1_700_000_000_000 + number * 100_000 + second * 1000 for number in range(60_000) for second in range(5))
    seen = filled(times, 20_010)
    assert 10_000 <= len(seen) <= 20_000
    assert len(msgspec.msgpack.encode(seen.dump())) < 500_000
    assert 1_700_000_000_000 + 59_000 * 100_000 + 3_000 in seen
    assert 1_700_000_003_000 not in seen
