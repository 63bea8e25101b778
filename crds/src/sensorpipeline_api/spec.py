"""The `spec` of a SensorPipeline: what a user writes.

Field names are the contract of the project (camelCase on the wire). Bounds, defaults and CEL rules stand beside the
fields, and the custom resource definition is generated from them; a field is here only when it works.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field

from sensorpipeline_api.model import (
    LIST_SET,
    ColumnName,
    DecimalString,
    DeviceName,
    FieldPath,
    Identifier,
    LabelName,
    Model,
    ObjectName,
    Quantity,
    SecretKey,
    list_map,
    rules,
)

FixedQuantity = Annotated[
    Quantity,
    Field(json_schema_extra=rules(("self == oldSelf", "storageSize must not change: volumes keep their size"))),
]
"""The size of a volume, which cannot be changed once the volume is there."""

_GROWING_REPLICAS = rules(
    ("self >= oldSelf", "replicas must not decrease: the members that go may hold what the others do not have yet")
)
_FIXED_REPLICAS = rules(("self == oldSelf", "replicas must not change: the controllers' quorum is fixed"))


class ReconcilePolicy(StrEnum):
    """What the operator does with the resource: keep it as described, or leave its children alone."""

    ACTIVE = "Active"
    PAUSED = "Paused"


class DeletionPolicy(StrEnum):
    """What happens to the data volumes, and to the credentials that belong to them, when the resource is deleted."""

    RETAIN = "Retain"
    DELETE = "Delete"


class MqttAuthentication(StrEnum):
    """Whether MQTT clients must present credentials."""

    CREDENTIALS = "Credentials"
    NONE = "None"


class GatewayAuthentication(StrEnum):
    """Whether HTTP clients must present the bearer token."""

    TOKEN = "Token"  # noqa: S105 (the name of a policy, not a token)
    NONE = "None"


class ServiceType(StrEnum):
    """How a Service is exposed."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"


class PayloadFormat(StrEnum):
    """How a message body is encoded."""

    JSON = "Json"
    NUMBER = "Number"
    CSV = "Csv"
    SPARKPLUG_B = "SparkplugB"


class TimeUnit(StrEnum):
    """How a message states its event time."""

    SECONDS = "Seconds"
    MILLISECONDS = "Milliseconds"
    RFC3339 = "Rfc3339"
    RECEIVE_TIME = "ReceiveTime"


class WindowFunction(StrEnum):
    """What a window computes over the readings of one series."""

    SUM = "Sum"
    MEAN = "Mean"
    MINIMUM = "Minimum"
    MAXIMUM = "Maximum"
    COUNT = "Count"
    FIRST = "First"
    LAST = "Last"
    DIFFERENCE = "Difference"
    RATE = "Rate"
    STANDARD_DEVIATION = "StandardDeviation"
    QUANTILE = "Quantile"
    TIME_WEIGHTED_MEAN = "TimeWeightedMean"
    AVAILABILITY = "Availability"


class Calendar(StrEnum):
    """A unit of the calendar that a window can be long."""

    DAY = "Day"
    MONTH = "Month"


class Emit(StrEnum):
    """When a window is emitted: once it is final, or while it is open, too."""

    FINAL = "Final"
    UPDATES = "Updates"


class ResetPolicy(StrEnum):
    """What a fall of the value means to Difference and Rate: a negative change, or a counter that began anew at 0."""

    NEGATIVE = "Negative"
    RESET = "Reset"


class Clock(StrEnum):
    """Whose readings move the watermark: those of the same series, or of all series in a partition of the fleet."""

    SERIES = "Series"
    FLEET = "Fleet"


class Severity(StrEnum):
    """How bad it is when a threshold is crossed."""

    INFORMATION = "Information"
    WARNING = "Warning"
    CRITICAL = "Critical"


class Service(Model):
    """How a component's Service is exposed."""

    type: ServiceType = Field(ServiceType.CLUSTER_IP, description="Type of the Kubernetes Service.")


class ResourceList(Model):
    """Amounts of compute resources."""

    cpu: Quantity | None = Field(None, description="Processor time, for example 500m.")
    memory: Quantity | None = Field(None, description="Memory, for example 256Mi.")


