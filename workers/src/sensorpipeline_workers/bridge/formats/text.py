"""Messages of text: a number alone, and CSV lines without a header."""

import csv
from typing import Any

from sensorpipeline_api.records import DeadLetterReason, Reading
from sensorpipeline_api.spec import Metric, TimeUnit

from sensorpipeline_workers.bridge.arrivals import Arrive
from sensorpipeline_workers.bridge.decode import Decode, Decoded, Refusal, carried_metrics
from sensorpipeline_workers.bridge.topics import Origin
from sensorpipeline_workers.ingest.validation import RefusedError, check_time, check_value


def compile_number(origin: Origin, arrive: Arrive) -> Decode:
    """Returns the decoder for messages that are a value alone; its time is that of its receipt. Raises RefusedError
    (UnknownMetric)."""
    [metric] = carried_metrics(origin)
    device = origin.device

    def decode(payload: bytes, now: int) -> Decoded:
        value = check_value(metric, "message", _number(_text(payload, DeadLetterReason.NOT_A_NUMBER)))
        return [Reading(device, metric.name, arrive(), value)], ()

    return decode


def compile_csv(origin: Origin, arrive: Arrive) -> Decode:
    """Returns the decoder for CSV lines: each line is one item; a cell that is empty is a value that is not there.
    Raises RefusedError (UnknownMetric)."""
    lines = _Lines(origin, carried_metrics(origin), arrive)
    return lines.decode


class _Lines:
    def __init__(self, origin: Origin, metrics: list[Metric], arrive: Arrive) -> None:
        self._fleet, self._device = origin.fleet, origin.device
        payload = origin.fleet.payload
        self._width = len(payload.columns)
        self._unit = payload.time_unit
        self._time = payload.columns.index(payload.time_field) if self._unit is not TimeUnit.RECEIVE_TIME else None
        self._metrics = [(metric, payload.columns.index(metric.field)) for metric in metrics]
        self._arrive = arrive

    def decode(self, payload: bytes, now: int) -> Decoded:
        lines = _text(payload, DeadLetterReason.INVALID_CSV).split("\n")
        readings: list[Reading] = []
        refused: list[Refusal] = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                readings += self._line(line, now)
            except RefusedError as error:
                refused.append(Refusal(error.reason, f"line {number}: {error}", line.encode()))
        if not readings and not refused:
            raise RefusedError(DeadLetterReason.INVALID_CSV, "message must hold at least one line")
        return readings, refused

    def _line(self, line: str, now: int) -> list[Reading]:
        cells = _cells(line)
        if len(cells) != self._width:
            message = f"must have {self._width} columns, got {len(cells)}"
            raise RefusedError(DeadLetterReason.INVALID_CSV, message)
        time = now
        if self._time is not None:
            name, cell = self._fleet.payload.time_field, cells[self._time]
            if not cell:
                raise RefusedError(DeadLetterReason.MISSING_FIELD, f"column {name} (event time) is empty")
            raw: Any = cell if self._unit is TimeUnit.RFC3339 else _number(cell)
            time = check_time(self._fleet, name, raw, unit=self._unit, now=now)
        values = [(m.name, check_value(m, m.field, _number(cells[at]))) for m, at in self._metrics if cells[at]]
        if not values:
            fields = ", ".join(metric.field for metric, _ in self._metrics)
            raise RefusedError(DeadLetterReason.MISSING_FIELD, f"column {fields} (value) is empty")
        if self._time is None:
            time = self._arrive()
        return [Reading(self._device, name, time, value) for name, value in values]


def _cells(line: str) -> list[str]:
    """Splits a line; cells may be quoted."""
    if '"' not in line:
        return [cell.strip() for cell in line.split(",")]
    try:
        [cells] = csv.reader([line], strict=True)
    except (csv.Error, ValueError) as error:
        raise RefusedError(DeadLetterReason.INVALID_CSV, f"must be comma-separated: {error}") from None
    return [cell.strip() for cell in cells]


def _text(payload: bytes, reason: DeadLetterReason) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        raise RefusedError(reason, f"message must be UTF-8: {error}") from None


def _number(text: str) -> Any:
    """Returns the number that a text says, else the text itself, for the check that names it."""
    try:
        return float(text) if "_" not in text else text
    except ValueError:
        return text
