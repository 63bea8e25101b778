"""A threshold crossed for long enough fires in Prometheus, reaches Alertmanager, is delivered, and resolves."""

import json
import time
from typing import Any

import requests
from e2e import kube
from e2e.clients import Publisher, prometheus, publisher

TOPIC = "pumps/P2/state"


def send(sender: Publisher, *, value: float, at: float) -> None:
    """Sends one reading of P2 dated `at` (seconds since the epoch)."""
    sender.publish(TOPIC, json.dumps({"ts": int(at * 1000), "value": value}).encode())


def delivered(port: int, status: str) -> list[dict[str, Any]]:
    """Returns the alerts named HighPressure of a status that the receiver has recorded."""
    messages = requests.get(f"http://127.0.0.1:{port}/", timeout=10).json()
    alerts = [alert for recorded in messages for alert in recorded["alerts"]]
    return [a for a in alerts if a["labels"]["alertname"] == "HighPressure" and a["status"] == status]


def test_a_crossed_threshold_is_delivered_to_the_webhook_and_resolves(open_namespace: str) -> None:
    start = time.time() - 120
    with (
        publisher("open", namespace=open_namespace) as sender,
        prometheus("open", namespace=open_namespace) as (url, credentials),
        kube.port_forward("svc/recorder", 8000, namespace=open_namespace) as recorder,
    ):

        def firing() -> list[dict[str, Any]]:
            answer = requests.get(f"{url}/api/v1/alerts", auth=credentials, timeout=10).json()
            alerts = answer["data"]["alerts"]
            return [a for a in alerts if a["labels"]["alertname"] == "HighPressure" and a["state"] == "firing"]

        send(sender, value=90, at=start)
        send(sender, value=90, at=start + 20)
        time_not_yet_long_enough = firing()
        assert time_not_yet_long_enough == []
        send(sender, value=90, at=start + 31)
        (alert,) = kube.until(firing, what="the alert in Prometheus", seconds=90)
        assert alert["labels"]["device"] == "P2"
        assert alert["labels"]["severity"] == "Warning"
        fired = kube.until(lambda: delivered(recorder, "firing"), what="delivery to the webhook", seconds=90)
        assert fired[0]["labels"]["device"] == "P2"

        send(sender, value=70, at=start + 40)  # below the bound, above `clear`: still active
        send(sender, value=59, at=start + 50)
        kube.until(lambda: not firing(), what="the alert to resolve in Prometheus", seconds=90)
        kube.until(lambda: delivered(recorder, "resolved"), what="the resolution at the webhook", seconds=400)