class Resources(Model):
    """Compute resources of a pod; what is left out keeps the operator's default."""

    requests: ResourceList = Field(ResourceList(), description="What the scheduler reserves.")
    limits: ResourceList = Field(ResourceList(), description="What the pod may use at most.")


class SecretKeyReference(Model):
    """A key of a Secret in the same namespace."""

    name: ObjectName = Field(description="Name of the Secret.")
    key: SecretKey = Field(description="Key within the Secret.")


class IssuerKind(StrEnum):
    """Where a cert-manager issuer is kept."""

    ISSUER = "Issuer"
    CLUSTER_ISSUER = "ClusterIssuer"


class IssuerReference(Model):
    """An issuer of cert-manager."""

    name: ObjectName = Field(description="Name of the issuer.")
    kind: IssuerKind = Field(IssuerKind.ISSUER, description="Issuer: of the same namespace. ClusterIssuer: of all.")


class ServerTls(Model):
    """The certificate of a server."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("has(self.secretName) != has(self.issuerRef)", "tls: exactly one of secretName and issuerRef must be set")
        )
    )
    secret_name: ObjectName | None = Field(None, description="Secret with the keys tls.crt and tls.key.")
    issuer_ref: IssuerReference | None = Field(None, description="cert-manager's issuer that signs a certificate.")


class Mosquitto(Model):
    """A Mosquitto broker run by the operator."""

    storage_size: FixedQuantity = Field(
        "1Gi", description="Size of the volume that holds sessions and queued messages."
    )
    authentication: MqttAuthentication = Field(
        MqttAuthentication.CREDENTIALS, description="Credentials: every client needs a user and password. None: open."
    )
    service: Service = Field(Service(), description="How devices reach the broker.")
    tls: ServerTls | None = Field(
        None,
        description="Devices connect by TLS, at port 8883, and no longer without. Left out: without, at port 1883.",
    )
    maximum_connections: int = Field(
        10000, description="Connections beyond this many are refused, the pipeline's own included.", ge=10, le=1000000
    )
    maximum_message_bytes: int = Field(
        2097152,
        description="Largest message that the broker takes, topic and properties included; who sends a larger one is "
        "disconnected.",
        ge=1024,
        le=2097152,
    )


class TlsMode(StrEnum):
    """Whether a connection is encrypted."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"


class ExternalMqtt(Model):
    """A broker that exists already. It must know MQTT 5 and shared subscriptions, and keep sessions."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("self.tls == 'Enabled' || !has(self.caSecretName)", "caSecretName must not be set when tls is Disabled")
        )
    )
    host: str = Field(
        description="Name or address of the broker, and of its certificate.",
        pattern=r"^[A-Za-z0-9]([-.:A-Za-z0-9]*[A-Za-z0-9])?$",
        min_length=1,
        max_length=253,
    )
    port: int = Field(8883, description="Port of the broker.", ge=1, le=65535)
    tls: TlsMode = Field(
        TlsMode.ENABLED, description="Enabled: the broker must show a certificate for its host. Disabled: in clear."
    )
    ca_secret_name: ObjectName | None = Field(
        None, description="Secret whose key ca.crt holds the authorities to trust; left out: those of the system."
    )
    credentials_secret_name: ObjectName | None = Field(
        None, description="Secret with the keys username and password; left out: the broker asks for none."
    )


class Mqtt(Model):
    """The MQTT broker that devices publish to."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("has(self.mosquitto) != has(self.external)", "mqtt: exactly one of mosquitto and external must be set")
        )
    )
    mosquitto: Mosquitto | None = Field(None, description="A broker managed by the operator.")
    external: ExternalMqtt | None = Field(None, description="A broker of your own.")


class Bridge(Model):
    """The bridge from MQTT to Kafka."""

    replicas: int = Field(
        1,
        description="Number of members that share the messages; when there are fewer, the first adopts what waits for "
        "those that are gone. A broker with all it can do reads a packet of each connection in turn, so more members "
        "get more of its time, beside many devices.",
        ge=1,
        le=16,
    )
    batch_maximum_readings: int = Field(500, description="Readings after which a Kafka record is sent.", ge=1, le=2000)
    batch_maximum_milliseconds: int = Field(
        20, description="How long a Kafka record waits for more readings.", ge=1, le=1000
    )
    resources: Resources = Field(Resources(), description="Compute resources of a member's pod.")


