"""The status of a pipeline from what was observed. Pure: the time is an argument."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sensorpipeline_api.spec import SensorPipelineSpec, TlsMode
from sensorpipeline_api.status import ConditionType, DerivedMetricStatus

from sensorpipeline_operator.components.context import Manifest
from sensorpipeline_operator.naming import (
    ALERTMANAGER_PORT,
    GATEWAY_PORT,
    GRAFANA_PORT,
    KAFKA_PORT,
    MQTT_PORT,
    MQTT_TLS_PORT,
    PROMETHEUS_PORT,
    Names,
)

COMPONENTS = {
    ConditionType.KAFKA_READY: ("kafka",),
    ConditionType.STORE_READY: ("mongodb",),
    ConditionType.MQTT_READY: ("mosquitto",),
    ConditionType.WORKERS_READY: ("bridge", "worker", "derive", "sink"),
    ConditionType.GATEWAY_READY: ("gateway",),
    ConditionType.MONITORING_READY: ("prometheus", "alertmanager"),
    ConditionType.GRAFANA_READY: ("grafana",),
}
"""Which components each condition speaks of, in the order in which they come up."""

NOT_GATING = {ConditionType.GRAFANA_READY}
"""A dashboard that is down is reported, but the pipeline works without it (docs/decisions)."""


@dataclass(frozen=True)
class Verdict:
    """The state of one condition."""

    status: str
    reason: str
    message: str


def component_of(item: Manifest) -> str:
    """Returns the component that a child belongs to."""
    return str(item["metadata"].get("labels", {}).get("app.kubernetes.io/component", ""))


def rolled_out(workload: Manifest) -> tuple[int, int, bool]:
    """Returns (ready, desired, done) of a Deployment or StatefulSet: done when every pod is ready and up to date."""
    desired = workload["spec"].get("replicas", 1)
    status = workload.get("status", {})
    ready = status.get("readyReplicas", 0)
    current = status.get("observedGeneration", 0) >= workload["metadata"].get("generation", 0)
    updated = status.get("updatedReplicas", 0)
    if workload["kind"] == "StatefulSet" and status.get("currentRevision") == status.get("updateRevision"):
        updated = max(updated, ready)
    surplus = status.get("replicas", 0) > desired
    return ready, desired, bool(current and ready >= desired and updated >= desired and not surplus)


def pod_problem(pods: Sequence[Manifest], workload: Manifest) -> str:
    """Returns why the pods of a workload are not ready, as far as they say."""
    selector = workload["spec"]["selector"]["matchLabels"]
    for pod in pods:
        labels = pod["metadata"].get("labels", {})
        if any(labels.get(key) != value for key, value in selector.items()):
            continue
        for status in pod.get("status", {}).get("containerStatuses", []):
            waiting = status.get("state", {}).get("waiting")
            if waiting and waiting.get("reason") not in {"ContainerCreating", "PodInitializing"}:
                return f": {waiting.get('reason')} {waiting.get('message', '')}".rstrip()[:300]
        for condition in pod.get("status", {}).get("conditions", []):
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return f": {condition.get('reason')} {condition.get('message', '')}"[:300]
    return ""


def wanted_components(spec: Manifest) -> set[str]:
    """Returns the components that a spec asks for. The spec is as it was written, for it may be one that is refused."""

    def has(*path: str) -> bool:
        found: Any = spec
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        return found is not None and found != []

    optional = {
        "kafka": not has("kafka", "external"),
        "mongodb": not has("store", "external"),
        "mosquitto": not has("mqtt", "external"),
        "derive": has("derivedMetrics"),
        "alertmanager": has("alerting"),
        "grafana": has("grafana"),
    }
    return {"bridge", "worker", "sink", "gateway", "prometheus"} | {name for name, asked in optional.items() if asked}


def judge(
    kind: ConditionType, children: Sequence[Manifest], pods: Sequence[Manifest], wanted: Collection[str]
) -> Verdict:
    """Returns the state of the components that a condition speaks of, as far as they are wanted or exist."""
    workloads = [
        item
        for item in children
        if item["kind"] in {"Deployment", "StatefulSet"} and component_of(item) in COMPONENTS[kind]
    ]
    lacking = sorted(set(COMPONENTS[kind]).intersection(wanted) - {component_of(item) for item in workloads})
    if lacking:
        return Verdict("Unknown", "NotCreated", f"Not created yet: {', '.join(lacking)}.")
    if not workloads:
        return Verdict("True", "NotRequested", "Not part of this pipeline.")
    waiting = []
    for workload in workloads:
        ready, desired, done = rolled_out(workload)
        if not done:
            name = f"{workload['kind']} {workload['metadata']['name']}"
            waiting.append(f"{name}: {ready} of {desired} pods ready{pod_problem(pods, workload)}")
    if waiting:
        return Verdict("False", "Progressing", "Waiting for " + "; ".join(waiting))
    return Verdict("True", "Available", f"{len(workloads)} of {len(workloads)} workloads ready.")


def overall(verdicts: dict[ConditionType, Verdict]) -> Verdict:
    """Returns the Ready condition: the first gating condition that does not hold, else what is reported besides."""
    for kind, verdict in verdicts.items():
        if kind not in NOT_GATING and verdict.status != "True":
            return Verdict(verdict.status, verdict.reason, f"{kind.value}: {verdict.message}")
    besides = [f"{k.value}: {verdicts[k].message}" for k in NOT_GATING if verdicts[k].status != "True"]
    return Verdict("True", "PipelineReady", "The pipeline is ready. " + " ".join(besides))


def conditions(
    verdicts: dict[ConditionType, Verdict], *, previous: Sequence[Manifest], generation: int, now: str
) -> list[Manifest]:
    """Returns the list of conditions; the transition time stays when the status does."""
    before = {condition["type"]: condition for condition in previous}
    out = []
    for kind in ConditionType:
        verdict = verdicts.get(kind, Verdict("Unknown", "NotObserved", "Not looked at yet."))
        known = before.get(kind.value)
        same = known is not None and known["status"] == verdict.status
        out.append(
            {
                "type": kind.value,
                "status": verdict.status,
                "reason": verdict.reason,
                "message": verdict.message.strip(),
                "observedGeneration": generation,
                "lastTransitionTime": known["lastTransitionTime"] if same and known is not None else now,
            }
        )
    return out


def replaced(
    verdicts: dict[ConditionType, Verdict], *, previous: Sequence[Manifest], generation: int, now: str
) -> list[Manifest]:
    """Returns the list of conditions in which only some were looked at; the others stay as they were."""
    known = {condition["type"]: condition for condition in previous}
    made = conditions(verdicts, previous=previous, generation=generation, now=now)
    given = {kind.value for kind in verdicts}
    return [item if item["type"] in given else known.get(item["type"], item) for item in made]


def fleets(spec: SensorPipelineSpec, names: Names, children: Sequence[Manifest]) -> list[Manifest]:
    """Returns the workers of each fleet."""
    deployments = {item["metadata"]["name"]: item for item in children if item["kind"] == "Deployment"}
    out = []
    for fleet in spec.fleets:
        status = deployments.get(names.child("worker", fleet.name), {}).get("status", {})
        out.append(
            {
                "name": fleet.name,
                "replicas": status.get("replicas", 0),
                "readyReplicas": status.get("readyReplicas", 0),
                "desiredReplicas": fleet.workers.min_replicas,
            }
        )
    return out


def derived_address(pods: Sequence[Manifest]) -> str | None:
    """Returns the IP address of derive's pod, when it is ready."""
    for pod in pods:
        state = pod.get("status", {})
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in state.get("conditions", []))
        if component_of(pod) == "derive" and ready and state.get("podIP"):
            return str(state["podIP"])
    return None


