"""Expressions between parameters, such as ``"2*b1 + sqrt(part2.width)"`` or ``"a if b > 0 else np.exp(b)"``.

A text is parsed, each node is checked against a short list of allowed nodes, and only then is it compiled. A text from a
file can therefore only compute. There are two kinds of nodes. A number is a constant, a parameter, arithmetic, the value of
a function, or ``a if condition else b``. A condition is a comparison, or ``and``, ``or``, ``not`` of conditions; it is
allowed only where a condition is needed.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from park.errors import InvalidRequest


def _smallest(*values: float) -> Any:
    return reduce(np.minimum, values)


def _largest(*values: float) -> Any:
    return reduce(np.maximum, values)


def _where(condition: bool, a: float, b: float) -> float:
    return a if condition else b


def _rounded(value: float, digits: float = 0) -> Any:
    return np.round(value, int(digits))


def _numpy_functions() -> dict[str, Any]:
    """All functions of numpy of one or two floats that return one float."""
    return {
        name: function
        for name, function in sorted(vars(np).items())
        if isinstance(function, np.ufunc)
        and function.signature is None
        and not {"d->d", "dd->d"}.isdisjoint(function.types)
    }


#: The functions of expressions, by name. numpy's functions return nan for invalid arguments and do not raise.
FUNCTIONS: dict[str, Any] = _numpy_functions() | {
    "abs": np.abs,
    "acos": np.arccos,
    "acosh": np.arccosh,
    "asin": np.arcsin,
    "asinh": np.arcsinh,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "atanh": np.arctanh,
    "clip": np.clip,
    "erf": math.erf,
    "erfc": math.erfc,
    "max": _largest,
    "min": _smallest,
    "pow": np.power,
    "round": _rounded,
    "sinc": np.sinc,
    "where": _where,
}
#: The smallest and the largest number of arguments of the functions that are not numpy's.
_ARGUMENT_COUNTS = {
    "clip": (3, 3), "erf": (1, 1), "erfc": (1, 1), "max": (1, 255), "min": (1, 255), "round": (1, 2),
    "sinc": (1, 1), "where": (3, 3),
}  # fmt: skip
#: The constants of expressions; a parameter of the same name takes precedence.
CONSTANTS = {"pi": math.pi, "e": math.e}
#: Module prefixes that an expression may use: ``np.sin``, ``math.pi``.
_MODULES = ("np", "numpy", "math")

_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.Mod, ast.FloorDiv, ast.UAdd, ast.USub)
_COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)


class _Spelling(ast.NodeTransformer):
    """Removes module prefixes: ``np.sin(b)`` becomes ``sin(b)``, and ``np.pi`` becomes its value."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        match node.func:
            case ast.Attribute(value=ast.Name(id=module), attr=name) if module in _MODULES:
                node.func = ast.copy_location(ast.Name(name, ast.Load()), node.func)
        node.args = [self.visit(argument) for argument in node.args]
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=name) if (
                module in _MODULES and name in CONSTANTS
            ):
                return ast.copy_location(ast.Constant(CONSTANTS[name]), node)
        return node


def _parse(text: str) -> ast.expr:
    """The checked syntax tree of an expression. Raises InvalidRequest for anything that is not allowed."""
    if len(text) > 10_000:
        raise InvalidRequest(f"the expression {text[:40]!r}... is longer than 10,000 characters")
    try:
        tree = _Spelling().visit(ast.parse(text.strip(), mode="eval"))
        _number(tree.body, text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, InvalidRequest):
            raise
        raise InvalidRequest(f"the expression {text!r} cannot be read: {error}") from None
    body: ast.expr = tree.body
    return body


def _number(node: ast.AST, text: str) -> None:
    """Raises InvalidRequest for a node that is not a number."""
    ok: bool
    numbers: list[ast.expr]
    conditions: list[ast.expr] = []
    match node:
        case ast.BinOp(op=op):
            ok, numbers = isinstance(op, _OPERATORS), [node.left, node.right]
        case ast.UnaryOp(op=op):
            ok, numbers = isinstance(op, _OPERATORS), [node.operand]
        case ast.Constant(value=value):
            ok, numbers = type(value) in (int, float), []
        case ast.Name():
            ok, numbers = True, []
        case ast.Attribute(value=ast.Name(id=module)):
            ok, numbers = module not in _MODULES, []
        case ast.IfExp():
            ok, numbers, conditions = True, [node.body, node.orelse], [node.test]
        case ast.Call(func=ast.Name(id=name)):
            _check_call(node, name, text)
            ok, numbers = True, list(node.args)
            if name == "where":
                conditions = [numbers.pop(0)]
        case _:
            ok, numbers = False, []
    if not ok:
        _refuse(node, text)
    for child in numbers:
        _number(child, text)
    for child in conditions:
        _condition(child, text)


def _condition(node: ast.AST, text: str) -> None:
    """Raises InvalidRequest for a node that is not a condition."""
    match node:
        case ast.Compare(ops=ops) if all(isinstance(op, _COMPARISONS) for op in ops):
            for child in (node.left, *node.comparators):
                _number(child, text)
        case ast.BoolOp():
            for child in node.values:
                _condition(child, text)
        case ast.UnaryOp(op=ast.Not()):
            _condition(node.operand, text)
        case _:
            raise InvalidRequest(
                f"the expression {text!r} has {ast.unparse(node)!r} as a condition: a comparison such as "
                f"'b > 0' is needed; and, or and not join them"
            )


def _check_call(node: ast.Call, name: str, text: str) -> None:
    if name not in FUNCTIONS:
        raise InvalidRequest(
            f"the expression {text!r} calls {name!r}; it may call {', '.join(sorted(FUNCTIONS))}"
        )
    if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
        _refuse(node, text)
    fewest, most = _ARGUMENT_COUNTS.get(name) or (FUNCTIONS[name].nin,) * 2
    if not fewest <= len(node.args) <= most:
        count = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        raise InvalidRequest(
            f"the expression {text!r} calls {name} with {len(node.args)} arguments; it takes {count}"
        )


def _refuse(node: ast.AST, text: str) -> None:
    allowed = (
        "only numbers, parameters, + - * / // % **, functions (also as np.sin or math.sin) and "
        "'a if b > 0 else c' may stand in it"
    )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitXor):
        allowed = "a power is written with **"
    raise InvalidRequest(f"the expression {text!r} has {ast.unparse(node)!r}: {allowed}")


def names_in(text: str) -> list[str]:
    """The names of the parameters in an expression, such as ``b1`` or ``part2.b1``: unique and sorted."""
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
    """Replaces parameters by ``v[3]``, and integers by floats: 9**9**9 must not take hours."""

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
    """The expression as a function of a list of values; *slots* maps names to indices of the list."""
    body = _Slots(slots).visit(_parse(text))
    argument = ast.arguments([], [ast.arg("v")], None, [], [], None, [])
    tree = ast.fix_missing_locations(ast.Expression(ast.Lambda(argument, body)))
    scope = {"__builtins__": {}, "_float": np.float64, **FUNCTIONS}
    function: Callable[[list[float]], float] = eval(compile(tree, f"<expression {text!r}>", "eval"), scope)
    return function
