"""Messages that no honest device sends end as dead letters with their reason, whole, and the pipeline goes on."""

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from e2e import kube
from e2e.clients import Gateway, Publisher, gateway, publisher

TOPIC = "pumps/P1/state"


def message(value: object, *, ahead_ms: int = 0) -> bytes:
    """A well-formed message dated now, or ahead of the clock."""
    return json.dumps({"ts": int(time.time() * 1000) + ahead_ms, "value": value}).encode()


@pytest.fixture(scope="module")
def open_gateway(open_namespace: str) -> Iterator[Gateway]:
    """The gateway of the open pipeline."""
    with gateway("open", namespace=open_namespace) as client:
        yield client


@pytest.fixture(scope="module")
def sender(open_namespace: str) -> Iterator[Publisher]:
    """A connection to the open pipeline's broker."""
    with publisher("open", namespace=open_namespace) as client:
        yield client


BAD = [
    ("InvalidJson", TOPIC, b'{"ts": 1577836800000, "value": '),
    ("MissingField", TOPIC, b'{"ts": 1577836800000}'),
    ("NotANumber", TOPIC, b'{"ts": 1577836800000, "value": NaN}'),
    ("OutOfRange", TOPIC, b'{"ts": 1577836800000, "value": 100.5}'),
    ("FutureTimestamp", TOPIC, None),
    ("UnknownDevice", "pumps/P9/state", b'{"ts": 1577836800000, "value": 1}'),
    ("TooLarge", TOPIC, b'{"ts": 1577836800000, "value": 1, "pad": "' + b"x" * 1_000_000 + b'"}'),
]


@pytest.mark.parametrize(("reason", "topic", "payload"), [pytest.param(*row, id=row[0]) for row in BAD])
def test_a_bad_message_ends_as_a_dead_letter_and_the_next_good_one_is_stored(
    open_gateway: Gateway, sender: Publisher, reason: str, topic: str, payload: bytes | None
) -> None:
    payload = payload if payload is not None else message(1, ahead_ms=3_600_000)
    sender.publish(topic, payload)
    good = time.time_ns() // 1_000_000
    sender.publish(TOPIC, json.dumps({"ts": good, "value": 50}).encode())

    def dead_letter() -> dict[str, Any] | None:
        letters = open_gateway.all("/v1/dead-letters")
        return next((letter for letter in letters if letter["reason"] == reason), None)

    letter = kube.until(dead_letter, what=f"the dead letter {reason}", seconds=60)
    assert base64.b64decode(letter["payload"]) == payload
    assert topic in letter["source"]
    assert letter["message"]

    def stored() -> bool:
        times = [item["time"] for item in open_gateway.all("/v1/readings", device="P1")]
        return any(time_text.endswith(f"{good % 1000:03d}Z") for time_text in times)

    kube.until(stored, what="the good reading after it to be stored", seconds=60)


def test_every_message_was_stored_or_dead_lettered_once(open_gateway: Gateway, sender: Publisher) -> None:
    """Runs after the tests above: seven bad messages and seven good ones went in."""
    letters = open_gateway.all("/v1/dead-letters")
    assert sorted(letter["reason"] for letter in letters) == sorted(reason for reason, _, _ in BAD)
    assert len(open_gateway.all("/v1/readings", device="P1")) == len(BAD)
