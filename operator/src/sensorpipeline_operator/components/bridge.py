"""The bridge from MQTT to Kafka: a StatefulSet, since its client ids must stay."""

from sensorpipeline_api.configuration import BridgeConfiguration

from sensorpipeline_operator.components.connections import (
    kafka_connection,
    kafka_volume,
    mqtt_connection,
    mqtt_volumes,
    topics,
)
from sensorpipeline_operator.components.context import Context, Manifest
from sensorpipeline_operator.components.mosquitto import guard
from sensorpipeline_operator.components.objects import (
    Pod,
    config_map,
    configuration_volume,
    credential_mount,
    disruption_budget,
    hash_of,
    names,
    python_container,
    stateful_set,
)
from sensorpipeline_operator.components.secrets import Passwords


def build_bridge(context: Context, passwords: Passwords) -> list[Manifest]:
    """Returns the bridge's objects."""
    made, spec = names(context), context.spec.bridge
    configuration = BridgeConfiguration(
        pipeline=context.name,
        mqtt=mqtt_connection(context, bridge=True),
        kafka=kafka_connection(context, "bridge"),
        topics=topics(context),
        fleets=context.spec.fleets,
        share_name=made.application("bridge"),
        batch_maximum_readings=spec.batch_maximum_readings,
        batch_maximum_milliseconds=spec.batch_maximum_milliseconds,
        guard=guard(made) if context.spec.mqtt.mosquitto is not None else None,
        replicas=spec.replicas,
        member_domain=made.host("metrics"),
    )
    document = {"configuration.json": configuration.dump()}
    # The number of members is read again while they run, so that a change of it ends or begins pods and no more.
    rolls = configuration.model_copy(update={"replicas": 1}).dump()
    mqtt_credentials, mounts = mqtt_volumes(context, bridge=True)
    volumes = [configuration_volume(context, "bridge"), kafka_volume(context, "bridge"), *mqtt_credentials]
    mounts = [credential_mount("kafka"), *mounts]
    container = python_container(
        context, "bridge", ["sensorpipeline-workers", "bridge"], image=context.images.workers, cpu="10m",
        memory="96Mi", limit="384Mi", override=spec.resources, mounts=mounts,
    )  # fmt: skip
    pod = Pod(
        containers=[container],
        volumes=volumes,
        configuration=[rolls, hash_of(passwords.kafka["bridge"])],
        exposes_metrics=True,
    )
    replicas = 0 if context.ingest_suspended else spec.replicas
    out = [
        config_map(context, "bridge", document),
        stateful_set(context, "bridge", pod, replicas=replicas, service_name=made.child("metrics")),
    ]
    return [*out, disruption_budget(context, "bridge")] if spec.replicas > 1 else out
