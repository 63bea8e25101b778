"""Runs the schedule against the clock and the broker."""

import logging
import threading
import time
from pathlib import Path

from prometheus_client import Counter, Gauge
from sensorpipeline_api.configuration import SimulatorConfiguration

from sensorpipeline_simulators import signals
from sensorpipeline_simulators.ledger import Ledger
from sensorpipeline_simulators.publisher import Publisher, payload, topic
from sensorpipeline_simulators.schedule import Recording, schedule

log = logging.getLogger(__name__)

LEDGER = "ledger.jsonl"
FINISHED = "simulation finished"
REPORT_SECONDS = 30.0


def ledger_path(configuration: SimulatorConfiguration) -> Path:
    """Returns where the ledger is kept."""
    return Path(configuration.state_directory) / LEDGER


def recordings(configuration: SimulatorConfiguration) -> dict[str, Recording]:
    """Reads the recordings of the replayed devices. Raises OSError or ValueError."""
    out: dict[str, Recording] = {}
    for device in configuration.devices:
        if device.replay is not None:
            path = Path(configuration.replay_directory) / device.replay.config_map_name / device.replay.key
            out[device.name] = signals.read_recording(
                path.read_text(), time_column=device.replay.time_column, value_column=device.replay.value_column
            )
    return out


class Simulation:
    """The devices of a pipeline."""

    def __init__(self, configuration: SimulatorConfiguration, ready: Path) -> None:
        self._configuration = configuration
        self._ready = ready
        self._ledger = Ledger(ledger_path(configuration))
        self._published = Counter("sensorpipeline_simulator_published", "Messages published.", ["fleet"])
        self._acknowledged = Counter("sensorpipeline_simulator_acknowledged", "Messages acknowledged.", ["fleet"])
        self._finished = Gauge("sensorpipeline_simulator_finished", "1 when the simulation has come to its end.")
        fleets = {settings.fleet.name: settings for settings in configuration.fleets}
        self._publishers = {
            device.name: Publisher(fleets[device.fleet], device, configuration.mqtt, self._on_acknowledged)
            for device in configuration.devices
        }

    def run(self, stop: threading.Event) -> None:
        """Sends everything that is due until the end of the schedule or `stop`; then stays until `stop`."""
        for name, publisher in self._publishers.items():
            while not publisher.connected.wait(1):
                log.info("%s waits for the broker", name)
                if stop.is_set():
                    return
        self._ready.touch()
        self._send(stop)
        while not stop.is_set() and sum(self._ledger.acknowledged.values()) < self._sent:
            stop.wait(0.1)
        self._ledger.flush()
        if not stop.is_set():
            log.info("%s: %d messages acknowledged", FINISHED, self._sent)
            self._finished.set(1)
            stop.wait()
        for publisher in self._publishers.values():
            publisher.close()
        self._ledger.close()

    def _send(self, stop: threading.Event) -> None:
        configuration = self._configuration
        skip = dict(self._ledger.acknowledged)
        first = set(self._publishers)
        acceleration = configuration.acceleration_factor
        anchor: float | None = None
        last_report = time.monotonic()
        self._sent = 0
        for item in schedule(
            configuration.devices, start=configuration.start_time, duration=configuration.duration_seconds,
            seed=configuration.seed, recordings=recordings(configuration),
        ):  # fmt: skip
            self._sent += 1
            if skip.get(item.device, 0) > 0:
                skip[item.device] -= 1
                continue
            if anchor is None:
                anchor = time.monotonic() - self._ledger.last_due / acceleration
            if stop.wait(max(0.0, anchor + item.due / acceleration - time.monotonic())):
                return
            publisher = self._publishers[item.device]
            fleet, metric = publisher.fleet, publisher.metric
            context = {
                "fleet": fleet.name, "device": item.device, "metric": metric, "time": item.time,
                "value": item.value, "late": item.late, "due": item.due,
            }  # fmt: skip
            body = payload(fleet, metric, time=item.time, value=item.value)
            send = publisher.publish_first if item.device in first else publisher.publish
            first.discard(item.device)
            begin = time.monotonic()
            send(topic(fleet, item.device, metric), body, context)
            if send == publisher.publish_first:
                anchor += time.monotonic() - begin  # the clock does not run while nobody listens
            self._published.labels(fleet.name).inc()
            if time.monotonic() - last_report > REPORT_SECONDS:
                last_report = time.monotonic()
                log.info("%d messages sent, %.1f simulated days", self._sent, item.due / 86400)

    def _on_acknowledged(self, context: dict[str, object]) -> None:
        self._ledger.write(context)
        self._acknowledged.labels(str(context["fleet"])).inc()
