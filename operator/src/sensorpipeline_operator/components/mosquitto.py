"""The MQTT broker: persistent, without dropping queues, and each device able to publish as itself alone."""

import base64
import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from sensorpipeline_api.configuration import GUARD_TOPIC
from sensorpipeline_api.spec import Fleet, IssuerReference, Mosquitto, ServerTls

from sensorpipeline_operator.components.context import Context, Manifest
from sensorpipeline_operator.components.objects import (
    Pod,
    config_map,
    metadata,
    names,
    resources,
    secret,
    secret_volume,
    service,
    stateful_set,
    tcp_probe,
)
from sensorpipeline_operator.components.secrets import FLEET_KEY, MQTT_BRIDGE, Passwords, asks_for_credentials
from sensorpipeline_operator.naming import MQTT_PORT, MQTT_TLS_PORT, Names

UID = 1883
ITERATIONS = 1000
SCRIPT = (Path(__file__).parent / "mosquitto.sh").read_text()
NO_USER = "none"

CONFIGURATION = {
    "persistence": "true",
    "persistence_location": "/mosquitto/data/",
    # What was acknowledged since the database was last written is lost if the broker is killed (docs/decisions/0022).
    # It is written after so many changes, and by mosquitto.sh every two seconds while it is small.
    "autosave_on_changes": "true",
    "autosave_interval": "1000",
    # A message must leave the broker before its device hears that it was taken; Nagle's algorithm would hold it back in
    # the kernel until the bridge's TCP has answered, and what is held back there is lost if the broker is killed.
    "set_tcp_nodelay": "true",
    # The defaults drop messages beyond 1000 per session; here the volume is the bound, not a number of messages.
    "max_queued_messages": "0",
    "max_inflight_messages": "0",
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
    allowed: dict[str, list[str]] = {MQTT_BRIDGE: [f"topic read {GUARD_TOPIC}"]}
    for fleet in context.spec.fleets:
        allowed[MQTT_BRIDGE] += [f"topic read {pattern}" for pattern in topic_patterns(fleet, "+")]
        for key in passwords.devices[fleet.name]:
            user, device = (fleet.name, "+") if key == FLEET_KEY else (key, key)
            lines = allowed.setdefault(user, [])
            lines += [f"topic write {pattern}" for pattern in topic_patterns(fleet, device)]
    return "\n".join(f"user {user}\n" + "\n".join(lines) + "\n" for user, lines in sorted(allowed.items()))


def guard(made: Names) -> str:
    """Returns what the client ids begin with of the sessions that keep messages from a start of the broker until the
    bridge subscribes; their number follows."""
    return f"{made.child('bridge')}-guard"


def filters(context: Context) -> list[str]:
    """Returns the filters of every topic that devices may publish to."""
    return [pattern for fleet in context.spec.fleets for pattern in topic_patterns(fleet, "+")]


def build_mosquitto(context: Context, passwords: Passwords) -> list[Manifest]:
    """Returns the broker's objects, or none when it is not managed."""
    spec = context.spec.mqtt.mosquitto
    if spec is None:
        return []
    made = names(context)
    volumes: list[Manifest] = [{"name": "configuration", "configMap": {"name": made.child("mosquitto")}}]
    mounts = [
        {"name": "data", "mountPath": "/mosquitto/data"},
        {"name": "configuration", "mountPath": "/mosquitto/config", "readOnly": True},
    ]
    out: list[Manifest] = []
    subscribed = "".join(f"{pattern}\n" for pattern in filters(context))
    if asks_for_credentials(context):
        # Read again whenever it changes, without a restart: see mosquitto.sh.
        access = {
            "passwords": "".join(f"{u}:{password_hash(u, p)}\n" for u, p in sorted(users(passwords).items())),
            "access": access_list(context, passwords),
            "filters": subscribed,
        }
        out.append(secret(context, "mosquitto", access))
        volumes.append(secret_volume("access", made.child("mosquitto")))
        mounts.append({"name": "access", "mountPath": "/mosquitto/access", "readOnly": True})
    if spec.tls is not None:
        volumes.append(secret_volume("tls", _certificate_secret(made, spec.tls)))
        mounts.append({"name": "tls", "mountPath": "/mosquitto/tls", "readOnly": True})
    documents = {
        "mosquitto.conf": _configuration(context, spec),
        "prepare.conf": "listener 0 /tmp/prepare.sock\nallow_anonymous true\n" + _lines(CONFIGURATION),
        "filters": subscribed,
        "start.sh": SCRIPT,
    }
    out.append(config_map(context, "mosquitto", documents))
    container: Manifest = {
        "name": "mosquitto",
        "image": context.images.mosquitto,
        "command": ["/bin/sh", "/mosquitto/config/start.sh"],
        "env": [
            {"name": "GUARD", "value": guard(made)},
            {"name": "GUARD_TOPIC", "value": GUARD_TOPIC},
            {"name": "GUARD_USER", "value": MQTT_BRIDGE if asks_for_credentials(context) else NO_USER},
        ],
        "ports": [{"name": n, "containerPort": p, "protocol": "TCP"} for n, p in _listeners(spec).items()],
        "resources": resources(cpu="20m", memory="32Mi", limit="512Mi"),
        "readinessProbe": tcp_probe(MQTT_PORT, periodSeconds=3),
        "livenessProbe": tcp_probe(MQTT_PORT, periodSeconds=20, timeoutSeconds=5, failureThreshold=6),
        "volumeMounts": mounts,
    }
    pod = Pod(containers=[container], volumes=volumes, uid=UID, configuration=documents)
    out += _services(context, spec)
    if spec.tls is not None and spec.tls.issuer_ref is not None:
        out.append(_certificate(context, spec.tls.issuer_ref))
    out.append(
        stateful_set(
            context, "mosquitto", pod, replicas=1, service_name=made.child("mosquitto"),
            volumes={"data": spec.storage_size},
        )
    )  # fmt: skip
    return out


def _lines(settings: Mapping[str, str]) -> str:
    return "".join(f"{key} {value}\n" for key, value in settings.items())


def _listeners(spec: Mosquitto) -> dict[str, int]:
    return {"mqtt": MQTT_PORT} | ({"mqtts": MQTT_TLS_PORT} if spec.tls is not None else {})


def _configuration(context: Context, spec: Mosquitto) -> str:
    """Returns the broker's configuration file: what is for all listeners, then the listeners."""
    settings = CONFIGURATION | {"max_packet_size": str(spec.maximum_message_bytes)}
    if asks_for_credentials(context):
        settings |= {"password_file": "/mosquitto/access/passwords", "acl_file": "/mosquitto/access/access"}
    settings["allow_anonymous"] = "false" if asks_for_credentials(context) else "true"
    text = _lines(settings)
    for name, port in _listeners(spec).items():
        text += _lines({"listener": str(port), "max_connections": str(spec.maximum_connections)})
        if name == "mqtts":
            text += _lines({"certfile": "/mosquitto/tls/tls.crt", "keyfile": "/mosquitto/tls/tls.key"})
    return text


def _services(context: Context, spec: Mosquitto) -> list[Manifest]:
    """Returns the Service of the devices and, when they use TLS, one for the pipeline's own pods, which do not."""
    kind = spec.service.type.value
    if spec.tls is None:
        return [service(context, "mosquitto", {"mqtt": MQTT_PORT}, kind=kind)]
    selector = names(context).selector("mosquitto")
    return [
        service(context, "mosquitto", {"mqtts": MQTT_TLS_PORT}, kind=kind),
        service(context, "mosquitto-internal", {"mqtt": MQTT_PORT}, headless=True, selector=selector),
    ]


def _certificate_secret(made: Names, tls: ServerTls) -> str:
    return tls.secret_name or made.child("mosquitto-tls")


def _certificate(context: Context, issuer: IssuerReference) -> Manifest:
    """Returns the request to cert-manager for a certificate of the devices' Service."""
    made = names(context)
    short = made.child("mosquitto")
    hosts = [short, f"{short}.{context.namespace}", made.host("mosquitto"), f"{made.host('mosquitto')}.cluster.local"]
    return {
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": metadata(context, "mosquitto"),
        "spec": {
            "secretName": made.child("mosquitto-tls"),
            "dnsNames": hosts,
            "issuerRef": {"group": "cert-manager.io", "kind": issuer.kind.value, "name": issuer.name},
        },
    }
