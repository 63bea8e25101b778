"""How many windows a series can have open, and how what they may keep is shared among them."""

from typing import Any

import pytest
from sensorpipeline_api.bounds import MAXIMUM_BYTES, content_bytes, open_windows, window_bytes
from sensorpipeline_api.spec import Fleet

DAY = 86_400


def fleet_of(*windows: dict[str, Any], **extra: Any) -> Fleet:
    named = [{"name": f"W{place}", "metric": "m", "function": "Sum"} | window for place, window in enumerate(windows)]
    spec = {"name": "f", "topic": "f/{device}/m", "metrics": [{"name": "m"}, {"name": "n"}], "windows": named}
    return Fleet.model_validate(spec | extra)


COUNTS: list[tuple[dict[str, Any], int, int]] = [
    ({"periodSeconds": 60}, 0, 1),
    ({"periodSeconds": 60}, 1, 2),
    ({"periodSeconds": 60, "allowedLatenessSeconds": 60}, 0, 2),
    ({"periodSeconds": 60, "allowedLatenessSeconds": 61}, 0, 3),
    ({"periodSeconds": 60, "allowedLatenessSeconds": 60}, 60, 3),
    ({"periodSeconds": 60, "slideSeconds": 10}, 0, 6),
    ({"periodSeconds": 65, "slideSeconds": 10, "allowedLatenessSeconds": 10}, 0, 8),
    ({"gapSeconds": 10, "allowedLatenessSeconds": 100}, 0, 12),
    ({"calendar": "Day", "allowedLatenessSeconds": 2 * DAY}, 0, 4),
    ({"calendar": "Month", "allowedLatenessSeconds": 31 * DAY}, 0, 3),
]


@pytest.mark.parametrize(("window", "held_back", "count"), COUNTS)
def test_open_windows_reach_back_to_the_oldest_that_accepts_a_reading(
    window: dict[str, Any], held_back: int, count: int
) -> None:
    fleet = fleet_of(window, outOfOrdernessSeconds=held_back)
    assert open_windows(fleet, fleet.windows[0]) == count


def test_a_window_with_a_source_has_the_lateness_of_the_first_source() -> None:
    hour = {"periodSeconds": 3600, "allowedLatenessSeconds": 2 * DAY}
    fleet = fleet_of({"periodSeconds": DAY, "source": "W1"}, {"periodSeconds": 7200, "source": "W2"}, hour)
    assert [open_windows(fleet, window) for window in fleet.windows] == [3, 25, 49]


def test_what_the_windows_of_a_metric_leave_is_shared_by_those_that_keep_buckets_or_readings() -> None:
    quantile = {"periodSeconds": 60, "function": "Quantile", "quantile": "0.5", "allowedLatenessSeconds": 540}
    counter = {"periodSeconds": 60, "function": "Rate", "resetPolicy": "Reset"}
    fleet = fleet_of(
        {"periodSeconds": 1, "allowedLatenessSeconds": 9999}, quantile, counter, quantile | {"metric": "n"}
    )
    plain, first, second, other = fleet.windows
    assert content_bytes(fleet, plain) == 0
    least = 10_000 * 80 + 10 * (80 + 768) + 80 + 96
    assert sum(open_windows(fleet, w) * window_bytes(w) for w in (plain, first, second)) == least
    assert content_bytes(fleet, first) == 10 * 768 + (MAXIMUM_BYTES - least) // 2
    assert content_bytes(fleet, second) == 96 + (MAXIMUM_BYTES - least) // 2
    assert content_bytes(fleet, other) == MAXIMUM_BYTES - 10 * 80
