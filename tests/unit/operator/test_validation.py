"""What the schema cannot see is refused with its field and with what must be."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from sensorpipeline_api.spec import SensorPipelineSpec
from sensorpipeline_operator.errors import InvalidSpecError
from sensorpipeline_operator.validation import validate

EXAMPLES = Path(__file__).parents[3] / "examples"


def fleet(name: str = "a", **extra: Any) -> dict[str, Any]:
    window = {"name": "Day", "metric": "m", "function": "Sum", "periodSeconds": 86400}
    base = {"name": name, "topic": f"{name}/{{device}}/m", "metrics": [{"name": "m"}], "windows": [window]}
    return base | {"devices": [f"{name}1"]} | extra


def check(**spec: Any) -> None:
    validate(SensorPipelineSpec.model_validate({"fleets": [fleet()]} | spec))


def test_the_examples_are_valid() -> None:
    for name in ("minimal.yaml", "building.yaml", "replay.yaml"):
        for document in yaml.safe_load_all((EXAMPLES / name).read_text()):
            validate(SensorPipelineSpec.model_validate(document["spec"]))


def simulated(**extra: Any) -> dict[str, Any]:
    device = {"name": "a1", "fleet": "a", "uniform": {"minimum": "0", "maximum": "1"}} | extra
    return {"devices": [{key: value for key, value in device.items() if value is not None}]}


def derived(expression: str) -> list[dict[str, str]]:
    return [{"name": "Rest", "expression": expression}]


HOURLY = {"name": "Hour", "metric": "m", "function": "Sum", "periodSeconds": 3600}
DAY = {"name": "Day", "metric": "m", "function": "Sum"}
SILENT = {"name": "S", "metric": "m", "silentForSeconds": 60}
SESSION = {"name": "Session", "metric": "m", "function": "Sum", "gapSeconds": 60}

CYCLE = [{"name": name, "expression": expression} for name, expression in
         [("Above", "A + 1"), ("A", 'B + Day["a1"]'), ("B", "C * 2"), ("C", "A + Day.a1")]]  # fmt: skip
CHAINED = [{"name": "Mixed", "expression": "ByDay + ByHour"}, {"name": "ByDay", "expression": "Day.a1"},
           {"name": "ByHour", "expression": "Hour.b1"}]  # fmt: skip

CASES: list[tuple[dict[str, Any], str, str]] = [
    ({"fleets": [fleet(metrics=[{"name": "m", "minimum": "5", "maximum": "1"}])]}, "fleets[0].metrics[0].minimum", "1"),
    ({"fleets": [fleet(thresholds=[{"name": "T", "metric": "m", "above": "5", "clear": "6"}])]},
     "fleets[0].thresholds[0].clear", "less than or equal to above"),
    ({"fleets": [fleet(thresholds=[{"name": "T", "metric": "m", "below": "5", "clear": "4"}])]},
     "fleets[0].thresholds[0].clear", "greater than or equal to below"),
    ({"fleets": [fleet(), fleet("b", devices=["a1"])]}, "fleets[1].devices", "unique"),
    ({"fleets": [fleet(devices=["bridge"])]}, "fleets[0].devices", "bridge"),
    ({"fleets": [fleet(), fleet("b", topic="{device}/a1/m")]}, "fleets[1].topic", "same topics as fleet a"),
    ({"fleets": [fleet(), fleet("b", devices=[])]}, "fleets[1].windows[0].name",
     "Day of metric m must not be spec.fleets[0].windows[0].name, too, unless fleets a and b both list their devices"),
    ({"fleets": [fleet(devices=[], windows=[], thresholds=[{"name": "T", "metric": "m", "above": "5"}]),
                 fleet("b", windows=[], thresholds=[SILENT, {"name": "T", "metric": "m", "below": "5"}])]},
     "fleets[1].thresholds[1].name", "T of metric m must not be spec.fleets[0].thresholds[0].name, too"),
    ({"derivedMetrics": [{"name": "Day", "expression": 'Day["a1"]'}]}, "fleets[0].windows[0].name", "derived"),
    ({"derivedMetrics": derived('Day["a1"] +')}, "derivedMetrics[0].expression", "parse"),
    ({"derivedMetrics": derived('Night["a1"]')}, "derivedMetrics[0].expression", "one of Day"),
    ({"derivedMetrics": derived('Day["a2"]')}, "derivedMetrics[0].expression", "a2"),
    ({"fleets": [fleet(), fleet("b", windows=[HOURLY])], "derivedMetrics": derived('Day["a1"] + Hour["b1"]')},
     "derivedMetrics[0].expression", "different length"),
    ({"fleets": [fleet(windows=[HOURLY, HOURLY | {"name": "Sliding", "slideSeconds": 600}])],
      "derivedMetrics": derived('Hour["a1"] + Sliding["a1"]')}, "derivedMetrics[0].expression", "different length"),
    ({"derivedMetrics": derived("Day + 1")}, "derivedMetrics[0].expression", 'must be with a device: Day["<device>"]'),
    ({"derivedMetrics": derived("Other + 1")}, "derivedMetrics[0].expression", "must be one of Day, Rest"),
    ({"derivedMetrics": derived("Rest.a1 + 1")}, "derivedMetrics[0].expression", "must be without a device"),
    ({"derivedMetrics": derived('Rest + Day["a1"]')}, "derivedMetrics[0].expression", "Rest needs Rest"),
    ({"derivedMetrics": CYCLE}, "derivedMetrics[1].expression", "must not depend on itself: A needs B needs C needs A"),
    ({"fleets": [fleet(), fleet("b", windows=[HOURLY])], "derivedMetrics": CHAINED}, "derivedMetrics[0].expression",
     "different length"),
    ({"fleets": [fleet(windows=[DAY | {"calendar": "Day", "timeZone": "Europe/Atlantis"}])]},
     "fleets[0].windows[0].timeZone", "Europe/Atlantis"),
    ({"fleets": [fleet(windows=[HOURLY | {"function": "Quantile", "quantile": "1.5"}])]},
     "fleets[0].windows[0].quantile", "between 0 and 1"),
    ({"fleets": [fleet(windows=[HOURLY | {"periodSeconds": 864000, "function": "Availability",
                                          "expectedEverySeconds": 60}])]},
     "fleets[0].windows[0].expectedEverySeconds", "at least 87"),
    ({"fleets": [fleet(windows=[HOURLY | {"source": "Minute"}])]}, "fleets[0].windows[0].source", "one of Hour"),
    ({"fleets": [fleet(windows=[HOURLY | {"source": "Two"}, HOURLY | {"name": "Two", "source": "Hour"}])]},
     "fleets[0].windows[0].source", "Hour reads Two reads Hour"),
    ({"fleets": [fleet(windows=[HOURLY, HOURLY | {"name": "Odd", "periodSeconds": 5400, "source": "Hour"}])]},
     "fleets[0].windows[1].periodSeconds", "windows of Hour (3600 s)"),
    ({"fleets": [fleet(windows=[HOURLY, HOURLY | {"name": "Max", "function": "Maximum", "source": "Hour"}])]},
     "fleets[0].windows[1].function", "must be Sum"),
    ({"fleets": [fleet(windows=[SESSION, HOURLY | {"source": "Session"}])]},
     "fleets[0].windows[1].source", "without gapSeconds"),
    ({"fleets": [fleet(windows=[HOURLY, DAY | {"calendar": "Day", "timeZone": "Asia/Kathmandu", "source": "Hour"}])]},
     "fleets[0].windows[1].calendar", "windows of Hour"),
    ({"fleets": [fleet(metrics=[{"name": "m"}, {"name": "n"}],
                       windows=[HOURLY, HOURLY | {"name": "Day", "metric": "n", "source": "Hour"}])]},
     "fleets[0].windows[1].source", "same metric"),
    ({"fleets": [fleet(windows=[HOURLY | {"function": "Difference"},
                                HOURLY | {"name": "Day", "function": "Difference", "resetPolicy": "Reset",
                                          "source": "Hour"}])]},
     "fleets[0].windows[1].resetPolicy", "Negative as in Hour"),
    ({"fleets": [fleet(seriesTtlSeconds=80000)]}, "fleets[0].seriesTtlSeconds", "at least 86400"),
    ({"fleets": [fleet(windows=[SESSION])], "derivedMetrics": derived('Session["a1"]')},
     "derivedMetrics[0].expression", "without gapSeconds"),
    ({"fleets": [fleet(thresholds=[{"name": "T", "metric": "m", "risingFasterThan": "5", "clear": "6"}])]},
     "fleets[0].thresholds[0].clear", "less than or equal to risingFasterThan"),
    ({"simulation": simulated(name="a9")}, "simulation.devices[0].name", "devices of a"),
    ({"fleets": [fleet(topic="spBv1.0/g/DDATA/n/{device}", payload={"format": "SparkplugB"})],
      "simulation": simulated()}, "simulation.devices[0].fleet", "SparkplugB"),
    ({"fleets": [fleet(topic="spBv1.0/g/DDATA/n/{device}", payload={"format": "SparkplugB"}),
                 fleet("b", topic="spBv1.0/g/DBIRTH/{device}/a1")]}, "fleets[1].topic", "same topics as fleet a"),
    ({"simulation": simulated(metric="z")}, "simulation.devices[0].metric", "metrics"),
    ({"simulation": simulated(uniform={"minimum": "2", "maximum": "1"})},
     "simulation.devices[0].uniform.minimum", "less than or equal"),
    ({"simulation": simulated(uniform=None, event={"probability": "1.5"})},
     "simulation.devices[0].event.probability", "between 0 and 1"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "field", "part"), CASES, ids=[case[1] for case in CASES])
def test_a_spec_that_cannot_work_is_refused(spec: dict[str, Any], field: str, part: str) -> None:
    with pytest.raises(InvalidSpecError) as error:
        check(**spec)
    assert error.value.field == f"spec.{field}"
    assert part in str(error.value)
    assert error.value.reason.isalnum()


def test_fleets_may_share_names_when_no_device_can_be_in_both_or_the_metrics_differ() -> None:
    thresholds = [{"name": "T", "metric": "m", "above": "5"}]
    check(fleets=[fleet(thresholds=thresholds), fleet("b", thresholds=thresholds)])
    other = {"metrics": [{"name": "n"}], "windows": [DAY | {"metric": "n", "periodSeconds": 86400}], "thresholds": []}
    check(fleets=[fleet(devices=[]), fleet("b", devices=[], **other)])


MINUTE = {"name": "Minute", "metric": "m", "function": "Sum", "periodSeconds": 60}
OTHER = MINUTE | {"name": "Other", "allowedLatenessSeconds": 9999 * 60}
LARGEST: list[tuple[dict[str, Any], int, int]] = [
    (MINUTE, 19_999 * 60, 20_000),
    (MINUTE | {"periodSeconds": 640, "slideSeconds": 10}, 200_000 - 640, 20_000),
    (SESSION | {"name": "Minute"}, 19_998 * 60, 20_000),
    (MINUTE | {"function": "Availability", "expectedEverySeconds": 1}, 18_180 * 60, 18_181),
    (MINUTE | {"function": "TimeWeightedMean"}, 9_089 * 60, 9_090),
    (MINUTE | {"function": "Rate", "resetPolicy": "Reset"}, 9_089 * 60, 9_090),
    (MINUTE | {"function": "Quantile", "quantile": "0.5"}, 1_885 * 60, 1_886),
]


@pytest.mark.parametrize(("window", "lateness", "most"), LARGEST, ids=[str(case[0]) for case in LARGEST])
def test_the_state_of_a_series_bounds_how_many_windows_it_can_have_open(
    window: dict[str, Any], lateness: int, most: int
) -> None:
    check(fleets=[fleet(windows=[window | {"allowedLatenessSeconds": lateness}])])
    too_many = fleet(windows=[window | {"allowedLatenessSeconds": lateness + 1}])
    with pytest.raises(InvalidSpecError, match=f"{most + 1} windows of Minute open at once, must be at most {most}:"):
        check(fleets=[too_many])


def test_the_windows_of_a_metric_share_the_state_of_its_series() -> None:
    named = MINUTE | {"allowedLatenessSeconds": 9999 * 60}
    rollup = MINUTE | {"name": "Rollup", "function": "Count", "source": "Minute"}
    two = [{"name": "m"}, {"name": "n"}]
    check(fleets=[fleet(windows=[named, OTHER]), fleet("b", windows=[named, OTHER])])
    check(fleets=[fleet(windows=[named, OTHER, OTHER | {"name": "Third", "metric": "n"}], metrics=two)])
    for windows, field in (
        ([named, OTHER, MINUTE | {"name": "Third"}], "windows[2].allowedLatenessSeconds"),
        ([named, OTHER | {"allowedLatenessSeconds": 9999 * 60 + 1}], "windows[1].allowedLatenessSeconds"),
        ([named | {"allowedLatenessSeconds": 10_000 * 60}, rollup], "windows[1].source"),
    ):
        with pytest.raises(InvalidSpecError, match="must be at most") as error:
            check(fleets=[fleet(windows=windows)])
        assert error.value.field == f"spec.fleets[0].{field}"
        assert error.value.reason == "StateTooLarge"


def test_a_watermark_that_is_held_back_keeps_windows_open_too() -> None:
    second = MINUTE | {"periodSeconds": 1}
    check(fleets=[fleet(windows=[second], outOfOrdernessSeconds=19_999)])
    with pytest.raises(InvalidSpecError, match="must be at most 20000"):
        check(fleets=[fleet(windows=[second], outOfOrdernessSeconds=20_000)])


def test_rollups_that_fit_are_accepted() -> None:
    hours = HOURLY | {"allowedLatenessSeconds": 3600}
    zone = {"calendar": "Day", "timeZone": "Europe/Athens"}
    windows = [
        DAY | zone | {"name": "Day", "source": "Hour"},
        DAY | zone | {"name": "Month", "calendar": "Month", "source": "Day"},
        hours | {"name": "Week", "periodSeconds": 604800, "source": "Hour", "allowedLatenessSeconds": 0},
        hours | {"name": "Readings", "function": "Count", "source": "Hour", "allowedLatenessSeconds": 0},
        hours | {"name": "Average", "function": "Mean", "source": "Hour", "allowedLatenessSeconds": 0},
        hours,
    ]
    check(fleets=[fleet(windows=windows)])
