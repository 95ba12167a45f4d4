"""Layers that see a window or a chunk of the text: exact, branches included."""

from __future__ import annotations

import copy
import functools

import pytest

from tests.helpers.plain import FOREIGN, STRATEGIES, batched, generated, guided, searched
from tests.helpers.recording import Recorder
from tests.helpers.windowed import FAMILIES, PROMPTS, build
from w2s_chains import W2SLLM, ChunkBeamSearch
from w2s_chains.backend.kv.masks import ALL
from w2s_chains.backend.lm.causal_lm import CausalLM


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


@pytest.mark.parametrize("kind", ["gemma3", "mistral"])
def test_steps_can_be_recorded(kind: str) -> None:
    recorder = Recorder()
    beam = ChunkBeamSearch(width=2, successors=3, chunk_tokens=4)
    ask = functools.partial(W2SLLM.batch, inputs=[*PROMPTS], strategy=beam, max_tokens=5)
    assert ask(made(kind, True, recorder)) == ask(made(kind, True))
    assert recorder.repeated > 0


@pytest.mark.parametrize("kind", ["gemma3", "gpt_oss", "llama4"])
def test_greedy_text_is_that_of_generate(kind: str) -> None:
    generated(build(kind), PROMPTS)
