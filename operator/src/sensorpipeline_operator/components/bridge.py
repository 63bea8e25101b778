"""The bridge from MQTT to Kafka: a StatefulSet, since its client ids must stay."""

from sensorpipeline_api.configuration import BridgeConfiguration

from sensorpipeline_operator.components.connections import (
    kafka_connection,
    kafka_volume,
    mqtt_connection,
    topics,
)
from sensorpipeline_operator.components.context import Context, Manifest
from sensorpipeline_operator.components.objects import (
    Pod,
    config_map,
    configuration_volume,
    credential_mount,
    hash_of,
    names,
    python_container,
    secret_volume,
    stateful_set,
)
from sensorpipeline_operator.components.secrets import MQTT_BRIDGE, Passwords, asks_for_credentials


def build_bridge(context: Context, passwords: Passwords) -> list[Manifest]:
    """Returns the bridge's objects."""
    made = names(context)
    configuration = BridgeConfiguration(
        pipeline=context.name,
        mqtt=mqtt_connection(context, bridge=True),
        kafka=kafka_connection(context, "bridge"),
        topics=topics(context),
        fleets=context.spec.fleets,
        share_name=made.application("bridge"),
    )
    document = {"configuration.json": configuration.dump()}
    volumes = [configuration_volume(context, "bridge"), kafka_volume(context, "bridge")]
    mounts = [credential_mount("kafka")]
    if asks_for_credentials(context):
        volumes.append(secret_volume("mqtt", made.child("mqtt-users"), {MQTT_BRIDGE: "password"}))
        mounts.append(credential_mount("mqtt"))
    container = python_container(
        context, "bridge", ["sensorpipeline-workers", "bridge"], image=context.images.workers, cpu="10m",
        memory="96Mi", limit="384Mi", mounts=mounts,
    )  # fmt: skip
    pod = Pod(
        containers=[container],
        volumes=volumes,
        configuration=[document, hash_of([passwords.kafka["bridge"], passwords.mqtt])],
        exposes_metrics=True,
    )
    return [
        config_map(context, "bridge", document),
        stateful_set(context, "bridge", pod, replicas=1, service_name=made.child("metrics")),
    ]
