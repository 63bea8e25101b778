"""The Kubernetes objects that components are made of, with the project's defaults: restricted security context, no
token, read-only root, requests and limits, and a rollout whenever configuration changes."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sensorpipeline_api.spec import DeletionPolicy, Resources

from sensorpipeline_operator.components.context import Context, Manifest
from sensorpipeline_operator.naming import METRICS_LABEL, METRICS_PORT, Names

WORKERS_UID = 65532
HASH_ANNOTATION = "sensorpipeline.io/configuration-hash"
CONFIGURATION_DIRECTORY = "/etc/sensorpipeline"
CREDENTIALS_DIRECTORY = "/etc/sensorpipeline-credentials"


def names(context: Context) -> Names:
    """Returns the names of the context's pipeline."""
    return Names(context.name, context.namespace)


def metadata(context: Context, component: str, fleet: str | None = None, *, name: str | None = None) -> Manifest:
    """Returns the metadata of a child; `name` when it is not `<pipeline>-<component>[-<fleet>]`."""
    made = names(context)
    return {
        "name": name or made.child(component, fleet),
        "namespace": context.namespace,
        "labels": made.labels(component, fleet),
    }


def config_map(context: Context, component: str, data: Mapping[str, str], fleet: str | None = None) -> Manifest:
    """Returns a ConfigMap."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(context, component, fleet),
        "data": dict(data),
    }


def secret(context: Context, component: str, data: Mapping[str, str], *, name: str | None = None) -> Manifest:
    """Returns a Secret. `data` is plain text; it is encoded here."""
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in sorted(data.items())}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(context, component, name=name),
        "type": "Opaque",
        "data": encoded,
    }


def service(
    context: Context, component: str, ports: Mapping[str, int], *, headless: bool = False, kind: str = "ClusterIP",
    name: str | None = None, selector: Mapping[str, str] | None = None,
) -> Manifest:  # fmt: skip
    """Returns a Service. A headless one lists pods that are not ready, too, so that members find each other."""
    spec: Manifest = {
        "selector": dict(selector or names(context).selector(component)),
        "ports": [{"name": n, "port": p, "targetPort": p, "protocol": "TCP"} for n, p in ports.items()],
    }
    spec |= {"clusterIP": "None", "publishNotReadyAddresses": True} if headless else {"type": kind}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata(context, component, name=name), "spec": spec}


def hash_of(*values: Any) -> str:
    """Returns a hash of plain data, for the annotation that rolls pods when their configuration changes."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def resources(*, cpu: str, memory: str, limit: str, override: Resources | None = None) -> dict[str, dict[str, str]]:
    """Returns requests and limits; processor time has no limit, since throttling helps nobody."""
    out = {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": limit}}
    if override is not None:
        out["requests"] |= override.requests.model_dump(exclude_none=True)
        out["limits"] |= override.limits.model_dump(exclude_none=True)
    return out


CONTAINER_SECURITY: Manifest = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def http_probe(path: str, port: int, **settings: int) -> Manifest:
    """Returns a probe by HTTP."""
    return {"httpGet": {"path": path, "port": port}} | settings


def tcp_probe(port: int, **settings: int) -> Manifest:
    """Returns a probe that connects."""
    return {"tcpSocket": {"port": port}} | settings


@dataclass(frozen=True, kw_only=True)
class Pod:
    """A pod template of one component: containers and volumes as plain data, the rest by the project's defaults.

    `configuration` is whatever rolls the pods when it changes."""

    containers: Sequence[Manifest]
    volumes: Sequence[Manifest] = ()
    init_containers: Sequence[Manifest] = ()
    uid: int = WORKERS_UID
    gid: int | None = None
    configuration: Any = None
    exposes_metrics: bool = False
    grace_seconds: int = 30
    labels: Mapping[str, str] = field(default_factory=dict)


def pod_template(context: Context, component: str, fleet: str | None, pod: Pod) -> Manifest:
    """Returns the pod template; every container may write to /tmp and to its volumes alone."""
    labels = names(context).labels(component, fleet) | ({METRICS_LABEL: "true"} if pod.exposes_metrics else {})
    group = pod.gid if pod.gid is not None else pod.uid

    def complete(container: Manifest) -> Manifest:
        mounts = [*container.get("volumeMounts", []), {"name": "tmp", "mountPath": "/tmp"}]
        defaults = {"imagePullPolicy": "IfNotPresent", "securityContext": CONTAINER_SECURITY}
        return defaults | container | {"volumeMounts": mounts}

    spec: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": pod.grace_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": pod.uid,
            "runAsGroup": group,
            "fsGroup": group,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [complete(container) for container in pod.containers],
        "volumes": [*pod.volumes, {"name": "tmp", "emptyDir": {}}],
    }
    if pod.init_containers:
        spec["initContainers"] = [complete(container) for container in pod.init_containers]
    annotations = {HASH_ANNOTATION: hash_of(pod.configuration)}
    return {"metadata": {"labels": labels, "annotations": annotations}, "spec": spec}


