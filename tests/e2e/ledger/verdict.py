"""What the ledger says against what the pipeline holds: nothing lost, nothing twice, every window right."""

import base64
import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from e2e.clients import Gateway
from e2e.ledger.book import Entry, Key
from e2e.recompute import Expected, recompute

Window = tuple[str, str, int]
"""Name of the window, device (empty for a derived metric) and start (ms)."""


@dataclass(frozen=True)
class Held:
    """What the pipeline holds: readings with how often each is stored, and dead letters with their reason."""

    readings: Counter[Key]
    values: dict[Key, float]
    letters: dict[Key, str]


@dataclass
class Verdict:
    """What was found for a stretch of the ledger."""

    acknowledged: int
    lost: list[Key] = field(default_factory=list)
    duplicated: list[Key] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def problems(self) -> str:
        """Returns what is wrong, shortened; empty when nothing is."""
        parts = {"lost": self.lost, "stored twice": self.duplicated, "wrong": self.wrong}
        return "; ".join(f"{len(found)} {name}: {found[:8]}" for name, found in parts.items() if found)


def milliseconds(text: str) -> int:
    """Returns milliseconds since the epoch of an RFC 3339 time."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def moment(time: int) -> str:
    """Returns the RFC 3339 time of milliseconds since the epoch."""
    return datetime.fromtimestamp(time / 1000, tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def held(gateway: Gateway, fleets: list[str], *, since: int, received: int) -> Held:
    """Returns what is stored from the event time `since` on, and the dead letters of the given fleets from the clock
    time `received` on."""
    readings: Counter[Key] = Counter()
    values: dict[Key, float] = {}
    for item in gateway.all("/v1/readings", **{"from": moment(since)}):
        key = item["device"], item["metric"], milliseconds(item["time"])
        readings[key] += 1
        values[key] = item["value"]
    letters = {
        key: reason
        for fleet in fleets
        for key, reason in map(letter, gateway.all("/v1/dead-letters", fleet=fleet, **{"from": moment(received)}))
    }
    return Held(readings, values, letters)


def letter(item: dict[str, Any]) -> tuple[Key, str]:
    """Returns the reading that a dead letter of the ledger's devices holds, and the reason."""
    body = json.loads(base64.b64decode(item["payload"]))
    if item["source"].startswith("http:"):
        return (body["device"], body["metric"], int(body["time"])), item["reason"]
    _, device, metric = item["source"].removeprefix("mqtt:").split("/")
    return (device, metric, int(body["ts"])), item["reason"]


def missing(entries: list[Entry], found: Held) -> list[Key]:
    """Returns what was acknowledged and is neither stored with its value nor dead-lettered with its reason."""
    lost = {
        entry.key
        for entry in entries
        if (found.letters.get(entry.key) != entry.refused if entry.refused else
            found.values.get(entry.key) != entry.value)
    }  # fmt: skip
    return sorted(lost)


def judge(entries: list[Entry], found: Held, *, everything: list[Entry]) -> Verdict:
    """Compares a stretch of the ledger with what is held; what is held and in no ledger is wrong, too."""
    verdict = Verdict(acknowledged=len({entry.key for entry in entries}), lost=missing(entries, found))
    verdict.duplicated = sorted(key for key, count in found.readings.items() if count > 1)
    known = {entry.key for entry in everything}
    verdict.wrong = [f"stored, but never sent: {key}" for key in found.readings if key not in known]
    return verdict


def expected(spec: dict[str, Any], everything: list[Entry]) -> Expected:
    """Returns the results of the whole ledger, recomputed."""
    return recompute(spec, [entry.row() for entry in everything if not entry.refused])


def compare_windows(gateway: Gateway, results: Expected, *, pipeline: str, since: int) -> list[str]:
    """Returns how the results of windows from `since` on, and the list of late readings, differ from the expected."""
    return _windows(gateway, results.aggregates, pipeline=pipeline, since=since) + _late(gateway, results.late)


def _windows(gateway: Gateway, aggregates: Any, *, pipeline: str, since: int) -> list[str]:
    wanted: dict[Window, tuple[float, int]] = {
        (row.window, row.device or "", int(row.start)): (row.value, int(row[5]))
        for row in aggregates[aggregates.start >= since].itertuples()
    }
    found: dict[Window, tuple[float, int]] = {
        (i["window"], "" if i["device"] == pipeline else i["device"], milliseconds(i["start"])): (
            i["value"],
            i["count"],
        )
        for i in gateway.all("/v1/aggregates", **{"from": moment(since)})
        if i["final"]
    }
    out = [f"no result of {key}" for key in sorted(wanted.keys() - found.keys())]
    out += [f"unexpected result of {key}: {found[key]}" for key in sorted(found.keys() - wanted.keys())]
    for key in sorted(wanted.keys() & found.keys()):
        (value, count), (have, number) = wanted[key], found[key]
        if number != count or have != pytest.approx(value, rel=1e-9, abs=1e-9):
            out.append(f"{key} is {have} of {number} readings, should be {value} of {count}")
    return out


def _late(gateway: Gateway, late: Any) -> list[str]:
    wanted = {(row.window, row.device, int(row.time)) for row in late.itertuples()}
    found = {(i["window"], i["device"], milliseconds(i["time"])) for i in gateway.all("/v1/late")}
    out = [f"not listed as late: {key}" for key in sorted(wanted - found)]
    return out + [f"listed as late, but was accepted: {key}" for key in sorted(found - wanted)]
