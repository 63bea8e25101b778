"""How fast a client may post. Pure: the clock is an argument."""

import math


class Bucket:
    """A token bucket that may go into debt: a request is let in while the bucket is not in debt and then pays for all
    its readings, so that a large one passes at any rate and the mean holds all the same. Times are in seconds,
    monotonic."""

    __slots__ = ("_capacity", "_level", "_rate", "_time")

    def __init__(self, *, rate: float, capacity: float, now: float) -> None:
        self._rate = rate
        self._capacity = capacity
        self._level = capacity
        self._time = now

    def wait_seconds(self, *, now: float) -> int:
        """Returns after how many whole seconds a request is let in; 0 when it is now."""
        self._fill(now)
        return 0 if self._level > 0 else max(1, math.ceil(-self._level / self._rate))

    def pay(self, readings: int, *, now: float) -> None:
        """Takes the price of a request out."""
        self._fill(now)
        self._level -= readings

    def _fill(self, now: float) -> None:
        self._level = min(self._capacity, self._level + (now - self._time) * self._rate)
        self._time = now
