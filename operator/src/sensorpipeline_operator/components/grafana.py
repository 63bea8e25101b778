"""Grafana: dashboards and data source provisioned as files, so nothing has to be fetched or clicked."""

import hashlib
import json
from typing import Any

import yaml

from sensorpipeline_operator.components.context import Context, Manifest
from sensorpipeline_operator.components.dashboards import DATA_SOURCE, build_dashboards
from sensorpipeline_operator.components.objects import (
    Pod,
    config_map,
    credential_mount,
    credential_path,
    deployment,
    http_probe,
    names,
    resources,
    secret,
    secret_volume,
    service,
)
from sensorpipeline_operator.components.prometheus import USER
from sensorpipeline_operator.components.secrets import Passwords
from sensorpipeline_operator.naming import GRAFANA_PORT, PROMETHEUS_PORT

UID, GID = 472, 472


def data_sources(context: Context) -> dict[str, Any]:
    """Returns the provisioning file of the data source; Grafana reads the password from its file."""
    source = {
        "name": "Prometheus",
        "uid": DATA_SOURCE,
        "type": "prometheus",
        "access": "proxy",
        "url": f"http://{names(context).host('prometheus')}:{PROMETHEUS_PORT}",
        "isDefault": True,
        "basicAuth": True,
        "basicAuthUser": USER,
        "jsonData": {"httpMethod": "POST", "timeInterval": "10s"},
        "secureJsonData": {"basicAuthPassword": f"$__file{{{credential_path('prometheus', 'password')}}}"},
    }
    return {"apiVersion": 1, "datasources": [source]}


def build_grafana(context: Context, passwords: Passwords) -> list[Manifest]:
    """Returns Grafana's objects, or none when it is not asked for."""
    if context.spec.grafana is None or context.spec.grafana.server is None:
        return []
    made = names(context)
    provider = {"name": context.name, "type": "file", "options": {"path": "/etc/grafana/dashboards"}}
    provisioning = {
        "datasources.yaml": yaml.safe_dump(data_sources(context), sort_keys=False),
        "providers.yaml": yaml.safe_dump({"apiVersion": 1, "providers": [provider]}, sort_keys=False),
    }
    dashboards = build_dashboards(context)
    configuration = made.child("grafana")
    volumes = [
        {"name": "data", "emptyDir": {}},
        _files("datasources", configuration, ["datasources.yaml"]),
        _files("providers", configuration, ["providers.yaml"]),
        _files("dashboards", configuration, sorted(dashboards)),
        secret_volume("own", made.child("grafana"), {"admin-password": "admin-password"}),
        secret_volume("prometheus", made.child("prometheus"), {"password": "password"}),
    ]
    container: Manifest = {
        "name": "grafana",
        "image": context.images.grafana,
        "command": ["grafana", "server", "--homepath=/usr/share/grafana", "--packaging=docker"],
        "env": [
            {"name": "GF_SECURITY_ADMIN_PASSWORD", "value": f"$__file{{{credential_path('own', 'admin-password')}}}"},
            {"name": "GF_PATHS_DATA", "value": "/var/lib/grafana"},
            {"name": "GF_PATHS_PROVISIONING", "value": "/etc/grafana/provisioning"},
            {"name": "GF_ANALYTICS_REPORTING_ENABLED", "value": "false"},
            {"name": "GF_ANALYTICS_CHECK_FOR_UPDATES", "value": "false"},
        ],
        "ports": [{"name": "http", "containerPort": GRAFANA_PORT, "protocol": "TCP"}],
        "resources": resources(cpu="20m", memory="128Mi", limit="512Mi"),
        "readinessProbe": http_probe("/api/health", GRAFANA_PORT, periodSeconds=5),
        "livenessProbe": http_probe(
            "/api/health", GRAFANA_PORT, initialDelaySeconds=60, periodSeconds=20, timeoutSeconds=5, failureThreshold=6
        ),
        "volumeMounts": [
            {"name": "data", "mountPath": "/var/lib/grafana"},
            {"name": "datasources", "mountPath": "/etc/grafana/provisioning/datasources", "readOnly": True},
            {"name": "providers", "mountPath": "/etc/grafana/provisioning/dashboards", "readOnly": True},
            {"name": "dashboards", "mountPath": "/etc/grafana/dashboards", "readOnly": True},
            credential_mount("own"),
            credential_mount("prometheus"),
        ],
    }
    # Grafana reads both passwords when it starts.
    secrets = hashlib.sha256(json.dumps([passwords.grafana, passwords.prometheus], sort_keys=True).encode()).hexdigest()
    pod = Pod(
        containers=[container], volumes=volumes, uid=UID, gid=GID, configuration=[provisioning, dashboards, secrets]
    )  # fmt: skip
    return [
        config_map(context, "grafana", provisioning | dashboards),
        secret(context, "grafana", passwords.grafana),
        service(context, "grafana", {"http": GRAFANA_PORT}),
        deployment(context, "grafana", pod, replicas=1, recreate=True),
    ]


def _files(volume: str, config_map_name: str, keys: list[str]) -> Manifest:
    items = [{"key": key, "path": key} for key in keys]
    return {"name": volume, "configMap": {"name": config_map_name, "items": items}}
