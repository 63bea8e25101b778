"""Alerting rules: one for each threshold, and those that watch the pipeline itself."""

from typing import Any

from sensorpipeline_api.spec import Fleet, Threshold

from sensorpipeline_operator.components.context import Context

KEEP_FIRING = "30s"
"""Bridges a missed scrape, so that an alert does not resolve and fire again."""


def build_rules(context: Context) -> dict[str, Any]:
    """Returns the rule file as plain data."""
    groups = [
        {"name": f"fleet-{fleet.name}", "rules": [_threshold(context, fleet, t) for t in fleet.thresholds]}
        for fleet in context.spec.fleets
        if fleet.thresholds
    ]
    return {"groups": [*groups, {"name": "pipeline", "rules": _health(context)}]}


def _threshold(context: Context, fleet: Fleet, threshold: Threshold) -> dict[str, Any]:
    """Holding time and hysteresis are event time and the worker's; the rule only passes the state on."""
    unit = next(metric.unit for metric in fleet.metrics if metric.name == threshold.metric)
    return {
        "alert": threshold.name,
        "expr": f'max by (fleet, device, threshold, severity) (sensorpipeline_device_alert{{fleet="{fleet.name}", '
        f'threshold="{threshold.name}"}}) == 1',
        "keep_firing_for": KEEP_FIRING,
        "labels": {"pipeline": context.name, "severity": threshold.severity.value},
        "annotations": {
            "summary": f"{{{{ $labels.device }}}}: {threshold.metric} {_condition(threshold, unit)}",
            "description": f"Threshold {threshold.name} of fleet {fleet.name} in pipeline {context.name}.",
        },
    }


def _condition(threshold: Threshold, unit: str) -> str:
    """Returns what is the matter, in words."""
    per_second = f"{unit} per second".strip()
    if threshold.above is not None:
        return f"is above {threshold.above} {unit}".rstrip()
    if threshold.below is not None:
        return f"is below {threshold.below} {unit}".rstrip()
    if threshold.rising_faster_than is not None:
        return f"rises by more than {threshold.rising_faster_than} {per_second}"
    if threshold.falling_faster_than is not None:
        return f"falls by more than {threshold.falling_faster_than} {per_second}"
    return f"has been silent for {threshold.silent_for_seconds} s"


def _health(context: Context) -> list[dict[str, Any]]:
    labels = {"pipeline": context.name}
    return [
        {
            "alert": "PipelinePartDown",
            "expr": 'up{job="pipeline"} == 0',
            "for": "2m",
            "labels": labels | {"severity": "Critical"},
            "annotations": {"summary": "{{ $labels.instance }} does not answer."},
        },
        {
            "alert": "PipelineLagging",
            "expr": "max by (fleet) (sensorpipeline_consumer_lag_seconds) > 60",
            "for": "5m",
            "labels": labels | {"severity": "Warning"},
            "annotations": {"summary": "Fleet {{ $labels.fleet }} is {{ $value }} s behind."},
        },
        {
            "alert": "DeadLetters",
            "expr": "sum by (fleet, reason) (increase(sensorpipeline_dead_letters_total[10m])) > 0",
            "labels": labels | {"severity": "Warning"},
            "annotations": {
                "summary": "Fleet {{ $labels.fleet }} sends messages that cannot be read: {{ $labels.reason }}."
            },
        },
    ]
