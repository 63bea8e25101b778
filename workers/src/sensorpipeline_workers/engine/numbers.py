"""Arithmetic with an answer for any finite readings: no error, no infinity, nothing that is not a number.

A device may send any float; without `minimum` and `maximum` nothing refuses 1.7e308. Where a step on the way to a
result does not fit in a float it is taken on a smaller scale, a power of two, which changes no digit; where the result
itself does not fit it is the largest float of its sign (docs/decisions/0036).
"""

import math
import sys
from collections.abc import Iterable

DOWN, UP = 2.0**-64, 2.0**64
"""To the smaller scale and back."""


def finite(value: float) -> float:
    """Returns the value; one that is beyond what a float holds is the largest float of its sign."""
    if math.isfinite(value):
        return value
    return math.copysign(sys.float_info.max, value)


def summed(parts: list[float], divisor: float = 1.0) -> float:
    """Returns the sum of parts, divided by a number that is not 0."""
    total = _fsum(parts)
    if math.isfinite(total):
        return finite(total / divisor)
    return finite(_fsum(part * DOWN for part in parts) / divisor * UP)


def weighted_mean(values: Iterable[float], weights: list[int]) -> float:
    """Returns the mean of values, each with its weight; the weights' sum is less than 2**62."""
    values, whole = list(values), sum(weights)
    total = _fsum(value * weight for value, weight in zip(values, weights, strict=True))
    if math.isfinite(total):
        return total / whole
    return finite(_fsum(value * DOWN * weight for value, weight in zip(values, weights, strict=True)) / whole * UP)


def slope(before: float, after: float, milliseconds: int) -> float:
    """Returns the change per second from one value to another."""
    rate = (after - before) * 1000 / milliseconds
    return rate if math.isfinite(rate) else finite((after * DOWN - before * DOWN) * 1000 / milliseconds * UP)


def _fsum(parts: Iterable[float]) -> float:
    """Returns the exact sum, rounded once; infinite when it, or a sum on the way to it, does not fit in a float."""
    try:
        return math.fsum(parts)
    except (OverflowError, ValueError):
        return math.inf
