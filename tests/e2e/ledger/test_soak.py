"""All faults on top of each other: the next one is dealt whether or not the pipeline has recovered from the last."""

import random
import time
from datetime import UTC, datetime

from e2e.ledger import faults
from e2e.ledger.plant import Fault, Plant
from e2e.ledger.test_faults import FAULTS

NOT_IN_SOAK = {"none", "full Kafka volume"}
"""Filling a volume takes a store that stands still for as long as it takes, which other faults would end."""
RECOVERY_SECONDS = 420.0
"""Kubernetes starts a container that was killed again and again ever later."""


def deal(plant: Plant, *, seconds: int, seed: int) -> int:
    """Deals faults for so many seconds; returns how many."""
    choice = random.Random(seed)
    waiting: list[tuple[str, Fault]] = []
    dealt = 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not waiting:  # every fault comes up before one comes up again
            waiting = [item for item in FAULTS.items() if item[0] not in NOT_IN_SOAK]
            choice.shuffle(waiting)
        name, fault = waiting.pop()
        print(f"{datetime.now(UTC):%H:%M:%S}, {deadline - time.monotonic():.0f} s left: {name}")
        (faults.storm(500, 2) if "storm" in name else fault)(plant)
        dealt += 1
        time.sleep(choice.uniform(1, 10))
    return dealt


def test_no_acknowledged_reading_is_lost_or_counted_twice_in_a_soak(
    plant: Plant, soak_seconds: int, soak_seed: int
) -> None:
    dealt = 0

    def soak(plant: Plant) -> None:
        nonlocal dealt
        dealt = deal(plant, seconds=soak_seconds, seed=soak_seed)

    name = f"all of them on top of each other, {soak_seconds} s"
    verdict = plant.experiment(name, soak, recovery_seconds=RECOVERY_SECONDS)
    assert dealt > soak_seconds / 60
    assert not verdict.problems()
