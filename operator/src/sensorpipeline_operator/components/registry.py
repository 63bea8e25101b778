"""All components, in the order in which they are applied."""

from sensorpipeline_operator.components.alertmanager import build_alertmanager
from sensorpipeline_operator.components.bridge import build_bridge
from sensorpipeline_operator.components.context import Context, Manifest
from sensorpipeline_operator.components.derive import build_derive
from sensorpipeline_operator.components.gateway import build_gateway
from sensorpipeline_operator.components.grafana import build_grafana
from sensorpipeline_operator.components.kafka import build_kafka
from sensorpipeline_operator.components.mongodb import build_mongodb
from sensorpipeline_operator.components.mosquitto import build_mosquitto
from sensorpipeline_operator.components.network import build_network
from sensorpipeline_operator.components.prometheus import build_prometheus
from sensorpipeline_operator.components.secrets import Passwords, build_secrets
from sensorpipeline_operator.components.simulators import build_simulators
from sensorpipeline_operator.components.sink import build_sink
from sensorpipeline_operator.components.workers import build_workers


def build_all(context: Context) -> list[Manifest]:
    """Returns every object of a pipeline. Raises InvalidSpecError when a referenced Secret cannot be used."""
    passwords = Passwords(context)
    return [
        *build_secrets(context, passwords),
        *build_network(context),
        *build_kafka(context, passwords),
        *build_mongodb(context, passwords),
        *build_mosquitto(context, passwords),
        *build_bridge(context, passwords),
        *build_workers(context, passwords),
        *build_derive(context, passwords),
        *build_sink(context, passwords),
        *build_gateway(context, passwords),
        *build_prometheus(context, passwords),
        *build_alertmanager(context, passwords),
        *build_grafana(context, passwords),
        *build_simulators(context, passwords),
    ]
