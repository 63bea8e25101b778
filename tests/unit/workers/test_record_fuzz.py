"""A record that is wrong in whatever way ends as one dead letter, and the worker goes on."""

from fuzz.record_decoder import check, mutated


def test_mutated_records_are_taken_in_or_dead_lettered_whole() -> None:
    outcomes = [check(data) for data in mutated(3000, seed=1)]
    assert outcomes.count(True) > 200
    assert outcomes.count(False) > 1000
