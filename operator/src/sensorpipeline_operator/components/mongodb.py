"""MongoDB as an authenticated replica set, with our agent beside each member."""

import hashlib

from sensorpipeline_api.configuration import StoreConfiguration, StoreUser

from sensorpipeline_operator.components.context import Context, Manifest
from sensorpipeline_operator.components.objects import (
    Pod,
    config_map,
    configuration_volume,
    credential_mount,
    credential_path,
    disruption_budget,
    names,
    python_container,
    resources,
    secret_volume,
    service,
    stateful_set,
    tcp_probe,
)
from sensorpipeline_operator.components.secrets import (
    MONGODB_ADMINISTRATOR,
    MONGODB_USERS,
    REPLICA_SET,
    Passwords,
)
from sensorpipeline_operator.naming import METRICS_PORT, MONGODB_PORT

UID = 999

# mongod refuses a key file that its group can read, which is how Kubernetes mounts Secrets for a group: copy it.
COPY_KEY = "cp /secret/keyfile /key/keyfile && chmod 0400 /key/keyfile"


def build_mongodb(context: Context, passwords: Passwords) -> list[Manifest]:
    """Returns the replica set's objects, or none when it is not managed."""
    spec = context.spec.store.mongodb
    if spec is None:
        return []
    made = names(context)
    users_secret = made.child("mongodb-users")
    configuration = StoreConfiguration(
        pipeline=context.name,
        replica_set=REPLICA_SET,
        members=[f"{h}:{MONGODB_PORT}" for h in made.member_hosts("mongodb", "mongodb", spec.replicas)],
        database=made.database,
        admin_username=MONGODB_ADMINISTRATOR,
        admin_password_file=credential_path("users", MONGODB_ADMINISTRATOR),
        users=[
            StoreUser(username=user, password_file=credential_path("users", user), role=role)
            for user, role in MONGODB_USERS.items()
        ],
        reading_retention_days=context.spec.store.reading_retention_days,
        aggregate_retention_days=context.spec.store.aggregate_retention_days,
    )
    document = {"configuration.json": configuration.dump()}
    keyfile = {"name": "keyfile", "mountPath": "/key"}
    mongod: Manifest = {
        "name": "mongod",
        "image": context.images.mongodb,
        "command": [
            "mongod", "--replSet", REPLICA_SET, "--keyFile", "/key/keyfile", "--auth", "--bind_ip_all",
            "--port", str(MONGODB_PORT), "--dbpath", "/data/db", "--wiredTigerCacheSizeGB", "0.25", "--quiet",
        ],
        "ports": [{"name": "mongodb", "containerPort": MONGODB_PORT, "protocol": "TCP"}],
        "resources": resources(cpu="50m", memory="300Mi", limit="1Gi"),
        "livenessProbe": tcp_probe(
            MONGODB_PORT, initialDelaySeconds=60, periodSeconds=20, timeoutSeconds=5, failureThreshold=6
        ),
        "volumeMounts": [{"name": "data", "mountPath": "/data/db"}, keyfile],
    }  # fmt: skip
    copy = {
        "name": "key",
        "image": context.images.mongodb,
        "command": ["/bin/sh", "-c", COPY_KEY],
        "resources": resources(cpu="10m", memory="16Mi", limit="64Mi"),
        "volumeMounts": [keyfile, {"name": "key-secret", "mountPath": "/secret", "readOnly": True}],
    }
    agent = python_container(
        context, "agent", ["sensorpipeline-workers", "store-agent"], image=context.images.workers, cpu="10m",
        memory="64Mi", limit="192Mi", mounts=[credential_mount("users")],
    )  # fmt: skip
    pod = Pod(
        containers=[mongod, agent],
        init_containers=[copy],
        volumes=[
            configuration_volume(context, "mongodb"),
            {"name": "keyfile", "emptyDir": {"medium": "Memory"}},
            secret_volume("key-secret", users_secret, {"keyfile": "keyfile"}),
            secret_volume("users", users_secret, {u: u for u in (MONGODB_ADMINISTRATOR, *MONGODB_USERS)}),
        ],
        uid=UID,
        configuration=[document, hashlib.sha256(passwords.mongodb["keyfile"].encode()).hexdigest()],
        exposes_metrics=True,
        grace_seconds=60,
    )
    out = [
        config_map(context, "mongodb", document),
        service(context, "mongodb", {"mongodb": MONGODB_PORT, "metrics": METRICS_PORT}, headless=True),
        stateful_set(
            context, "mongodb", pod, replicas=spec.replicas, service_name=made.child("mongodb"), parallel=True,
            volumes={"data": spec.storage_size},
        ),
    ]  # fmt: skip
    return [*out, disruption_budget(context, "mongodb")] if spec.replicas > 1 else out
