"""How the data plane's parts reach each other: the connection part of their configuration documents, with the volumes
that hold the credentials."""

from sensorpipeline_api.configuration import KafkaConnection, MqttConnection, StoreConnection, Topics
from sensorpipeline_api.spec import TlsMode

from sensorpipeline_operator.components.context import Context, Manifest
from sensorpipeline_operator.components.objects import (
    credential_mount,
    credential_path,
    names,
    secret_volume,
)
from sensorpipeline_operator.components.secrets import MQTT_BRIDGE, asks_for_credentials
from sensorpipeline_operator.naming import KAFKA_PORT, MQTT_PORT


def topics(context: Context) -> Topics:
    """Returns the pipeline's topics."""
    made = names(context)
    return Topics(
        readings={fleet.name: made.readings_topic(fleet.name) for fleet in context.spec.fleets},
        aggregates=made.topic("aggregates"),
        late=made.topic("late"),
        alerts=made.topic("alerts"),
        dead_letter=made.topic("dead-letter"),
    )


def kafka_connection(context: Context, user: str) -> KafkaConnection:
    """Returns how a user reaches Kafka; its password is in the volume of `kafka_volume`."""
    server = f"{names(context).host('kafka')}:{KAFKA_PORT}"
    return KafkaConnection(
        bootstrap_servers=[server], username=user, password_file=credential_path("kafka", "password")
    )


def kafka_volume(context: Context, user: str) -> Manifest:
    """Returns the volume with a Kafka user's password, and nobody else's."""
    return secret_volume("kafka", names(context).child("kafka-users"), {user: "password"})


def kafka_replication(context: Context) -> int:
    """Returns how many copies of each partition the cluster can keep."""
    cluster = context.spec.kafka.cluster
    return min(3, cluster.replicas) if cluster is not None else 1


def mqtt_connection(context: Context, *, bridge: bool) -> MqttConnection:
    """Returns how to reach the MQTT broker. To a managed one devices bring users of their own; of an external one there
    is one user for all, whose credentials and authorities are in the volumes of `mqtt_volumes`."""
    external = context.spec.mqtt.external
    if external is not None:
        known = external.credentials_secret_name is not None
        return MqttConnection(
            host=external.host,
            port=external.port,
            username_file=credential_path("mqtt", "username") if known else None,
            password_file=credential_path("mqtt", "password") if known else None,
            tls=external.tls is TlsMode.ENABLED,
            ca_file=credential_path("mqtt-ca", "ca.crt") if external.ca_secret_name is not None else None,
        )
    mosquitto = context.spec.mqtt.mosquitto
    inner = mosquitto is not None and mosquitto.tls is not None
    host = names(context).host("mosquitto-internal" if inner else "mosquitto")
    if not bridge or not asks_for_credentials(context):
        return MqttConnection(host=host, port=MQTT_PORT)
    return MqttConnection(
        host=host, port=MQTT_PORT, username=MQTT_BRIDGE, password_file=credential_path("mqtt", "password")
    )


def mqtt_volumes(context: Context, *, bridge: bool) -> tuple[list[Manifest], list[Manifest]]:
    """Returns the volumes that `mqtt_connection` needs, and their mounts."""
    volumes: list[Manifest] = []
    external = context.spec.mqtt.external
    if external is not None:
        if external.credentials_secret_name is not None:
            keys = {"username": "username", "password": "password"}
            volumes.append(secret_volume("mqtt", external.credentials_secret_name, keys))
        if external.ca_secret_name is not None:
            volumes.append(secret_volume("mqtt-ca", external.ca_secret_name, {"ca.crt": "ca.crt"}))
    elif bridge and asks_for_credentials(context):
        volumes.append(secret_volume("mqtt", names(context).child("mqtt-users"), {MQTT_BRIDGE: "password"}))
    return volumes, [credential_mount(volume["name"]) for volume in volumes]


def store_connection(context: Context) -> StoreConnection:
    """Returns how to reach MongoDB; the user's connection string is in the volume of `store_volume`."""
    return StoreConnection(uri_file=credential_path("store", "uri"), database=names(context).database)


def store_volume(context: Context, user: str) -> Manifest:
    """Returns the volume with a database user's connection string, and nobody else's."""
    return secret_volume("store", names(context).child("mongodb-users"), {f"{user}-uri": "uri"})