def derived_metrics(
    spec: SensorPipelineSpec, found: Sequence[DerivedMetricStatus] | None, *, previous: Sequence[Manifest]
) -> list[Manifest]:
    """Returns the state of each derived metric of the spec; what was known stays when derive did not answer."""
    said = previous if found is None else [m.model_dump(mode="json", by_alias=True, exclude_none=True) for m in found]
    by_name = {metric["name"]: dict(metric) for metric in said}
    return [by_name[metric.name] for metric in spec.derived_metrics if metric.name in by_name]


def summary(found: Sequence[Manifest]) -> dict[str, str]:
    """Returns the fleets in words, for listings."""
    ready, desired = (sum(fleet[key] for fleet in found) for key in ("readyReplicas", "desiredReplicas"))
    return {"fleetNames": ", ".join(fleet["name"] for fleet in found), "workers": f"{ready}/{desired}"}


def endpoints(spec: SensorPipelineSpec, names: Names) -> list[dict[str, Any]]:
    """Returns where the pipeline's parts can be reached."""
    urls = {
        "mqtt": _mqtt_url(spec, names),
        "kafka": f"{names.host('kafka')}:{KAFKA_PORT}" if spec.kafka.cluster else None,
        "gateway": f"http://{names.host('gateway')}:{GATEWAY_PORT}",
        "prometheus": f"http://{names.host('prometheus')}:{PROMETHEUS_PORT}" if spec.monitoring.prometheus else None,
        "alertmanager": f"http://{names.host('alertmanager')}:{ALERTMANAGER_PORT}" if spec.alerting else None,
        "grafana": f"http://{names.host('grafana')}:{GRAFANA_PORT}" if spec.grafana else None,
    }
    return [{"name": name, "url": url} for name, url in urls.items() if url is not None]


def _mqtt_url(spec: SensorPipelineSpec, names: Names) -> str:
    """Returns where devices publish."""
    external, mosquitto = spec.mqtt.external, spec.mqtt.mosquitto
    if external is not None:
        scheme = "mqtts" if external.tls is TlsMode.ENABLED else "mqtt"
        return f"{scheme}://{external.host}:{external.port}"
    if mosquitto is not None and mosquitto.tls is not None:
        return f"mqtts://{names.host('mosquitto')}:{MQTT_TLS_PORT}"
    return f"mqtt://{names.host('mosquitto')}:{MQTT_PORT}"
