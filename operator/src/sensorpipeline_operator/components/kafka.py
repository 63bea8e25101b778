"""Kafka in KRaft mode: brokers that are controllers, too, with every listener authenticated."""

import base64
import uuid

from sensorpipeline_operator.components.connections import kafka_replication
from sensorpipeline_operator.components.context import Context, Manifest
from sensorpipeline_operator.components.objects import (
    Pod,
    config_map,
    disruption_budget,
    names,
    resources,
    secret,
    secret_volume,
    service,
    stateful_set,
    tcp_probe,
)
from sensorpipeline_operator.components.secrets import KAFKA_USERS, Passwords
from sensorpipeline_operator.naming import KAFKA_CONTROLLER_PORT, KAFKA_PORT
from sensorpipeline_operator.storage import METADATA_BYTES, compute_segment_bytes

UID = 1000
INTERNAL_PORT = 9094
BROKER_USER = "broker"

# The node id is the pod's ordinal. The log directory lies below the volume's root, which may hold other folders.
START = """#!/bin/sh
set -eu
ordinal="${POD_NAME##*-}"
host="$POD_NAME.$HEADLESS_SERVICE"
cat /etc/kafka/server.properties /etc/kafka-credentials/listeners.properties > /tmp/server.properties
cat >> /tmp/server.properties <<EOF
node.id=$ordinal
advertised.listeners=CLIENT://$host:9092,INTERNAL://$host:9094
EOF
export CLASSPATH='/opt/kafka/libs/*'
java -Xmx128m -Dlog4j2.configurationFile=/etc/kafka/log4j2.properties \\
  kafka.tools.StorageTool format --ignore-formatted --cluster-id "$CLUSTER_ID" --config /tmp/server.properties
exec java -Xms256m -Xmx384m -XX:+UseG1GC -XX:MaxGCPauseMillis=50 -XX:+ExitOnOutOfMemoryError \\
  -Djava.awt.headless=true -Dlog4j2.configurationFile=/etc/kafka/log4j2.properties kafka.Kafka /tmp/server.properties
"""

LOGGING = """rootLogger.level=WARN
rootLogger.appenderRefs=stdout
rootLogger.appenderRef.stdout.ref=stdout
appender.stdout.type=Console
appender.stdout.name=stdout
appender.stdout.layout.type=PatternLayout
appender.stdout.layout.pattern=%d{ISO8601} %p %c %m%n
"""


def cluster_id(namespace: str, name: str) -> str:
    """Returns Kafka's cluster id for a resource: 16 bytes, base64url without padding. It is made from the name, which a
    resource that is deleted and created again has in common with the volumes it left behind; a broker does not start
    on a volume of another id."""
    made = uuid.uuid5(uuid.NAMESPACE_OID, f"{namespace}/{name}")
    return base64.urlsafe_b64encode(made.bytes).decode().rstrip("=")


def build_kafka(context: Context, passwords: Passwords) -> list[Manifest]:
    """Returns the cluster's objects, or none when it is not managed."""
    spec = context.spec.kafka.cluster
    if spec is None:
        return []
    made = names(context)
    headless = made.child("kafka-brokers")
    files = {
        "start.sh": START,
        "log4j2.properties": LOGGING,
        "server.properties": _render(_properties(context, spec.replicas)),
    }
    listeners = {"listeners.properties": _render(_listener_properties(passwords))}
    container: Manifest = {
        "name": "kafka",
        "image": context.images.kafka,
        "command": ["/bin/sh", "/etc/kafka/start.sh"],
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
            {"name": "HEADLESS_SERVICE", "value": f"{headless}.{context.namespace}.svc"},
            {"name": "CLUSTER_ID", "value": cluster_id(context.namespace, context.name)},
        ],
        "ports": [
            {"name": "client", "containerPort": KAFKA_PORT, "protocol": "TCP"},
            {"name": "controller", "containerPort": KAFKA_CONTROLLER_PORT, "protocol": "TCP"},
            {"name": "internal", "containerPort": INTERNAL_PORT, "protocol": "TCP"},
        ],
        "resources": resources(cpu="100m", memory="640Mi", limit="1Gi"),
        "readinessProbe": tcp_probe(KAFKA_PORT, periodSeconds=3),
        "livenessProbe": tcp_probe(
            KAFKA_PORT, initialDelaySeconds=120, periodSeconds=20, timeoutSeconds=5, failureThreshold=6
        ),
        "volumeMounts": [
            {"name": "data", "mountPath": "/var/lib/kafka/data"},
            {"name": "configuration", "mountPath": "/etc/kafka", "readOnly": True},
            {"name": "credentials", "mountPath": "/etc/kafka-credentials", "readOnly": True},
        ],
    }
    pod = Pod(
        containers=[container],
        volumes=[
            {"name": "configuration", "configMap": {"name": made.child("kafka")}},
            secret_volume("credentials", made.child("kafka")),
        ],
        uid=UID,
        configuration=[files, listeners],
        grace_seconds=60,
    )
    out = [
        config_map(context, "kafka", files),
        secret(context, "kafka", listeners),
        service(context, "kafka", {"client": KAFKA_PORT}),
        service(
            context, "kafka", {"client": KAFKA_PORT, "controller": KAFKA_CONTROLLER_PORT, "internal": INTERNAL_PORT},
            headless=True, name=headless,
        ),
        stateful_set(
            context, "kafka", pod, replicas=spec.replicas, service_name=headless, parallel=True,
            volumes={"data": spec.storage_size},
        ),
    ]  # fmt: skip
    return [*out, disruption_budget(context, "kafka")] if spec.replicas > 1 else out