class KafkaCluster(Model):
    """A Kafka cluster in KRaft mode run by the operator."""

    replicas: Annotated[int, Field(json_schema_extra={"enum": [1, 3]} | _FIXED_REPLICAS)] = Field(
        1, description="Number of brokers, 1 or 3.", ge=1, le=3
    )
    storage_size: FixedQuantity = Field("5Gi", description="Size of each broker's volume.")
    retention_hours: int = Field(168, description="Hours that readings wait in Kafka.", ge=1, le=8760)


class Kafka(Model):
    """The buffer between ingest and everything downstream."""

    model_config = ConfigDict(
        json_schema_extra=rules(("has(self.cluster)", "kafka: exactly one of cluster must be set"))
    )
    cluster: KafkaCluster | None = Field(None, description="A cluster managed by the operator.")


class MongoDB(Model):
    """A MongoDB replica set run by the operator."""

    replicas: Annotated[int, Field(json_schema_extra={"enum": [1, 3]} | _GROWING_REPLICAS)] = Field(
        1, description="Number of members, 1 or 3; it may grow.", ge=1, le=3
    )
    storage_size: FixedQuantity = Field("10Gi", description="Size of each member's volume.")


class Store(Model):
    """Where readings, aggregates, late readings, alerts and dead letters are kept."""

    model_config = ConfigDict(
        json_schema_extra=rules(("has(self.mongodb)", "store: exactly one of mongodb must be set"))
    )
    mongodb: MongoDB | None = Field(None, description="A replica set managed by the operator.")
    reading_retention_days: int = Field(
        90,
        description="Days that readings, late readings and alerts are kept, by their event time, and dead letters, by "
        "the time of their receipt; 0: for ever.",
        ge=0,
        le=36500,
    )
    aggregate_retention_days: int = Field(
        3650, description="Days that aggregates are kept, by the start of their window; 0: for ever.", ge=0, le=36500
    )


class Payload(Model):
    """How a fleet's messages are to be read."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "(self.format == 'Csv') == (self.columns.size() > 0)",
                "payload.columns must be set when format is Csv, and only then",
            ),
            (
                "self.format != 'Csv' || self.timeUnit == 'ReceiveTime' || self.timeField in self.columns",
                "payload.columns must hold timeField, unless timeUnit is ReceiveTime",
            ),
            (
                "self.format != 'Number' || self.timeUnit == 'ReceiveTime'",
                "payload.timeUnit must be ReceiveTime when format is Number",
            ),
            (
                "self.format != 'SparkplugB' || self.timeUnit == 'Milliseconds'",
                "payload.timeUnit must be Milliseconds when format is SparkplugB",
            ),
        )
    )
    format: PayloadFormat = Field(
        PayloadFormat.JSON,
        description="Encoding of the message body. Json: an object or an array of objects. Number: the value alone. "
        "Csv: lines without a header. SparkplugB: births and data of Sparkplug B.",
    )
    columns: list[ColumnName] = Field(
        [],
        description="Csv: the name of each column; timeField and metrics[].field name columns.",
        max_length=64,
        json_schema_extra=LIST_SET,
    )
    time_field: FieldPath = Field("ts", description="Field that holds the event time; SparkplugB has its own.")
    time_unit: TimeUnit = Field(
        TimeUnit.MILLISECONDS,
        description="Unit of the event time. ReceiveTime: messages carry no time, they get that of their receipt, no "
        "two of a device the same; of one device a member of the bridge then takes in 62 a second for long.",
    )
    maximum_bytes: int = Field(
        262144, description="Largest message accepted, in bytes; a larger one is a dead letter.", ge=64, le=1048576
    )


class Metric(Model):
    """One quantity that a fleet's devices report."""

    name: Identifier = Field(description="Name of the metric.")
    field: FieldPath = Field(
        "value", description="Field of the payload that holds the value; SparkplugB: the name of the metric there."
    )
    unit: str = Field("", description="Unit of the value, for example Wh.", max_length=32)
    minimum: DecimalString | None = Field(None, description="Smallest valid value; a smaller one is a dead letter.")
    maximum: DecimalString | None = Field(None, description="Largest valid value; a larger one is a dead letter.")


