"""Derived metrics worked out anew from window results with pandas. No code is shared with derive.

A derived metric has a value at each start at which all of its inputs, windows of devices or other derived metrics, have
one and the expression has a finite result; its count is the sum of theirs.
"""

import ast
import math
from typing import Any

import pandas as pd

Row = dict[str, Any]
COLUMNS = ["window", "device", "start", "value", "count"]


def derived_results(spec: Row, aggregates: pd.DataFrame) -> pd.DataFrame:
    """Returns the results of a spec's derived metrics, in the columns of the windows'; they have no device."""
    rows: list[Row] = []
    waiting = {metric["name"]: metric["expression"] for metric in spec.get("derivedMetrics", [])}
    known = {(row.window, row.device, row.start): (row.value, int(row[5])) for row in aggregates.itertuples()}
    starts = sorted(set(aggregates["start"]))
    while waiting:
        name = next(n for n, e in waiting.items() if waiting.keys().isdisjoint(window for window, _ in references(e)))
        expression = waiting.pop(name)
        for start in starts:
            found = _value(expression, start, known)
            if found is not None:
                known[name, None, start] = found
                rows.append({"window": name, "device": None, "start": start, "value": found[0], "count": found[1]})
    return pd.DataFrame(rows, columns=COLUMNS)


def references(expression: str) -> set[tuple[str, str | None]]:
    """Returns the (window, device) and (derived metric, None) that an expression names; its arithmetic is Python's."""
    tree = ast.parse(expression, mode="eval")
    found: set[tuple[str, str | None]] = set()
    inner: set[int] = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.value, ast.Name)
            and isinstance(node.slice, ast.Constant)
        ):
            found.add((node.value.id, str(node.slice.value)))
            inner.add(id(node.value))
        elif isinstance(node, ast.Name) and id(node) not in inner:
            found.add((node.id, None))
    return found


def _value(
    expression: str, start: int, known: dict[tuple[str, str | None, int], tuple[float, int]]
) -> tuple[float, int] | None:
    inputs = references(expression)
    if any((*key, start) not in known for key in inputs):
        return None
    scope: dict[str, Any] = {}
    for window, device in inputs:
        value = known[window, device, start][0]
        if device is None:
            scope[window] = value
        else:
            scope.setdefault(window, {})[device] = value
    try:
        value = float(eval(expression, {"__builtins__": {}}, scope))  # arithmetic from our own example files
    except ZeroDivisionError:
        return None
    return (value, sum(known[*key, start][1] for key in inputs)) if math.isfinite(value) else None
