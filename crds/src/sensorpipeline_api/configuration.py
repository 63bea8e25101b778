"""The configuration document of each data-plane component.

The operator renders one such document per component; the component parses it once at its start and never recomputes a
name. Documents hold no secret: credentials are files, named here by their path.
"""

import os
from datetime import datetime
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field

from sensorpipeline_api.model import Model
from sensorpipeline_api.spec import DerivedMetric, Fleet, SimulatedDevice, Workers

DescribedFleet = Annotated[Fleet, AfterValidator(lambda fleet: fleet.model_copy(update={"workers": Workers()}))]
"""A fleet as its data plane knows it. How many workers it has and how large they are is left out: a document that
changed with them would roll every pod when a fleet is scaled."""

CONFIGURATION_PATH = "/etc/sensorpipeline/configuration.json"
CONFIGURATION_VARIABLE = "SENSORPIPELINE_CONFIGURATION"
GUARD_TOPIC = "sensorpipeline/guard"
"""Where a managed broker says, retained, the number of its last guard."""
DERIVED_PATH = "/derived"
"""Where derive serves the state of its metrics, a JSON list of DerivedMetricStatus, on its metrics port."""


class Configuration(Model):
    """What every component's document has."""

    pipeline: str = Field(description="Name of the pipeline, a label of every metric and the name of the database.")
    metrics_port: int = Field(
        9102, description="Port of the Prometheus endpoint /metrics, and of /healthz and /readyz."
    )

    @classmethod
    def load(cls) -> Self:
        """Reads the document from the path in `SENSORPIPELINE_CONFIGURATION`, or the standard path.

        Raises OSError when it cannot be read and pydantic.ValidationError when it does not fit the model.
        """
        path = Path(os.environ.get(CONFIGURATION_VARIABLE, CONFIGURATION_PATH))
        return cls.model_validate_json(path.read_bytes())

    def dump(self) -> str:
        """Returns the document as JSON text, stable for equal content."""
        return self.model_dump_json(by_alias=True, exclude_none=True, indent=1)


class KafkaConnection(Model):
    """How to reach Kafka. Authentication is SASL/PLAIN when `username` is set."""

    bootstrap_servers: list[str]
    username: str | None = None
    password_file: str | None = None


class MqttConnection(Model):
    """How to reach the MQTT broker. The user's name is given, or the file that holds it. With `tls` the broker's
    certificate must be valid for `host`, by the authorities in `ca_file` or, if left out, by those of the system."""

    host: str
    port: int = 1883
    username: str | None = None
    username_file: str | None = None
    password_file: str | None = None
    tls: bool = False
    ca_file: str | None = None


class StoreConnection(Model):
    """How to reach MongoDB: `uri_file` holds the whole connection string, credentials included."""

    uri_file: str
    database: str


class Topics(Model):
    """Kafka topics of a pipeline; `readings` maps a fleet's name to its topic."""

    readings: dict[str, str]
    aggregates: str
    late: str
    alerts: str
    dead_letter: str


class BridgeConfiguration(Configuration):
    """MQTT to Kafka."""

    mqtt: MqttConnection
    kafka: KafkaConnection
    topics: Topics
    fleets: list[DescribedFleet]
    share_name: str = Field(description="Group of the shared subscription.")
    batch_maximum_readings: int = 500
    batch_maximum_milliseconds: int = 20
    replicas: int = Field(1, description="Members of the group; sessions of members beyond them are adopted.")
    member_domain: str | None = Field(None, description="Domain in which a member's pod has a name while it exists.")
    guard: str | None = Field(
        None,
        description="What the client ids of the broker's guards begin with: sessions that it holds from its starts.",
    )
    adoption_seconds: int = Field(60, description="How often the first member looks for sessions to adopt.")


class WorkerConfiguration(Configuration):
    """The stream worker of one fleet."""

    kafka: KafkaConnection
    topics: Topics
    fleet: DescribedFleet
    application_id: str = Field(description="Faust application id: consumer group and prefix of internal topics.")
    replication_factor: int = 1
    flush_milliseconds: int = Field(500, description="How often results are sent; states follow at least as seldom.")
    state_flush_milliseconds: int = Field(
        5000, description="How long states and offsets may wait for their flush when there are many to write."
    )


class DerivedInput(Model):
    """One input of a derived metric: a window of a device, or, without a device, another derived metric."""

    window: str
    device: str = ""


class DerivedPlan(Model):
    """A derived metric with the inputs its expression names and the unit of its results."""

    metric: DerivedMetric
    inputs: list[DerivedInput]
    unit: str = ""


class DeriveConfiguration(Configuration):
    """Cross-fleet metrics: reads and writes the aggregates topic. `derived` is in the order of dependency.

    A derived aggregate has window = metric = the derived metric's name, fleet = "derived", device = the pipeline.
    """

    kafka: KafkaConnection
    topics: Topics
    derived: list[DerivedPlan]
    application_id: str
    replication_factor: int = 1


class SinkConfiguration(Configuration):
    """Kafka to MongoDB."""

    kafka: KafkaConnection
    topics: Topics
    store: StoreConnection
    group_id: str
    metrics: dict[str, list[str]] = Field(
        {}, description="Metrics of each fleet; a record with any other is dead-lettered. A fleet left out: any metric."
    )


class IngestLimits(Model):
    """What clients may post over HTTP."""

    maximum_body_bytes: int = 1_048_576
    maximum_readings_per_request: int = 5000
    maximum_readings_per_second: int = 10_000


class GatewayConfiguration(Configuration):
    """The HTTP interface. `token_file` and `device_tokens_directory` left out: no authentication."""

    kafka: KafkaConnection
    topics: Topics
    store: StoreConnection
    fleets: list[DescribedFleet]
    derived_metrics: list[DerivedMetric] = Field([])
    port: int = 8080
    token_file: str | None = None
    device_tokens_directory: str | None = Field(
        None, description="One directory per fleet, with one file per device with its password, or the file `_fleet`."
    )
    limits: IngestLimits = IngestLimits()
    ingest_suspended: bool = Field(False, description="Whether posted readings are turned away: Kafka has no room.")


class StoreUser(Model):
    """A database user with the built-in role on the pipeline's database that it needs."""

    username: str
    password_file: str
    role: str = Field(description="read or readWrite.")


class StoreConfiguration(Configuration):
    """The agent beside each mongod: initiates the replica set, keeps users, collections and indexes as described.

    `members` are host:port names of the replica set, in order. The agent talks to its own mongod at 127.0.0.1.
    """

    replica_set: str
    members: list[str]
    database: str
    admin_username: str
    admin_password_file: str
    users: list[StoreUser]
    reading_retention_days: int
    aggregate_retention_days: int


class SimulatorFleet(Model):
    """What a simulated device needs to know of its fleet."""

    fleet: DescribedFleet
    credentials_directory: str | None = Field(
        None, description="One file per device with its MQTT password, or `_fleet`; left out: no authentication."
    )


class SimulatorConfiguration(Configuration):
    """Simulated devices that publish over MQTT. Replay files lie at `<replay_directory>/<configMapName>/<key>`."""

    mqtt: MqttConnection
    fleets: list[SimulatorFleet]
    start_time: datetime
    acceleration_factor: int
    duration_seconds: int
    devices: list[SimulatedDevice]
    replay_directory: str = "/etc/sensorpipeline/replay"
    state_directory: str = Field("/var/lib/sensorpipeline", description="Where progress and the ledger are kept.")
    seed: int = 0
