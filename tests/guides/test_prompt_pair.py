"""One model under two prompts: loaded once, read in one forward pass, with the proposer or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers import tiny
from w2s_chains import (
    W2SLLM,
    ChatW2S,
    ChunkBeamSearch,
    EmulatedFineTuning,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioScorer,
)
from w2s_chains.errors import ConfigError, PromptError

PRAISE, PLAIN = "A great film: {prompt}", "{prompt}"


def texts() -> list[Hypothesis]:
    root, other = Hypothesis.root("The movie"), Hypothesis.root("The acting of the film")
    return [root.extend(" was"), root.extend(" is a"), other.extend(" fun", finish_reason="eos")]


@pytest.fixture
def apart(tiny_folders: dict[str, Path]) -> GuidePair:
    """The same guides as two models."""
    model = str(tiny_folders["proposer"])
    return GuidePair(
        *(HuggingFaceGuide.from_pretrained(model, template=own) for own in (PRAISE, PLAIN))
    )


def same(pair: GuidePair, other: GuidePair) -> bool:
    ours, theirs = (p.loglikelihoods(texts()) for p in (pair, other))
    return all(a == pytest.approx(b, abs=1e-4) for a, b in zip(ours, theirs, strict=True))


def test_a_pair_of_prompts(tiny_folders: dict[str, Path], apart: GuidePair) -> None:
    pair: Any = GuidePair.from_prompts(str(tiny_folders["proposer"]), PRAISE)
    assert same(pair, apart)
    assert not same(pair, apart.swapped()), "control"
    assert pair.tuned.lm.model is pair.untuned.lm.model
    assert pair.tuned.lm.counters.forwards == 2 * 2, "prompts and answers of two calls"
    own: Any = apart
    assert own.tuned.lm.counters.forwards == own.untuned.lm.counters.forwards == 4, "control"


@pytest.mark.parametrize("strategy", [ChunkBeamSearch(chunk_tokens=3), EmulatedFineTuning()])
def test_the_proposer_itself(
    tiny_folders: dict[str, Path], apart: GuidePair, strategy: Any
) -> None:
    """With its own weights, and its own template for itself."""
    proposer = HuggingFaceProposer.from_pretrained(
        str(tiny_folders["proposer"]), template="A {prompt}"
    )
    pair: Any = GuidePair.from_prompts(proposer, PRAISE, PLAIN)
    assert pair.tuned.lm.model is proposer.lm.model
    assert same(pair, apart)
    llms = [
        W2SLLM(
            proposer=proposer, scorer=LogRatioScorer(own), strategy=strategy, max_tokens=9, seed=0
        )
        for own in (pair, apart, pair.swapped())
    ]
    found, expected, other = ([llm.invoke(p) for p in ("The movie", "A plot")] for llm in llms)
    assert found == expected
    assert found != other, "control"
    assert llms[0].to_config() == llms[1].to_config()
    assert llms[0]._identifying_params == llms[1]._identifying_params


def test_a_model_built_by_hand(proposer: HuggingFaceProposer) -> None:
    pair = GuidePair.from_prompts(proposer, PRAISE)
    tokenizer = tiny.byte_tokenizer()
    model = proposer.lm.model
    two = GuidePair(*(HuggingFaceGuide(model, tokenizer, template=own) for own in (PRAISE, PLAIN)))
    assert same(pair, two)
    llm = W2SLLM(proposer=proposer, scorer=LogRatioScorer(pair))
    with pytest.raises(ConfigError, match="built by hand"):
        llm.to_config()


def test_from_yaml_and_back(tiny_folders: dict[str, Path]) -> None:
    model = str(tiny_folders["proposer"])
    config: dict[str, Any] = {
        "proposer": {"model": model},
        "guide": {"model": model, "tuned_template": PRAISE},
        "generation": {"max_tokens": 5, "seed": 0},
    }

    def built(**changes: Any) -> tuple[Any, Any]:
        llm: Any = W2SLLM.from_config({**config, **changes})
        return llm, llm.scorer.pair

    llm, pair = built()
    assert pair.tuned.lm.model is pair.untuned.lm.model is llm.proposer.lm.model
    again = W2SLLM.from_config(llm.to_config())
    assert again.to_config() == llm.to_config()
    assert again._identifying_params == llm._identifying_params
    assert again.invoke("The movie") == llm.invoke("The movie")
    for other in ({"model": str(tiny_folders["tuned"])}, {"model": model, "dtype": "bfloat16"}):
        llm, pair = built(proposer=other)  # other weights, or loaded otherwise
        assert pair.tuned.lm.model is pair.untuned.lm.model
        assert pair.tuned.lm.model is not llm.proposer.lm.model
    chat = {**config["guide"], "chat": True, "tuned_template": None, "tuned_system": "Be kind."}
    llm, pair = built(guide=chat, proposer={"model": model, "token_budget": 100})
    assert pair.tuned.lm.model is llm.proposer.lm.model
    assert [g.tokenizer.template.system for g in (pair.tuned, pair.untuned)] == ["Be kind.", None]
    assert (pair.tuned.lm.token_budget, llm.proposer.lm.token_budget) == (16_384, 100)


def test_prompts_that_do_not_differ(tiny_folders: dict[str, Path]) -> None:
    model = str(tiny_folders["proposer"])
    with pytest.raises(ValueError, match="read the prompt in the same way"):
        GuidePair.from_prompts(model, PRAISE, PRAISE)
    config: dict[str, Any] = {
        "type": "chat",
        "proposer": {"model": model},
        "guide": {"model": model, "tuned_template": PRAISE},
        "generation": {"max_tokens": 12, "seed": 0},
    }
    with pytest.raises(PromptError, match="tuned_system, untuned_system"):
        ChatW2S.from_config(config).invoke("The movie")
    config["guide"] = {"model": model, "chat": True, "tuned_system": "Be kind."}
    assert ChatW2S.from_config(config).invoke("The movie").content, "control"
    equal = GuidePair.from_pretrained(model, model)
    assert {a - b for a, b in equal.loglikelihoods(texts())} == {0.0}, "two equal guides may be"
