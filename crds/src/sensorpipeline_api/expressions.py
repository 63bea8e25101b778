"""Expressions of derived metrics: CEL over windows, such as `AggDay["HVAC1"] + AggDay.HVAC2`, and over other derived
metrics, which have no device: `Cooling / AggDay["Etot"]`.

The operator parses them to refuse what cannot work; derive evaluates them. Both use this module.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import celpy
from celpy.adapter import json_to_cel
from celpy.celparser import CELParseError
from celpy.celtypes import BoolType
from celpy.evaluation import CELEvalError
from lark import Token, Tree

from sensorpipeline_api.configuration import DerivedInput


class ExpressionError(Exception):
    """An expression does not parse, or refers to something that is not a window of a device."""


class NestingError(ExpressionError):
    """An expression is deeper or longer than the parser or the evaluation can follow."""

    def __init__(self) -> None:
        super().__init__("is nested too deeply or has too many terms")


Evaluate = Callable[[Mapping[tuple[str, str], float]], float]
"""From the value of each (window, device) to the expression's value; of a derived metric the device is ""."""


SAMPLES = (1.0, 7.5)
"""Values with which an expression is tried: one that gives no number for any of them cannot work."""


def parse_expression(expression: str) -> list[DerivedInput]:
    """Returns the inputs that an expression names, sorted; one without a device is another derived metric. Raises
    ExpressionError, also when the expression gives no number."""
    found: set[tuple[str, str]] = set()
    try:
        _collect(_compile(expression), found)
    except RecursionError:
        raise NestingError() from None
    if not found:
        raise ExpressionError('must name at least one window of a device, as in AggDay["HVAC1"], or derived metric')
    windows = {window for window, device in found if device}
    both = sorted(windows & {window for window, device in found if not device})
    if both:
        raise ExpressionError(f'{both[0]} must be used either always as {both[0]}["<device>"] or always as {both[0]}')
    evaluate = compile_expression(expression)
    problems: list[ExpressionError] = []
    for sample in SAMPLES:
        try:
            evaluate({key: sample + number for number, key in enumerate(sorted(found))})
        except ExpressionError as error:
            problems.append(error)
    if len(problems) == len(SAMPLES):
        raise problems[0]
    return [DerivedInput(window=window, device=device) for window, device in sorted(found)]


@lru_cache(maxsize=1024)
def compile_expression(expression: str) -> Evaluate:
    """Returns the function that evaluates an expression. Raises ExpressionError when it does not parse; the function
    raises ExpressionError when the values have no result, such as a division by zero, or none that is a number."""
    program = celpy.Environment().program(_with_decimals(_compile(expression)))

    def evaluate(values: Mapping[tuple[str, str], float]) -> float:
        activation: dict[str, Any] = {}
        for (window, device), value in values.items():
            if device:
                activation.setdefault(window, {})[device] = float(value)
            else:
                activation[window] = float(value)
        try:
            found: Any = program.evaluate({name: json_to_cel(value) for name, value in activation.items()})
        except RecursionError:
            raise NestingError() from None
        except (CELEvalError, TypeError, ValueError, ZeroDivisionError) as error:
            raise ExpressionError(f"cannot be evaluated: {str(error)[:200]}") from error
        if isinstance(found, bool | BoolType) or not isinstance(found, int | float):
            raise ExpressionError(f"must give a number, gives {type(found).__name__.removesuffix('Type').lower()}")
        return float(found)

    return evaluate


def only_adds(expression: str) -> bool:
    """Whether an expression does nothing but add and subtract, so that its result has the unit of its inputs. Raises
    ExpressionError when it does not parse."""
    return _only_adds(_compile(expression))


_ADDING = {"addition", "addition_add", "addition_sub", "paren_expr", "unary_neg", "ident", "literal"}


def _only_adds(node: Tree[Token] | Token) -> bool:
    if isinstance(node, Token):
        return True
    if _reference(node) is not None:
        return True
    single = len(node.children) == 1 or node.data == "unary"
    fits = node.data in _ADDING or (single and node.data in _PASSING)
    return fits and all(_only_adds(child) for child in node.children)


_PASSING = {"expr", "conditionalor", "conditionaland", "relation", "multiplication", "unary", "member", "primary"}
"""Rules of the grammar that pass their one child on when nothing of theirs is there."""


def _compile(expression: str) -> Tree[Token]:
    try:
        return celpy.Environment().compile(expression)
    except CELParseError as error:
        raise ExpressionError(f"does not parse: {str(error).splitlines()[0]}") from error
    except RecursionError:
        raise NestingError() from None


def _with_decimals(tree: Tree[Token]) -> Tree[Token]:
    """Makes whole numbers decimal ones: CEL does not mix the two, and window results are decimal."""
    for literal in tree.find_data("literal"):
        token = literal.children[0]
        if isinstance(token, Token) and token.type == "INT_LIT":
            literal.children[0] = Token("FLOAT_LIT", f"{int(str(token), 0)}.0")
    return tree


def _collect(tree: Tree[Token], found: set[tuple[str, str]]) -> None:
    """Gathers references to windows and derived metrics; a name that is followed by anything but a device is an
    error."""
    reference = _reference(tree)
    if reference is not None:
        found.add(reference)
        return
    if tree.data in {"member_index", "member_dot", "member_dot_arg"}:
        name = _identifier(tree.children[0])
        if name is not None:
            raise ExpressionError(f'{name} must be used as {name}["<device>"]')
    for child in tree.children:
        if isinstance(child, Tree):
            _collect(child, found)


def _reference(tree: Tree[Token]) -> tuple[str, str] | None:
    """Returns the window and device, or the derived metric and "", that a node refers to, if it does."""
    if tree.data == "ident":
        return str(tree.children[0]), ""
    if tree.data in {"member_index", "member_dot"}:
        window, device = _identifier(tree.children[0]), _device(tree)
        if window is not None and device:
            return window, device
    return None


def _only_child(node: object) -> object:
    """Follows a chain of rules that have one child each down to its end."""
    while isinstance(node, Tree) and len(node.children) == 1 and node.data not in {"ident", "literal"}:
        node = node.children[0]
    return node


def _identifier(node: object) -> str | None:
    end = _only_child(node)
    return str(end.children[0]) if isinstance(end, Tree) and end.data == "ident" else None


def _device(tree: Tree[Token]) -> str | None:
    if tree.data == "member_dot":
        return str(tree.children[1])
    end = _only_child(tree.children[1])
    if isinstance(end, Tree) and end.data == "literal":
        text = str(end.children[0])
        if text[0] in "\"'" and text[-1] == text[0]:
            return text[1:-1]
    return None
