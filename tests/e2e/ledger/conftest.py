"""One pipeline under load for all faults; options for the length of the soak and for writing the table."""

from collections.abc import Iterator

import pytest
from e2e import kube
from e2e.clients import Gateway
from e2e.ledger import faults, pipeline
from e2e.ledger.book import Book
from e2e.ledger.plant import Plant, QuickGateway, base_time
from e2e.ledger.report import Report
from e2e.ledger.schedule import Sensor
from e2e.ledger.traffic import Driven, Traffic

SINGLE_FAULTS_SECONDS = 3600


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --soak-seconds, --soak-seed and --write-reliability."""
    parser.addoption("--soak-seconds", type=int, default=600, help="how long the soak deals faults (default 600)")
    parser.addoption("--soak-seed", type=int, default=1, help="decides the order of the soak's faults (default 1)")
    parser.addoption("--write-reliability", action="store_true", help="write the results to docs/reliability.md")


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> Iterator[Report]:
    """The results of the run, printed at its end."""
    made = Report()
    yield made
    print("\n" + made.markdown())
    if pytestconfig.getoption("--write-reliability", default=False):
        made.write()


@pytest.fixture(scope="session")
def soak_seconds(pytestconfig: pytest.Config) -> int:
    """How long the soak deals faults."""
    return int(pytestconfig.getoption("--soak-seconds", default=600))


@pytest.fixture(scope="session")
def soak_seed(pytestconfig: pytest.Config) -> int:
    """What decides the order of the soak's faults."""
    return int(pytestconfig.getoption("--soak-seed", default=1))


@pytest.fixture(scope="session")
def plant(report: Report, soak_seconds: int) -> Iterator[Plant]:
    """The running pipeline and its devices, paused."""
    with pipeline.running() as host:
        token = kube.secret_value(f"{pipeline.NAME}-gateway", "token", namespace=pipeline.NAMESPACE)
        url = f"http://{host}:{pipeline.open_port('gateway')}"
        made = Plant(
            book=Book(), traffic=Traffic([]), gateway=Gateway(url, token), quick=QuickGateway(url, token),
            broker=(host, pipeline.open_port("mosquitto")), report=report,
            window_devices={*pipeline.MQTT_DEVICES, *pipeline.HTTP_DEVICES},
        )  # fmt: skip
        made.traffic = Traffic(devices(made, base_time(soak_seconds + SINGLE_FAULTS_SECONDS)))
        yield made
        made.traffic.close()
        print("\non the way:", dict(made.book.events))


def devices(plant: Plant, origin: int) -> list[Driven]:
    """Connects the devices that send all the time; `origin` is the event time (ms) of their first reading."""
    meters = [Sensor("meters", name, "energy", origin, n) for n, name in enumerate(pipeline.MQTT_DEVICES)]
    farm = [Sensor("farm", name, "soil", origin, n + 100) for n, name in enumerate(pipeline.HTTP_DEVICES)]
    return [Driven(faults.mqtt_device(plant, s.fleet, s.name), s) for s in meters] + [
        Driven(faults.http_device(plant, s.fleet, s.name), s) for s in farm
    ]
