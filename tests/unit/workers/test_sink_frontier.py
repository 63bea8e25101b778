"""What is surely new and what must be looked up, against a plain set of what is stored."""

import random

from hypothesis import given
from hypothesis import strategies as st
from sensorpipeline_workers.sink.frontier import SLOT_MILLISECONDS, Found, Frontiers, LookUp, Readings

SERIES = [("f", "a", "m"), ("f", "b", "m"), ("g", "a", "m"), ("f", "a", "n")]
times = st.integers(0, 12).map(lambda n: n * SLOT_MILLISECONDS // 3)
batches = st.dictionaries(st.sampled_from(SERIES), st.dictionaries(times, st.floats(0, 9), min_size=1), min_size=1)


class Store:
    """A store without unique keys: what is inserted twice is there twice."""

    def __init__(self) -> None:
        self.rows: list[tuple[tuple[str, str, str], int, float]] = []

    def answer(self, questions: list[LookUp], *, complete: bool) -> Found:
        found = Found()
        for question in questions:
            for series, time, _ in self.rows:
                fleet, device, metric = series
                if (fleet, metric) == (question.fleet, question.metric) and device in question.times:
                    inside = question.first <= time and (question.last is None or time <= question.last)
                    if inside and (time in question.times[device] or (question.last is None and complete)):
                        found.stored.setdefault(series, set()).add(time)
            if question.last is None and not complete:
                found.incomplete |= {(question.fleet, device, question.metric) for device in question.times}
        return found

    def insert(self, readings: Readings, *, only: random.Random | None = None) -> None:
        rows = [(series, time, value) for series, values in readings.items() for time, value in values.items()]
        self.rows += rows if only is None else only.sample(rows, only.randint(0, len(rows)))


@given(
    st.lists(st.tuples(batches, st.sampled_from(["good", "crash", "failure"]), st.booleans()), max_size=12),
    st.integers(1, 4), st.randoms(use_true_random=False),
)  # fmt: skip
def test_each_reading_is_stored_once_whatever_fails(
    steps: list[tuple[Readings, str, bool]], maximum: int, chance: random.Random
) -> None:
    store, frontiers, wanted = Store(), Frontiers(maximum), {}
    for readings, what, complete in steps:
        for attempt in range(2):
            found = store.answer(frontiers.look_ups(readings), complete=complete)
            new, after = frontiers.begin(readings, found)
            if what == "good" or attempt == 1:
                store.insert(new)
                frontiers.settle(after)
                break
            store.insert(new, only=chance)  # a part of it was carried out, and we do not know which
            if what == "crash":
                frontiers = Frontiers(maximum)
        for series, values in readings.items():
            for time, value in values.items():
                wanted.setdefault((series, time), value)
    assert sorted((series, time) for series, time, _ in store.rows) == sorted(wanted)
    if all(what == "good" for _, what, _ in steps):
        assert {(series, time): value for series, time, value in store.rows} == wanted


def test_what_comes_in_order_is_not_looked_up_once_its_series_is_known() -> None:
    frontiers = Frontiers()
    (question,) = frontiers.look_ups({SERIES[0]: {5: 1.0}, SERIES[1]: {6: 1.0}})
    assert (question.first, question.last, question.times) == (5, None, {"a": {5}, "b": {6}})
    new, after = frontiers.begin({SERIES[0]: {5: 1.0}}, Found())
    assert new == {SERIES[0]: {5: 1.0}}
    assert len(frontiers.look_ups({SERIES[0]: {6: 1.0}})) == 1  # it is not known before it is settled
    frontiers.settle(after)
    assert frontiers.look_ups({SERIES[0]: {6: 1.0, 7: 1.0}}) == []


def test_only_the_late_and_the_repeated_are_looked_up_and_times_far_apart_separately() -> None:
    frontiers = Frontiers()
    day = 24 * SLOT_MILLISECONDS
    frontiers.settle(frontiers.begin({SERIES[0]: {3 * day: 1.0}}, Found())[1])
    late = {SERIES[0]: {3 * day + 1: 1.0, 3 * day: 1.0, day: 2.0, day + 5: 2.0}}
    questions = sorted(frontiers.look_ups(late), key=lambda question: question.first)
    assert [(q.first, q.last, q.times) for q in questions] == [
        (day, day + 5, {"a": {day, day + 5}}), (3 * day, 3 * day, {"a": {3 * day}}),
    ]  # fmt: skip


def test_a_newer_stored_reading_moves_the_frontier() -> None:
    frontiers = Frontiers()
    _, after = frontiers.begin({SERIES[0]: {5: 1.0}}, Found(stored={SERIES[0]: {9}}))
    frontiers.settle(after)
    assert frontiers.look_ups({SERIES[0]: {10: 1.0}}) == []
    assert len(frontiers.look_ups({SERIES[0]: {9: 1.0}})) == 1
