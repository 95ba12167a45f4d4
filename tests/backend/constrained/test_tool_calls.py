"""Tool calls under a constraint: they parse, whichever tool a random model calls."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from torch import Tensor

from tests.helpers.grammars import MODELS, accepts, decode, grammars, rambling, spelt, uniform, walk
from tests.helpers.tool_calls import LLAMA, TOOLS, calls
from w2s_chains.backend.constrained.compile import check_constraint
from w2s_chains.backend.constrained.grammar import Grammar
from w2s_chains.backend.constrained.schemas import closed, relocated
from w2s_chains.backend.constrained.tool_calls import text_or_tool_call, tool_call
from w2s_chains.core.prompts import CallFormat
from w2s_chains.core.sampling import Constraint
from w2s_chains.errors import ConstraintError


def compiled(constraint: Constraint) -> Grammar:
    return grammars().compile(constraint)


def begins_with(grammar: Grammar, text: str, seed: int) -> Any:
    """A model that writes ``text``, then anything."""
    ids = spelt(grammar, text)
    draw = uniform(grammar, seed)

    def scores(step: int) -> Tensor:
        row = draw(step)
        if step < len(ids):
            row[ids[step]] = 2
        return row

    return scores


@pytest.mark.parametrize("form", [CallFormat(), LLAMA], ids=["default", "llama"])
@pytest.mark.parametrize("model", sorted(MODELS))
@pytest.mark.parametrize("parallel", [False, True])
def test_a_call_parses(form: CallFormat, model: str, parallel: bool) -> None:
    grammar = compiled(tool_call(TOOLS, parallel=parallel, form=form))
    counts: set[int] = set()
    for seed in range(12):
        left = grammar.shortest + 10 * seed
        ids, state = walk(grammar, left, MODELS[model](grammar, seed))
        assert state.ended
        found = calls(decode(grammar, ids), form)
        for name, arguments in found:
            jsonschema.validate(arguments, TOOLS[name])
            assert set(arguments) <= set(TOOLS[name]["properties"])
        counts.add(len(found))
    assert parallel or counts == {1}


def test_exactly_one_tool() -> None:
    grammar = compiled(tool_call({"weather": TOOLS["weather"]}))
    for seed in range(5):
        ids, _ = walk(grammar, 40, rambling(grammar, seed))
        ((name, _),) = calls(decode(grammar, ids), CallFormat())
        assert name == "weather"


def test_every_tool_can_be_called_and_no_other() -> None:
    call = '<tool_call>\n{{"name": {}, "arguments": {}}}\n</tool_call>'
    weather = json.dumps({"city": "Zoë", "days": 3}, ensure_ascii=False)
    for grammar in (compiled(tool_call(TOOLS)), compiled(text_or_tool_call(TOOLS))):
        assert accepts(grammar, call.format('"weather"', weather))
        assert accepts(grammar, call.format('"weather_now"', "{}"))
        assert accepts(grammar, call.format('"such/ä"', '{"days": "mor\\"gen"}'))
        assert not accepts(grammar, call.format('"weather_now"', weather))
        assert not accepts(grammar, call.format('"weather"', '{"city": "x", "days": "heute"}'))
        assert not accepts(grammar, call.format('"rain"', "{}"))


def test_text_or_a_call() -> None:
    grammar = compiled(text_or_tool_call(TOOLS))
    call = '<tool_call>\n{"name": "weather_now", "arguments": {}}\n</tool_call>'
    assert grammar.shortest == 1
    for text in ("", "Hello <tool>!", "a < b, tool_call", call, "Let me see.\n" + call):
        assert accepts(grammar, text), text
    for text in (f"{call}\n{call}", call + " there", "<tool_call> no", call[:-1]):
        assert not accepts(grammar, text), text
    parallel = compiled(text_or_tool_call(TOOLS, parallel=True))
    assert accepts(parallel, f"Well: {call}\n{call}")
    assert not accepts(parallel, f"{call} and {call}")


@pytest.mark.parametrize("left", [34, 40, 60])
def test_what_begins_as_a_call_ends_as_one(left: int) -> None:
    grammar = compiled(text_or_tool_call(TOOLS))
    lead = "Sure. <tool_call>"
    for seed in range(8):
        ids, state = walk(grammar, left, begins_with(grammar, lead, seed))
        assert state.ended
        text = decode(grammar, ids)
        assert text.startswith(lead)
        ((name, arguments),) = calls(text.removeprefix("Sure. "), CallFormat())
        jsonschema.validate(arguments, TOOLS[name])


def test_no_call_is_begun_that_cannot_be_ended() -> None:
    grammar = compiled(text_or_tool_call(TOOLS))
    ids, state = walk(grammar, 20, begins_with(grammar, "Sure. <tool_call>\n", 0))
    assert state.ended
    assert "<tool_call>" not in decode(grammar, ids)


def test_refusals() -> None:
    with pytest.raises(ConstraintError, match="no tool"):
        tool_call({})
    with pytest.raises(ConstraintError, match="cannot be told from text"):
        text_or_tool_call(TOOLS, form=CallFormat(begin="\n"))
    with pytest.raises(ConstraintError, match="uniqueItems"):
        check_constraint(tool_call({"f": {"properties": {"a": {"uniqueItems": True}}}}))
    check_constraint(tool_call(TOOLS, form=CallFormat(begin="\n")))


def test_the_same_tools_are_the_same_constraint() -> None:
    assert tool_call(TOOLS) == tool_call(dict(TOOLS))
    assert tool_call(TOOLS) != text_or_tool_call(TOOLS)


def test_closed_leaves_alone_what_it_must() -> None:
    inner = {"type": "object", "properties": {"$ref": {"type": "string"}}}
    assert closed(inner) == {**inner, "additionalProperties": False}
    assert closed({"enum": [inner]}) == {"enum": [inner]}, "values are no schemas"
    assert closed({"items": [True]}) == {"items": [True]}
    merged = {"properties": {"a": inner}, "$ref": "#/$defs/x", "$defs": {"x": inner}}
    assert closed(merged) == merged


def test_relocated_moves_references_and_nothing_else() -> None:
    schema = {
        "properties": {"$ref": {"$ref": "#"}, "b": {"items": {"$ref": "#/$defs/b"}}},
        "default": {"$ref": "#"},
        "$ref": "https://example.com",
    }
    assert relocated(schema, "#/$defs/f") == {
        "properties": {
            "$ref": {"$ref": "#/$defs/f"},
            "b": {"items": {"$ref": "#/$defs/f/$defs/b"}},
        },
        "default": {"$ref": "#"},
        "$ref": "https://example.com",
    }
