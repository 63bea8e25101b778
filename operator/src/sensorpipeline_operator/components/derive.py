"""Derived metrics: one instance, since it reads every partition."""

from sensorpipeline_api.configuration import DeriveConfiguration

from sensorpipeline_operator.components.connections import kafka_connection, kafka_replication, kafka_volume, topics
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


def build_derive(context: Context, passwords: Passwords) -> list[Manifest]:
    """Returns derive's objects, or none when no metric is derived."""
    if not context.derived:
        return []
    configuration = DeriveConfiguration(
        pipeline=context.name,
        kafka=kafka_connection(context, "derive"),
        topics=topics(context),
        derived=list(context.derived),
        application_id=names(context).application("derive"),
        replication_factor=kafka_replication(context),
    )
    document = {"configuration.json": configuration.dump()}
    container = python_container(
        context, "derive", ["sensorpipeline-workers", "derive"], image=context.images.workers, cpu="10m",
        memory="64Mi", limit="256Mi", mounts=[credential_mount("kafka")],
    )  # fmt: skip
    pod = Pod(
        containers=[container],
        volumes=[configuration_volume(context, "derive"), kafka_volume(context, "derive")],
        configuration=[document, hash_of(passwords.kafka["derive"])],
        exposes_metrics=True,
    )
    return [
        config_map(context, "derive", document),
        deployment(context, "derive", pod, replicas=1, recreate=True),
    ]
