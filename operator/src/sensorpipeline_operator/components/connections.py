"""How the data plane's parts reach each other: the connection part of their configuration documents, with the volumes
that hold the credentials."""

from sensorpipeline_api.configuration import KafkaConnection, MqttConnection, StoreConnection, Topics

from sensorpipeline_operator.components.context import Context, Manifest
from sensorpipeline_operator.components.objects import credential_path, names, secret_volume
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
    """Returns how to reach the MQTT broker; for the bridge with its user."""
    host = names(context).host("mosquitto")
    if not bridge or not asks_for_credentials(context):
        return MqttConnection(host=host, port=MQTT_PORT)
    return MqttConnection(
        host=host, port=MQTT_PORT, username=MQTT_BRIDGE, password_file=credential_path("mqtt", "password")
    )


def store_connection(context: Context) -> StoreConnection:
    """Returns how to reach MongoDB; the user's connection string is in the volume of `store_volume`."""
    return StoreConnection(uri_file=credential_path("store", "uri"), database=names(context).database)


def store_volume(context: Context, user: str) -> Manifest:
    """Returns the volume with a database user's connection string, and nobody else's."""
    return secret_volume("store", names(context).child("mongodb-users"), {f"{user}-uri": "uri"})
