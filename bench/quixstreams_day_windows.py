"""The windows of the worker benchmark as one writes them with quixstreams. Runs in an environment of its own.

Arguments: bootstrap server, consumer group, input topic, output topic, number of readings, window periods in ms (comma
separated), state directory, closing strategy (key or partition). Says when it has seen the first reading, and ends
after so many.
"""

import sys
from datetime import timedelta
from functools import partial
from typing import Any

from quixstreams import Application  # type: ignore[import-not-found]
from quixstreams.dataframe.windows import Count, Sum  # type: ignore[import-not-found]


def main() -> None:
    """Runs the application."""
    server, group, source, target, readings, periods, directory, closing = sys.argv[1:]
    application = Application(
        broker_address=server, consumer_group=group, auto_offset_reset="earliest", state_dir=directory,
        loglevel="WARNING",
    )  # fmt: skip
    topic = application.topic(source, timestamp_extractor=lambda value, headers, timestamp, kind: value["time"])
    output = application.topic(target)
    frame = application.dataframe(topic)
    frame = frame.update(_Counter(application, int(readings)))
    for period in map(int, periods.split(",")):
        window = frame.tumbling_window(timedelta(milliseconds=period), grace_ms=timedelta(days=2), name=f"w{period}")
        result = window.agg(value=Sum("value"), count=Count()).final(closing_strategy=closing)
        result.apply(partial(_result, period), metadata=True).to_topic(output, key=lambda value: value["device"])
    application.run()


class _Counter:
    """Says when the first reading comes and stops the application after the last."""

    def __init__(self, application: Application, readings: int) -> None:
        self._application, self._readings, self._seen = application, readings, 0

    def __call__(self, value: dict[str, Any]) -> None:
        self._seen += 1
        if self._seen == 1:
            print("first reading", flush=True)
        if self._seen == self._readings:
            self._application.stop()


def _result(period: int, value: dict[str, Any], key: bytes, timestamp: int, headers: Any) -> dict[str, Any]:
    device = key if isinstance(key, str) else key.decode()
    return {
        "device": device, "period": period, "start": value["start"], "value": value["value"], "count": value["count"],
    }  # fmt: skip


if __name__ == "__main__":
    main()
