"""What tests of configs share: a whole file, its refusal, and the schema for editors."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import w2s_chains
from w2s_chains.config.files import load_config
from w2s_chains.config.sections import W2SConfig
from w2s_chains.errors import ConfigError

WHOLE = """\
proposer:
  model: PROPOSER
  template: "Here is a movie review: {prompt}"
  token_budget: 1000
guide:
  tuned: TUNED
  untuned:
    model: UNTUNED
    template: "A review: {prompt}"
scorer:
  type: log_ratio
strategy:
  type: chunk_beam
  width: 2
  successors: 2
  chunk_tokens: 4
generation:
  max_tokens: 8
  temperature: 0.7
  stop:
    - "的"
    - "\\n\\n"
  seed: 3
  n: 1
"""


def refused(path: Path, text: str, *parts: str, line: int | None = None) -> str:
    """The message with which a file is refused."""
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    for part in (f"{path}:{line}: " if line else str(path), *parts):
        assert part in message, f"{part!r} is not in {message!r}"
    return message


NAMES = sorted(
    {"proposer", "guide", "scorer", "strategy", "generation", "model", "tuned", "untuned", "type"}
    | {"width", "stop", "seed", "n", "temperature", "device_map", "template", "chat", "system"}
)


def outcome(config: Any) -> str | None:
    """None if it can be read, else the error; any other error than ConfigError passes through."""
    try:
        assert isinstance(load_config(config), W2SConfig)
    except ConfigError as error:
        return str(error)
    return None


PUBLISHED = Path(w2s_chains.__file__).with_name("w2s.schema.json")


@functools.cache
def schema() -> jsonschema.Draft202012Validator:
    values = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(values)
    return jsonschema.Draft202012Validator(values)


def guides(folders: dict[str, Path]) -> dict[str, Any]:
    return {name: str(folders[name]) for name in ("tuned", "untuned")}
