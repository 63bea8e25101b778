"""Workers are killed, stopped, frozen and moved while readings flow: the results are those of the recompute."""

import random
import signal
import subprocess
import time
import urllib.request
from collections import Counter
from pathlib import Path

from integration.conftest import consume, run_kafka, until
from integration.fleet_of_workers import fleet_of_workers, make_disorderly

SEED = 20
SESSION_SECONDS = 10


def test_a_million_readings_through_kills_and_rebalances_come_to_the_recompute(kafka: str, tmp_path: Path) -> None:
    """Workers 1, 3, 2, 1; in each stage one is killed at a random moment and replaced. What a worker knew is gone with
    it: its successor has the changelog alone."""
    chance = random.Random(SEED)
    readings = make_disorderly(devices=60, total=900_000, seed=SEED)
    quarter = len(readings) // 4
    with fleet_of_workers(kafka, tmp_path) as workers:
        running = [workers.start()]
        for stage, wanted in enumerate((1, 3, 2, 1)):
            workers.produce(readings.iloc[stage * quarter : (stage + 1) * quarter if stage < 3 else len(readings)])
            while len(running) < wanted:
                running.append(workers.start())
            while len(running) > wanted:
                running.pop(0).stop()
            before = workers.committed()
            until(lambda b=before: workers.committed() > b, what=f"progress in stage {stage}", seconds=120)
            time.sleep(chance.uniform(0, 0.5))
            running.pop(chance.randrange(len(running))).kill()
            running.append(workers.start())
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
        first.stop()
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
        assert max(refused.values()) == 1


def test_a_worker_that_was_frozen_longer_than_its_session_harms_nothing(kafka: str, tmp_path: Path) -> None:
    """Its partitions go to another; when it wakes, what it still holds must not replace what the other has written."""
    readings = make_disorderly(devices=20, total=120_000, seed=4)
    quarter = len(readings) // 4
    with fleet_of_workers(kafka, tmp_path) as workers:
        frozen = workers.start()
        workers.produce(readings.iloc[:quarter])
        workers.wait_for(0.5)
        frozen.signal(signal.SIGSTOP)
        workers.produce(readings.iloc[quarter : 2 * quarter])
        other = workers.start()
        workers.wait_until_done()
        frozen.signal(signal.SIGCONT)
        workers.produce(readings.iloc[2 * quarter : 3 * quarter])
        until(lambda: workers.members() == 2, what="the frozen worker to join again", seconds=60)
        workers.wait_until_done()
        other.kill()
        frozen.stop()
        # A new one has nothing but the changelog: a stale state in it would show in what comes next.
        workers.produce(readings.iloc[3 * quarter :])
        workers.start()
        workers.wait_until_done()
        workers.check(readings)


def test_a_worker_waits_for_a_kafka_that_stands_still_with_its_memory_bounded(tmp_path: Path) -> None:
    readings = make_disorderly(devices=20, total=400_000, seed=5)
    with run_kafka() as (container, server), fleet_of_workers(server, tmp_path) as workers:
        worker = workers.start()
        workers.produce(readings.iloc[:100_000])
        workers.wait_until_done()
        resident = worker.resident_bytes()
        workers.produce(readings.iloc[100_000:])
        workers.wait_for(0.3)
        subprocess.run(["docker", "pause", container], check=True, capture_output=True)
        time.sleep(2 * SESSION_SECONDS)
        assert _healthy(worker.port)
        assert worker.resident_bytes() < resident + 300 * 2**20
        subprocess.run(["docker", "unpause", container], check=True, capture_output=True)
        workers.wait_until_done()
        workers.check(readings)
        assert worker.running


def _healthy(port: int) -> bool:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
        return bool(answer.status == 200)
