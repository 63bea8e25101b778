"""Who may connect to the pipeline's pods: nobody, but for what is listed here. And the Service by which Prometheus
finds what it scrapes."""

from sensorpipeline_operator.components.context import Context, Manifest
from sensorpipeline_operator.components.kafka import INTERNAL_PORT
from sensorpipeline_operator.components.objects import metadata, names, service
from sensorpipeline_operator.naming import (
    ALERTMANAGER_PORT,
    GATEWAY_PORT,
    GRAFANA_PORT,
    KAFKA_CONTROLLER_PORT,
    KAFKA_PORT,
    MANAGER,
    METRICS_LABEL,
    METRICS_PORT,
    MONGODB_PORT,
    MQTT_PORT,
    MQTT_TLS_PORT,
    PROMETHEUS_PORT,
)

OPEN_PORTS = {
    "gateway": [GATEWAY_PORT],
    "prometheus": [PROMETHEUS_PORT],
    "alertmanager": [ALERTMANAGER_PORT],
    "grafana": [GRAFANA_PORT],
}
"""Listeners that people and devices use; each asks for credentials."""

INNER_PORTS = {
    "kafka": [KAFKA_PORT, KAFKA_CONTROLLER_PORT, INTERNAL_PORT],
    "mongodb": [MONGODB_PORT],
}
"""Listeners that only the pipeline's own pods use, and the operator, which keeps Kafka's topics."""


def build_network(context: Context) -> list[Manifest]:
    """Returns the metrics Service and the network policies."""
    made = names(context)
    own = {"podSelector": {"matchLabels": {"app.kubernetes.io/instance": context.name}}}
    operator = {
        "namespaceSelector": {},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": MANAGER}},
    }
    prometheus = {"podSelector": {"matchLabels": made.selector("prometheus")}}
    metrics = {"app.kubernetes.io/instance": context.name, METRICS_LABEL: "true"}
    out = [
        service(context, "metrics", {"metrics": METRICS_PORT}, headless=True, selector=metrics),
        _policy(context, "default", {"app.kubernetes.io/instance": context.name}, []),
        _policy(context, "metrics", metrics, [_rule([METRICS_PORT], [prometheus])]),
    ]
    mosquitto = context.spec.mqtt.mosquitto
    mqtt = [_rule([MQTT_PORT], None)]
    if mosquitto is not None and mosquitto.tls is not None:  # without TLS, only among the pipeline's own pods
        mqtt = [_rule([MQTT_TLS_PORT], None), _rule([MQTT_PORT], [own])]
    out.append(_policy(context, "mosquitto", made.selector("mosquitto"), mqtt))
    if context.derived:  # the operator asks derive how its metrics are
        out.append(_policy(context, "derive", made.selector("derive"), [_rule([METRICS_PORT], [operator])]))
    for component, ports in OPEN_PORTS.items():
        out.append(_policy(context, component, made.selector(component), [_rule(ports, None)]))
    for component, ports in INNER_PORTS.items():
        out.append(_policy(context, component, made.selector(component), [_rule(ports, [own, operator])]))
    return out


def _rule(ports: list[int], peers: list[Manifest] | None) -> Manifest:
    rule: Manifest = {"ports": [{"port": port, "protocol": "TCP"} for port in ports]}
    return rule | ({"from": peers} if peers is not None else {})


def _policy(context: Context, component: str, selector: dict[str, str], ingress: list[Manifest]) -> Manifest:
    spec: Manifest = {"podSelector": {"matchLabels": selector}, "policyTypes": ["Ingress"]}
    if ingress:
        spec["ingress"] = ingress
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(context, component),
        "spec": spec,
    }
