"""Schemas of tools, and a strict reader of their calls."""

from __future__ import annotations

import json
from typing import Any

from w2s_chains.core.prompts import CallFormat

DAYS = {"type": "integer", "minimum": 1, "maximum": 9}
TOOLS: dict[str, dict[str, Any]] = {
    "weather": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"$ref": "#/$defs/D"}},
        "required": ["city", "days"],
        "$defs": {"D": DAYS},
    },
    "weather_now": {"type": "object", "properties": {}},
    "such/ä": {
        "type": "object",
        "properties": {"days": {"$ref": "#/$defs/D"}},
        "$defs": {"D": {"enum": ["heute", 'mor"gen']}},
    },
}
LLAMA = CallFormat(begin="<▁tools/begin▁>[", end="]</end>", arguments_key="parameters")


def calls(text: str, form: CallFormat) -> list[tuple[str, Any]]:
    """What a strict reader finds."""
    assert text.startswith(form.begin)
    assert text.endswith(form.end)
    inner = text.removeprefix(form.begin).removesuffix(form.end)
    parts = [json.loads(part) for part in inner.split(form.end + form.between + form.begin)]
    assert all(list(part) == [form.name_key, form.arguments_key] for part in parts)
    return [(part[form.name_key], part[form.arguments_key]) for part in parts]
