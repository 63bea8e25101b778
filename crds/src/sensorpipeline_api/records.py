"""The records that travel on Kafka, as msgspec structs: what each topic's values look like.

Times are event times in milliseconds since the epoch, UTC.
"""

from collections.abc import Container
from enum import StrEnum
from typing import Annotated

import msgspec

LAST_TIME = 253_402_300_799_999
"""The end of the year 9999, in ms since the epoch: the latest time that every part can hold."""


class Reading(msgspec.Struct, frozen=True, array_like=False, gc=False):
    """One value of one metric of one device. A record of `<pipeline>.<fleet>.readings` holds a JSON array of them."""

    device: str
    metric: str
    time: Annotated[int, msgspec.Meta(ge=0, le=LAST_TIME)]
    value: float


class UnreadableRecordError(ValueError):
    """A record is not what its topic should hold; the text says why."""


_readings_decoder = msgspec.json.Decoder(list[Reading])


def decode_readings(value: bytes | None, *, metrics: Container[str] | None) -> list[Reading]:
    """Returns the readings of a record of a readings topic, whole or not at all; `metrics` are the fleet's (None: any).

    Every part that reads the topic decides with this function, so that what one dead-letters no other stores. Raises
    UnreadableRecordError.
    """
    try:
        readings = _readings_decoder.decode(value or b"")  # a record without a value, as a compacted topic has
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UnreadableRecordError(str(error)) from error
    if metrics is not None:
        for reading in readings:
            if reading.metric not in metrics:
                raise UnreadableRecordError(f"metric {reading.metric[:128]!r} must be one of the fleet's metrics")
    return readings


class Aggregate(msgspec.Struct, frozen=True, gc=False):
    """The result of one window of one series; key `window|device|metric`.

    `revision` counts the emissions of this window from 0; `final` says that the watermark has passed its end. `unit`
    is that of the value, "" when it has none or comes from a time before results had one.
    """

    window: str
    fleet: str
    device: str
    metric: str
    start: int
    end: int
    value: float
    count: int
    revision: int
    final: bool
    unit: str = ""


class LateReason(StrEnum):
    """Why a window refused a reading: it came too late; or the window's result stands, since the series had been
    retired, or the window had been defined otherwise, after it began."""

    LATENESS_EXCEEDED = "LatenessExceeded"
    RESULT_STANDS = "ResultStands"


class Late(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """A reading that a window refused as too late; key = device. `late_by_seconds` is watermark minus window end."""

    fleet: str
    device: str
    metric: str
    time: int
    value: float
    window: str
    late_by_seconds: float
    reason: str = LateReason.LATENESS_EXCEEDED


class AlertState(StrEnum):
    """The two states of an alert."""

    FIRING = "Firing"
    RESOLVED = "Resolved"


class Alert(msgspec.Struct, frozen=True, gc=False):
    """A transition of a threshold on one series; key `threshold|device|metric`. `time` is the event time of the
    reading that caused it, `value` its value."""

    threshold: str
    fleet: str
    device: str
    metric: str
    severity: str
    state: str
    time: int
    value: float


class DeadLetterReason(StrEnum):
    """Why a message could not be read."""

    INVALID_JSON = "InvalidJson"
    INVALID_CSV = "InvalidCsv"
    INVALID_SPARKPLUG = "InvalidSparkplug"
    MISSING_FIELD = "MissingField"
    NOT_A_NUMBER = "NotANumber"
    OUT_OF_RANGE = "OutOfRange"
    FUTURE_TIMESTAMP = "FutureTimestamp"
    UNKNOWN_TOPIC = "UnknownTopic"
    UNKNOWN_DEVICE = "UnknownDevice"
    UNKNOWN_METRIC = "UnknownMetric"
    TOO_LARGE = "TooLarge"
    UNREADABLE = "Unreadable"


class DeadLetter(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """A message, or an item of one that holds many, that could not be read, whole: `payload` is base64, `source` names
    where it came from (`mqtt:<topic>` or `kafka:<topic>/<partition>/<offset>`), `received_time` is in milliseconds
    since the epoch."""

    source: str
    fleet: str
    received_time: int
    payload: str
    reason: str
    message: str
