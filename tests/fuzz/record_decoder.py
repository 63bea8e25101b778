"""Fuzzes what a worker makes of a record of the readings topic: `make fuzz`, or with libFuzzer's own options

    uv run --group fuzz python tests/fuzz/run.py -max_total_time=600

The unit tests run the same check over mutated records, the same at every run.
"""

import base64
import json
import random
from collections.abc import Iterator
from typing import Any

from sensorpipeline_api.configuration import KafkaConnection, Topics, WorkerConfiguration
from sensorpipeline_api.records import DeadLetter
from sensorpipeline_api.spec import Fleet
from sensorpipeline_workers.stream.processor import Processor

FLEET = Fleet.model_validate({
    "name": "f", "topic": "f/{device}/{metric}", "metrics": [{"name": "m"}, {"name": "n"}],
    "windows": [{"name": "W", "metric": "m", "function": "Sum", "periodSeconds": 10, "allowedLatenessSeconds": 20}],
    "thresholds": [{"name": "T", "metric": "n", "above": "5"}],
})  # fmt: skip
CONFIGURATION = WorkerConfiguration(
    pipeline="p", kafka=KafkaConnection(bootstrap_servers=["127.0.0.1:1"]), fleet=FLEET, application_id="w",
    topics=Topics(readings={"f": "r"}, aggregates="a", late="l", alerts="t", dead_letter="d"),
)  # fmt: skip
SEEDS: list[Any] = [
    [{"device": "d", "metric": "m", "time": 1577836800000, "value": 41.7}],
    [{"device": "d", "metric": "m", "time": t, "value": t / 7} for t in (0, 5000, 12_000, 3000, 50_000, 1, 50_000)],
    [
        {"device": "ä|ö", "metric": "n", "time": 1, "value": -1e308},
        {"device": "", "metric": "m", "time": 2, "value": 9},
    ],
    [],
]


def check(data: bytes) -> bool:
    """Gives a record to a worker's processor; returns whether it was good. Asserts that a bad one ends in one dead
    letter that holds it whole and changes no state, that the states of a good one can be stored and read, and that the
    next record goes on in either case."""
    processor = Processor(CONFIGURATION)
    processor.record(topic="r", partition=0, offset=7, value=data, now=1)
    emissions, messages = processor.take_results()
    assert len(emissions) == len(messages)
    letters = [emission for emission in emissions if isinstance(emission, DeadLetter)]
    stored = {key: value for _, key, value in processor.take_states()}
    if letters:
        assert len(emissions) == 1
        assert base64.b64decode(letters[0].payload) == data
        assert letters[0].source == "kafka:r/0/7"
        assert not stored
    again = Processor(CONFIGURATION)
    again.load(0, stored.items())
    assert len(again.store) == len(stored)
    again.look(len(stored))
    good = b'[{"device":"next","metric":"m","time":1,"value":1},{"device":"next","metric":"m","time":90000,"value":1}]'
    again.record(topic="r", partition=0, offset=8, value=good, now=2)
    assert [topic for topic, _, _ in again.take_results()[1]] == ["a"]
    assert len(again.take_states()) == 1
    return not letters


def mutated(number: int, *, seed: int) -> Iterator[bytes]:
    """Returns records that are wrong, or nearly right, in many ways; the same for the same seed."""
    chance = random.Random(seed)
    wrong: list[Any] = [None, True, "", "x", -1, 10**30, 1.5, -1e999, {}, [], [[]], {"device": []}]
    for _ in range(number):
        value = json.loads(json.dumps(chance.choice(SEEDS)))
        if value and chance.random() < 0.6:
            reading = chance.choice(value)
            reading[chance.choice([*reading, "extra"])] = chance.choice(wrong)
        text = bytearray(json.dumps(value, ensure_ascii=chance.random() < 0.5).encode())
        for _ in range(chance.choice([0, 0, 1, 1, 2, 8])):
            if text:
                place = chance.randrange(len(text))
                chance.choice([_flip, _cut, _insert])(text, place, chance)
        yield bytes(text)


def _flip(text: bytearray, place: int, chance: random.Random) -> None:
    text[place] = chance.randrange(256)


def _cut(text: bytearray, place: int, chance: random.Random) -> None:
    del text[place : place + chance.randrange(1, 20)]


def _insert(text: bytearray, place: int, chance: random.Random) -> None:
    text[place:place] = chance.choice([b"[" * 500, b"\xff", b"\\ud800", b"\x00", b"1e400", b'"', b"},{"])
