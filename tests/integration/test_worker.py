"""Workers are killed, stopped, frozen and moved while readings flow: the results are those of the recompute."""

import base64
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from confluent_kafka.admin import NewTopic
from e2e.recompute import recompute
from integration import impatient_worker
from integration.conftest import ROOT, consume, make_producer, run_kafka, until
from integration.fleet_of_workers import PARTITIONS, Worker, Workers, fleet_of_workers, make_disorderly, make_fleet

SEED = 20
SESSION_SECONDS = 10
FLOW_SECONDS = 10.0


def test_a_million_readings_through_kills_and_rebalances_come_to_the_recompute(kafka: str, tmp_path: Path) -> None:
    """Workers 1, 3, 2, 1; in each stage one is killed at a random moment and replaced. What a worker knew is gone with
    it: its successor has the changelog alone."""
    chance = random.Random(SEED)
    readings = make_disorderly(devices=60, total=900_000, seed=SEED)
    quarter = len(readings) // 4
    with fleet_of_workers(kafka, tmp_path) as workers:
        running = [workers.start()]
        for stage, wanted in enumerate((1, 3, 2, 1)):
            part = readings.iloc[stage * quarter : (stage + 1) * quarter if stage < 3 else len(readings)]
            flow = threading.Thread(target=workers.produce, args=(part,), kwargs={"seconds": FLOW_SECONDS})
            flow.start()
            while len(running) < wanted:
                running.append(workers.start())
            while len(running) > wanted:
                running.pop(0).stop()
            before = workers.committed()
            until(lambda b=before: workers.committed() > b, what=f"progress in stage {stage}", seconds=120)
            time.sleep(chance.uniform(0, 0.5))
            running.pop(chance.randrange(len(running))).kill()
            running.append(workers.start())
            flow.join()
        workers.wait_until_done()
        expected = workers.check(readings)
        assert len(expected.final) > 10_000
        assert len(expected.late) > 10_000
        assert all(worker.running for worker in running)


def test_a_stopped_worker_leaves_at_once_and_its_successor_repeats_nothing(kafka: str, tmp_path: Path) -> None:
    readings = make_disorderly(devices=20, total=120_000, seed=3)
    half = len(readings) // 2
    with fleet_of_workers(kafka, tmp_path) as workers:
        first = workers.start()
        workers.produce(readings.iloc[:half])
        workers.wait_for(0.2)
        assert first.stop() < SESSION_SECONDS / 2
        # Whoever has not left is a member until its session ends.
        assert workers.members() == 0
        workers.produce(readings.iloc[half:])
        workers.start()
        workers.wait_until_done()
        workers.check(readings)
        emissions = Counter(
            (item["device"], item["start"], item["revision"]) for item in consume(kafka, workers.topics.aggregates)
        )
        assert max(emissions.values()) == 1
        refused = Counter((item["device"], item["time"]) for item in consume(kafka, workers.topics.late))
        # A reading that came twice is refused twice: what is beyond all windows is not remembered.
        sent = Counter(zip(readings["device"], readings["time"], strict=True))
        assert all(number <= sent[key] for key, number in refused.items())
        assert any(sent[key] == 1 for key in refused)


