"""The pipeline under load, and the experiment: deal a fault, wait until it has recovered, settle, compare."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import requests
from e2e import kube
from e2e.clients import Gateway
from e2e.ledger import pipeline
from e2e.ledger.book import Book
from e2e.ledger.report import Report, Row
from e2e.ledger.schedule import ACCELERATION, LATENESS, PERIOD
from e2e.ledger.traffic import Traffic
from e2e.ledger.verdict import Verdict, compare_windows, expected, held, judge, milliseconds, missing, moment

Fault = Callable[["Plant"], None]
"""Deals a fault and comes back when it is over; recovery is measured from there."""

BEHIND_SECONDS = 3.0
QUIET_SECONDS = 6.0
RECOVERY_SECONDS = 240.0
SETTLE_SECONDS = 120.0
TOO_LATE = LATENESS + PERIOD + LATENESS // 3


class QuickGateway(Gateway):
    """A gateway client that gives up soon, for asking while things are broken."""

    def get(self, path: str, **parameters: Any) -> requests.Response:
        """Asks for one page."""
        return requests.get(self.url + path, params=parameters, headers=self._headers, timeout=5)


@dataclass
class Probe:
    """What is behind what is acknowledged. Nothing is when of every fleet everything acknowledged `BEHIND_SECONDS` ago
    is stored and every device has a result of the last window that was complete then."""

    book: Book
    gateway: Gateway
    window_devices: set[str]
    _samples: deque[tuple[float, dict[str, int], dict[str, int]]] = field(default_factory=deque)

    def behind(self) -> str:
        """Asks once; returns what is behind, nothing when all is well."""
        now = time.monotonic()
        self._samples.append((now, *self.book.progress()))
        while len(self._samples) > 1 and self._samples[1][0] <= now - BEHIND_SECONDS:
            self._samples.popleft()
        then, wanted, newest = self._samples[0]
        if then > now - BEHIND_SECONDS:
            return "the devices, which have just begun"
        complete = min(newest.get(device, 0) for device in self.window_devices) // PERIOD * PERIOD - PERIOD
        try:
            counts = self.gateway.get("/v1/counts")
            recent = self.gateway.get("/v1/aggregates", limit=1000, **{"from": moment(max(0, complete))})
        except requests.RequestException as error:
            return f"the gateway: {type(error).__name__}"
        if counts.status_code != 200 or recent.status_code != 200:
            return f"the gateway: HTTP {counts.status_code}, {recent.status_code}"
        stored = counts.json()["readings"]
        silent = self.window_devices - {item["device"] for item in recent.json()["items"]}
        for fleet, count in wanted.items():
            if stored.get(fleet, 0) < count:
                return f"readings: {stored.get(fleet, 0)} of {count} of {fleet} are stored"
        return f"windows of {sorted(silent)}" if silent else ""


@dataclass
class Plant:
    """Everything that an experiment needs."""

    book: Book
    traffic: Traffic
    gateway: Gateway
    quick: Gateway
    broker: tuple[str, int]
    report: Report
    window_devices: set[str]
    _probe: Probe = field(init=False)

    def experiment(self, name: str, fault: Fault, *, recovery_seconds: float = RECOVERY_SECONDS) -> Verdict:
        """Deals a fault under load and returns what it did; a row goes into the report, good or bad."""
        position, since, received = self.begin()
        fault(self)
        recovery = self.wait_recovered(seconds=recovery_seconds)
        verdict = self.settle(position, since=since, received=received)
        row = Row(name, verdict.acknowledged, len(verdict.lost), len(verdict.duplicated), recovery)
        self.report.rows.append(row)
        print(row)
        return verdict

    def begin(self) -> tuple[int, int, int]:
        """Starts the load; returns the position in the ledger, the event time from which results can change, and the
        clock (both in ms)."""
        position, since = self.book.position(), self.traffic.next_time()
        received = time.time_ns() // 1_000_000
        self.traffic.resume()
        self._probe = Probe(self.book, self.quick, self.window_devices)
        self.wait_keeping_up(seconds=60)
        return position, since - TOO_LATE, received

    def wait_keeping_up(self, *, seconds: float) -> None:
        """Waits until results keep up with the load."""
        what = "results to keep up with the load"
        kube.until(lambda: not self._probe.behind(), what=what, seconds=seconds, every=0.5)

    def wait_bridge_keeping_up(self, *, seconds: float) -> None:
        """Waits until all of the bridge has been ready for longer than results can be behind, and they keep up."""

        def keeps_up() -> bool:
            return bridge_ready_seconds() > 2 * BEHIND_SECONDS and not self._probe.behind()

        kube.until(keeps_up, what="the bridge to keep up with the load", seconds=seconds, every=0.5)

    def wait_recovered(self, *, seconds: float) -> float:
        """Waits until results have kept up for a while; returns how many seconds from now that began."""
        begin = bad = time.monotonic()
        last = ""
        while time.monotonic() - bad < QUIET_SECONDS + BEHIND_SECONDS:
            behind = self._probe.behind()
            if behind:
                bad = time.monotonic()
            if behind.split(":")[0] != last:
                last = behind.split(":")[0]
                print(f"  {time.monotonic() - begin:.1f} s: {behind or 'caught up'}")
            assert time.monotonic() < begin + seconds, f"{behind} still behind {seconds:.0f} s after the fault"
            time.sleep(0.5)
        return bad - begin

    def settle(self, position: int, *, since: int, received: int) -> Verdict:
        """Stops the load, waits until nothing moves any more, and compares with the ledger from `position` on."""
        self.traffic.drain(seconds=SETTLE_SECONDS)
        self._wait_held(position, since=since, received=received)
        # The jump ahead makes everything before it final, so it comes after everything before it.
        self.traffic.close_windows(seconds=SETTLE_SECONDS)
        self._wait_held(position, since=since, received=received)
        differences = self._wait_windows(since)
        everything = self.book.since()
        found = held(self.gateway, pipeline.FLEETS, since=since, received=received)
        verdict = judge(everything[position:], found, everything=everything)
        verdict.wrong += differences
        if verdict.lost:
            print(f"  acknowledged and lost: {self.book.acknowledged(verdict.lost)}")
        return verdict

    def _wait_held(self, position: int, *, since: int, received: int) -> None:
        """Waits until everything acknowledged is held, or nothing has come for a long time: then it is lost."""
        entries = self.book.since(position)
        best, last = len(entries) + 1, time.monotonic()
        while time.monotonic() - last < SETTLE_SECONDS:
            left = len(missing(entries, held(self.gateway, pipeline.FLEETS, since=since, received=received)))
            if left == 0:
                return
            if left < best:
                best, last = left, time.monotonic()
            time.sleep(1)

    def _wait_windows(self, since: int) -> list[str]:
        """Waits until windows agree with the ledger; returns how they differ in the end."""
        differences: list[str] = []
        results = expected(pipeline.document()["spec"], self.book.since())

        def agree() -> bool:
            nonlocal differences
            differences = compare_windows(self.gateway, results, pipeline=pipeline.NAME, since=since)
            return not differences

        try:
            kube.until(agree, what="windows to agree with the ledger", seconds=SETTLE_SECONDS, every=2)
        except AssertionError:
            print("\n".join(differences))
            return differences
        return []


def bridge_ready_seconds() -> float:
    """Returns for how long all members of the bridge have been ready; 0 when one is not. Members that leave the group
    to the first one have nothing that waits for them."""
    now = time.time()
    since = []
    for pod in pipeline.pods("bridge"):
        leaves = "deletionTimestamp" in pod["metadata"]
        if leaves and not pod["metadata"]["name"].endswith("-0"):
            continue
        ready = kube.condition(pod, "Ready")
        good = not leaves and ready.get("status") == "True"
        since.append(milliseconds(ready["lastTransitionTime"]) / 1000 if good else now)
    return now - max(since, default=now)


def base_time(seconds: float) -> int:
    """Returns the event time (ms) at which a run of so many seconds begins: all of it lies in the past."""
    margin = 14 * 86400
    return int(time.time() - (seconds + 7200) * ACCELERATION - margin) // 86400 * 86400 * 1000
