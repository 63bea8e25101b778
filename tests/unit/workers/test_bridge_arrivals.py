"""Times of receipt: no two readings of a device get the same one, whoever reads them."""

import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensorpipeline_workers.bridge import arrivals
from sensorpipeline_workers.bridge.arrivals import AHEAD_MILLISECONDS, MEMBERS, Arrivals, SteadyClock

START = 1_700_000_000_000


class Clock:
    """A clock that the test sets."""

    def __init__(self, now: int = START) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def given_time(table: Arrivals, clock: Clock) -> int:
    """The next time of a device; the clock goes on while that is waited for."""
    while (time := table.next("f", "d")) is None:
        clock.now += 1
    return time


STEPS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40) | st.integers(0, 20_000)), max_size=300)


@given(st.lists(st.integers(0, MEMBERS - 1), min_size=4, max_size=4, unique=True), STEPS)
def test_members_never_give_a_time_twice(ordinals: list[int], steps: list[tuple[int, int]]) -> None:
    clock = Clock()
    tables = [Arrivals(ordinal, clock) for ordinal in ordinals]
    times: list[int] = []
    for member, passed in steps:
        clock.now += passed
        times.append(given_time(tables[member], clock))
    assert len(set(times)) == len(times)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 400), st.integers(0, 12_000)), max_size=12))
def test_a_process_gives_no_time_that_its_predecessor_gave_and_none_far_ahead(
    lives: list[tuple[bool, int, int]],
) -> None:
    clock = Clock()
    table = Arrivals(3, clock)
    last = 0
    for starts_again, burst, passed in lives:
        clock.now += passed
        if starts_again:
            table = Arrivals(3, clock)
        for _ in range(burst):
            time = given_time(table, clock)
            assert time > last
            assert clock.now <= time <= clock.now + AHEAD_MILLISECONDS
            last = time


def test_a_device_that_is_not_in_a_hurry_gets_the_time_of_its_receipt_within_a_few_milliseconds() -> None:
    clock = Clock()
    table = Arrivals(5, clock)
    clock.now += 2 * AHEAD_MILLISECONDS
    for _ in range(100):
        clock.now += 20
        assert 0 <= given_time(table, clock) - clock.now < MEMBERS


def test_threads_that_share_a_table_get_no_time_twice() -> None:
    clock = Clock()
    table = Arrivals(0, clock)
    clock.now += AHEAD_MILLISECONDS
    found: list[list[int]] = [[], [], [], []]

    def ask(into: list[int]) -> None:
        while len(into) < 150:
            time = table.next("f", "d")
            if time is not None:
                into.append(time)

    threads = [threading.Thread(target=ask, args=(into,)) for into in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times = [time for into in found for time in into]
    assert len(set(times)) == 600


def test_the_table_does_not_grow_with_devices_that_were_once_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "KNOWN_DEVICES", 10)
    clock = Clock()
    table = Arrivals(0, clock)
    times: dict[int, list[int]] = {}
    for number in range(1000):
        clock.now += 1000
        time = table.next("f", f"d{number % 60}")
        assert time is not None
        times.setdefault(number % 60, []).append(time)
    assert len(table._last) <= 20
    assert all(len(set(of)) == len(of) for of in times.values())


def clocks(wall: list[int], monotonic: list[int]) -> tuple[Callable[[], int], Callable[[], int]]:
    return (lambda: wall[0] * 1_000_000), (lambda: monotonic[0] * 1_000_000)


def test_a_clock_that_is_set_back_goes_on_and_one_that_is_set_forward_is_followed() -> None:
    wall, monotonic = [START], [7]
    clock = SteadyClock(*clocks(wall, monotonic))
    assert clock() == START
    wall[0], monotonic[0] = START - 3_600_000, 17
    assert clock() == START + 10
    wall[0], monotonic[0] = START + 50_000, 27
    assert clock() == START + 50_000
