"""What a device sends, step by step. Pure: the same step gives the same readings.

Event time runs `ACCELERATION` times as fast as the clock, so that windows close while a fault lasts. Most readings are
in order; some are late but accepted, some too late for their window, some sent twice, some not valid.
"""

import math
from dataclasses import dataclass

from e2e.ledger.book import Entry

STEP = 1200
"""Event time between two readings of a device, in ms."""
STEPS_PER_SECOND = 25.0
ACCELERATION = STEP * STEPS_PER_SECOND / 1000
PERIOD = 60_000
LATENESS = 3_600_000
"""Long enough, in ms, that what a fault holds up for two minutes still finds its window open."""
CLOSING_STEPS = 2 * (LATENESS + PERIOD) // STEP
"""How far a device jumps ahead, so that everything before is final and accepts no reading any more."""
MAXIMUM = 1000

# Primes, so that the kinds fall on ever different places of a window.
LATE_EVERY, TOO_LATE_EVERY, TWICE_EVERY, BAD_EVERY = 41, 97, 31, 53


@dataclass(frozen=True)
class Sensor:
    """A device of the ledger's pipeline; `origin` is the event time (ms) of its step 0."""

    fleet: str
    name: str
    metric: str
    origin: int
    phase: int

    def time(self, step: int) -> int:
        """Returns the event time of a step in ms."""
        return self.origin + step * STEP

    def readings(self, step: int) -> list[Entry]:
        """Returns what the device sends at a step, in order."""
        out = [self._reading(self.time(step), step)]
        turn = step + self.phase
        if turn % LATE_EVERY == 0:
            out.append(self._reading(self.time(step) - LATENESS // 6 + 1, step))
        if turn % TOO_LATE_EVERY == 0:
            out.append(self._reading(self.time(step) - LATENESS - PERIOD - LATENESS // 3 + 2, step))
        if turn % TWICE_EVERY == 0 and step >= 5:
            out.append(self._reading(self.time(step - 5), step - 5))
        if turn % BAD_EVERY == 0:
            out.append(Entry(self.fleet, self.name, self.metric, self.time(step) + 3, MAXIMUM + 1.0, "OutOfRange"))
        return out

    def closing(self, step: int) -> list[Entry]:
        """Returns the reading that closes all windows before a step."""
        return [self._reading(self.time(step), step)]

    def _reading(self, time: int, step: int) -> Entry:
        value = round(500 + 400 * math.sin((step + self.phase * 7) / 9), 3)
        return Entry(self.fleet, self.name, self.metric, time, value)
