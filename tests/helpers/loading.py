"""How loading a model is refused."""

from __future__ import annotations

from typing import Any

import pytest

from w2s_chains import Prompt
from w2s_chains.backend.loading.config import Model
from w2s_chains.backend.loading.load import load
from w2s_chains.errors import W2SError


def refused(error: type[W2SError], *parts: str, **spec: Any) -> str:
    """The one line with which a model is refused."""
    with pytest.raises(error) as caught:
        load(Model(**spec))
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, f"{part!r} is not in {message!r}"
    return message


def as_prompt(text: str) -> Prompt:
    return Prompt(text=text)
