"""Days and months of a time zone as event-time windows: a day of 23 or 25 hours is right."""

from bisect import bisect_right
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

_KEPT = 4096
_CYCLE = 146_097 * 86_400_000
"""400 years, after which dates and weekdays, and with them the rules of time zones, repeat."""
_FAR = 250_000_000_000_000
"""In the year 9892: later times are found a cycle earlier, since dates end with the year 9999."""


class CalendarBounds:
    """The starts of days or months in a time zone, in ms since the epoch, worked out when first asked for.

    A day goes from the first moment of its date to the first moment of the next date.
    """

    def __init__(self, unit: str, time_zone: str) -> None:
        self._months = unit == "Month"
        self._zone = ZoneInfo(time_zone)
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __call__(self, time: int) -> tuple[int, int]:
        """Returns start and end of the window that holds a time."""
        place = bisect_right(self._starts, time) - 1
        if place >= 0 and time < self._ends[place]:
            return self._starts[place], self._ends[place]
        start, end = self._find(time)
        if len(self._starts) >= _KEPT:
            self._starts.clear()
            self._ends.clear()
            place = -1
        self._starts.insert(place + 1, start)
        self._ends.insert(place + 1, end)
        return start, end

    def _find(self, time: int) -> tuple[int, int]:
        if time >= _FAR:
            start, end = self._find(time - _CYCLE)
            return start + _CYCLE, end + _CYCLE
        first = datetime.fromtimestamp(time // 1000, tz=self._zone).date()
        if self._months:
            first = first.replace(day=1)
        while self._moment(first) > time:
            first = self._step(first, back=True)
        while self._moment(self._step(first)) <= time:
            first = self._step(first)
        return self._moment(first), self._moment(self._step(first))

    def _step(self, first: date, *, back: bool = False) -> date:
        if not self._months:
            return first - timedelta(days=1) if back else first + timedelta(days=1)
        return (first - timedelta(days=1)).replace(day=1) if back else (first + timedelta(days=32)).replace(day=1)

    def _moment(self, first: date) -> int:
        return round(datetime(first.year, first.month, first.day, tzinfo=self._zone).timestamp() * 1000)
