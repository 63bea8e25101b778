"""Calls that block: bounded in time and in number, and none beside one that hangs."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from sensorpipeline_operator import kafka_calls
from sensorpipeline_operator.errors import NotReadyError
from sensorpipeline_operator.kafka_calls import KafkaCalls


@pytest.fixture
def given_up(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes a call that cannot come to its end; the others have all the time that they need."""

    async def call(calls: KafkaCalls, key: str, function: Callable[..., Any], *arguments: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(kafka_calls, "CALL_SECONDS", 0.05)
            with pytest.raises(NotReadyError, match="within 0 s"):
                await calls.run(key, function, *arguments)

    return call


async def test_what_a_call_returns_or_raises_is_passed_on() -> None:
    calls = KafkaCalls()
    assert await calls.run("a", lambda one, *, other: one + other, 1, other=2) == 3
    with pytest.raises(ZeroDivisionError):
        await calls.run("a", lambda: 1 / 0)


async def test_a_call_that_hangs_is_given_up_and_none_is_made_beside_it_until_it_ends(
    given_up: Callable[..., Any],
) -> None:
    calls, gate, made = KafkaCalls(), threading.Event(), []
    await given_up(calls, "a", gate.wait, 60)
    with pytest.raises(NotReadyError, match="asked earlier"):
        await calls.run("a", made.append, 1)
    assert made == []
    await calls.run("b", made.append, 2)
    gate.set()
    await asyncio.to_thread(calls._under_way["a"].result, 10)
    await calls.run("a", made.append, 3)
    assert made == [2, 3]


async def test_calls_that_hang_take_no_thread_but_their_own_and_one_that_waits_for_a_thread_is_not_made_later(
    given_up: Callable[..., Any],
) -> None:
    calls, gate, made = KafkaCalls(threads=1), threading.Event(), []
    await given_up(calls, "a", gate.wait, 60)
    await given_up(calls, "b", made.append, 1)
    assert await asyncio.to_thread(time.monotonic)
    gate.set()
    await calls.run("c", made.append, 2)
    assert made == [2]
