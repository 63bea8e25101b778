"""Every name of every child, made in one place. Names are DNS-1123 labels of at most 52 characters, which leaves room
for what Kubernetes appends; longer ones are cut and get a hash."""

import hashlib
from dataclasses import dataclass

MAXIMUM = 52
MANAGER = "sensorpipeline-operator"
PART_OF = "sensorpipeline"
FLEET_LABEL = "sensorpipeline.io/fleet"
METRICS_LABEL = "sensorpipeline.io/metrics"
RETAINED_LABEL = "sensorpipeline.io/retained"
"""On what outlives its pipeline, and so has no owner that would tell whose it is."""

MQTT_PORT = 1883
MQTT_TLS_PORT = 8883
KAFKA_PORT = 9092
KAFKA_CONTROLLER_PORT = 9093
MONGODB_PORT = 27017
GATEWAY_PORT = 8080
PROMETHEUS_PORT = 9090
ALERTMANAGER_PORT = 9093
GRAFANA_PORT = 3000
METRICS_PORT = 9102


def fit(name: str) -> str:
    """Returns a name of at most `MAXIMUM` characters, different for different names."""
    if len(name) <= MAXIMUM:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: MAXIMUM - 9].rstrip('-')}-{digest}"


@dataclass(frozen=True)
class Names:
    """The names of one pipeline's children and of what they hold."""

    pipeline: str
    namespace: str

    def child(self, component: str, fleet: str | None = None) -> str:
        """Returns `<pipeline>-<component>[-<fleet>]`."""
        return fit("-".join(part for part in (self.pipeline, component, fleet) if part))

    def host(self, component: str) -> str:
        """Returns the DNS name of a component's Service within the cluster."""
        return f"{self.child(component)}.{self.namespace}.svc"

    def member_hosts(self, component: str, service: str, replicas: int) -> list[str]:
        """Returns the DNS names of a StatefulSet's pods behind a headless Service."""
        return [f"{self.child(component)}-{n}.{self.child(service)}.{self.namespace}.svc" for n in range(replicas)]

    def devices_secret(self, fleet: str) -> str:
        """Returns the Secret with the credentials of a fleet's devices."""
        return self.child("devices", fleet)

    def readings_topic(self, fleet: str) -> str:
        """Returns the topic of a fleet's readings."""
        return f"{self.pipeline}.{fleet}.readings"

    def topic(self, what: str) -> str:
        """Returns a topic of the whole pipeline: aggregates, late, alerts or dead-letter."""
        return f"{self.pipeline}.{what}"

    def application(self, component: str, fleet: str | None = None) -> str:
        """Returns a consumer group or application id."""
        return ".".join(part for part in (self.pipeline, fleet, component) if part)

    @property
    def database(self) -> str:
        """Returns the name of the database."""
        return self.pipeline

    def labels(self, component: str, fleet: str | None = None) -> dict[str, str]:
        """Returns the labels of a child."""
        labels = self.selector(component, fleet)
        return labels | {
            "app.kubernetes.io/name": component,
            "app.kubernetes.io/managed-by": MANAGER,
            "app.kubernetes.io/part-of": PART_OF,
        }

    def selector(self, component: str, fleet: str | None = None) -> dict[str, str]:
        """Returns the labels that select a component's pods."""
        labels = {"app.kubernetes.io/instance": self.pipeline, "app.kubernetes.io/component": component}
        return labels | ({FLEET_LABEL: fleet} if fleet else {})


def owned_selector(pipeline: str) -> str:
    """Returns the label selector that finds a pipeline's children."""
    return f"app.kubernetes.io/managed-by={MANAGER},app.kubernetes.io/instance={pipeline}"
