"""Nothing ends the search for sessions to adopt."""

import threading
import time
from collections.abc import Callable

import pytest
from sensorpipeline_api.configuration import BridgeConfiguration, KafkaConnection, MqttConnection, Topics
from sensorpipeline_api.spec import Fleet
from sensorpipeline_workers.bridge import adoption
from sensorpipeline_workers.bridge.adoption import Adoption
from sensorpipeline_workers.bridge.arrivals import Arrivals
from sensorpipeline_workers.bridge.sending import Counters


def configuration(*fleets: str) -> BridgeConfiguration:
    topics = Topics(readings={f: f"p.{f}" for f in fleets}, aggregates="a", late="l", alerts="t", dead_letter="d")
    made = [Fleet.model_validate({"name": f, "topic": f"{f}/{{device}}", "metrics": [{"name": "m"}]}) for f in fleets]
    return BridgeConfiguration(
        pipeline="p", mqtt=MqttConnection(host="127.0.0.1", port=1), metrics_port=1, topics=topics, fleets=made,
        kafka=KafkaConnection(bootstrap_servers=["127.0.0.1:1"]), share_name="s", adoption_seconds=1,
    )  # fmt: skip


class Looks:
    """Answers the looks for the configuration, each with what `answer` does, and counts them."""

    def __init__(self, answer: Callable[[], BridgeConfiguration]) -> None:
        self._answer = answer
        self.count = 0

    def __call__(self) -> BridgeConfiguration:
        self.count += 1
        return self._answer()


class Refused(Exception):
    """A mistake that nobody has thought of."""


def run(looks: Looks, monkeypatch: pytest.MonkeyPatch, counters: Counters) -> None:
    """Runs an adoption that knows the fleet `f` until it has looked three times."""
    monkeypatch.setattr(adoption, "RETRY_SECONDS", 0.01)
    made = Adoption("g", {"p.f": 2}, counters, Arrivals(0), looks)
    thread = threading.Thread(target=made.run)
    thread.start()
    deadline = time.monotonic() + 10
    while looks.count < 3 and thread.is_alive() and time.monotonic() < deadline:
        made._wake.set()
        time.sleep(0.01)
    made.stop()
    thread.join()
    assert looks.count >= 3


def test_an_error_that_nobody_has_thought_of_is_told_and_the_next_look_comes(
    monkeypatch: pytest.MonkeyPatch, counters: Counters, caplog: pytest.LogCaptureFixture
) -> None:
    def answer() -> BridgeConfiguration:
        raise Refused("a mistake")

    run(Looks(answer), monkeypatch, counters)
    assert "Refused: a mistake" in caplog.text


def test_nothing_is_adopted_with_fleets_that_are_newer_than_the_process(
    monkeypatch: pytest.MonkeyPatch, counters: Counters
) -> None:
    adopted: list[str] = []
    monkeypatch.setattr(Adoption, "_adopt", lambda self, client_id, _: adopted.append(client_id))
    run(Looks(lambda: configuration("f", "new")), monkeypatch, counters)
    assert adopted == []
    run(Looks(lambda: configuration("f")), monkeypatch, counters)
    assert "g-1" in adopted