class Window(Model):
    """An event-time window over each series (device and metric) of the fleet."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "[has(self.periodSeconds), has(self.gapSeconds), has(self.calendar)].filter(x, x).size() == 1",
                "window: exactly one of periodSeconds, gapSeconds and calendar must be set",
            ),
            ("!has(self.slideSeconds) || has(self.periodSeconds)", "slideSeconds must go with periodSeconds"),
            (
                "!has(self.slideSeconds) || !has(self.periodSeconds) || self.slideSeconds <= self.periodSeconds",
                "slideSeconds must be less than or equal to periodSeconds",
            ),
            (
                "!has(self.slideSeconds) || !has(self.periodSeconds) || self.periodSeconds <= 64 * self.slideSeconds",
                "slideSeconds must be at least a 64th of periodSeconds",
            ),
            ("has(self.calendar) || self.timeZone == 'UTC'", "timeZone must go with calendar"),
            (
                "(self.function == 'Quantile') == has(self.quantile)",
                "quantile must be set for the function Quantile, and for no other",
            ),
            (
                "(self.function == 'Availability') == has(self.expectedEverySeconds)",
                "expectedEverySeconds must be set for the function Availability, and for no other",
            ),
            (
                "!(self.function in ['Difference', 'Availability']) || !(has(self.gapSeconds))",
                "function must not be Difference or Availability with gapSeconds",
            ),
            (
                "self.function != 'Difference' || !has(self.slideSeconds)",
                "function must not be Difference with slideSeconds",
            ),
            (
                "self.resetPolicy == 'Negative' || self.function in ['Difference', 'Rate']",
                "resetPolicy must be Negative unless the function is Difference or Rate",
            ),
            (
                "(self.emit == 'Updates') == has(self.emitSeconds)",
                "emitSeconds must be set for emit Updates, and only then",
            ),
            (
                "!has(self.source) || !(has(self.gapSeconds) || has(self.slideSeconds))",
                "source must go with periodSeconds or calendar, without slideSeconds",
            ),
            (
                "!has(self.source) || self.allowedLatenessSeconds == 0",
                "allowedLatenessSeconds must be 0 with source: the lateness is the source's",
            ),
            ("!has(self.source) || self.source != self.name", "source must name another window"),
        )
    )
    name: Identifier = Field(description="Name of the window; unique in its fleet.")
    metric: Identifier = Field(description="Metric of the fleet that the window reads.")
    function: WindowFunction = Field(
        description="What the window computes. Rate: last less first value, per second between them. "
        "StandardDeviation: of the readings themselves (divided by their number). Quantile: within 1 % of the value; "
        "of more than 2048 values 2 % apart in a window, fewer where many windows are open, the smallest (in size) "
        "count as equal. TimeWeightedMean: each value holds until the next reading or the end. Availability: the share "
        "of expected periods with a reading."
    )
    period_seconds: int | None = Field(
        None, description="Length of the window; windows are aligned to the epoch.", ge=1, le=31622400
    )
    slide_seconds: int | None = Field(
        None,
        description="A window begins every so many seconds; by default where the last one ends.",
        ge=1,
        le=31622400,
    )
    gap_seconds: int | None = Field(
        None,
        description="The window is a session: readings less than this apart; it ends this long after the last of them.",
        ge=1,
        le=31622400,
    )
    calendar: Calendar | None = Field(None, description="The window is a day or a month of the time zone.")
    time_zone: str = Field(
        "UTC", description="Time zone of the calendar, for example Europe/Athens.", min_length=1, max_length=64
    )
    source: Identifier | None = Field(
        None, description="Window of the same metric whose windows are merged into this one; by default raw readings."
    )
    quantile: DecimalString | None = Field(None, description="Which quantile, for example 0.95.")
    reset_policy: ResetPolicy = Field(
        ResetPolicy.NEGATIVE,
        description="What a fall of the value is for Difference and Rate. Negative: a negative change. Reset: a "
        "counter that began anew at 0.",
    )
    expected_every_seconds: int | None = Field(
        None, description="Availability expects a reading in each such period of the window.", ge=1, le=2678400
    )
    allowed_lateness_seconds: int = Field(
        0,
        description="How long after its end a window still accepts readings, in event time. A series can have 20000 "
        "windows of a metric open at once at most, all definitions together; fewer with the functions that keep more.",
        ge=0,
        le=31622400,
    )
    emit: Emit = Field(Emit.FINAL, description="Final: when the window is final. Updates: while it is open, too.")
    emit_seconds: int | None = Field(
        None,
        description="An open window is emitted at most once in so many seconds of event time, if it has changed.",
        ge=1,
        le=31622400,
    )

    def longest_seconds(self) -> int:
        """Returns how long the window can be; a session, at least."""
        if self.calendar is not None:
            # A change of the zone's offset, at most a day, can make the window longer.
            return (31 if self.calendar is Calendar.MONTH else 1) * 86400 + 86400
        return self.period_seconds or self.gap_seconds or 0


class Threshold(Model):
    """A condition on a metric that raises an alert."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "[has(self.above), has(self.below), has(self.risingFasterThan), has(self.fallingFasterThan), "
                "has(self.silentForSeconds)].filter(x, x).size() == 1",
                "threshold: exactly one of above, below, risingFasterThan, fallingFasterThan and silentForSeconds "
                "must be set",
            ),
            (
                "!has(self.silentForSeconds) || (!has(self.clear) && self.forSeconds == 0)",
                "clear and forSeconds must not be set with silentForSeconds",
            ),
        ),
    )
    name: Identifier = Field(description="Name of the threshold; unique in its fleet.")
    metric: Identifier = Field(description="Metric of the fleet that is watched.")
    above: DecimalString | None = Field(None, description="The alert is raised when the value is greater.")
    below: DecimalString | None = Field(None, description="The alert is raised when the value is smaller.")
    rising_faster_than: DecimalString | None = Field(
        None, description="The alert is raised when the value rises by more than this per second between two readings."
    )
    falling_faster_than: DecimalString | None = Field(
        None, description="The alert is raised when the value falls by more than this per second between two readings."
    )
    silent_for_seconds: int | None = Field(
        None,
        description="The alert is raised when a device that has sent before sends nothing for so long, by the clock; "
        "time whose readings could not be read yet (a backlog, a standstill) does not count.",
        ge=1,
        le=2678400,
    )
    clear: DecimalString | None = Field(
        None,
        description="The alert is cleared when the value (or rate) comes back to this; by default the bound itself.",
    )
    for_seconds: int = Field(0, description="How long, in event time, the condition must hold.", ge=0, le=604800)
    severity: Severity = Field(Severity.WARNING, description="How bad it is.")


