"""The `status` of a SensorPipeline: what the operator observed, for people and for tools."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from sensorpipeline_api.model import LIST_SET, Model, list_map


class ConditionType(StrEnum):
    """The conditions of a pipeline; all are present from the first visit on."""

    READY = "Ready"
    ACCEPTED = "Accepted"
    RECONCILED = "Reconciled"
    MQTT_READY = "MqttReady"
    KAFKA_READY = "KafkaReady"
    STORE_READY = "StoreReady"
    WORKERS_READY = "WorkersReady"
    GATEWAY_READY = "GatewayReady"
    MONITORING_READY = "MonitoringReady"
    GRAFANA_READY = "GrafanaReady"


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Model):
    """One aspect of the pipeline's state, in the form that all Kubernetes tools read."""

    type: ConditionType = Field(description="Which aspect.")
    status: ConditionStatus = Field(description="Whether it holds.")
    reason: str = Field(description="Why, in one CamelCase word.", min_length=1, max_length=1024)
    message: str = Field(description="Why, for people.", max_length=32768)
    observed_generation: int = Field(description="Generation of the spec that this is about.", ge=0)
    last_transition_time: datetime = Field(description="When the status last changed.")


class FleetStatus(Model):
    """The workers of a fleet."""

    name: Annotated[str, Field(max_length=63)] = Field(description="Name of the fleet.")
    replicas: int = Field(0, description="Worker pods that exist.", ge=0)
    ready_replicas: int = Field(0, description="Worker pods that are ready.", ge=0)
    desired_replicas: int = Field(0, description="Worker pods that should exist.", ge=0)


MAXIMUM_MISSING = 64
"""How many missing inputs of one derived metric are named."""


class DerivedMetricStatus(Model):
    """How a derived metric is. It changes when the metric starts or ceases to wait, not with every result."""

    name: Annotated[str, Field(max_length=63)] = Field(description="Name of the derived metric.")
    unit: str = Field("", description="Unit of its values.", max_length=64)
    last_start: datetime | None = Field(
        None, description="Start of its newest result, given while it waits or has no value."
    )
    missing_inputs: list[Annotated[str, Field(max_length=256)]] = Field(
        [],
        description="Inputs that have stayed away at its newest start that has no result: AggDay[HVAC2].",
        max_length=MAXIMUM_MISSING,
        json_schema_extra=LIST_SET,
    )
    message: str = Field("", description="Why it has no newer result, for people.", max_length=1024)


class Endpoint(Model):
    """Where a part of the pipeline can be reached inside the cluster."""

    name: Annotated[str, Field(max_length=63)] = Field(description="Which part.")
    url: str = Field(description="Its address.", max_length=512)


class SensorPipelineStatus(Model):
    """What the operator observed."""

    observed_generation: int = Field(0, description="Generation of the spec that was last handled.", ge=0)
    conditions: list[Condition] = Field(
        [], description="State of each aspect.", max_length=16, json_schema_extra=list_map("type")
    )
    fleets: list[FleetStatus] = Field(
        [], description="Workers of each fleet.", max_length=32, json_schema_extra=list_map("name")
    )
    derived_metrics: list[DerivedMetricStatus] = Field(
        [], description="State of each derived metric.", max_length=64, json_schema_extra=list_map("name")
    )
    fleet_names: str = Field("", description="Names of the fleets, for listings.", max_length=2048)
    workers: str = Field("", description="Ready and desired workers, for listings: 5/5.", max_length=32)
    endpoints: list[Endpoint] = Field(
        [], description="Where to reach the pipeline.", max_length=16, json_schema_extra=list_map("name")
    )
