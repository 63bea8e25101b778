"""Drives the devices: one thread for each, at the pace of the schedule, backlog included."""

import threading
import time
from dataclasses import dataclass, field

from e2e import kube
from e2e.ledger.devices import Device
from e2e.ledger.schedule import CLOSING_STEPS, STEPS_PER_SECOND, Sensor

TICK_SECONDS = 1 / STEPS_PER_SECOND


@dataclass
class Driven:
    """A device, its sensor and the next step of its schedule."""

    device: Device
    sensor: Sensor
    step: int = 0
    thread: threading.Thread | None = field(default=None, repr=False)


class Traffic:
    """The load of a run. It starts paused."""

    def __init__(self, devices: list[Driven]) -> None:
        self._devices = devices
        self._stopped = threading.Event()
        self._running = threading.Event()
        for driven in devices:
            driven.thread = threading.Thread(target=self._drive, args=(driven,), daemon=True)
            driven.thread.start()

    def resume(self) -> None:
        """Lets the devices send."""
        self._running.set()

    def drain(self, *, seconds: float) -> None:
        """Lets the devices send nothing new, and waits until everything that was sent is acknowledged."""
        self._running.clear()
        time.sleep(2 * TICK_SECONDS)
        kube.until(lambda: self._unanswered() == 0, what="the devices to have every reading acknowledged",
                   seconds=seconds, every=0.2)  # fmt: skip

    def close_windows(self, *, seconds: float) -> None:
        """Moves the drained devices ahead together and sends one reading each, which closes all windows before it."""
        ahead = max(driven.step for driven in self._devices) + CLOSING_STEPS
        for driven in self._devices:
            driven.device.send(driven.sensor.closing(ahead))
            driven.step = ahead + 1
        self.drain(seconds=seconds)

    def next_time(self) -> int:
        """Returns the earliest event time (ms) that a device will send next."""
        return min(driven.sensor.time(driven.step) for driven in self._devices)

    def close(self) -> None:
        """Ends all devices."""
        self._stopped.set()
        for driven in self._devices:
            if driven.thread is not None:
                driven.thread.join(10)
            driven.device.close()

    def _unanswered(self) -> int:
        return sum(driven.device.unanswered() for driven in self._devices)

    def _drive(self, driven: Driven) -> None:
        due = time.monotonic()
        while not self._stopped.is_set():
            now = time.monotonic()
            if not self._running.is_set():
                due = now
            elif now >= due:
                driven.device.send(driven.sensor.readings(driven.step))
                driven.step += 1
                due += TICK_SECONDS
                continue
            self._stopped.wait(min(TICK_SECONDS, max(0.001, due - now)))
