"""``apply_chat_template``: render a conversation by a template that may be hostile.

A chat template is a program that comes with a model. transformers keeps it away from files and from
Python's insides, but not from loops and texts without end. So every conversation is rendered twice:
first here, where each step and each character has a price, then by transformers.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn, cast

from jinja2 import Template, TemplateError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MOST_WORK = 10**8
"""Characters that a template may make for one conversation, on the way to its text too."""

STEP = 400
"""The price of one step of a loop, or of one call, in characters."""


class TemplateWorkError(TemplateError):
    """A template loops for too long, or makes too much text."""


@dataclass(slots=True)
class _Work:
    spent: int = 0
    longest: int = 0


_work: ContextVar[_Work | None] = ContextVar("work", default=None)


def apply_chat_template(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = False,
    variables: Mapping[str, Any] | None = None,
    **how: Any,
) -> Any:
    """Call the tokenizer's ``apply_chat_template``, if the template's work is bounded.

    Raises:
        TemplateWorkError: It makes more than ``MOST_WORK`` characters, or loops as long.
        Exception: Templates refuse conversations by exceptions of any type.
    """
    render_bounded(
        tokenizer.get_chat_template(tools=tools),
        messages=messages,
        tools=tools,
        documents=None,
        add_generation_prompt=add_generation_prompt,
        **{**tokenizer.special_tokens_map, **(variables or {})},
    )
    return tokenizer.apply_chat_template(
        messages,
        tools=tools,
        add_generation_prompt=add_generation_prompt,
        **(variables or {}),
        **how,
    )


def names_in(template: str) -> set[str]:
    """Return the names of the variables that a template is given; none if it is no template."""
    try:
        return meta.find_undeclared_variables(_Bounded().parse(template))
    except TemplateError:
        return set()


def render_bounded(template: str, **variables: Any) -> str:
    """Render a template, and stop when it works too much.

    Raises:
        TemplateWorkError: It makes more than ``MOST_WORK`` characters, or loops as long.
        Exception: What the template raises.
    """
    before = _work.set(_Work())
    try:
        pieces: list[str] = []
        for piece in _compiled(template).generate(variables):
            _charge(len(piece))
            pieces.append(piece)
        return "".join(pieces)
    finally:
        _work.reset(before)


def _charge(characters: int, steps: int = 0) -> None:
    work = _work.get()
    if work is None:  # jinja computes constants while it compiles, and gives up on errors
        raise TemplateWorkError("a constant is computed when the template runs")
    work.longest = max(work.longest, characters)
    # A step may look through the longest text without making one.
    work.spent += characters + steps * (STEP + work.longest // 100)
    if work.spent > MOST_WORK:
        raise TemplateWorkError(
            f"the template makes more than {MOST_WORK:,} characters, or takes more than "
            f"{MOST_WORK // STEP:,} steps"
        )


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    return _Bounded().from_string(template)


class _Bounded(ImmutableSandboxedEnvironment):
    """Jinja as transformers sets it up, with a price on everything that makes work."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            finalize=_written,
        )
        known = {**self.filters, "tojson": _to_json}
        self.filters = {name: _priced(name, one) for name, one in known.items()}
        self.filters |= {"w2s_steps": _steps, "w2s_concat": _concat}
        self.globals |= {"raise_exception": _refuse, "strftime_now": _now}
        del self.globals["lipsum"]  # text of any length, which no chat needs
        self.macros: dict[str, int] = {}
        """How much text of its own each macro has."""

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Prices(self).visit(super()._parse(source, name, filename))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sides = (left, right)
        numbers = [one for one in sides if isinstance(one, int)]
        if operator == "%" and isinstance(left, str):
            arguments = [*cast("Any", right)] if isinstance(right, tuple) else [right]
            _charge(_growth("format", left, arguments))
        elif len(numbers) == 2 and operator != "%":
            digits = max(1, abs(right)) if operator == "**" else _size(right)
            _charge((_size(left) * digits) ** (1 + (operator == "**")) // STEP)
        elif operator == "*":
            _charge(max(map(_size, sides)) * max(map(abs, numbers), default=1))
        else:
            _charge(sum(map(_size, sides)))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        _charge(self.macros.get(str(getattr(obj, "name", "")), 0), steps=1)
        owner = getattr(getattr(obj, "__wrapped__", obj), "__self__", None)
        if isinstance(owner, str):
            args = tuple([*one] if isinstance(one, Iterator) else one for one in args)
            _charge(_growth(obj.__name__, owner, [*args, *kwargs.values()]))
        found = super().call(context, obj, *args, **kwargs)
        _charge(_size(found))
        return found


class _Prices(NodeTransformer):
    """Put a price on the loops, concatenations and macros of a template."""

    def __init__(self, environment: _Bounded) -> None:
        self.environment = environment

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802  # jinja looks for this name
        own = nodes.Const(_own_text(node))
        self.generic_visit(node)
        node.iter = self._filtered("w2s_steps", cast("nodes.Expr", node.iter), own)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802  # jinja looks for this name
        self.generic_visit(node)
        return self._filtered("w2s_concat", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802  # jinja looks for this name
        self.environment.macros[node.name] = _own_text(node)
        return self.generic_visit(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802  # jinja looks for this name
        macros = self.environment.macros
        macros["caller"] = max(macros.get("caller", 0), _own_text(node))
        return self.generic_visit(node)

    def _filtered(self, name: str, node: nodes.Expr, *args: nodes.Expr) -> nodes.Expr:
        found = nodes.Filter(node, name, [*args], [], None, None, lineno=node.lineno)
        found.set_environment(self.environment)
        return found


def _own_text(node: nodes.Node) -> int:
    return sum(len(data.data) for data in node.find_all(nodes.TemplateData))


class _Generation(Extension):
    """``{% generation %}``, which marks the assistant's turns for training."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


# Filters and functions.


def _steps(values: Any, own_text: int) -> Iterator[Any]:
    for value in values:
        _charge(own_text, steps=1)
        yield value


def _concat(parts: Sequence[Any]) -> str:
    _charge(_written_size(parts))
    return "".join(map(str, parts))


def _written(value: Any) -> Any:
    _charge(_written_size(value))
    return value


def _priced(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    context = hasattr(function, "jinja_pass_arg")

    @functools.wraps(function)
    def priced(*args: Any, **kwargs: Any) -> Any:
        value, *rest = args[context:]
        _charge(0 if name in _OF_LISTS else _written_size(value), steps=1)
        _charge(_growth(name, value, [*rest, *kwargs.values()]))
        found = function(*args, **kwargs)
        _charge(_size(found))
        return found

    return priced


def _to_json(value: Any, ensure_ascii: bool = False, **how: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **how)


def _now(form: str) -> str:
    return datetime.now().strftime(form)  # as transformers does


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


# Prices.

_ITEM = 8
"""The price of an item of a list, as many bytes."""

_OF_LISTS = frozenset((
    "attr", "batch", "count", "d", "default", "dictsort", "first", "groupby", "items", "last",
    "length", "list", "map", "max", "min", "random", "reject", "rejectattr", "reverse", "select",
    "selectattr", "slice", "sort", "sum", "unique",
))  # fmt: skip
"""Filters that write nothing out."""


def _size(value: Any) -> int:
    """Return the size of a text, of a number's digits, or of a list without what its items hold."""
    if isinstance(value, int):
        return value.bit_length() // 3 + 1
    if isinstance(value, str):
        return len(value)
    return _ITEM * len(cast("Any", value)) if isinstance(value, Mapping | list | tuple) else 1


def _written_size(value: Any, known: dict[int, int] | None = None) -> int:
    """Return about how many characters a value has when it is written out."""
    if not isinstance(value, Mapping | list | tuple):
        return _size(value)
    known = {} if known is None else known  # a list may hold another one many times
    at = id(cast("object", value))
    if at not in known:
        held = cast("Any", value)
        items = [*held, *held.values()] if isinstance(value, Mapping) else held
        known[at] = _ITEM + sum(_ITEM + _written_size(one, known) for one in items)
    return known[at]


def _growth(name: str, value: Any, arguments: Sequence[Any]) -> int:
    """Return how many characters a filter, a method or a format may add to a value."""
    if not arguments:
        return 0
    longest = max(map(_written_size, arguments))
    number = max((abs(one) for one in arguments if isinstance(one, int)), default=0)
    items = max(1, len(cast("Any", value))) if isinstance(value, Mapping | Sequence) else 1
    if name == "join":
        return longest * items
    if not isinstance(value, str):
        if any(isinstance(one, list) for one in arguments):  # sum(start=[])
            return items * sum(map(_size, cast("Sequence[Any]", value)))
        return items * number
    lines = 1 + value.count("\n") + value.count("\t")
    if name.startswith("format"):
        widths = sum(map(int, re.findall(r"\d+", value)))
        return widths + number + longest * (value.count("%") + value.count("{"))
    if name == "replace":
        return longest * value.count(str(arguments[0]))
    return longest + lines * number
