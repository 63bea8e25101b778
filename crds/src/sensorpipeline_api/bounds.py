"""How much of a series' state its windows take at most.

The state of a series is one Kafka record, and Kafka takes none of more than 4 MiB. The operator refuses windows that
may not fit, and the engine shares what they leave among those that keep buckets or readings (docs/decisions/0042).
"""

from sensorpipeline_api.spec import Calendar, Fleet, ResetPolicy, Window, WindowFunction

MAXIMUM_BYTES = 1_600_000
"""Of all windows of a series, stored. The times by which duplicates are recognised take up to 2.2 MB beside them."""

WINDOW_BYTES = 80
"""Of one open window of most functions, each of its numbers at its longest."""

BUCKET_BYTES = 12
"""Ten, and an eighth more buckets than are kept before the smallest are collapsed."""
READING_BYTES = 16
LEAST_BUCKETS = 64
LEAST_READINGS = 6
"""Two, and three times as many for a moment (`share_samples` of the engine)."""

_DAY = 86_400
_CALENDAR_STEPS = {Calendar.DAY: _DAY, Calendar.MONTH: 28 * _DAY}


def open_windows(fleet: Fleet, window: Window) -> int:
    """Returns how many windows of a definition a series can have open at once, those that still accept late readings
    included: from the newest reading back to the oldest that is accepted, one per step."""
    reach = fleet.out_of_orderness_seconds + _lateness(fleet, window)
    if window.gap_seconds is not None:
        return 2 + _ceil(reach, window.gap_seconds)
    if window.calendar is not None:
        return _ceil(reach + window.longest_seconds(), _CALENDAR_STEPS[window.calendar])
    return _ceil(reach + window.longest_seconds(), window.slide_seconds or window.longest_seconds())


def window_bytes(window: Window) -> int:
    """Returns how many bytes an open window takes at least, if it is as full as can be."""
    every = window.expected_every_seconds
    periods = _ceil(window.longest_seconds(), every) if every is not None else 0
    return WINDOW_BYTES + _ceil(periods, 8) + _least_content(window)


def content_bytes(fleet: Fleet, window: Window) -> int:
    """Returns how many bytes of buckets or readings the open windows of a definition may keep together: the least that
    they need, and their share of what all windows of the metric leave; 0 if they keep neither."""
    least = _least_content(window)
    if not least:
        return 0
    among = [other for other in fleet.windows if other.metric == window.metric]
    left = MAXIMUM_BYTES - sum(open_windows(fleet, other) * window_bytes(other) for other in among)
    sharing = sum(1 for other in among if _least_content(other))
    return open_windows(fleet, window) * least + max(0, left) // sharing


def keeps_readings(window: Window) -> bool:
    """Whether a window keeps its readings, because what lies between two of them matters."""
    if window.function in {WindowFunction.DIFFERENCE, WindowFunction.RATE}:
        return window.reset_policy is ResetPolicy.RESET
    return window.function is WindowFunction.TIME_WEIGHTED_MEAN


def _least_content(window: Window) -> int:
    if window.function is WindowFunction.QUANTILE:
        return LEAST_BUCKETS * BUCKET_BYTES
    return LEAST_READINGS * READING_BYTES if keeps_readings(window) else 0


def _lateness(fleet: Fleet, window: Window) -> int:
    """Returns a window's lateness in s; that of one with a source is its source's."""
    windows = {other.name: other for other in fleet.windows}
    for _ in windows:  # so that sources in a circle, which validation refuses, come to an end
        window = windows.get(window.source or "", window)
    return window.allowed_lateness_seconds


def _ceil(number: int, step: int) -> int:
    return -(-number // step)
