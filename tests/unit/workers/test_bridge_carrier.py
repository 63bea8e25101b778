"""What the carrier says while it waits in the middle of messages."""

import time

import mqtt5
import pytest
from sensorpipeline_api.configuration import BridgeConfiguration, KafkaConnection, MqttConnection, Topics
from sensorpipeline_api.spec import Fleet
from sensorpipeline_workers.bridge import sending
from sensorpipeline_workers.bridge.arrivals import Arrivals
from sensorpipeline_workers.bridge.carrier import Carrier
from sensorpipeline_workers.bridge.sending import Counters


def test_a_burst_without_times_waits_for_the_clock_and_that_is_no_stall_of_kafka(
    counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody is there, which nobody needs to be told.
    monkeypatch.setattr(sending, "librdkafka_settings", lambda _: {"bootstrap.servers": "127.0.0.1:1", "log_level": 0})
    fleet = Fleet.model_validate({
        "name": "f", "topic": "f/{device}", "metrics": [{"name": "m"}],
        "payload": {"format": "Number", "timeUnit": "ReceiveTime"},
    })  # fmt: skip
    topics = Topics(readings={"f": "p.f"}, aggregates="a", late="l", alerts="t", dead_letter="d")
    configuration = BridgeConfiguration(
        pipeline="p", mqtt=MqttConnection(host="127.0.0.1", port=1), metrics_port=1, topics=topics, fleets=[fleet],
        kafka=KafkaConnection(bootstrap_servers=["127.0.0.1:1"]), share_name="s",
    )  # fmt: skip
    stalled: list[float] = []
    carrier = Carrier(
        configuration, {"p.f": 1}, counters, Arrivals(0), lambda: stalled.append(carrier.stalled_seconds())
    )
    packets = [mqtt5.PublishPacket("f/d", b"1", qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=n + 1) for n in range(150)]
    begin = time.monotonic()
    carrier.take(packets)
    assert time.monotonic() - begin > 2, "a reading each 16 ms, from the start on"
    assert max(stalled) < 1
    carrier.close(0)
