"""What the schema cannot see of a fleet's windows: time zones, quantiles, windows that read each other, and how much
all of them keep of a series."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sensorpipeline_api.bounds import MAXIMUM_BYTES, open_windows, window_bytes
from sensorpipeline_api.model import as_float
from sensorpipeline_api.spec import Calendar, Fleet, Window, WindowFunction

from sensorpipeline_operator.errors import InvalidSpecError

MAXIMUM_EXPECTED_PERIODS = 10_000
"""A window remembers one bit for each period in which Availability expects a reading."""

_SAME_CONTENT = [
    {WindowFunction.SUM, WindowFunction.MEAN},
    {WindowFunction.FIRST, WindowFunction.LAST, WindowFunction.DIFFERENCE, WindowFunction.RATE},
]
"""Functions that are worked out from the same content of a window."""


def check_windows(fleet: Fleet, path: str) -> None:
    """Raises InvalidSpecError for the first window that cannot work."""
    windows = {window.name: window for window in fleet.windows}
    for number, window in enumerate(fleet.windows):
        place = f"{path}.windows[{number}]"
        _check_window(window, place)
        if window.source is not None:
            _check_source(window, windows, place)
    _check_state(fleet, path)
    _check_time_to_live(fleet, path)


def describe_length(window: Window) -> str:
    """Returns how long a window is, in words."""
    if window.calendar is not None:
        return f"{window.calendar.value} in {window.time_zone}"
    length = f"{window.period_seconds or window.gap_seconds} s"
    slides = window.slide_seconds not in {None, window.period_seconds}
    return f"{length} every {window.slide_seconds} s" if slides else length


def _check_window(window: Window, path: str) -> None:
    try:
        ZoneInfo(window.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        message = f"must be the name of a time zone, such as Europe/Athens, got {window.time_zone}"
        raise InvalidSpecError("UnknownTimeZone", f"{path}.timeZone", message) from error
    if window.quantile is not None and not 0 <= as_float(window.quantile) <= 1:
        message = f"must be between 0 and 1, got {window.quantile}"
        raise InvalidSpecError("InvalidRange", f"{path}.quantile", message)
    every = window.expected_every_seconds
    if every is not None and window.longest_seconds() > every * MAXIMUM_EXPECTED_PERIODS:
        least = -(-window.longest_seconds() // MAXIMUM_EXPECTED_PERIODS)
        message = f"must be at least {least}, so that a window has at most {MAXIMUM_EXPECTED_PERIODS} periods"
        raise InvalidSpecError("InvalidRange", f"{path}.expectedEverySeconds", message)


def _check_source(window: Window, windows: dict[str, Window], path: str) -> None:
    field = f"{path}.source"
    source = windows.get(window.source or "")
    if source is None:
        message = f"names the window {window.source}, must be one of {', '.join(sorted(windows))}"
        raise InvalidSpecError("UnknownWindow", field, message)
    names = [window.name]
    above: Window | None = source
    while above is not None:
        if above.name in names:
            message = f"must not lead back to the window itself: {' reads '.join([*names, above.name])}"
            raise InvalidSpecError("CyclicWindows", field, message)
        names.append(above.name)
        above = windows.get(above.source or "")
    if source.metric != window.metric:
        raise InvalidSpecError("InvalidSource", field, f"must read the same metric, {window.metric}")
    if source.gap_seconds is not None or source.slide_seconds is not None:
        raise InvalidSpecError("InvalidSource", field, "must be a window without gapSeconds and slideSeconds")
    _check_function(window, source, path)
    if not _fits(window, source):
        message = f"must begin and end with windows of {source.name} ({describe_length(source)})"
        raise InvalidSpecError("InvalidSource", f"{path}.{'calendar' if window.calendar else 'periodSeconds'}", message)


def _check_function(window: Window, source: Window, path: str) -> None:
    """A window can be worked out from its source's content when that holds what its function needs."""
    one, other = window.function, source.function
    same = one is other or one is WindowFunction.COUNT or any({one, other} <= group for group in _SAME_CONTENT)
    if not same:
        message = f"must be {other.value} or another that follows from the content of {source.name}, got {one.value}"
        raise InvalidSpecError("InvalidSource", f"{path}.function", message)
    if one is not WindowFunction.COUNT and window.reset_policy is not source.reset_policy:
        message = f"must be {source.reset_policy.value} as in {source.name}"
        raise InvalidSpecError("InvalidSource", f"{path}.resetPolicy", message)
    every = window.expected_every_seconds
    if every is not None and (every != source.expected_every_seconds or _length(source) % every):
        message = f"must be that of {source.name}, and its windows a multiple of it"
        raise InvalidSpecError("InvalidSource", f"{path}.expectedEverySeconds", message)


def _length(window: Window) -> int:
    """Returns a length that every window's start is a multiple of; a calendar's is a quarter of an hour."""
    return window.period_seconds or 900


def _fits(window: Window, source: Window) -> bool:
    """Whether every window is made of whole windows of the source."""
    if window.period_seconds is not None:
        return source.period_seconds is not None and window.period_seconds % source.period_seconds == 0
    if source.calendar is not None:
        return source.time_zone == window.time_zone and (source.calendar, window.calendar) in {
            (Calendar.DAY, Calendar.DAY), (Calendar.DAY, Calendar.MONTH), (Calendar.MONTH, Calendar.MONTH),
        }  # fmt: skip
    return all(start % (source.period_seconds or 1) == 0 for start in _days(window.time_zone))


def _days(time_zone: str) -> list[int]:
    """Returns the starts of the days of a time zone from 1971 to 2039, in s since the epoch."""
    zone, first = ZoneInfo(time_zone), datetime(1971, 1, 1, tzinfo=UTC)
    days = (first + timedelta(days=number) for number in range(25_000))
    return [round(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) for day in days]


def _check_state(fleet: Fleet, path: str) -> None:
    """The state of a series, which is one Kafka record, must hold all windows that its series can have open at once."""
    left: defaultdict[str, int] = defaultdict(lambda: MAXIMUM_BYTES)
    for number, window in enumerate(fleet.windows):
        count, size = open_windows(fleet, window), window_bytes(window)
        most = left[window.metric] // size
        if count > most:
            message = (
                f"a series can have {count} windows of {window.name} open at once, must be at most {most}: shorten "
                f"the lateness or lengthen the windows (one takes {size} of the {MAXIMUM_BYTES} bytes that those of a "
                "metric have)"
            )
            field = "source" if window.source is not None else "allowedLatenessSeconds"
            raise InvalidSpecError("StateTooLarge", f"{path}.windows[{number}].{field}", message)
        left[window.metric] -= count * size


def _check_time_to_live(fleet: Fleet, path: str) -> None:
    """A series that comes back must not come back into a window that it has forgotten."""
    if not fleet.series_ttl_seconds:
        return
    least = max(
        [fleet.idle_seconds]
        + [w.longest_seconds() + w.allowed_lateness_seconds + fleet.out_of_orderness_seconds for w in fleet.windows]
        + [threshold.silent_for_seconds or 0 for threshold in fleet.thresholds]
    )
    if fleet.series_ttl_seconds < least:
        message = f"must be 0 or at least {least}: idleSeconds, silentForSeconds, each window with its lateness"
        raise InvalidSpecError("InvalidRange", f"{path}.seriesTtlSeconds", message)
