"""Units of results: what a window makes of its metric's unit. Units are the user's text; nothing is converted."""

from collections.abc import Callable

from sensorpipeline_api.spec import WindowFunction


def _same(unit: str) -> str:
    return unit


def _none(_: str) -> str:
    return ""


def _per_second(unit: str) -> str:
    return f"{unit or '1'}/s"


_UNITS: dict[str, Callable[[str], str]] = {
    "Sum": _same,
    "Mean": _same,
    "Minimum": _same,
    "Maximum": _same,
    "Count": _none,
    "First": _same,
    "Last": _same,
    "Difference": _same,
    "StandardDeviation": _same,
    "Quantile": _same,
    "Rate": _per_second,
    "TimeWeightedMean": _same,
    "Availability": _none,
}
"""What each function of a window makes of a unit; a test holds every function to have its line."""


def window_unit(function: WindowFunction, unit: str) -> str:
    """Returns the unit of a window's results over readings of `unit`; "" is none."""
    return _UNITS[function.value](unit)
