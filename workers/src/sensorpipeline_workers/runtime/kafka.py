"""Client settings for Kafka from a connection: for librdkafka (confluent-kafka) and for aiokafka.

Passwords are read from their files here and nowhere else.
"""

from pathlib import Path
from typing import Any

from sensorpipeline_api.configuration import KafkaConnection


def read_secret(path: str) -> str:
    """Returns the content of a credential file without the trailing newline."""
    return Path(path).read_text().rstrip("\n")


def librdkafka_settings(connection: KafkaConnection) -> dict[str, Any]:
    """Returns the connection part of a confluent-kafka configuration."""
    settings: dict[str, Any] = {"bootstrap.servers": ",".join(connection.bootstrap_servers)}
    if connection.username is not None and connection.password_file is not None:
        settings |= {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": connection.username,
            "sasl.password": read_secret(connection.password_file),
        }
    return settings


def aiokafka_settings(connection: KafkaConnection) -> dict[str, Any]:
    """Returns the connection part of an aiokafka client's keyword arguments."""
    settings: dict[str, Any] = {"bootstrap_servers": connection.bootstrap_servers}
    if connection.username is not None and connection.password_file is not None:
        settings |= {
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "PLAIN",
            "sasl_plain_username": connection.username,
            "sasl_plain_password": read_secret(connection.password_file),
        }
    return settings
