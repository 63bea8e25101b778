"""The gateway: the HTTP interface of the pipeline.

Devices post with the passwords that they use with MQTT: their Secrets are mounted whole, one folder per fleet, and read
again when they change, so that a new password needs no new pod.
"""

from sensorpipeline_api.configuration import GatewayConfiguration, IngestLimits
from sensorpipeline_api.spec import Gateway, GatewayAuthentication

from sensorpipeline_operator.components.connections import (
    kafka_connection,
    kafka_volume,
    store_connection,
    store_volume,
    topics,
)
from sensorpipeline_operator.components.context import Context, Manifest
from sensorpipeline_operator.components.objects import (
    CREDENTIALS_DIRECTORY,
    Pod,
    config_map,
    configuration_volume,
    credential_mount,
    credential_path,
    deployment,
    disruption_budget,
    hash_of,
    http_probe,
    names,
    python_container,
    secret_volume,
    service,
)
from sensorpipeline_operator.components.secrets import Passwords
from sensorpipeline_operator.naming import GATEWAY_PORT

DEVICES_DIRECTORY = f"{CREDENTIALS_DIRECTORY}/devices"
LEAVE_SECONDS = 5
"""How long a pod that is to end goes on serving: until then requests may be sent to it, on every node."""


def build_gateway(context: Context, passwords: Passwords) -> list[Manifest]:
    """Returns the gateway's objects."""
    spec = context.spec.gateway
    token = spec.authentication is GatewayAuthentication.TOKEN
    configuration = GatewayConfiguration(
        pipeline=context.name,
        kafka=kafka_connection(context, "gateway"),
        topics=topics(context),
        store=store_connection(context),
        fleets=context.spec.fleets,
        derived_metrics=context.spec.derived_metrics,
        port=GATEWAY_PORT,
        token_file=credential_path("gateway", "token") if token else None,
        device_tokens_directory=DEVICES_DIRECTORY if token else None,
        limits=_limits(spec),
        ingest_suspended=context.ingest_suspended,
    )
    document = {"configuration.json": configuration.dump()}
    volumes = [
        configuration_volume(context, "gateway"),
        kafka_volume(context, "gateway"),
        store_volume(context, "gateway"),
    ]
    mounts = [credential_mount("kafka"), credential_mount("store")]
    if token:
        volumes.append(secret_volume("gateway", names(context).child("gateway"), {"token": "token"}))
        mounts.append(credential_mount("gateway"))
        for fleet in context.spec.fleets:
            volumes.append(secret_volume(f"devices-{fleet.name}", names(context).devices_secret(fleet.name)))
            path = f"{DEVICES_DIRECTORY}/{fleet.name}"
            mounts.append({"name": f"devices-{fleet.name}", "mountPath": path, "readOnly": True})
    container = python_container(
        context, "gateway", ["sensorpipeline-workers", "gateway"], image=context.images.workers, cpu="10m",
        memory="128Mi", limit="512Mi", mounts=mounts, health=False,
    )  # fmt: skip
    container["ports"] = [
        *container["ports"],
        {"name": "http", "containerPort": GATEWAY_PORT, "protocol": "TCP"},
    ]
    container["readinessProbe"] = http_probe("/readyz", GATEWAY_PORT, periodSeconds=3, timeoutSeconds=5)
    container["livenessProbe"] = http_probe(
        "/healthz", GATEWAY_PORT, initialDelaySeconds=30, periodSeconds=20, timeoutSeconds=5, failureThreshold=6
    )
    container["lifecycle"] = {"preStop": {"sleep": {"seconds": LEAVE_SECONDS}}}
    pod = Pod(
        containers=[container],
        volumes=volumes,
        configuration=[document, hash_of([passwords.kafka["gateway"], passwords.mongodb["gateway"]])],
        exposes_metrics=True,
    )
    out = [
        config_map(context, "gateway", document),
        service(context, "gateway", {"http": GATEWAY_PORT}, kind=spec.service.type.value),
        deployment(context, "gateway", pod, replicas=spec.replicas),
    ]
    return [*out, disruption_budget(context, "gateway")] if spec.replicas > 1 else out


def _limits(spec: Gateway) -> IngestLimits:
    return IngestLimits(
        maximum_body_bytes=spec.maximum_body_bytes,
        maximum_readings_per_request=spec.maximum_readings_per_request,
        maximum_readings_per_second=spec.maximum_readings_per_second,
    )
