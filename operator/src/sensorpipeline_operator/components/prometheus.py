"""Prometheus: scrapes the pipeline, evaluates its rules, reads sensor history from the gateway."""

import base64
import hashlib
from functools import lru_cache
from typing import Any

import bcrypt
import yaml
from sensorpipeline_api.spec import GatewayAuthentication

from sensorpipeline_operator.components.context import Context, Manifest
from sensorpipeline_operator.components.objects import (
    Pod,
    config_map,
    credential_mount,
    credential_path,
    names,
    resources,
    secret,
    secret_volume,
    service,
    stateful_set,
    tcp_probe,
)
from sensorpipeline_operator.components.rules import build_rules
from sensorpipeline_operator.components.secrets import Passwords
from sensorpipeline_operator.naming import ALERTMANAGER_PORT, GATEWAY_PORT, METRICS_PORT, PROMETHEUS_PORT

UID = 65534
USER = "admin"
ROUNDS = 10
_ITOA64 = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


@lru_cache(maxsize=4096)  # costly by design, and asked for again at every visit
def password_hash(password: str) -> str:
    """Returns the bcrypt hash of a password, with a salt made from it, so that the same input gives the same file."""
    digest = hashlib.sha256(password.encode()).digest()[:16]
    # bcrypt's own base64 alphabet, 22 characters for 16 bytes.
    standard = base64.b64encode(digest).decode().rstrip("=")
    table = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", _ITOA64)
    salt = f"$2b${ROUNDS:02d}${standard.translate(table)}"
    return bcrypt.hashpw(password.encode(), salt.encode()).decode()


def web_configuration(password: str) -> str:
    """Returns the web configuration that asks for a user and password."""
    return yaml.safe_dump({"basic_auth_users": {USER: password_hash(password)}})


def scrape_configuration(context: Context) -> dict[str, Any]:
    """Returns Prometheus' configuration."""
    made = names(context)
    target = f"{made.host('metrics')}"
    own = {"basic_auth": {"username": USER, "password_file": credential_path("own", "password")}}
    read: dict[str, Any] = {
        "url": f"http://{made.host('gateway')}:{GATEWAY_PORT}/prometheus/read",
        "read_recent": True,
        # External labels name this Prometheus; the store's series do not have them.
        "filter_external_labels": False,
        "remote_timeout": "30s",
    }
    if context.spec.gateway.authentication is GatewayAuthentication.TOKEN:
        read["authorization"] = {"credentials_file": credential_path("gateway", "token")}
    configuration: dict[str, Any] = {
        "global": {
            "scrape_interval": "10s",
            "evaluation_interval": "10s",
            "external_labels": {"pipeline": context.name, "namespace": context.namespace},
        },
        "rule_files": ["/etc/prometheus/rules.yaml"],
        "scrape_configs": [
            {
                "job_name": "pipeline",
                "dns_sd_configs": [{"names": [target], "type": "A", "port": METRICS_PORT, "refresh_interval": "10s"}],
            },
            {"job_name": "prometheus", "static_configs": [{"targets": [f"localhost:{PROMETHEUS_PORT}"]}]} | own,
        ],
        "remote_read": [read],
    }
    if context.spec.alerting is not None:
        basic = {"username": USER, "password_file": credential_path("alertmanager", "password")}
        targets = [f"{made.host('alertmanager')}:{ALERTMANAGER_PORT}"]
        managers = [{"basic_auth": basic, "static_configs": [{"targets": targets}]}]
        configuration["alerting"] = {"alertmanagers": managers}
    return configuration


def build_prometheus(context: Context, passwords: Passwords) -> list[Manifest]:
    """Returns Prometheus' objects, or none when it is not managed."""
    spec = context.spec.monitoring.prometheus
    if spec is None:
        return []
    made = names(context)
    files = {
        "prometheus.yaml": yaml.safe_dump(scrape_configuration(context), sort_keys=False),
        "rules.yaml": yaml.safe_dump(build_rules(context), sort_keys=False),
    }
    web = web_configuration(passwords.prometheus["password"])
    volumes = [
        {"name": "configuration", "configMap": {"name": made.child("prometheus")}},
        secret_volume("own", made.child("prometheus"), {"password": "password", "web.yaml": "web.yaml"}),
    ]
    mounts = [
        {"name": "data", "mountPath": "/prometheus"},
        {"name": "configuration", "mountPath": "/etc/prometheus", "readOnly": True},
        credential_mount("own"),
    ]
    if context.spec.gateway.authentication is GatewayAuthentication.TOKEN:
        volumes.append(secret_volume("gateway", made.child("gateway"), {"token": "token"}))
        mounts.append(credential_mount("gateway"))
    if context.spec.alerting is not None:
        volumes.append(secret_volume("alertmanager", made.child("alertmanager"), {"password": "password"}))
        mounts.append(credential_mount("alertmanager"))
    container: Manifest = {
        "name": "prometheus",
        "image": context.images.prometheus,
        "command": [
            "/bin/prometheus", "--config.file=/etc/prometheus/prometheus.yaml", "--storage.tsdb.path=/prometheus",
            f"--storage.tsdb.retention.time={spec.retention_days}d", f"--web.listen-address=:{PROMETHEUS_PORT}",
            f"--web.config.file={credential_path('own', 'web.yaml')}", "--log.level=warn",
        ],
        "ports": [{"name": "http", "containerPort": PROMETHEUS_PORT, "protocol": "TCP"}],
        "resources": resources(cpu="20m", memory="128Mi", limit="768Mi"),
        "readinessProbe": tcp_probe(PROMETHEUS_PORT, periodSeconds=3),
        "livenessProbe": tcp_probe(
            PROMETHEUS_PORT, initialDelaySeconds=60, periodSeconds=20, timeoutSeconds=5, failureThreshold=6
        ),
        "volumeMounts": mounts,
    }  # fmt: skip
    pod = Pod(containers=[container], volumes=volumes, uid=UID, configuration=[files, web])
    return [
        config_map(context, "prometheus", files),
        secret(context, "prometheus", passwords.prometheus | {"web.yaml": web}),
        service(context, "prometheus", {"http": PROMETHEUS_PORT}),
        stateful_set(
            context, "prometheus", pod, replicas=1, service_name=made.child("prometheus"),
            volumes={"data": spec.storage_size},
        ),
    ]  # fmt: skip
