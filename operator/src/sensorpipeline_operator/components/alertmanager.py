"""Alertmanager: routes alerts by severity to the receivers of the spec."""

from typing import Any

import yaml
from sensorpipeline_api.spec import Receiver, SecretKeyReference

from sensorpipeline_operator.components.context import Context, Manifest
from sensorpipeline_operator.components.objects import (
    Pod,
    credential_mount,
    credential_path,
    deployment,
    names,
    resources,
    secret,
    secret_volume,
    service,
    tcp_probe,
)
from sensorpipeline_operator.components.prometheus import web_configuration
from sensorpipeline_operator.components.secrets import Passwords
from sensorpipeline_operator.errors import InvalidSpecError
from sensorpipeline_operator.naming import ALERTMANAGER_PORT

UID = 65534
NOBODY = "nobody"


def routing(context: Context) -> dict[str, Any]:
    """Returns Alertmanager's configuration. Raises InvalidSpecError when a referenced URL is not there."""
    receivers = context.spec.alerting.receivers if context.spec.alerting is not None else []
    routes = [
        {
            "receiver": receiver.name,
            "matchers": [f'severity=~"{"|".join(severity.value for severity in receiver.severities)}"'],
            "continue": True,
        }
        for receiver in receivers
    ]
    return {
        "route": {
            "receiver": NOBODY,
            "group_by": ["alertname", "pipeline", "fleet"],
            "group_wait": "5s",
            "group_interval": "30s",
            "repeat_interval": "4h",
            "routes": routes,
        },
        "receivers": [{"name": NOBODY}, *(_receiver(context, n, receiver) for n, receiver in enumerate(receivers))],
    }


def _receiver(context: Context, number: int, receiver: Receiver) -> dict[str, Any]:
    field = f"spec.alerting.receivers[{number}]"
    if receiver.webhook is not None:
        url = _url(context, f"{field}.webhook", receiver.webhook.url_secret_ref)
        return {"name": receiver.name, "webhook_configs": [{"url": url, "send_resolved": True}]}
    if receiver.discord is not None:
        url = _url(context, f"{field}.discord", receiver.discord.url_secret_ref)
        return {"name": receiver.name, "discord_configs": [{"webhook_url": url, "send_resolved": True}]}
    if receiver.slack is not None:
        url = _url(context, f"{field}.slack", receiver.slack.url_secret_ref)
        slack = {"api_url": url, "send_resolved": True}
        if receiver.slack.channel:
            slack["channel"] = receiver.slack.channel
        return {"name": receiver.name, "slack_configs": [slack]}
    raise InvalidSpecError("NoReceiver", field, "exactly one of discord, slack and webhook must be set")


def _url(context: Context, field: str, reference: SecretKeyReference) -> str:
    url = context.secrets.get(reference.name, {}).get(reference.key, "").strip()
    if not url.startswith(("http://", "https://")):
        message = f"key {reference.key} of Secret {reference.name} must exist and hold an http or https URL"
        raise InvalidSpecError("SecretNotUsable", f"{field}.urlSecretRef", message)
    return url


def build_alertmanager(context: Context, passwords: Passwords) -> list[Manifest]:
    """Returns Alertmanager's objects, or none when alerting is not asked for."""
    if context.spec.alerting is None:
        return []
    files = {
        "alertmanager.yaml": yaml.safe_dump(routing(context), sort_keys=False),
        "web.yaml": web_configuration(passwords.alertmanager["password"]),
    }
    container: Manifest = {
        "name": "alertmanager",
        "image": context.images.alertmanager,
        "command": [
            "/bin/alertmanager", f"--config.file={credential_path('own', 'alertmanager.yaml')}",
            "--storage.path=/alertmanager", f"--web.listen-address=:{ALERTMANAGER_PORT}",
            f"--web.config.file={credential_path('own', 'web.yaml')}", "--cluster.listen-address=", "--log.level=warn",
        ],
        "ports": [{"name": "http", "containerPort": ALERTMANAGER_PORT, "protocol": "TCP"}],
        "resources": resources(cpu="10m", memory="32Mi", limit="128Mi"),
        "readinessProbe": tcp_probe(ALERTMANAGER_PORT, periodSeconds=3),
        "livenessProbe": tcp_probe(
            ALERTMANAGER_PORT, initialDelaySeconds=30, periodSeconds=20, timeoutSeconds=5, failureThreshold=6
        ),
        "volumeMounts": [{"name": "data", "mountPath": "/alertmanager"}, credential_mount("own")],
    }  # fmt: skip
    keys = {"alertmanager.yaml": "alertmanager.yaml", "web.yaml": "web.yaml"}
    pod = Pod(
        containers=[container],
        volumes=[
            {"name": "data", "emptyDir": {}},
            secret_volume("own", names(context).child("alertmanager"), keys),
        ],
        uid=UID,
        configuration=files,
    )
    return [
        secret(context, "alertmanager", passwords.alertmanager | files),
        service(context, "alertmanager", {"http": ALERTMANAGER_PORT}),
        deployment(context, "alertmanager", pod, replicas=1, recreate=True),
    ]
