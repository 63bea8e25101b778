"""The operator's errors. Each carries the `reason` that conditions and Events show.

SensorPipelineError
├── InvalidSpecError      the resource cannot be accepted as written (Accepted=False); names the field
├── NotReadyError         something that was asked is not up yet; the next visit tries again
│   └── TopicDiffersError a Kafka topic is there and is not as it should be
└── ApiError              the API server refused or did not answer
    ├── UnknownKindError  the cluster does not know a kind of object
    └── NameTakenError    an object of a child's name exists, and is not ours
"""


class SensorPipelineError(Exception):
    """Base of the operator's errors."""

    reason = "Error"


class InvalidSpecError(SensorPipelineError):
    """The resource cannot be accepted as written. `field` is a path such as `spec.derivedMetrics[0].expression`."""

    def __init__(self, reason: str, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.reason = reason
        self.field = field


class NotReadyError(SensorPipelineError):
    """Something that was asked is not up yet."""

    reason = "NotReady"


class TopicDiffersError(NotReadyError):
    """A Kafka topic is there, and cannot be made as it should be."""

    reason = "TopicDiffers"


class ApiError(SensorPipelineError):
    """The API server refused a request or did not answer."""

    reason = "ApiRequestFailed"


class UnknownKindError(ApiError):
    """The cluster does not know a kind of object."""


class NameTakenError(ApiError):
    """An object of the name of one of our children exists, and is not ours to change."""

    reason = "NameTaken"
