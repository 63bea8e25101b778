"""Passwords of users and of parts: generated once, kept ever after, asked for by name.

A key that exists stays as it is; a key that is wanted and missing gets a new password; what is no longer wanted goes.
"""

from collections.abc import Iterable

from sensorpipeline_api.spec import GatewayAuthentication, MqttAuthentication

from sensorpipeline_operator.components.context import Context, Manifest
from sensorpipeline_operator.components.objects import names, secret
from sensorpipeline_operator.naming import MONGODB_PORT

FLEET_KEY = "_fleet"
MQTT_BRIDGE = "bridge"
KAFKA_USERS = ("admin", "broker", "bridge", "derive", "gateway", "sink", "worker")
MONGODB_USERS = {"sink": "readWrite", "gateway": "read"}
MONGODB_ADMINISTRATOR = "administrator"
REPLICA_SET = "rs0"
OUTLIVING = frozenset({"mongodb-users", "devices", "gateway"})
"""The components whose Secrets stay with the data volumes when the resource is deleted: without the first the database
could not be opened again, and the others are held by devices and clients outside (docs/decisions/0035)."""


def kept(context: Context, name: str, keys: Iterable[str]) -> dict[str, str]:
    """Returns the value of each key of a Secret: the one that exists, else a new password."""
    existing = context.secrets.get(name, {})
    return {key: existing.get(key) or context.entropy() for key in keys}


def asks_for_credentials(context: Context) -> bool:
    """Whether the MQTT broker asks for credentials."""
    mosquitto = context.spec.mqtt.mosquitto
    return mosquitto is not None and mosquitto.authentication is MqttAuthentication.CREDENTIALS


def keeps_device_credentials(context: Context) -> bool:
    """Whether devices have credentials: for the MQTT broker, or for posting to the gateway."""
    return asks_for_credentials(context) or context.spec.gateway.authentication is GatewayAuthentication.TOKEN


class Passwords:
    """Every password of one pipeline, by part; made once per reconcile, so that all builders see the same. A part that
    is not asked for has none: a password that no Secret keeps would be another one at each visit."""

    def __init__(self, context: Context) -> None:
        made, spec = names(context), context.spec
        self._context = context
        self.devices: dict[str, dict[str, str]] = {}
        self.mqtt: dict[str, str] = {}
        if asks_for_credentials(context):
            self.mqtt = kept(context, made.child("mqtt-users"), [MQTT_BRIDGE])
        if keeps_device_credentials(context):
            for fleet in spec.fleets:
                self.devices[fleet.name] = kept(
                    context, made.devices_secret(fleet.name), list(fleet.devices) or [FLEET_KEY]
                )
        self.kafka = kept(context, made.child("kafka-users"), KAFKA_USERS)
        self.mongodb = kept(context, made.child("mongodb-users"), ["keyfile", MONGODB_ADMINISTRATOR, *MONGODB_USERS])
        token = spec.gateway.authentication is GatewayAuthentication.TOKEN
        self.gateway = kept(context, made.child("gateway"), ["token"] if token else [])
        self.prometheus = kept(context, made.child("prometheus"), ["password"] if spec.monitoring.prometheus else [])
        self.alertmanager = kept(context, made.child("alertmanager"), ["password"] if spec.alerting else [])
        self.grafana = kept(context, made.child("grafana"), ["admin-password"] if spec.grafana else [])

    def mongodb_uri(self, user: str) -> str:
        """Returns the connection string of a database user."""
        made, spec = names(self._context), self._context.spec.store.mongodb
        replicas = spec.replicas if spec is not None else 1
        hosts = ",".join(f"{h}:{MONGODB_PORT}" for h in made.member_hosts("mongodb", "mongodb", replicas))
        password = self.mongodb[user]
        return f"mongodb://{user}:{password}@{hosts}/?replicaSet={REPLICA_SET}&authSource={made.database}"


def build_secrets(context: Context, passwords: Passwords) -> list[Manifest]:
    """Returns the Secrets that hold the passwords."""
    made = names(context)
    out: list[Manifest] = []
    for fleet, keys in passwords.devices.items():
        out.append(secret(context, "devices", keys, name=made.devices_secret(fleet)))
    if asks_for_credentials(context):
        out.append(secret(context, "mqtt-users", passwords.mqtt))
    out.append(secret(context, "kafka-users", passwords.kafka))
    uris = {f"{user}-uri": passwords.mongodb_uri(user) for user in MONGODB_USERS}
    out.append(secret(context, "mongodb-users", passwords.mongodb | uris))
    if passwords.gateway:
        out.append(secret(context, "gateway", passwords.gateway))
    return out
