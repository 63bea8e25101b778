"""Whatever is done to the pipeline, no acknowledged reading is lost, none counts twice, and every window is right."""

import pytest
from e2e.ledger import faults
from e2e.ledger.faults import scale, scale_bridge, scale_workers
from e2e.ledger.plant import Fault, Plant

FAULTS: dict[str, Fault] = {
    "none": lambda plant: None,
    "kill -9 of the bridge": faults.kill("bridge"),
    "kill -9 of the workers": faults.kill("worker"),
    "kill -9 of the sink": faults.kill("sink"),
    "kill -9 of the gateway": faults.kill("gateway"),
    "kill -9 of derive": faults.kill("derive"),
    "kill -9 of Kafka": faults.kill("kafka"),
    "kill -9 of mongod": faults.kill("mongodb"),
    "kill -9 of Mosquitto": faults.kill_broker,
    "network cut between bridge and Kafka, 20 s": faults.cut_bridge_from_kafka,
    "Kafka frozen, 20 s": faults.freeze("kafka"),
    "clock jump of one device": faults.jump_clock,
    "reconnect storm of 2,000 MQTT clients": faults.storm(),
    "full Kafka volume": faults.fill_volume,
    "bridge scaled 1 → 3 → 1": scale(scale_bridge(3), scale_bridge(1)),
    "workers scaled 1 → 3 → 1": scale(scale_workers(3), scale_workers(1)),
    "rolling restart of everything": faults.restart_everything,
}


@pytest.mark.parametrize("name", FAULTS)
def test_no_acknowledged_reading_is_lost_or_counted_twice(plant: Plant, name: str) -> None:
    verdict = plant.experiment(name, FAULTS[name])
    assert verdict.acknowledged > 500
    assert not verdict.problems()