class Lateness(Model):
    """By whose readings a reading is late."""

    clock: Clock = Field(
        Clock.SERIES,
        description="Series: the newest reading of the same series moves the watermark. Fleet: that of all series in "
        "the same partition, whose windows then close together.",
    )


class Workers(Model):
    """The stream workers of a fleet."""

    min_replicas: int = Field(1, description="Number of worker pods; more than partitions is of no use.", ge=1, le=64)
    resources: Resources = Field(Resources(), description="Compute resources of a worker pod.")


class Fleet(Model):
    """A group of devices that report the same metrics in the same way."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.windows.all(w, self.metrics.exists(m, m.name == w.metric))",
                "windows[].metric must name one of the fleet's metrics",
            ),
            (
                "self.thresholds.all(t, self.metrics.exists(m, m.name == t.metric))",
                "thresholds[].metric must name one of the fleet's metrics",
            ),
            (
                "self.workers.minReplicas <= self.partitions",
                "workers.minReplicas must be less than or equal to partitions",
            ),
            ("self.name != 'derived'", "name must not be 'derived', which is reserved for derived metrics"),
            (
                "self.payload.format != 'Number' || self.metrics.size() == 1 || self.topic.contains('{metric}')",
                "payload.format Number needs one metric, or the placeholder {metric} in topic",
            ),
            (
                "self.payload.format != 'Csv' || self.metrics.all(m, m.field in self.payload.columns)",
                "metrics[].field must be one of payload.columns when format is Csv",
            ),
            (
                "self.payload.format != 'SparkplugB' || self.topic.matches('^spBv1[.]0/[^/{}]+/DDATA/[^/{}]+/[{]device"
                "[}]$') || self.topic.matches('^spBv1[.]0/[^/{}]+/NDATA/[{]device[}]$')",
                "topic must be spBv1.0/GROUP/DDATA/NODE/{device} or spBv1.0/GROUP/NDATA/{device} when format is "
                "SparkplugB",
            ),
        ),
    )
    name: LabelName = Field(description="Name of the fleet.")
    topic: Annotated[
        str,
        Field(json_schema_extra=rules(("self.contains('{device}')", "topic must contain the placeholder {device}"))),
    ] = Field(
        description="MQTT topic template with the placeholders {device} and, optionally, {metric}, each a whole level.",
        pattern=r"^([^/+#{}$]+|\{device\}|\{metric\})(/([^/+#{}]+|\{device\}|\{metric\}))*$",
        min_length=8,
        max_length=256,
    )
    payload: Payload = Field(Payload(), description="How messages are to be read.")
    metrics: list[Metric] = Field(
        description="What the devices report.", min_length=1, max_length=32, json_schema_extra=list_map("name")
    )
    devices: list[DeviceName] = Field(
        [],
        description="Devices, each with its own credentials. Empty: any device, with the fleet's credentials.",
        max_length=1000,
        json_schema_extra=LIST_SET,
    )
    partitions: Annotated[
        int,
        Field(json_schema_extra=rules(("self == oldSelf", "partitions must not change: state is kept per partition"))),
    ] = Field(6, description="Kafka partitions of the fleet's readings.", ge=1, le=128)
    maximum_future_seconds: int = Field(
        300, description="How far ahead of the clock a reading may be; beyond it is a dead letter.", ge=0, le=86400
    )
    out_of_orderness_seconds: int = Field(
        0, description="How far a series' watermark is held back behind its newest reading.", ge=0, le=86400
    )
    idle_seconds: int = Field(
        3600,
        description="Silence, by the clock, after which a series' open windows are closed; time whose readings could "
        "not be read yet (a backlog, a standstill) does not count.",
        ge=1,
        le=604800,
    )
    lateness: Lateness = Field(Lateness(), description="How lateness is judged.")
    series_ttl_seconds: int = Field(
        0,
        description="Silence, by the clock, after which a series is retired: its alerts end, its results stand; 0: "
        "never. Not shorter than idleSeconds and the longest window with its lateness.",
        ge=0,
        le=315360000,
    )
    windows: list[Window] = Field(
        [], description="Event-time windows.", max_length=16, json_schema_extra=list_map("name")
    )
    thresholds: list[Threshold] = Field(
        [], description="Conditions that raise alerts.", max_length=16, json_schema_extra=list_map("name")
    )
    workers: Workers = Field(Workers(), description="The fleet's stream workers.")

    @property
    def topic_templates(self) -> tuple[str, ...]:
        """The templates of the topics that devices publish to: the fleet's topic, and for Sparkplug that of births."""
        if self.payload.format is not PayloadFormat.SPARKPLUG_B:
            return (self.topic,)
        return self.topic, self.topic.replace("/DDATA/", "/DBIRTH/").replace("/NDATA/", "/NBIRTH/")


