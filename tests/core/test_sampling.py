"""Noise for a few tokens, without torch; and the limits of numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from w2s_chains import SamplingParams
from w2s_chains.backend.lm import logits
from w2s_chains.core.sampling import (
    NotNegative,
    Positive,
    Weight,
    log_exponential,
    noise_key,
)
from w2s_chains.errors import ConfigError


def test_the_noise_of_a_token_is_the_same_with_and_without_torch() -> None:
    keys = [noise_key("place", i) for i in range(40)]
    assert any(word < 0 for key in keys for word in key), "signed words, as torch has them"
    table = logits.log_exponential(torch.tensor(keys, dtype=torch.int32), 50)
    for key, row in zip(keys, table.tolist(), strict=True):
        own = [log_exponential(key, token) for token in range(50)]
        assert own == pytest.approx(row, abs=1e-3, rel=1e-4)
        assert own != pytest.approx([log_exponential(key, token + 1) for token in range(50)])


def test_any_words_have_noise() -> None:
    """The largest and the least noise are finite, so that every token can be drawn."""
    found = [
        log_exponential((i * 2654435761 - 2**31, -i), word)
        for i in range(200)
        for word in (0, 2**31, 2**32 - 1)
    ]
    assert all(-23 < value < 4 for value in found)
    assert len({*found}) == len(found)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("temperature", 1e39),
        ("top_p", 1e-46),
        ("repetition_penalty", 1e-46),
        ("repetition_penalty", 1e39),
    ],
)
def test_numbers_that_float32_does_not_hold_are_refused(field: str, wrong: float) -> None:
    options: dict[str, Any] = {field: wrong}
    with pytest.raises(ConfigError, match=f"{field}: .* than or equal to "):
        SamplingParams(**options)


@pytest.mark.parametrize(("kind", "least"), [(Weight, -1e6), (NotNegative, 0.0), (Positive, 1e-6)])
def test_limits_are_the_last_numbers_that_are_taken(kind: Any, least: float) -> None:
    numbers: TypeAdapter[float] = TypeAdapter(kind)
    for value in (least, 1.0, 1e6, np.float32(2)):
        assert numbers.validate_python(value) == value
    below, above = math.nextafter(least, -math.inf), math.nextafter(1e6, math.inf)
    for wrong, told in (
        *((below, "greater than or equal to"), (above, "less than or equal to")),
        *((math.inf, "finite number"), (-math.inf, "finite number"), (math.nan, "finite number")),
        *(("1", "valid number"), (True, "valid number")),
    ):
        with pytest.raises(ValidationError, match=told):
            numbers.validate_python(wrong)
