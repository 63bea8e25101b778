"""The stream workers: one set per fleet."""

from sensorpipeline_api.configuration import WorkerConfiguration
from sensorpipeline_api.spec import Fleet

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


def build_workers(context: Context, passwords: Passwords) -> list[Manifest]:
    """Returns the objects of every fleet's workers."""
    return [manifest for fleet in context.spec.fleets for manifest in _fleet(context, fleet, passwords)]


def _fleet(context: Context, fleet: Fleet, passwords: Passwords) -> list[Manifest]:
    configuration = WorkerConfiguration(
        pipeline=context.name,
        kafka=kafka_connection(context, "worker"),
        topics=topics(context),
        fleet=fleet,
        application_id=names(context).application("worker", fleet.name),
        replication_factor=kafka_replication(context),
    )
    document = {"configuration.json": configuration.dump()}
    container = python_container(
        context, "worker", ["sensorpipeline-workers", "worker"], image=context.images.workers, cpu="10m",
        memory="128Mi", limit="512Mi", override=fleet.workers.resources, mounts=[credential_mount("kafka")],
    )  # fmt: skip
    pod = Pod(
        containers=[container],
        volumes=[configuration_volume(context, "worker", fleet.name), kafka_volume(context, "worker")],
        configuration=[document, hash_of(passwords.kafka["worker"])],
        exposes_metrics=True,
    )
    return [
        config_map(context, "worker", document, fleet.name),
        deployment(context, "worker", pod, replicas=fleet.workers.min_replicas, fleet=fleet.name),
    ]
