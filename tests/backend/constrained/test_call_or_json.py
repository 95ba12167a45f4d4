"""The form of an answer that is a tool call or JSON."""

from __future__ import annotations

import json

import jsonschema
import pytest

from tests.helpers.grammars import MODELS, accepts, decode, grammars, walk
from tests.helpers.schemas import PERSON
from tests.helpers.tool_calls import LLAMA, TOOLS, calls
from w2s_chains.backend.constrained.compile import check_constraint
from w2s_chains.backend.constrained.tool_calls import text_or_tool_call, tool_call_or_json
from w2s_chains.core.prompts import DEFAULT_CALLS, CallFormat
from w2s_chains.errors import ConstraintError


@pytest.mark.parametrize("form", [DEFAULT_CALLS, LLAMA], ids=["default", "llama"])
@pytest.mark.parametrize("model", sorted(MODELS))
def test_a_call_or_json_parses(form: CallFormat, model: str) -> None:
    grammar = grammars().compile(tool_call_or_json(TOOLS, PERSON, form=form))
    kinds: set[str] = set()
    for seed in range(12):
        ids, state = walk(grammar, grammar.shortest + 5 * seed, MODELS[model](grammar, seed))
        assert state.ended
        text = decode(grammar, ids)
        if text.startswith(form.begin):
            [(name, arguments)] = calls(text, form)
            jsonschema.validate(arguments, TOOLS[name])
            kinds.add("call")
        else:
            jsonschema.validate(json.loads(text), PERSON)
            kinds.add("json")
    assert kinds, model


def test_a_call_or_json_and_nothing_else() -> None:
    grammar = grammars().compile(tool_call_or_json(TOOLS, PERSON))
    call = '<tool_call>\n{"name": "weather_now", "arguments": {}}\n</tool_call>'
    person = json.dumps({"name": call, "größe": "🙂", "tags": []}, ensure_ascii=False)
    for text in (call, person):
        assert accepts(grammar, text), text
    for text in (f"{call}\n{call}", person + call, call + person, "Hi", "", person[:-1], "{}"):
        assert not accepts(grammar, text), text
    several = grammars().compile(tool_call_or_json(TOOLS, PERSON, parallel=True))
    assert accepts(several, f"{call}\n{call}")
    assert not accepts(several, f"{call}\n{person}")
    with pytest.raises(ConstraintError, match="no tool"):
        tool_call_or_json({}, PERSON)
    with pytest.raises(ConstraintError, match="cannot be told from text"):
        tool_call_or_json(TOOLS, PERSON, form=CallFormat(begin=" "))
    with pytest.raises(ConstraintError, match="uniqueItems"):
        check_constraint(tool_call_or_json(TOOLS, {"properties": {"a": {"uniqueItems": True}}}))
    assert tool_call_or_json(TOOLS, PERSON) != text_or_tool_call(TOOLS)
