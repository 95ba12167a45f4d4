"""Dynamic NTK: texts as long as those of the training are exact, longer ones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers import tiny
from tests.helpers.plain import alone, family, searched
from w2s_chains import HuggingFaceGuide, Hypothesis
from w2s_chains.backend.lm.causal_lm import CausalLM
from w2s_chains.errors import PromptError

TRAINED = 64
ROPE: dict[str, Any] = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
SCALED = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
    "original_max_position_embeddings": TRAINED,
}  # fmt: skip


def build() -> Any:
    return family("llama", max_position_embeddings=TRAINED, rope_parameters=ROPE)


def long(guide: HuggingFaceGuide, tokens: int) -> Hypothesis:
    """Return a text of that many tokens: one for each digit, after the prompt's."""
    root = Hypothesis.root("A")
    missing = tokens - len(guide.tokenizer.prompt_ids(root.prompt))
    return root.extend("7" * missing, (10,) * missing, vocabulary=guide.tokenizer.vocabulary)


def test_texts_within_the_trained_length_are_exact() -> None:
    searched(build())
    guide = HuggingFaceGuide(build(), tiny.byte_tokenizer())
    h = long(guide, TRAINED)
    assert guide.loglikelihood([h]) == pytest.approx([alone(guide, h)], abs=2e-3)


def test_longer_texts_are_refused_unless_another_scaling_is_named(tmp_path: Path) -> None:
    model = build()
    guide = HuggingFaceGuide(model, tiny.byte_tokenizer())
    assert CausalLM(model).max_positions == TRAINED
    with pytest.raises(PromptError, match=f"has {TRAINED} positions; shorten"):
        guide.loglikelihood([long(guide, TRAINED + 1)])
    model.save_pretrained(tmp_path)
    tiny.byte_tokenizer().save_pretrained(tmp_path)
    other = HuggingFaceGuide.from_pretrained(str(tmp_path), config={"rope_parameters": SCALED})
    assert other.lm.max_positions == 4 * TRAINED
    h = long(other, 3 * TRAINED)
    assert other.loglikelihood([h]) == pytest.approx([alone(other, h)], abs=5e-3)
