"""What the schema cannot see. Each check names the field and says what must be."""

import itertools
from collections.abc import Sequence

from sensorpipeline_api.configuration import DerivedPlan
from sensorpipeline_api.model import as_float
from sensorpipeline_api.spec import Fleet, PayloadFormat, SensorPipelineSpec, Threshold, Window

from sensorpipeline_operator.derived import compute_derived
from sensorpipeline_operator.errors import InvalidSpecError
from sensorpipeline_operator.window_validation import check_windows

MQTT_RESERVED = {"bridge"}


def validate(spec: SensorPipelineSpec) -> tuple[DerivedPlan, ...]:
    """Returns the derived metrics with their inputs, in the order of dependency. Raises InvalidSpecError for the first
    thing that cannot work."""
    for number, fleet in enumerate(spec.fleets):
        _check_fleet(fleet, f"spec.fleets[{number}]")
    _check_users(spec)
    _check_topics(spec)
    _check_series(spec)
    _check_simulation(spec)
    return compute_derived(spec)


def _check_fleet(fleet: Fleet, path: str) -> None:
    for number, metric in enumerate(fleet.metrics):
        low, high = metric.minimum, metric.maximum
        if low is not None and high is not None and as_float(low) > as_float(high):
            message = f"must be less than or equal to maximum ({high}), got {low}"
            raise InvalidSpecError("InvalidRange", f"{path}.metrics[{number}].minimum", message)
    for number, threshold in enumerate(fleet.thresholds):
        _check_threshold(threshold, f"{path}.thresholds[{number}]")
    check_windows(fleet, path)


def _check_threshold(threshold: Threshold, path: str) -> None:
    for name, speed in (
        ("risingFasterThan", threshold.rising_faster_than),
        ("fallingFasterThan", threshold.falling_faster_than),
    ):
        if speed is not None and threshold.clear is not None and as_float(threshold.clear) > as_float(speed):
            message = f"must be less than or equal to {name} ({speed}), got {threshold.clear}"
            raise InvalidSpecError("InvalidThreshold", f"{path}.clear", message)
    if threshold.clear is None:
        return
    if threshold.above is not None and as_float(threshold.clear) > as_float(threshold.above):
        message = f"must be less than or equal to above ({threshold.above}), got {threshold.clear}"
        raise InvalidSpecError("InvalidThreshold", f"{path}.clear", message)
    if threshold.below is not None and as_float(threshold.clear) < as_float(threshold.below):
        message = f"must be greater than or equal to below ({threshold.below}), got {threshold.clear}"
        raise InvalidSpecError("InvalidThreshold", f"{path}.clear", message)


def _check_users(spec: SensorPipelineSpec) -> None:
    """A device's or a fleet's name is an MQTT user; each user has one password."""
    seen: dict[str, str] = dict.fromkeys(MQTT_RESERVED, "the bridge")
    for number, fleet in enumerate(spec.fleets):
        for user in fleet.devices or [fleet.name]:
            path = f"spec.fleets[{number}].devices" if fleet.devices else f"spec.fleets[{number}].name"
            if user in seen:
                message = f"{user} must be unique among the pipeline's MQTT users, it is also {seen[user]}"
                raise InvalidSpecError("DuplicateUser", path, message)
            seen[user] = f"of fleet {fleet.name}"


def _overlap(first: str, second: str) -> bool:
    """Whether a topic exists that fits both templates."""
    one, two = first.split("/"), second.split("/")
    return len(one) == len(two) and all(
        a == b or a.startswith("{") or b.startswith("{") for a, b in zip(one, two, strict=True)
    )


def _check_topics(spec: SensorPipelineSpec) -> None:
    for (_, first), (number, second) in itertools.combinations(enumerate(spec.fleets), 2):
        if any(_overlap(one, two) for one in first.topic_templates for two in second.topic_templates):
            message = f"must not match the same topics as fleet {first.name} ({first.topic})"
            raise InvalidSpecError("OverlappingTopics", f"spec.fleets[{number}].topic", message)


def _check_series(spec: SensorPipelineSpec) -> None:
    """Aggregates and late readings are identified by window, device and metric, alerts by threshold, device and metric,
    whatever the fleet."""
    derived = {metric.name for metric in spec.derived_metrics}
    for number, fleet in enumerate(spec.fleets):
        for place, window in enumerate(fleet.windows):
            if window.name in derived:
                path = f"spec.fleets[{number}].windows[{place}].name"
                raise InvalidSpecError("DuplicateName", path, f"{window.name} must not be a derived metric's name, too")
    for (one, first), (two, second) in itertools.combinations(enumerate(spec.fleets), 2):
        paths = f"spec.fleets[{one}]", f"spec.fleets[{two}]"
        _check_names(first, second, first.windows, second.windows, [f"{path}.windows" for path in paths])
        _check_names(first, second, first.thresholds, second.thresholds, [f"{path}.thresholds" for path in paths])


def _check_names(
    first: Fleet, second: Fleet, known: Sequence[Window | Threshold], named: Sequence[Window | Threshold],
    paths: list[str],
) -> None:  # fmt: skip
    """Two fleets may each have a window or a threshold of one name on one metric only if no device can be in both."""
    if first.devices and second.devices and not set(first.devices) & set(second.devices):
        return
    places = {(item.name, item.metric): place for place, item in enumerate(known)}
    for place, item in enumerate(named):
        other = places.get((item.name, item.metric))
        if other is not None:
            message = (
                f"{item.name} of metric {item.metric} must not be {paths[0]}[{other}].name, too, unless fleets "
                f"{first.name} and {second.name} both list their devices: results of equal devices would be one"
            )
            raise InvalidSpecError("DuplicateSeries", f"{paths[1]}[{place}].name", message)


def _check_simulation(spec: SensorPipelineSpec) -> None:
    if spec.simulation is None:
        return
    fleets = {fleet.name: fleet for fleet in spec.fleets}
    for number, device in enumerate(spec.simulation.devices):
        path, fleet = f"spec.simulation.devices[{number}]", fleets[device.fleet]
        if fleet.devices and device.name not in fleet.devices:
            raise InvalidSpecError("UnknownDevice", f"{path}.name", f"must be one of the devices of {fleet.name}")
        if fleet.payload.format is PayloadFormat.SPARKPLUG_B:
            message = "must not be a fleet whose payload.format is SparkplugB: simulated devices do not speak it"
            raise InvalidSpecError("UnsupportedFormat", f"{path}.fleet", message)
        if device.metric is not None and device.metric not in {metric.name for metric in fleet.metrics}:
            raise InvalidSpecError("UnknownMetric", f"{path}.metric", f"must be one of the metrics of {fleet.name}")
        if device.event is not None and not 0 <= as_float(device.event.probability) <= 1:
            message = f"must be between 0 and 1, got {device.event.probability}"
            raise InvalidSpecError("InvalidRange", f"{path}.event.probability", message)
        if device.uniform is not None and as_float(device.uniform.minimum) > as_float(device.uniform.maximum):
            message = f"must be less than or equal to maximum ({device.uniform.maximum})"
            raise InvalidSpecError("InvalidRange", f"{path}.uniform.minimum", message)
