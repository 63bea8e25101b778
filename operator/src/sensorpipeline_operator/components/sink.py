"""The sink from Kafka to MongoDB."""

from sensorpipeline_api.configuration import SinkConfiguration

from sensorpipeline_operator.components.connections import (
    kafka_connection,
    kafka_volume,
    store_connection,
    store_volume,
    topics,
)
from sensorpipeline_operator.components.context import Context, Manifest
from sensorpipeline_operator.components.objects import (
    Pod,
    config_map,
    configuration_volume,
    credential_mount,
    deployment,
    hash_of,
    names,
    python_container,
)
from sensorpipeline_operator.components.secrets import Passwords


def build_sink(context: Context, passwords: Passwords) -> list[Manifest]:
    """Returns the sink's objects."""
    configuration = SinkConfiguration(
        pipeline=context.name,
        kafka=kafka_connection(context, "sink"),
        topics=topics(context),
        store=store_connection(context),
        group_id=names(context).application("sink"),
        metrics={fleet.name: [metric.name for metric in fleet.metrics] for fleet in context.spec.fleets},
    )
    document = {"configuration.json": configuration.dump()}
    container = python_container(
        context, "sink", ["sensorpipeline-workers", "sink"], image=context.images.workers, cpu="10m",
        memory="96Mi", limit="384Mi", mounts=[credential_mount("kafka"), credential_mount("store")],
    )  # fmt: skip
    pod = Pod(
        containers=[container],
        volumes=[configuration_volume(context, "sink"), kafka_volume(context, "sink"), store_volume(context, "sink")],
        configuration=[document, hash_of([passwords.kafka["sink"], passwords.mongodb["sink"]])],
        exposes_metrics=True,
    )
    return [
        config_map(context, "sink", document),
        deployment(context, "sink", pod, replicas=1, recreate=True),
    ]
