"""The operator's own metrics."""

from prometheus_client import Counter, Gauge, Histogram

RECONCILE_DURATION = Histogram(
    "sensorpipeline_operator_reconcile_duration_seconds",
    "Time of one reconcile.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
RECONCILE = Counter("sensorpipeline_operator_reconcile", "Reconciles by result.", ["result"])
APPLIED = Counter("sensorpipeline_operator_applied", "Writes to children.", ["kind", "action"])
PIPELINES = Gauge("sensorpipeline_operator_pipelines", "Pipelines that are looked after.")
LEADER = Gauge("sensorpipeline_operator_leader", "1 while this replica leads.")
