"""Parameters of models, and expressions between them.

An expression is a text such as ``"2*b1 + sqrt(part2.width)"``. It is parsed, checked node by node against
a short list of what may stand in it, and only then compiled, so a text from a file can do arithmetic and
nothing else.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from park.errors import InvalidRequest

#: What an expression may call, by name. They are numpy's, so a bad argument gives nan and not an exception.
FUNCTIONS: dict[str, Any] = {
    function.__name__: function
    for function in (
        np.abs, np.sign, np.sqrt, np.cbrt, np.square, np.exp, np.expm1, np.log, np.log1p, np.log2, np.log10,
        np.sin, np.cos, np.tan, np.arcsin, np.arccos, np.arctan, np.arctan2, np.sinh, np.cosh, np.tanh,
        np.arcsinh, np.arccosh, np.arctanh, np.hypot, np.degrees, np.radians, np.floor, np.ceil,
        np.minimum, np.maximum,
    )
}  # fmt: skip
FUNCTIONS["abs"] = np.abs  # numpy calls it absolute
#: Constants that an expression may name; a parameter of the same name hides them.
CONSTANTS = {"pi": math.pi, "e": math.e}

_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.Mod, ast.FloorDiv, ast.UAdd, ast.USub)


@dataclass(frozen=True, slots=True, eq=False)
class Parameter:
    """One parameter of a model.

    *value* is where a fit starts, between *limits* (low, high). A *fixed* parameter keeps it. With an
    *expression* of other parameters the value is computed, and *limits* then forbid what falls outside.
    *prior* is (mean, sigma): an earlier measurement, counted as one more data point. Without a value
    the start is the middle of the limits.

    The same `Parameter` object in two places is one parameter, shared.

    >>> Parameter(3.0, limits=(0, 10))
    Parameter(3, limits=(0, 10))
    """

    value: float | None = None
    limits: tuple[float, float] = (-math.inf, math.inf)
    fixed: bool = False
    expression: str | None = None
    prior: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        low, high = _pair(self.limits, "limits")
        if not low < high:
            raise InvalidRequest(f"limits=({low:g}, {high:g}): the lower limit must be below the upper one")
        object.__setattr__(self, "limits", (low, high))
        if self.prior is not None:
            mean, sigma = _pair(self.prior, "prior")
            if not (math.isfinite(mean) and math.isfinite(sigma) and sigma > 0):
                raise InvalidRequest(f"prior=({mean:g}, {sigma:g}) is not a finite mean and a positive sigma")
            object.__setattr__(self, "prior", (mean, sigma))
        if self.expression is not None:
            if not isinstance(self.expression, str):
                raise InvalidRequest(f"expression={self.expression!r} is not a text")
            if self.value is not None or self.fixed:
                raise InvalidRequest("a parameter with an expression has no value and is not fixed")
            names_in(self.expression)
            return
        if self.value is None:
            if not (math.isfinite(low) and math.isfinite(high)):
                raise InvalidRequest(f"limits ({low:g}, {high:g}) have no middle: give a value to start from")
            object.__setattr__(self, "value", (low + high) / 2)
            return
        value = _number(self.value, "value")
        if not math.isfinite(value):
            raise InvalidRequest(f"value {value} is not finite")
        if not low <= value <= high:
            raise InvalidRequest(f"value {value:g} is outside its limits ({low:g}, {high:g})")
        object.__setattr__(self, "value", value)

    @property
    def fitted(self) -> bool:
        """True if a fit varies it: neither fixed nor computed."""
        return not self.fixed and self.expression is None

    def __repr__(self) -> str:
        if self.expression is not None:
            parts = [f"expression={self.expression!r}"]
        else:
            parts = [f"{self.value:g}"]
        if self.limits != (-math.inf, math.inf):
            parts.append(f"limits=({self.limits[0]:g}, {self.limits[1]:g})")
        if self.fixed:
            parts.append("fixed=True")
        if self.prior is not None:
            parts.append(f"prior=({self.prior[0]:g}, {self.prior[1]:g})")
        return f"Parameter({', '.join(parts)})"


def as_parameter(given: Any) -> Parameter:
    """The parameter behind a shorthand.

    A number is fixed, a pair (low, high) is fitted from its middle, a text is an expression.

    >>> as_parameter((0, 4)).value
    2.0
    """
    if isinstance(given, Parameter):
        return given
    if isinstance(given, str):
        return Parameter(expression=given)
    if isinstance(given, tuple | list):
        return Parameter(limits=_pair(given, "the range"))
    return Parameter(_number(given, "the value"), fixed=True)


def _number(given: Any, what: str) -> float:
    if isinstance(given, bool | np.bool_ | str | bytes):
        raise InvalidRequest(f"{what} {given!r} is not a number")
    try:
        return float(given)
    except (TypeError, ValueError):
        raise InvalidRequest(f"{what} {given!r} is not a number") from None


def _pair(given: Any, what: str) -> tuple[float, float]:
    if not isinstance(given, Sequence | np.ndarray) or isinstance(given, str | bytes) or len(given) != 2:
        raise InvalidRequest(f"{what} {given!r} is not a pair of numbers")
    low, high = _number(given[0], what), _number(given[1], what)
    if math.isnan(low) or math.isnan(high):
        raise InvalidRequest(f"{what} {given!r} has a nan")
    return low, high


def _parse(text: str) -> ast.Expression:
    """The tree of an expression, after every node was found to be harmless."""
    if len(text) > 10_000:
        raise InvalidRequest(f"the expression {text[:40]!r}... is longer than 10,000 characters")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InvalidRequest(f"the expression {text!r} cannot be read: {error}") from None
    _check(tree.body, text)
    return tree


def _check(node: ast.AST, text: str) -> None:
    match node:
        case ast.BinOp(op=op):
            ok = isinstance(op, _OPERATORS)
            below: list[ast.AST] = [node.left, node.right]
        case ast.UnaryOp(op=op):
            ok, below = isinstance(op, _OPERATORS), [node.operand]
        case ast.Constant(value=value):
            ok, below = type(value) in (int, float), []
        case ast.Name():
            ok, below = True, []
        case ast.Attribute(value=ast.Name()):
            ok, below = True, []
        case ast.Call(func=ast.Name(id=name)):
            if name not in FUNCTIONS:
                raise InvalidRequest(
                    f"the expression {text!r} calls {name!r}; it may call {', '.join(FUNCTIONS)}"
                )
            ok, below = not node.keywords, list(node.args)
        case _:
            ok, below = False, []
    if not ok:
        raise InvalidRequest(
            f"the expression {text!r} has {ast.unparse(node)!r}: only numbers, parameters, + - * / // % ** "
            f"and functions may stand in it"
        )
    for child in below:
        _check(child, text)


def names_in(text: str) -> list[str]:
    """The parameters that an expression uses: ``b1``, or ``part2.b1``; each once, sorted."""
    names = set()
    tree = _parse(text)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            names.add(ast.unparse(node))
        elif isinstance(node, ast.Name) and id(node) not in called and id(node) not in inner:
            names.add(node.id)
    return sorted(names)


class _Slots(ast.NodeTransformer):
    """Puts ``v[3]`` where a parameter stands, and floats for integers: 9**9**9 must not take hours."""

    def __init__(self, slots: dict[str, int]) -> None:
        self.slots = slots

    def _value(self, name: str) -> ast.expr:
        if name in self.slots:
            index = ast.Constant(self.slots[name])
            return ast.Subscript(ast.Name("v", ast.Load()), index, ast.Load())
        return ast.Call(ast.Name("_float", ast.Load()), [ast.Constant(CONSTANTS[name])], [])

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        try:
            number = float(node.value)  # type: ignore[arg-type]
        except OverflowError:
            number = math.inf
        return ast.Call(ast.Name("_float", ast.Load()), [ast.Constant(number)], [])

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._value(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        return self._value(ast.unparse(node))

    def visit_Call(self, node: ast.Call) -> ast.expr:
        node.args = [self.visit(argument) for argument in node.args]
        return node


def compiled(text: str, slots: dict[str, int]) -> Callable[[list[float]], float]:
    """The expression as a function of a list of values; *slots* says at which index each name stands."""
    body = _Slots(slots).visit(_parse(text).body)
    argument = ast.arguments([], [ast.arg("v")], None, [], [], None, [])
    tree = ast.fix_missing_locations(ast.Expression(ast.Lambda(argument, body)))
    scope = {"__builtins__": {}, "_float": np.float64, **FUNCTIONS}
    function: Callable[[list[float]], float] = eval(compile(tree, f"<expression {text!r}>", "eval"), scope)
    return function