class DerivedMetric(Model):
    """A value computed across fleets from windows of the same start."""

    name: Identifier = Field(description="Name of the derived metric.")
    expression: str = Field(
        description='CEL over windows of devices and other derived metrics: AggDay["HVAC1"] / AggDayTotal.',
        min_length=1,
        max_length=4096,
    )
    unit: str = Field(
        "",
        description="Unit of the value; by default the inputs' own, when they share one and are only added.",
        max_length=32,
    )


class WebhookReceiver(Model):
    """A service that takes Alertmanager's webhook messages."""

    url_secret_ref: SecretKeyReference = Field(description="Where the URL is kept.")


class DiscordReceiver(Model):
    """A Discord channel."""

    url_secret_ref: SecretKeyReference = Field(description="Where the webhook URL is kept.")


class SlackReceiver(Model):
    """A Slack channel."""

    url_secret_ref: SecretKeyReference = Field(description="Where the webhook URL is kept.")
    channel: str = Field("", description="Channel, if other than the webhook's own.", max_length=80)


class Receiver(Model):
    """Where alerts of the given severities are sent."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "[has(self.discord), has(self.slack), has(self.webhook)].filter(x, x).size() == 1",
                "receiver: exactly one of discord, slack and webhook must be set",
            ),
        ),
    )
    name: LabelName = Field(description="Name of the receiver.")
    discord: DiscordReceiver | None = Field(None, description="Send to a Discord channel.")
    slack: SlackReceiver | None = Field(None, description="Send to a Slack channel.")
    webhook: WebhookReceiver | None = Field(None, description="Send to a webhook.")
    severities: list[Severity] = Field(
        [Severity.WARNING, Severity.CRITICAL],
        description="Severities that are sent here.",
        min_length=1,
        max_length=3,
        json_schema_extra=LIST_SET,
    )


class Alertmanager(Model):
    """An Alertmanager run by the operator."""


class Alerting(Model):
    """Delivery of alerts to people."""

    alertmanager: Alertmanager = Field(Alertmanager(), description="The Alertmanager managed by the operator.")
    receivers: list[Receiver] = Field(
        [], description="Where alerts are sent.", max_length=16, json_schema_extra=list_map("name")
    )


class Prometheus(Model):
    """A Prometheus run by the operator."""

    retention_days: int = Field(15, description="Days that metrics are kept.", ge=1, le=3650)
    storage_size: FixedQuantity = Field("2Gi", description="Size of the volume.")


class Monitoring(Model):
    """Metrics and alerting rules."""

    model_config = ConfigDict(
        json_schema_extra=rules(("has(self.prometheus)", "monitoring: exactly one of prometheus must be set"))
    )
    prometheus: Prometheus | None = Field(None, description="A Prometheus managed by the operator.")


class GrafanaServer(Model):
    """A Grafana server run by the operator."""


class Grafana(Model):
    """Dashboards generated from the resource."""

    model_config = ConfigDict(
        json_schema_extra=rules(("has(self.server)", "grafana: exactly one of server must be set"))
    )
    server: GrafanaServer | None = Field(None, description="A server managed by the operator.")


class Gateway(Model):
    """The HTTP interface: ingest, queries and the live stream."""

    replicas: int = Field(1, description="Number of gateway pods.", ge=1, le=10)
    authentication: GatewayAuthentication = Field(
        GatewayAuthentication.TOKEN,
        description="Token: queries need the gateway's bearer token, ingest a device's or fleet's. None: open.",
    )
    service: Service = Field(Service(), description="How clients reach the gateway.")
    maximum_body_bytes: int = Field(
        1048576, description="Largest body of a POST of readings, in bytes.", ge=1024, le=2097152
    )
    maximum_readings_per_request: int = Field(
        5000, description="Largest number of readings in one POST.", ge=1, le=10000
    )
    maximum_readings_per_second: int = Field(
        10000, description="Readings per second that one token may post to one gateway pod, on average.", ge=1,
        le=1000000,
    )  # fmt: skip


class Uniform(Model):
    """Values drawn evenly from a range."""

    minimum: DecimalString = Field(description="Smallest value.")
    maximum: DecimalString = Field(description="Largest value.")


class Counter(Model):
    """A meter reading that only grows."""

    start: DecimalString = Field("0", description="First value.")
    mean_increment: DecimalString = Field(description="Mean growth per period.")
    jitter: DecimalString = Field("0", description="The growth varies evenly by up to this, up or down.")


class Event(Model):
    """Something that happens at random moments."""

    probability: DecimalString = Field(description="Probability of one event per period, 0 to 1.")
    value: DecimalString = Field("1", description="Value that is sent.")


class Replay(Model):
    """Recorded data from a CSV file with a header line, with its own timestamps."""

    config_map_name: ObjectName = Field(description="ConfigMap that holds the file.")
    key: SecretKey = Field("data.csv", description="Key within the ConfigMap.")
    time_column: str = Field("time", description="Column with RFC 3339 times (UTC if no zone is given).", max_length=64)
    value_column: str = Field("value", description="Column with the values.", max_length=64)


class LateReadings(Model):
    """Extra readings that a device sends with an old time."""

    every_seconds: int = Field(description="One such reading per this much simulated time.", ge=1, le=31622400)
    by_seconds: int = Field(description="How old its time is.", ge=1, le=31622400)


class SimulatedDevice(Model):
    """A device that exists only in the simulation."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "[has(self.uniform), has(self.counter), has(self.event), has(self.replay)].filter(x, x).size() == 1",
                "simulated device: exactly one of uniform, counter, event and replay must be set",
            ),
        ),
    )
    name: DeviceName = Field(description="Name of the device.")
    fleet: LabelName = Field(description="Fleet that the device belongs to.")
    metric: Identifier | None = Field(None, description="Metric that it reports; by default the fleet's first.")
    period_seconds: int = Field(
        900, description="Simulated time between two readings; a replay has its own.", ge=1, le=31622400
    )
    uniform: Uniform | None = Field(None, description="Values drawn evenly from a range.")
    counter: Counter | None = Field(None, description="A meter reading that only grows.")
    event: Event | None = Field(None, description="Something that happens at random moments.")
    replay: Replay | None = Field(None, description="Recorded data.")
    late: list[LateReadings] = Field(
        [], description="Extra readings with an old time.", max_length=8, json_schema_extra=list_map("everySeconds")
    )


