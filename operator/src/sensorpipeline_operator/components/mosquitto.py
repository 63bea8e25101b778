"""The MQTT broker: persistent, without dropping queues, and each device able to publish as itself alone."""

import base64
import hashlib
from functools import lru_cache

from sensorpipeline_api.spec import Fleet

from sensorpipeline_operator.components.context import Context, Manifest
from sensorpipeline_operator.components.objects import (
    Pod,
    config_map,
    names,
    resources,
    secret,
    secret_volume,
    service,
    stateful_set,
    tcp_probe,
)
from sensorpipeline_operator.components.secrets import FLEET_KEY, MQTT_BRIDGE, Passwords, asks_for_credentials
from sensorpipeline_operator.naming import MQTT_PORT

UID = 1883
ITERATIONS = 1000
MAXIMUM_PACKET_BYTES = 2 * 1024 * 1024

CONFIGURATION = {
    "persistence": "true",
    "persistence_location": "/mosquitto/data/",
    # What was acknowledged since the last write to disk is lost if the broker is killed: write it often.
    "autosave_interval": "5",
    # The defaults drop messages beyond 1000 per session; here the volume is the bound, not a number of messages.
    "max_queued_messages": "0",
    "max_inflight_messages": "0",
    "max_packet_size": str(MAXIMUM_PACKET_BYTES),
    "persistent_client_expiration": "7d",
    "log_dest": "stdout",
    "log_type": "warning",
}


@lru_cache(maxsize=4096)  # costly by design, and asked for again at every visit
def password_hash(user: str, password: str) -> str:
    """Returns a line's hash for Mosquitto's password file (PBKDF2-SHA512). The salt is made from user and password, so
    that the same input gives the same file."""
    salt = hashlib.sha256(f"{user}\0{password}".encode()).digest()[:12]
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS, 64)
    return f"$7${ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def topic_patterns(fleet: Fleet, device: str) -> list[str]:
    """Returns the topics that a device may publish to; `+` as the device stands for any."""
    return [t.replace("{device}", device).replace("{metric}", "+") for t in fleet.topic_templates]


def users(passwords: Passwords) -> dict[str, str]:
    """Returns the password of each MQTT user: devices by their name, fleets without a list by theirs, the bridge."""
    out = {MQTT_BRIDGE: passwords.mqtt[MQTT_BRIDGE]}
    for fleet, keys in passwords.devices.items():
        out |= {fleet if key == FLEET_KEY else key: password for key, password in keys.items()}
    return out


def access_list(context: Context, passwords: Passwords) -> str:
    """Returns Mosquitto's access control list; whoever is not in it may do nothing."""
    allowed: dict[str, list[str]] = {MQTT_BRIDGE: []}
    for fleet in context.spec.fleets:
        allowed[MQTT_BRIDGE] += [f"topic read {pattern}" for pattern in topic_patterns(fleet, "+")]
        for key in passwords.devices[fleet.name]:
            user, device = (fleet.name, "+") if key == FLEET_KEY else (key, key)
            lines = allowed.setdefault(user, [])
            lines += [f"topic write {pattern}" for pattern in topic_patterns(fleet, device)]
    return "\n".join(f"user {user}\n" + "\n".join(lines) + "\n" for user, lines in sorted(allowed.items()))


def build_mosquitto(context: Context, passwords: Passwords) -> list[Manifest]:
    """Returns the broker's objects, or none when it is not managed."""
    spec = context.spec.mqtt.mosquitto
    if spec is None:
        return []
    made = names(context)
    settings = dict(CONFIGURATION)
    volumes: list[Manifest] = [{"name": "configuration", "configMap": {"name": made.child("mosquitto")}}]
    mounts = [
        {"name": "data", "mountPath": "/mosquitto/data"},
        {"name": "configuration", "mountPath": "/mosquitto/config", "readOnly": True},
    ]
    out: list[Manifest] = []
    rolls: list[object] = []
    if asks_for_credentials(context):
        access = {
            "passwords": "".join(f"{u}:{password_hash(u, p)}\n" for u, p in sorted(users(passwords).items())),
            "access": access_list(context, passwords),
        }
        settings |= {"password_file": "/mosquitto/access/passwords", "acl_file": "/mosquitto/access/access"}
        out.append(secret(context, "mosquitto", access))
        volumes.append(secret_volume("access", made.child("mosquitto")))
        mounts.append({"name": "access", "mountPath": "/mosquitto/access", "readOnly": True})
        rolls.append(access)
    settings["allow_anonymous"] = "false" if asks_for_credentials(context) else "true"
    text = f"listener {MQTT_PORT}\n" + "".join(f"{key} {value}\n" for key, value in settings.items())
    out.append(config_map(context, "mosquitto", {"mosquitto.conf": text}))
    container: Manifest = {
        "name": "mosquitto",
        "image": context.images.mosquitto,
        "command": ["/usr/sbin/mosquitto", "-c", "/mosquitto/config/mosquitto.conf"],
        "ports": [{"name": "mqtt", "containerPort": MQTT_PORT, "protocol": "TCP"}],
        "resources": resources(cpu="20m", memory="32Mi", limit="512Mi"),
        "readinessProbe": tcp_probe(MQTT_PORT, periodSeconds=3),
        "livenessProbe": tcp_probe(MQTT_PORT, periodSeconds=20, timeoutSeconds=5, failureThreshold=6),
        "volumeMounts": mounts,
    }
    pod = Pod(containers=[container], volumes=volumes, uid=UID, configuration=[text, *rolls])
    out.append(service(context, "mosquitto", {"mqtt": MQTT_PORT}, kind=spec.service.type.value))
    out.append(
        stateful_set(
            context,
            "mosquitto",
            pod,
            replicas=1,
            service_name=made.child("mosquitto"),
            volumes={"data": spec.storage_size},
        )
    )
    return out
