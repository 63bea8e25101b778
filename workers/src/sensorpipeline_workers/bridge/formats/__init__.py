"""The payload formats: each module compiles decoders for one of them.

json_objects.py  an object, or an array of objects; with a fast path for messages that are as they should be
text.py          a number alone, and CSV lines
sparkplug.py     Sparkplug B
"""

from collections.abc import Callable

from sensorpipeline_api.spec import PayloadFormat

from sensorpipeline_workers.bridge.arrivals import Arrive
from sensorpipeline_workers.bridge.decode import Decode, Decoded
from sensorpipeline_workers.bridge.formats.json_objects import compile_json
from sensorpipeline_workers.bridge.formats.sparkplug import Births, compile_sparkplug
from sensorpipeline_workers.bridge.formats.text import compile_csv, compile_number
from sensorpipeline_workers.bridge.topics import Origin
from sensorpipeline_workers.ingest.validation import RefusedError, check_device, check_size

__all__ = ["Births", "compile_decoder"]

_COMPILERS: dict[PayloadFormat, Callable[[Origin, Arrive], Decode]] = {
    PayloadFormat.JSON: compile_json,
    PayloadFormat.NUMBER: compile_number,
    PayloadFormat.CSV: compile_csv,
}


def compile_decoder(origin: Origin, births: Births, arrive: Arrive) -> Decode:
    """Returns the decoder for the messages of a topic. `births` is what the Sparkplug births of this bridge said,
    `arrive` gives the device's readings that carry no time one."""
    fleet = origin.fleet
    try:
        check_device(fleet, origin.device)
        if fleet.payload.format is PayloadFormat.SPARKPLUG_B:
            inner = compile_sparkplug(origin, births)
        else:
            inner = _COMPILERS[fleet.payload.format](origin, arrive)
    except RefusedError as error:
        return _refuse(origin, error)
    maximum = fleet.payload.maximum_bytes

    def decode(payload: bytes, now: int) -> Decoded:
        if len(payload) > maximum:
            check_size(fleet, len(payload))
        return inner(payload, now)

    return decode


def _refuse(origin: Origin, error: RefusedError) -> Decode:
    """A topic whose messages are all refused, for their size or for what the topic says."""

    def decode(payload: bytes, now: int) -> Decoded:
        check_size(origin.fleet, len(payload))
        raise RefusedError(error.reason, str(error))

    return decode