def deployment(
    context: Context, component: str, pod: Pod, *, replicas: int, fleet: str | None = None, recreate: bool = False
) -> Manifest:
    """Returns a Deployment; with `recreate` the old pod ends before the new one starts."""
    strategy: Manifest = {"type": "Recreate"} if recreate else {"type": "RollingUpdate"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(context, component, fleet),
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 3,
            "strategy": strategy,
            "selector": {"matchLabels": names(context).selector(component, fleet)},
            "template": pod_template(context, component, fleet, pod),
        },
    }


def stateful_set(
    context: Context, component: str, pod: Pod, *, replicas: int, service_name: str, fleet: str | None = None,
    volumes: Mapping[str, str] | None = None, parallel: bool = False,
) -> Manifest:  # fmt: skip
    """Returns a StatefulSet. `volumes` maps the names of volume claims to their sizes; they outlive the resource
    unless its deletionPolicy says otherwise."""
    delete = context.spec.deletion_policy is DeletionPolicy.DELETE
    spec: Manifest = {
        "replicas": replicas,
        "revisionHistoryLimit": 3,
        "serviceName": service_name,
        "podManagementPolicy": "Parallel" if parallel else "OrderedReady",
        "selector": {"matchLabels": names(context).selector(component, fleet)},
        "template": pod_template(context, component, fleet, pod),
    }
    if volumes:
        policy = "Delete" if delete else "Retain"
        spec["persistentVolumeClaimRetentionPolicy"] = {"whenDeleted": policy, "whenScaled": "Retain"}
        spec["volumeClaimTemplates"] = [
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": name, "labels": names(context).labels(component, fleet)},
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "volumeMode": "Filesystem",
                    "resources": {"requests": {"storage": size}},
                },
            }
            for name, size in volumes.items()
        ]
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(context, component, fleet),
        "spec": spec,
    }


def disruption_budget(context: Context, component: str) -> Manifest:
    """Returns a budget that lets one pod of a component go at a time."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(context, component),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": names(context).selector(component)}},
    }


def secret_volume(volume: str, secret_name: str, keys: Mapping[str, str] | None = None) -> Manifest:
    """Returns a volume of a Secret, readable by the pod's group alone; `keys` maps keys to file names."""
    source: Manifest = {"secretName": secret_name, "defaultMode": 0o440}
    if keys is not None:
        source["items"] = [{"key": key, "path": path} for key, path in keys.items()]
    return {"name": volume, "secret": source}


def python_container(
    context: Context, name: str, command: Sequence[str], *, image: str, cpu: str, memory: str, limit: str,
    override: Resources | None = None, mounts: Sequence[Manifest] = (), health: bool = True,
) -> Manifest:  # fmt: skip
    """Returns a container of one of our images, with its configuration document mounted and its health watched."""
    container: Manifest = {
        "name": name,
        "image": image,
        "command": list(command),
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}],
        "ports": [{"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"}],
        "resources": resources(cpu=cpu, memory=memory, limit=limit, override=override),
        "volumeMounts": [{"name": "configuration", "mountPath": CONFIGURATION_DIRECTORY, "readOnly": True}, *mounts],
    }
    if health:
        container["readinessProbe"] = http_probe("/readyz", METRICS_PORT, periodSeconds=3, timeoutSeconds=3)
        container["livenessProbe"] = http_probe(
            "/healthz", METRICS_PORT, initialDelaySeconds=30, periodSeconds=20, timeoutSeconds=5, failureThreshold=6
        )
    return container


def configuration_volume(context: Context, component: str, fleet: str | None = None) -> Manifest:
    """Returns the volume of a component's configuration document."""
    return {"name": "configuration", "configMap": {"name": names(context).child(component, fleet)}}


def credential_mount(name: str) -> Manifest:
    """Returns the mount of a credentials volume."""
    return {"name": name, "mountPath": f"{CREDENTIALS_DIRECTORY}/{name}", "readOnly": True}


def credential_path(volume: str, file: str) -> str:
    """Returns where a credential file is in the container."""
    return f"{CREDENTIALS_DIRECTORY}/{volume}/{file}"
