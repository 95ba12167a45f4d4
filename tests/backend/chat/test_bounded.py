"""Chat templates are programs: hostile ones end soon with one error, real ones never notice."""

from __future__ import annotations

import copy
import importlib.util
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import tiny
from w2s_chains import Message, PromptError
from w2s_chains.backend.chat import bounded
from w2s_chains.backend.chat.bounded import apply_chat_template, render_bounded
from w2s_chains.backend.chat.chat_template import ChatTemplate
from w2s_chains.errors import UnsupportedModelError

HI = [{"role": "user", "content": "hi"}]
TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "How warm is it in <Oslo>?"},
    {"role": "assistant", "content": "Cold, they say."},
    {"role": "user", "content": "Thanks & bye"},
]
BLOCKS = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]  # models with eyes
CALL = {"type": "function", "function": {"name": "warmth", "arguments": {"city": "Oslo"}}}
CALLED = [
    *TALK[:2],
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "-3", "name": "warmth"},
    TALK[3],
]
WARMTH: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "warmth",
        "description": "How warm is it?",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Where?"}},
            "required": ["city"],
        },
    },
}


def grow(step: str, start: str = "'ab'", then: str = "") -> str:
    """A template that takes a step of growth 60 times."""
    return (
        f"{{% set ns = namespace(x={start}) %}}"
        f"{{% for i in range(60) %}}{{% set ns.x = {step} %}}{{% endfor %}}{then}"
    )


LOOP = "{% for i in range(99999) %}"
LONG = grow("(ns.x ~ ns.x)[:5000000]")
HOSTILE = {
    "nested loops": f"{LOOP}{LOOP}x{{% endfor %}}{{% endfor %}}",
    "loops that write nothing": f"{LOOP}{LOOP}{{% continue %}}{{% endfor %}}{{% endfor %}}",
    "a condition in a loop": "{% for i in range(99999) if range(99999)|list %}{% endfor %}",
    "two calls in each call": (
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}"
    ),
    "long text of a loop": ("{% set x %}" + LOOP + "y" * 5000 + "{% endfor %}{% endset %}"),
    "long text of a macro": (
        "{% macro m() %}" + "y" * 5000 + "{% endmacro %}" + LOOP + "{% set x = m() %}{% endfor %}"
    ),
    "~": grow("ns.x ~ ns.x"),
    "+": grow("ns.x + ns.x"),
    "+ of lists": grow("ns.x + ns.x", "[1]"),
    "lists in lists": grow("[ns.x, ns.x]", "['ab']", "{{ ns.x }}"),
    "lists in lists as JSON": grow("[ns.x, ns.x]", "['ab']", "{{ ns.x|tojson }}"),
    "sum of lists": "{{ ([[1]] * 90000)|sum(start=[]) }}",
    "integers": grow("ns.x * ns.x", "10"),
    "powers": "{{ 10 ** (10 ** 10) }}",
    "copies": "{{ 'a' * 10 ** 10 }}",
    "copies of a list": "{{ [1] * 10 ** 10 }}",
    "center": "{{ 'a'|center(10 ** 10) }}",
    "center, a constant": "{{ 'a'|center(10000000000) }}",
    "filter block": "{% filter center(10 ** 10) %}x{% endfilter %}",
    "map": "{{ range(99999)|map('center', 99999)|list }}",
    "ljust": "{{ 'a'.ljust(10 ** 10) }}",
    "%": "{{ '%10000000000d' % 1 }}",
    "% *": "{{ '%*d' % (10 ** 10, 1) }}",
    "format": "{{ '{:10000000000}'.format(1) }}",
    "indent of JSON": "{{ [1]|tojson(indent=10 ** 10) }}",
    "replace, a filter": grow("ns.x|replace('a', ns.x)"),
    "replace, a method": grow("ns.x.replace('a', ns.x)"),
    "join, a filter": grow("ns.x|join(ns.x)"),
    "join, a method": grow("ns.x.join(ns.x)"),
    "cuts of a long text": LONG + LOOP + "{% set y = ns.x[1:] %}{% endfor %}",
    "words of a long text": LONG
    + "{% for i in range(99999) %}{% set y = ns.x.split() %}{% endfor %}",
}


def tokenizer(template: str) -> Any:
    one = copy.deepcopy(tiny.byte_tokenizer(bos=True))
    one.chat_template = template
    return one


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_are_stopped(name: str) -> None:
    start = time.process_time()
    with pytest.raises(bounded.TemplateWorkError, match="more than 100,000,000 characters"):
        render_bounded(HOSTILE[name], messages=HI)
    assert time.process_time() - start < 20  # without a bound: hours, or all memory


def test_lorem_ipsum_is_no_function_of_chats() -> None:
    with pytest.raises(Exception, match="'lipsum' is undefined"):
        render_bounded("{{ lipsum(n=10 ** 9) }}")


def test_a_hostile_template_is_one_error_of_ours() -> None:
    broken = ChatTemplate(tokenizer(HOSTILE["~"]))
    with pytest.raises(
        UnsupportedModelError, match=r"is broken \(TemplateWorkError: .* set chat to"
    ):
        broken.after_answer()
    late = tokenizer(
        "{% if messages|length > 2 %}" + HOSTILE["~"] + "{% endif %}"
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    )
    chat = ChatTemplate(late)
    assert chat.render([Message(role="user", content="hi")]) == "user: hi\n"
    with pytest.raises(PromptError, match="more than 100,000,000 characters"):
        chat.encode([Message(role=r, content="x") for r in ("user", "assistant", "user")])


def shipped_templates() -> list[Path]:
    """Templates of real models, as the package trl ships them."""
    spec = importlib.util.find_spec("trl")
    assert spec is not None
    assert spec.origin is not None
    return sorted((Path(spec.origin).parent / "chat_templates").glob("*.jinja"))


@pytest.mark.parametrize("path", shipped_templates(), ids=lambda path: path.stem)
def test_templates_of_real_models_write_what_transformers_writes(path: Path) -> None:
    one = tokenizer(path.read_text())
    compared = 0
    for messages, tools in ((TALK, None), (TALK[1:], None), (BLOCKS, None), (CALLED, [WARMTH])):
        try:
            wanted = one.apply_chat_template(
                messages, tools=tools, add_generation_prompt=True, tokenize=False
            )
        except Exception:  # this model's template refuses such a conversation
            continue
        compared += 1
        found = render_bounded(
            one.chat_template,
            messages=messages,
            tools=tools,
            documents=None,
            add_generation_prompt=True,
            **one.special_tokens_map,
        )
        assert found == wanted
    assert compared


def test_there_are_templates_to_compare() -> None:
    assert len(shipped_templates()) >= 10


def test_long_conversations_are_far_from_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = [{"role": ("user", "assistant")[i % 2], "content": "word " * 800} for i in range(1001)]
    one = tokenizer((shipped_templates()[0].parent / "qwen3.jinja").read_text())
    text = apply_chat_template(one, turns, add_generation_prompt=True, tokenize=False)
    assert len(text) > 4_000_000
    monkeypatch.setattr(bounded, "MOST_WORK", 10**7)
    with pytest.raises(bounded.TemplateWorkError):
        apply_chat_template(one, turns, add_generation_prompt=True, tokenize=False)