def _properties(context: Context, replicas: int) -> dict[str, str]:
    """Returns the brokers' settings. How long records are kept is each topic's own, which can change while they run."""
    made = names(context)
    hosts = made.member_hosts("kafka", "kafka-brokers", replicas)
    replication = str(kafka_replication(context))
    segment = str(compute_segment_bytes(context.spec))
    return {
        "process.roles": "broker,controller",
        "controller.quorum.voters": ",".join(f"{n}@{h}:{KAFKA_CONTROLLER_PORT}" for n, h in enumerate(hosts)),
        "controller.listener.names": "CONTROLLER",
        "listeners": f"CLIENT://:{KAFKA_PORT},INTERNAL://:{INTERNAL_PORT},CONTROLLER://:{KAFKA_CONTROLLER_PORT}",
        "listener.security.protocol.map": "CLIENT:SASL_PLAINTEXT,INTERNAL:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT",
        "inter.broker.listener.name": "INTERNAL",
        "sasl.enabled.mechanisms": "PLAIN",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "sasl.mechanism.controller.protocol": "PLAIN",
        "log.dirs": "/var/lib/kafka/data/kraft",
        # What storage.py deletes must be gone from the volume soon.
        "log.segment.bytes": segment,
        "offsets.topic.segment.bytes": segment,
        "log.retention.check.interval.ms": "10000",
        "log.segment.delete.delay.ms": "5000",
        "metadata.log.segment.bytes": str(METADATA_BYTES // 4),
        "metadata.max.retention.bytes": str(METADATA_BYTES // 2),
        "auto.create.topics.enable": "false",
        "num.partitions": "1",
        "default.replication.factor": replication,
        "min.insync.replicas": "2" if replicas > 1 else "1",
        "offsets.topic.replication.factor": replication,
        "offsets.topic.num.partitions": "8",
        "transaction.state.log.replication.factor": replication,
        "transaction.state.log.num.partitions": "4",
        "transaction.state.log.min.isr": "2" if replicas > 1 else "1",
        "group.initial.rebalance.delay.ms": "500",
        "message.max.bytes": str(4 * 1024 * 1024),
        "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
        "num.network.threads": "2",
        "num.io.threads": "4",
    }


def _listener_properties(passwords: Passwords) -> dict[str, str]:
    """Returns who may connect to each listener; users of the client listener are the parts of the pipeline."""
    module = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    clients = " ".join(f'user_{user}="{passwords.kafka[user]}"' for user in KAFKA_USERS)
    own = passwords.kafka[BROKER_USER]
    internal = f'{module} username="{BROKER_USER}" password="{own}" user_{BROKER_USER}="{own}";'
    return {
        "listener.name.client.plain.sasl.jaas.config": f"{module} {clients};",
        "listener.name.internal.plain.sasl.jaas.config": internal,
        "listener.name.controller.plain.sasl.jaas.config": internal,
    }


def _render(properties: dict[str, str]) -> str:
    return "".join(f"{key}={value}\n" for key, value in properties.items())
