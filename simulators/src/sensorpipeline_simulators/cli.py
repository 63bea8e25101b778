"""The command line: `run` simulates, `ledger` prints what was acknowledged."""

import argparse
import logging
import shutil
import signal
import sys
import threading
from pathlib import Path

from prometheus_client import start_http_server
from sensorpipeline_api.configuration import SimulatorConfiguration

from sensorpipeline_simulators.simulation import Simulation, ledger_path

READY = Path("/tmp/ready")  # asked for by the readiness probe of the same container


def run() -> None:
    """Simulates until SIGTERM."""
    configuration = SimulatorConfiguration.load()
    start_http_server(configuration.metrics_port)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    Simulation(configuration, READY).run(stop)


def ledger() -> None:
    """Prints the ledger: one JSON object a line."""
    with ledger_path(SimulatorConfiguration.load()).open() as file:
        shutil.copyfileobj(file, sys.stdout)


def main() -> None:
    """Runs the command that the first argument names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["run", "ledger"])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    {"run": run, "ledger": ledger}[parser.parse_args().command]()


if __name__ == "__main__":
    main()
