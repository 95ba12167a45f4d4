"""Layers that see a window or a chunk of the text: exact, branches included."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest

from tests.helpers.plain import FOREIGN, STRATEGIES, batched, family, generated, guided, searched
from tests.helpers.recording import Recorder
from w2s_chains import W2SLLM, ChunkBeamSearch
from w2s_chains.backend.kv.masks import ALL
from w2s_chains.backend.lm.causal_lm import CausalLM

WINDOW = 12
MIXED = {"layer_types": ["sliding_attention", "full_attention"]}
PARTLY = {"use_sliding_window": True, "max_window_layers": 1}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "mistral": {}, "mixtral": EXPERTS, "ministral": {}, "starcoder2": {}, "phi3": {},
    "qwen2": PARTLY, "qwen3": PARTLY, "gemma2": MIXED, "gemma3": MIXED, "vaultgemma": MIXED,
    "gpt_oss": {**MIXED, **EXPERTS}, "olmo3": MIXED, "cohere2": MIXED, "exaone4": MIXED,
    "smollm3": {"use_sliding_window": True, **MIXED}, "exaone_moe": {}, "granite_swa": {},
    "cwm": MIXED,
    "llama4": {
        **EXPERTS, "attention_chunk_size": WINDOW, "intermediate_size_mlp": 64,
        "layer_types": ["chunked_attention", "full_attention"], "num_experts_per_tok": 1,
    },
}  # fmt: skip
LONG = "The movie was great and the plot was thin, but the acting was so good that nobody cared"
PROMPTS = (LONG, "A prompt of a few tokens more than those", "A")


def build(kind: str, seed: int = 0, **options: Any) -> Any:
    sizes = {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": WINDOW}
    return family(kind, seed, **{**sizes, **FAMILIES[kind], **options})


@pytest.mark.parametrize("kind", FAMILIES)
def test_texts_longer_and_shorter_than_the_window_are_exact(kind: str) -> None:
    model = build(kind)
    lm = CausalLM(model)
    assert lm.can_branch
    assert lm.memory.windows is not ALL
    searched(model, PROMPTS)


@pytest.mark.parametrize("kind", ["mistral", "gemma3", "llama4"])
def test_without_the_windows_a_branch_would_see_too_much(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: this is what the test above would notice."""
    monkeypatch.setattr("w2s_chains.backend.lm.causal_lm.find_windows", lambda config: ALL)
    monkeypatch.setattr("w2s_chains.backend.lm.exactness.window_of", lambda config: 0)
    model = build(kind)
    assert CausalLM(model).can_branch, "texts of the check are shorter than the window"
    with pytest.raises(AssertionError, match="approx"):
        searched(model, PROMPTS)


def test_a_model_that_took_its_window_at_once_shares_no_rows() -> None:
    """Its code does not follow its config, so that ours may not, either."""
    model = build("mistral")
    model.model.config = copy.deepcopy(model.config)
    assert not CausalLM(model).can_branch
    searched(model, PROMPTS)


def made(kind: str, same: bool, recorder: Recorder | None = None) -> W2SLLM:
    return guided(lambda seed, **options: build(kind, seed, **options), same, recorder)


@pytest.mark.parametrize("same", [True, False], ids=["same vocabulary", "another"])
@pytest.mark.parametrize("kind", ["gemma3", "llama4"])
def test_a_batch_is_its_single_calls(kind: str, same: bool) -> None:
    batched(lambda: made(kind, same), PROMPTS, STRATEGIES if same else FOREIGN)


def test_steps_can_be_recorded() -> None:
    recorder = Recorder()
    beam = ChunkBeamSearch(width=2, successors=3, chunk_tokens=4)
    ask = functools.partial(W2SLLM.batch, inputs=[*PROMPTS], strategy=beam, max_tokens=5)
    assert ask(made("gemma3", True, recorder)) == ask(made("gemma3", True))
    assert recorder.repeated > 0


@pytest.mark.parametrize("kind", ["gemma3", "gpt_oss", "llama4"])
def test_greedy_text_is_that_of_generate(kind: str) -> None:
    generated(build(kind), PROMPTS)
