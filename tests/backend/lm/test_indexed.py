"""Layers that choose what they attend to by an indexer: exact where they must choose as well."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from tests.helpers import families, tiny
from tests.helpers.plain import BEAM, FOREIGN, STRATEGIES, batched, generated, guided, searched
from tests.helpers.recording import CPU, Recorder
from w2s_chains import HuggingFaceGuide, Hypothesis
from w2s_chains.backend.kv.layers import GrowingLayer
from w2s_chains.backend.kv.segment import Segment
from w2s_chains.backend.lm import planes
from w2s_chains.backend.lm.causal_lm import CausalLM
from w2s_chains.backend.lm.planes import narrowed
from w2s_chains.errors import UnsupportedModelError

CHOSEN = 8
"""Tokens that a layer chooses in ``families.tiny``."""
SHARED = ["deepseek_v32", "glm_moe_dsa", "axk2", "hy_v4", "dots3_note_text"]
STATE = "qwen4_exp_text"
LONG = "The movie was great and the plot was thin, but the acting was so good that nobody cared"
PROMPTS = (LONG, "A prompt of some tokens", "A")


def build(kind: str, seed: int = 0, **options: Any) -> Any:
    return families.tiny(kind, seed, **options)


@pytest.mark.parametrize("kind", [*SHARED, STATE])
def test_texts_longer_and_shorter_than_what_is_chosen_are_exact(kind: str) -> None:
    model = build(kind)
    lm = CausalLM(model)
    assert lm.can_branch is (kind != STATE)
    assert lm.memory.layers.indexed
    searched(model, PROMPTS)


@pytest.mark.parametrize("chosen", [2, 4, 512])
def test_any_number_may_be_chosen(chosen: int) -> None:
    searched(build("deepseek_v32", index_topk=chosen), PROMPTS)


def test_what_is_chosen_matters() -> None:
    """Control: the texts above are long enough."""
    guide = HuggingFaceGuide(build("deepseek_v32"), tiny.byte_tokenizer())
    every = HuggingFaceGuide(build("deepseek_v32", index_topk=512), tiny.byte_tokenizer())
    h = Hypothesis.root(PROMPTS[1]).extend(" and more")
    assert len(guide.tokenizer.prompt_ids(h.prompt)) > CHOSEN
    assert guide.loglikelihood([h]) != pytest.approx(every.loglikelihood([h]), abs=0.1)


@pytest.mark.parametrize("kind", ["deepseek_v32", "glm_moe_dsa", STATE])
def test_keys_of_indexers_are_those_of_one_plain_forward(kind: str) -> None:
    model = build(kind)
    lm = CausalLM(model)
    ids = torch.arange(3, 3 + 24)[None]
    plain: Any = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(input_ids=ids, use_cache=True, cache=plain)
        batch = lm.gather([(None, 0)], width=1, steps=20)
        lm.forward(batch, ids[:, :20])
        batch.keep([(segment := Segment(None, 0, ids[0, :21].tolist()), 0, 0, 20)])
        batch.let_go()
        batch = lm.gather([(segment, 20), (None, 0)], width=1, steps=4)
        lm.forward(batch, ids[:, 20:].expand(2, -1))
    indexed = 0
    layers: list[Any] = batch.cache.layers
    for own, layer in zip(layers, plain.layers, strict=True):
        if (wanted := getattr(layer, "indexer_keys", None)) is not None:
            indexed += 1
            found = own.indexer_keys
            assert torch.allclose(found[:1, : batch.filled], wanted, atol=1e-4)
            assert not torch.allclose(found[1:, : batch.filled], wanted, atol=1e-4), "control"
        positions = getattr(layer, "indexer_position_ids", None)
        if positions is not None:
            assert torch.equal(own.indexer_position_ids[:, :1], positions)
    assert indexed


def forgetting(layer: GrowingLayer, indexer_key_states: Tensor) -> Tensor:
    """Lose the keys of all that was read before, as a pool without their plane would."""
    found = update(layer, indexer_key_states).clone()
    found[:, : -indexer_key_states.shape[1]] = 0
    return found


def shuffled(layer: GrowingLayer, indexer_key_states: Tensor) -> Tensor:
    """Give the keys of the past in another order."""
    count = indexer_key_states.shape[1]
    found = update(layer, indexer_key_states)
    return torch.cat((found[:, :-count].flip(1), found[:, -count:]), dim=1)


update = GrowingLayer.update_indexer


@pytest.mark.parametrize("wrong", [forgetting, shuffled])
@pytest.mark.parametrize("kind", ["deepseek_v32", "hy_v4", STATE])
def test_wrong_keys_are_found_at_load(
    kind: str, wrong: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: all but the indexers' keys are right, so only a choice shows that they are wrong."""
    monkeypatch.setattr(GrowingLayer, "update_indexer", wrong)
    with pytest.raises(UnsupportedModelError, match="is read wrongly by"):
        CausalLM(build(kind))
    monkeypatch.setattr(planes, "_INDEXER", {})
    model = build(kind)
    CausalLM(model)  # nothing is chosen from texts as short as those of the check
    with pytest.raises(AssertionError, match="approx"):
        searched(model, PROMPTS)


@pytest.mark.parametrize(("kind", "before"), [("glm_moe_dsa", 8), (STATE, 2)])
def test_indexers_choose_few_only_while_they_are_checked(kind: str, before: int) -> None:
    lm = CausalLM(build(kind))
    name = "index_topk" if kind != STATE else "block_topk"
    indexers: list[Any] = [
        own for own in lm.model.modules() if type(own).__name__.endswith("Indexer")
    ]
    assert {getattr(own, name) for own in indexers} == {before}
    with contextlib.suppress(ValueError), narrowed(lm.model, lm.memory):
        assert {getattr(own, name) for own in indexers} == {planes._INDEXER[name]}
        raise ValueError
    assert {getattr(own, name) for own in indexers} == {before}


@pytest.mark.parametrize(
    ("kind", "same", "strategies"),
    [
        ("deepseek_v32", True, STRATEGIES),
        ("deepseek_v32", False, FOREIGN),
        ("dots3_note_text", True, [BEAM]),
        (STATE, False, [BEAM]),
    ],
)
def test_a_batch_is_its_single_calls(kind: str, same: bool, strategies: Any) -> None:
    def make() -> Any:
        return guided(lambda seed, **options: build(kind, seed, **options), same)

    batched(make, PROMPTS if kind != STATE else PROMPTS[1:], strategies)


@pytest.mark.parametrize("kind", ["deepseek_v32", "axk2", STATE])
def test_greedy_text_is_that_of_generate(kind: str) -> None:
    generated(build(kind), PROMPTS)


def test_steps_are_not_recorded() -> None:
    """A recording would repeat the number that was chosen while the model was checked."""
    lm = CausalLM(build("deepseek_v32"))
    with pytest.raises(UnsupportedModelError, match="cannot be recorded"):
        lm.record(Recorder(), CPU)