class Simulation(Model):
    """Simulated devices for trying a pipeline out."""

    start_time: datetime = Field(
        datetime.fromisoformat("2020-01-01T00:00:00+00:00"), description="Simulated time of the first readings."
    )
    acceleration_factor: int = Field(1, description="Simulated seconds per second.", ge=1, le=1000000)
    duration_seconds: int = Field(
        0, description="Simulated time after which the devices stop; 0: never.", ge=0, le=3155760000
    )
    devices: list[SimulatedDevice] = Field(
        description="The devices.", min_length=1, max_length=200, json_schema_extra=list_map("name")
    )


class SensorPipelineSpec(Model):
    """A complete telemetry pipeline."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "!has(self.simulation) || self.simulation.devices.all(d, self.fleets.exists(f, f.name == d.fleet))",
                "simulation.devices[].fleet must name one of the fleets",
            ),
        ),
    )
    reconcile_policy: ReconcilePolicy = Field(
        ReconcilePolicy.ACTIVE, description="Active: keep the pipeline as described. Paused: leave it alone."
    )
    deletion_policy: DeletionPolicy = Field(
        DeletionPolicy.RETAIN,
        description="Whether data volumes, and the credentials of database, devices and gateway, outlive the resource.",
    )
    mqtt: Mqtt = Field(Mqtt(mosquitto=Mosquitto()), description="Where devices publish.")
    bridge: Bridge = Field(Bridge(), description="What carries messages from MQTT to Kafka.")
    kafka: Kafka = Field(Kafka(cluster=KafkaCluster()), description="The buffer.")
    store: Store = Field(Store(mongodb=MongoDB()), description="The database.")
    fleets: list[Fleet] = Field(
        description="Groups of devices.", min_length=1, max_length=32, json_schema_extra=list_map("name")
    )
    derived_metrics: list[DerivedMetric] = Field(
        [], description="Values across fleets.", max_length=64, json_schema_extra=list_map("name")
    )
    alerting: Alerting | None = Field(None, description="Delivery of alerts; left out: none.")
    monitoring: Monitoring = Field(Monitoring(prometheus=Prometheus()), description="Metrics and rules.")
    grafana: Grafana | None = Field(None, description="Dashboards; left out: none.")
    gateway: Gateway = Field(Gateway(), description="The HTTP interface.")
    simulation: Simulation | None = Field(None, description="Simulated devices; left out: none.")
