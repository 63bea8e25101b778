"""The numbers: what the running pipelines computed equals an independent recompute, window by window."""

import csv
import io
import json
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
import requests
from e2e import kube
from e2e.clients import Gateway, gateway, prometheus
from e2e.conftest import EXAMPLES, building, replay
from e2e.recompute import Expected, recompute

DAY = 86_400_000
Key = tuple[str, str, int]


def milliseconds(text: str) -> int:
    """Returns milliseconds since the epoch of an RFC 3339 time."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def ledger(pipeline: str, *, namespace: str) -> list[dict[str, Any]]:
    """Returns what the simulator wrote down as published and acknowledged."""
    command = ["exec", f"{pipeline}-simulator-0", "--", "sensorpipeline-simulators", "ledger"]
    return [json.loads(line) for line in kube.kubectl(*command, namespace=namespace).splitlines()]


def wait_finished(pipeline: str, *, namespace: str, seconds: float) -> None:
    """Waits until the simulation has come to its end."""

    def finished() -> bool:
        return "simulation finished" in kube.kubectl("logs", f"{pipeline}-simulator-0", namespace=namespace)

    kube.until(finished, what=f"the simulation of {pipeline} to finish", seconds=seconds, every=5)


def computed(client: Gateway, pipeline: str) -> dict[Key, tuple[float, int]]:
    """Returns (value, count) of each final window by window, device and start; a derived metric has no device."""
    return {
        (i["window"], "" if i["device"] == pipeline else i["device"], milliseconds(i["start"])): (
            i["value"],
            i["count"],
        )
        for i in client.all("/v1/aggregates")
        if i["final"]
    }


def expected(results: Expected) -> dict[Key, tuple[float, int]]:
    """Returns a recompute in the form of `computed`."""
    return {(r.window, r.device or "", int(r.start)): (r.value, int(r[5])) for r in results.aggregates.itertuples()}


def agree(found: dict[Key, tuple[float, int]], wanted: dict[Key, tuple[float, int]]) -> bool:
    """Whether two sets of results are the same, floats within one part in 10⁹."""
    return found.keys() == wanted.keys() and all(
        found[key][1] == wanted[key][1] and found[key][0] == pytest.approx(wanted[key][0], rel=1e-9, abs=1e-9)
        for key in wanted
    )


def wait_agreement(client: Gateway, pipeline: str, results: Expected) -> None:
    """Waits until all has come through, then compares window by window."""
    wanted = expected(results)
    try:
        kube.until(lambda: agree(computed(client, pipeline), wanted), what="the results", seconds=60, every=2)
    except AssertionError:
        found = computed(client, pipeline)
        assert found == {key: (pytest.approx(value), count) for key, (value, count) in wanted.items()}


@pytest.fixture(scope="module")
def finished_building(building_namespace: str) -> list[dict[str, Any]]:
    """The ledger of the building after its 4.3 simulated days."""
    wait_finished("building", namespace=building_namespace, seconds=600)
    return ledger("building", namespace=building_namespace)


def test_every_acknowledged_message_of_the_building_is_stored_and_none_is_dead(
    building_namespace: str, finished_building: list[dict[str, Any]]
) -> None:
    sent = Counter(entry["fleet"] for entry in finished_building)
    assert sum(sent.values()) > 2900
    with gateway("building", namespace=building_namespace) as client:
        kube.until(lambda: client.get("/v1/counts").json()["readings"] == sent, what=f"{sent} to be stored", seconds=60)
        assert client.get("/v1/counts").json()["deadLetters"] == {}
        stored = {(i["device"], i["metric"], milliseconds(i["time"]), i["value"]) for i in client.all("/v1/readings")}
    assert stored == {(e["device"], e["metric"], e["time"], e["value"]) for e in finished_building}


def test_the_buildings_windows_equal_the_recompute_from_the_ledger(
    building_namespace: str, finished_building: list[dict[str, Any]]
) -> None:
    results = recompute(building()["spec"], finished_building)
    windows = results.aggregates
    start = milliseconds("2020-01-01T00:00:00Z")
    for device in ("TH1", "TH2", "HVAC1", "HVAC2", "MiAC1", "MiAC2", "W1"):
        days = set(windows[(windows.device == device) & (windows.start >= start)].start)
        assert days >= {start, start + DAY, start + 2 * DAY}, f"three whole days of {device}"
    assert len(windows[windows.window == "AggDayRest"]) >= 2
    with gateway("building", namespace=building_namespace) as client:
        wait_agreement(client, "building", results)
        units = {item["window"]: item["unit"] for item in client.all("/v1/aggregates", fleet="derived")}
        assert units == {"AggDayRest": "Wh", "AggDayRestShare": "%"}


def test_accepted_late_readings_revise_their_windows(
    building_namespace: str, finished_building: list[dict[str, Any]]
) -> None:
    results = recompute(building()["spec"], finished_building)
    refused = set(results.late.time)
    accepted = Counter(
        entry["time"] // DAY * DAY for entry in finished_building if entry["late"] and entry["time"] not in refused
    )
    assert accepted
    with gateway("building", namespace=building_namespace) as client:
        windows = {milliseconds(i["start"]): i for i in client.all("/v1/aggregates", window="AggDay", device="W1")}
    for start, count in accepted.items():
        in_time = any(not e["late"] and e["device"] == "W1" and e["time"] // DAY * DAY == start
                      for e in finished_building)  # fmt: skip
        assert windows[start]["revision"] == count - (0 if in_time else 1)


def test_rejected_late_readings_are_listed_with_how_late_they_were_and_stored(
    building_namespace: str, finished_building: list[dict[str, Any]]
) -> None:
    wanted = recompute(building()["spec"], finished_building).late
    assert len(wanted) >= 2
    with gateway("building", namespace=building_namespace) as client:
        found = {(i["window"], i["device"], milliseconds(i["time"])): i for i in client.all("/v1/late")}
        stored = {milliseconds(i["time"]) for i in client.all("/v1/readings", device="W1")}
    assert found.keys() == {(row.window, row.device, row.time) for row in wanted.itertuples()}
    for row in wanted.itertuples():
        entry = found[row.window, row.device, row.time]
        assert entry["lateBySeconds"] == pytest.approx(row.lateBySeconds)
        assert entry["reason"] == "LatenessExceeded"
        assert row.time in stored


def test_every_panel_of_the_dashboards_answers_with_data(
    building_namespace: str, finished_building: list[dict[str, Any]]
) -> None:
    dashboards = kube.get("configmap", "building-grafana", namespace=building_namespace)["data"]
    end = max(entry["time"] for entry in finished_building) / 1000
    empty: list[str] = []
    with prometheus("building", namespace=building_namespace) as (url, credentials):
        for name in ("sensors.json", "pipeline.json"):
            sensors = name == "sensors.json"
            for panel in json.loads(dashboards[name])["panels"]:
                for target in panel.get("targets", []):
                    now = datetime.now(UTC).timestamp()
                    window = (end - 86400 * 3, end, 3600) if sensors else (now - 600, now, 15)
                    parameters = dict(zip(("start", "end", "step"), window, strict=True)) | {"query": target["expr"]}
                    answer = requests.get(
                        f"{url}/api/v1/query_range", params=parameters, auth=credentials, timeout=30
                    ).json()
                    assert answer["status"] == "success", (panel["title"], answer)
                    if not answer["data"]["result"]:
                        empty.append(panel["title"])
    assert empty == ["Dead letters"], "there are no dead letters; every other panel has data"


def test_the_replayed_recordings_windows_equal_the_recompute_from_the_file(replay_namespace: str) -> None:
    text = subprocess.run(
        [sys.executable, EXAMPLES / "export_dataset.py"], capture_output=True, text=True, check=True
    ).stdout
    rows = [
        {"fleet": "water", "device": "branch", "metric": "flow", "time": milliseconds(row["time"]),
         "value": float(row["value"])}
        for row in csv.DictReader(io.StringIO(text))
    ]  # fmt: skip
    wait_finished("replay", namespace=replay_namespace, seconds=600)
    results = recompute(replay()["spec"], rows, closed=True)
    assert len(results.aggregates) > 150
    with gateway("replay", namespace=replay_namespace) as client:
        wait_agreement(client, "replay", results)
