"""The ledger's own judgement: it must see what is lost, twice, never sent or dead for the wrong reason."""

import base64
import json
from collections import Counter
from pathlib import Path

from e2e.ledger.book import Book, Entry
from e2e.ledger.report import Report, Row
from e2e.ledger.schedule import CLOSING_STEPS, LATENESS, PERIOD, STEP, Sensor
from e2e.ledger.verdict import Held, judge, letter

GOOD = Entry("f", "d", "m", 1, 1.5)
BAD = Entry("f", "d", "m", 2, 2000.0, "OutOfRange")


def held(*times: int, value: float = 1.5, reason: str = "OutOfRange") -> Held:
    keys = [("d", "m", time) for time in times]
    return Held(Counter(keys), dict.fromkeys(keys, value), {BAD.key: reason} if reason else {})


def test_everything_held_once_is_right_however_often_it_was_sent() -> None:
    assert not judge([GOOD, BAD, GOOD], held(1), everything=[GOOD, BAD, GOOD]).problems()


def test_a_reading_that_is_nowhere_or_has_another_value_is_lost() -> None:
    assert judge([GOOD, BAD], held(), everything=[GOOD, BAD]).lost == [GOOD.key]
    assert judge([GOOD, BAD], held(1, value=2.0), everything=[GOOD, BAD]).lost == [GOOD.key]


def test_a_bad_message_must_be_dead_with_its_reason() -> None:
    assert judge([BAD], held(reason=""), everything=[BAD]).lost == [BAD.key]
    assert judge([BAD], held(reason="InvalidJson"), everything=[BAD]).lost == [BAD.key]


def test_what_is_stored_twice_or_was_never_sent_is_seen() -> None:
    verdict = judge([GOOD], held(1, 1, 7), everything=[GOOD])
    assert verdict.duplicated == [GOOD.key]
    assert verdict.wrong == ["stored, but never sent: ('d', 'm', 7)"]


def test_dead_letters_name_their_reading_however_they_came() -> None:
    def item(source: str, **body: object) -> dict[str, str]:
        payload = base64.b64encode(json.dumps(body).encode()).decode()
        return {"source": source, "payload": payload, "reason": "OutOfRange"}

    assert letter(item("mqtt:f/d/m", ts=2, value=2000)) == (BAD.key, "OutOfRange")
    assert letter(item("http:/v1/readings", device="d", metric="m", time=2, value=2)) == (BAD.key, "OutOfRange")


def test_a_device_sends_every_kind_of_reading_and_no_time_for_two_values() -> None:
    sensor = Sensor("f", "d", "m", 0, 3)
    values: dict[int, float] = {}
    ahead, kinds = -1, Counter[str]()
    for step in range(10_000, 12_000):
        for entry in sensor.readings(step):
            assert values.setdefault(entry.time, entry.value) == entry.value
            behind = ahead - entry.time
            too_late = behind >= LATENESS + PERIOD
            kinds[entry.refused or ("in order" if behind < 0 else "too late" if too_late else "late")] += 1
            ahead = ahead if entry.refused else max(ahead, entry.time)
    assert kinds["in order"] == 2000
    assert min(kinds["late"], kinds["too late"], kinds["OutOfRange"]) > 15
    assert CLOSING_STEPS * STEP >= 2 * LATENESS


def test_the_ledger_counts_a_reading_sent_twice_once() -> None:
    book = Book()
    for entry in (GOOD, BAD, GOOD):
        book.acknowledge(entry)
    assert book.position() == 3
    assert book.progress() == ({"f": 1}, {"d": 1})
    assert sum(book.acknowledged([GOOD.key, BAD.key]).values()) == 2


def test_the_table_replaces_the_one_before(tmp_path: Path) -> None:
    page = tmp_path / "reliability.md"
    page.write_text("Before.\n\n<!-- begin results -->\nold\n<!-- end results -->\n\nAfter.\n")
    Report([Row("kill -9 of the bridge", 1000, 0, 0, 3.4)]).write(page)
    text = page.read_text()
    assert "| kill -9 of the bridge | 1000 | 0 | 0 | 3 |" in text
    assert "old" not in text
    assert text.startswith("Before.")
    assert text.rstrip().endswith("After.")