def test_a_worker_that_was_frozen_longer_than_its_session_harms_nothing(kafka: str, tmp_path: Path) -> None:
    """Its partitions go to another; when it wakes, what it still holds must not replace what the other has written."""
    readings = make_disorderly(devices=20, total=120_000, seed=4)
    parts = [readings.iloc[n : n + len(readings) // 4 + 1] for n in range(0, len(readings), len(readings) // 4 + 1)]
    with fleet_of_workers(kafka, tmp_path, flush_milliseconds=4000) as workers:
        frozen = workers.start()
        workers.produce(parts[0])
        workers.wait_until_done()
        workers.produce(parts[1])
        time.sleep(1.5)  # taken in, but not flushed yet
        frozen.signal(signal.SIGSTOP)
        workers.produce(parts[2])
        other = workers.start()
        workers.wait_until_done()
        frozen.signal(signal.SIGCONT)
        until(lambda: workers.members() == 2, what="the frozen worker to join again", seconds=60)
        other.kill()
        frozen.stop()
        # A new one has nothing but the changelog: a stale state in it would show now.
        workers.produce(parts[3])
        workers.start()
        workers.wait_until_done()
        workers.check(readings)


def test_a_worker_waits_for_a_kafka_that_stands_still(tmp_path: Path) -> None:
    readings = make_disorderly(devices=20, total=400_000, seed=5)
    with run_kafka() as (container, server), fleet_of_workers(server, tmp_path) as workers:
        worker = workers.start()
        workers.produce(readings.iloc[:100_000])
        workers.wait_until_done()
        workers.produce(readings.iloc[100_000:])
        workers.wait_for(0.3)
        subprocess.run(["docker", "pause", container], check=True, capture_output=True)
        time.sleep(2 * SESSION_SECONDS)
        assert worker.healthy()
        subprocess.run(["docker", "unpause", container], check=True, capture_output=True)
        workers.wait_until_done()
        workers.check(readings)
        assert worker.running


def limit_output(container: str, bytes_per_second: int | None) -> None:
    """Has Kafka take no more than so many bytes per second from librdkafka's clients, which is what the worker writes
    with and not what it reads with."""
    change = f"--add-config=producer_byte_rate={bytes_per_second}" if bytes_per_second else None
    server = subprocess.run(["docker", "exec", container, "grep", "-oP", "^advertised.listeners=CLIENT://\\K.*",
                             "/tmp/server.properties"], check=True, capture_output=True, text=True)  # fmt: skip
    subprocess.run(
        ["docker", "exec", container, "java", "-Xmx64m", "-cp", "/opt/kafka/libs/*", "kafka.admin.ConfigCommand",
         "--bootstrap-server", server.stdout.strip(), "--alter", "--entity-type", "clients", "--entity-name", "rdkafka",
         change or "--delete-config=producer_byte_rate"], check=True, capture_output=True,
    )  # fmt: skip


def test_a_worker_is_alive_while_kafka_takes_its_results_slowly_and_goes_on_afterwards(tmp_path: Path) -> None:
    readings = make_disorderly(devices=20, total=200_000, seed=6)
    with run_kafka() as (container, server), fleet_of_workers(server, tmp_path) as workers:
        workers.produce(readings)
        limit_output(container, 5_000)
        worker = start_impatient(workers, tmp_path / "never")
        until(lambda: "results" in worker.waiting_for(), what="the worker to wait for Kafka to take results")
        deadline = time.monotonic() + 3 * impatient_worker.PATIENCE_SECONDS
        while time.monotonic() < deadline:
            assert worker.healthy()
            time.sleep(0.2)
        assert workers.committed() < workers.end()
        limit_output(container, None)
        workers.wait_until_done()
        workers.check(readings)


def make_orderly(*, devices: int, seconds: range) -> pd.DataFrame:
    """Returns a reading of each device for each second of event time, in order, one device after the other."""
    rows = [(f"d{n}", second * 1000, n, 1.0) for n in range(devices) for second in seconds]
    return pd.DataFrame(rows, columns=["device", "time", "number", "value"])


def test_a_backlog_that_waits_for_a_worker_is_no_silence(kafka: str, tmp_path: Path) -> None:
    """Nobody is said to be silent, and no window closed for idleness, of devices whose readings wait in Kafka."""
    devices = 8
    fleet = make_fleet(idleSeconds=15, thresholds=[{"name": "Quiet", "metric": "m", "silentForSeconds": 15}])
    with fleet_of_workers(kafka, tmp_path, fleet) as workers:
        worker = workers.start()
        workers.produce(make_orderly(devices=devices, seconds=range(90)))
        workers.wait_until_done()
        worker.stop()
        workers.produce(make_orderly(devices=devices, seconds=range(90, 20_000)))
        time.sleep(16)
        worker = workers.start()
        workers.wait_until_done()
        assert consume(kafka, workers.topics.alerts) == []
        found = [(item["start"], item["revision"]) for item in consume(kafka, workers.topics.aggregates)]
        assert found
        assert {revision for _, revision in found} == {0}
        # From here on they are silent.
        until(lambda: len(consume(kafka, workers.topics.alerts)) == devices, what="alerts on silence")
        assert worker.metric("device_alert", fleet="f", device="d0", threshold="Quiet", severity="Warning") == 1


def start_impatient(workers: Workers, hang: Path, **environment: str) -> Worker:
    """Starts a worker whose fetching hangs while a file exists, and which soon says so."""
    environment |= {impatient_worker.HANG_VARIABLE: str(hang), "PYTHONPATH": str(ROOT / "tests")}
    return workers.start("-m", "integration.impatient_worker", **environment)


def test_a_worker_whose_first_restore_takes_long_is_alive_all_the_time(kafka: str, tmp_path: Path) -> None:
    devices = 32
    with fleet_of_workers(kafka, tmp_path) as workers:
        worker = workers.start()
        workers.produce(make_orderly(devices=devices, seconds=range(100)))
        workers.wait_until_done()
        worker.stop()
        begin = time.monotonic()
        worker = start_impatient(workers, tmp_path / "never", **{impatient_worker.RESTORE_VARIABLE: "0.5"})
        until(lambda: "assignment and recovery" in worker.waiting_for(), what="the restore to begin")
        while worker.waiting_for() != "ready":
            assert worker.healthy()
            time.sleep(0.1)
        assert time.monotonic() - begin > 0.5 * devices > 3 * impatient_worker.PATIENCE_SECONDS
        until(lambda: worker.metric("series", fleet="f") == devices, what="the restored series")


def test_a_worker_that_fetches_nothing_of_what_there_is_says_so(kafka: str, tmp_path: Path) -> None:
    hang = tmp_path / "hang"
    with fleet_of_workers(kafka, tmp_path) as workers:
        worker = start_impatient(workers, hang)
        workers.produce(make_orderly(devices=4, seconds=range(100)))
        workers.wait_until_done()
        hang.touch()
        # With nothing to read there is nothing wrong.
        time.sleep(3 * impatient_worker.PATIENCE_SECONDS)
        assert worker.healthy()
        workers.produce(make_orderly(devices=1, seconds=range(100, 200)))
        until(lambda: (worker.metric("consumer_lag_seconds", fleet="f") or 0) > 3, what="the lag to grow")
        until(lambda: not worker.healthy(), what="the worker to say that it is stuck")
        assert worker.running
        hang.unlink()
        until(worker.healthy, what="the worker to go on")
        workers.wait_until_done()


def test_a_worker_says_what_it_holds_and_how_far_it_is(kafka: str, tmp_path: Path) -> None:
    high = {"name": "High", "metric": "m", "above": "8", "clear": "3", "severity": "Critical"}
    labels = {"fleet": "f", "threshold": "High", "severity": "Critical"}
    with fleet_of_workers(kafka, tmp_path, make_fleet(thresholds=[high])) as workers:
        worker = workers.start()
        readings = make_orderly(devices=4, seconds=range(100))
        readings.loc[(readings["device"] == "d1") & (readings["time"] == 99_000), "value"] = 9.0
        workers.produce(readings)
        workers.wait_until_done()
        until(lambda: worker.metric("series", fleet="f") == 4, what="the number of series")
        assert worker.metric("device_alert", device="d1", **labels) == 1
        assert worker.metric("device_alert", device="d2", **labels) is None
        state_bytes = worker.metric("state_bytes", fleet="f")
        assert state_bytes is not None
        assert 4 * 50 < state_bytes < 4 * 5000
        assert worker.metric("consumer_lag_seconds", fleet="f") == 0
        assert (worker.metric("processing_seconds_count") or 0) > 0
        assert 0 < (worker.metric("processing_seconds_sum") or 0) < 60
        other = workers.start()
        until(lambda: worker.metric("series", fleet="f") == 2, what="the first worker to have given up half")
        until(lambda: other.metric("series", fleet="f") == 2, what="the second worker to have taken it over")
        # Whoever has the device's partition goes on saying it, and the other one no longer does.
        until(lambda: {w.metric("device_alert", device="d1", **labels) for w in (worker, other)} == {1, None},
              what="one worker to say that the alert is active")  # fmt: skip


def test_a_worker_goes_on_with_the_states_that_version_1_has_written(kafka: str, tmp_path: Path) -> None:
    """The sample is the state as of offset 41; its readings before, and those after, are those of the unit test."""
    functions = ["Sum", "Mean", "Minimum", "Maximum", "Count", "First", "Last", "Difference"]
    windows = [{"name": name, "metric": "m", "function": name, "periodSeconds": 100, "allowedLatenessSeconds": 300}
               for name in functions]  # fmt: skip
    fleet = make_fleet(windows=windows, outOfOrdernessSeconds=5, thresholds=[
        {"name": "High", "metric": "m", "above": "8", "clear": "3"},
        {"name": "Held", "metric": "m", "below": "4", "forSeconds": 60},
    ])  # fmt: skip
    before = [(t * 1000, t * 7 % 11 + 0.1) for t in range(0, 750, 10)]
    before[20:20] = [(55_000, 2.5), (20_000, 9.0)]
    before[60:60] = [(333_000, -4.25)]
    after = [(740_000, 1.0), (755_000, 0.5), (391_000, 3.5), (701_500, 2.25), (471_500, 9.0), (830_000, 1.0),
             (420_500, 7.0), (905_000, 2.0), (1_300_000, 0.0)]  # fmt: skip
    sample = Path(__file__).parents[1] / "unit" / "engine" / "samples" / "series-v1.base64"
    with fleet_of_workers(kafka, tmp_path, fleet) as workers:
        state = NewTopic(workers.changelog, PARTITIONS, 1, config={"cleanup.policy": "compact"})
        workers.admin.create_topics([state])[workers.changelog].result()
        producer = make_producer(kafka)
        producer.produce(workers.changelog, base64.b64decode(sample.read_text()), key="0|d|m", partition=0)
        for _ in range(42):
            producer.produce(workers.source, b"[]", partition=0)
        texts = [json.dumps([{"device": "d", "metric": "m", "time": t, "value": v}]) for t, v in after]
        for text in texts:
            producer.produce(workers.source, text, partition=0)
        assert producer.flush(30) == 0
        workers.start()
        workers.wait_until_done()
        rows = [{"fleet": "f", "device": "d", "metric": "m", "time": t, "value": v} for t, v in before + after]
        expected = recompute({"fleets": [fleet.model_dump(by_alias=True, mode="json")]}, rows)
        wanted = {(r.window, int(r.start)): (r.value, int(r[5])) for r in expected.aggregates.itertuples()}
        found: dict[tuple[str, int], tuple[float, int]] = {}
        for item in consume(kafka, workers.topics.aggregates):
            found[item["window"], item["start"]] = item["value"], item["count"]
        assert len(found) >= 8 * 4
        assert found == {key: (pytest.approx(wanted[key][0]), wanted[key][1]) for key in found}
        assert all(key in found for key in wanted if key[1] >= 700_000)
        late = {(item["window"], item["time"]) for item in consume(kafka, workers.topics.late)}
        new = {time_ms for time_ms, _ in after}
        assert late == {(r.window, int(r.time)) for r in expected.late.itertuples() if int(r.time) in new}


def test_kafka_streams_and_quixstreams_come_to_the_same_results() -> None:
    """The benchmark compares the results of each engine with the same sums, window by window, and fails if one differs.
    By the fleet's clock all refuse the same readings, too."""
    command = [sys.executable, "-m", "bench.worker", "--readings", "60000", "--workloads",
               "day windows;5 % late;fleet clock", "--no-recovery", "--no-page"]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stderr[-3000:]
    lines = [line for line in ended.stdout.splitlines() if "results agree" in line]
    assert [sum(engine in line for line in lines) for engine in ("sensorpipeline", "Kafka Streams", "quixstreams")] == [
        3, 3, 3,
    ]  # fmt: skip
    assert all(int(line.split(" results agree")[0].split()[-1]) >= 200 for line in lines), lines
