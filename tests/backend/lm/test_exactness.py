"""Whatever a search reads, on any path, equals one plain forward; other models are refused."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BartConfig,
    BartForCausalLM,
    BertConfig,
    BertLMHeadModel,
    FalconConfig,
    FalconForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    RobertaConfig,
    RobertaForCausalLM,
    XLMRobertaConfig,
    XLMRobertaForCausalLM,
)

from tests.helpers import tiny
from tests.helpers.plain import SIZES, build, family, searched
from w2s_chains import Expand, HuggingFaceGuide, HuggingFaceProposer, Hypothesis, SamplingParams
from w2s_chains.backend.kv.layers import ContiguousLayer, GrowingLayer
from w2s_chains.backend.lm.causal_lm import CausalLM
from w2s_chains.errors import UnsupportedModelError

FALCONS = {
    "7b": {"multi_query": True, "parallel_attn": True},
    "40b": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "rw-1b": {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
    "alibi and multi-query": {"alibi": True, "multi_query": True},
}


@pytest.mark.parametrize("kind", FALCONS)
def test_falcon_reads_and_samples_as_transformers_does(kind: str) -> None:
    model = build(FalconForCausalLM, FalconConfig, **FALCONS[kind])
    searched(model)
    proposer = HuggingFaceProposer(model, tiny.byte_tokenizer())
    root = Hypothesis.root("The movie was great and")
    [[child]] = proposer.propose(
        [Expand(hypotheses=(root,), sampling=SamplingParams(temperature=0, max_tokens=10))]
    )
    prompt = torch.tensor([proposer.tokenizer.prompt_ids(root.prompt)])
    answer = model.generate(prompt, do_sample=False, max_new_tokens=10, pad_token_id=1)
    assert list(child.response_ids or ()) == answer[0, prompt.shape[1] :].tolist()


def test_falcon_under_another_name_of_its_attention_would_be_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control: this is how its scores were wrong."""
    monkeypatch.setattr("w2s_chains.backend.lm.causal_lm.asks_for_sdpa", lambda model: False)
    model = build(FalconForCausalLM, FalconConfig, **FALCONS["rw-1b"])
    with pytest.raises(UnsupportedModelError, match="read wrongly by"):
        CausalLM(model)


Broken = Callable[[dict[str, Any]], Any]
"""What to add to the logits of a call, as a factor; None leaves them alone."""


def past(call: dict[str, Any]) -> int:
    cache = call.get("cache") or call.get("past_key_values")
    return -1 if cache is None else cache.get_seq_length()


def mask(call: dict[str, Any]) -> Any:
    found = call.get("attention_mask")
    return torch.ones(1, 1) if found is None else found


PATHS: dict[str, tuple[str, Broken]] = {
    "prompts": ("cached forward", lambda c: past(c) == 0 and mask(c).ndim == 2),
    "last logits": ("cached forward", lambda c: c.get("logits_to_keep") == 1),
    "chunks": (
        "incremental reading",
        lambda c: past(c) > 0 and c["input_ids"].shape[1] > 1 and bool(mask(c).all()),
    ),
    "single tokens": (
        "incremental reading",
        lambda c: past(c) > 0 and c["input_ids"].shape[1] == 1 and bool(mask(c).all()),
    ),
    "padding": ("padding on the left", lambda c: mask(c).ndim == 2 and not bool(mask(c).all())),
}


def break_it(model: Any, wrong: Broken, by: Callable[[Any], Any]) -> Any:
    """Make the model answer wrongly where ``wrong`` says so."""
    forward = model.forward

    @functools.wraps(forward)
    def broken(*args: Any, **call: Any) -> Any:
        answer = forward(*args, **call)
        if wrong(call):
            answer.logits = by(answer.logits)
        return answer

    model.forward = broken
    return model


def other_tokens(logits: Any) -> Any:
    return logits.roll(1, -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("path", PATHS)
def test_a_model_that_is_wrong_on_one_path_is_refused(path: str, dtype: torch.dtype) -> None:
    named, wrong = PATHS[path]
    with pytest.raises(UnsupportedModelError, match=named) as caught:
        CausalLM(break_it(tiny.llama(320).to(dtype), wrong, other_tokens))  # pyright: ignore[reportArgumentType]
    message = str(caught.value)
    assert "'llama'" in message
    assert "%" in message
    assert "use another model" in message
    assert "\n" not in message
    CausalLM(break_it(tiny.llama(320).to(dtype), lambda call: False, other_tokens))  # control  # pyright: ignore[reportArgumentType]


def test_a_small_fault_is_found_too() -> None:
    with pytest.raises(UnsupportedModelError, match="incremental reading"):
        CausalLM(break_it(tiny.llama(320), PATHS["chunks"][1], lambda logits: logits * 1.01))
    CausalLM(break_it(tiny.llama(320), PATHS["chunks"][1], lambda logits: logits * 1.00001))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_path_without_numbers_is_refused(value: float) -> None:
    with pytest.raises(UnsupportedModelError, match="cached forward"):
        CausalLM(break_it(tiny.llama(320), PATHS["prompts"][1], lambda t: t * 0 + value))


def test_a_model_that_sees_later_tokens_is_refused() -> None:
    def look_ahead(logits: Any) -> Any:
        return logits + 0.1 * logits[:, -1:]

    with pytest.raises(UnsupportedModelError, match="left to right"):
        CausalLM(break_it(tiny.llama(320), lambda c: past(c) < 0, look_ahead))


def test_a_path_that_fails_is_refused() -> None:
    def fail(logits: Any) -> Any:
        raise KeyError("no such thing")

    with pytest.raises(UnsupportedModelError, match="incremental reading: KeyError"):
        CausalLM(break_it(tiny.llama(320), PATHS["chunks"][1], fail))


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_plain_forward_that_fails_is_named(nth: int) -> None:
    calls = itertools.count(1)

    def fail(logits: Any) -> Any:
        raise KeyError("no such thing")

    def plain(call: dict[str, Any]) -> bool:
        return past(call) < 0 and next(calls) == nth

    with pytest.raises(UnsupportedModelError, match="'llama' cannot be read by a plain forward: K"):
        CausalLM(break_it(tiny.llama(320), plain, fail))


@pytest.mark.parametrize("count", [1, 2], ids=["column by column", "at once"])
def test_a_model_that_is_wrong_with_branches_has_none(count: int) -> None:
    """One branch a row is right, and slower."""

    def branched(call: dict[str, Any]) -> bool:
        return mask(call).ndim == 4 and (call["input_ids"].shape[1] > 2) is (count == 2)

    model = break_it(tiny.llama(320), branched, other_tokens)
    assert not CausalLM(model).can_branch
    searched(model)


def test_the_check_is_cheap() -> None:
    calls: list[Any] = []
    CausalLM(break_it(tiny.llama(320), lambda call: calls.append(call), other_tokens))
    assert len(calls) <= 14


ENCODERS = {
    "bert": (BertLMHeadModel, BertConfig),
    "roberta": (RobertaForCausalLM, RobertaConfig),
    "xlm-roberta": (XLMRobertaForCausalLM, XLMRobertaConfig),
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_is_refused_unless_it_is_made_a_decoder(kind: str) -> None:
    """RoBERTa's decoder counts positions from 2 on."""
    with pytest.raises(UnsupportedModelError, match=r"left to right.*is_decoder"):
        HuggingFaceGuide(build(*ENCODERS[kind]), tiny.byte_tokenizer())
    model = build(*ENCODERS[kind], is_decoder=True)
    searched(model)
    guide = HuggingFaceGuide(model, tiny.byte_tokenizer())
    assert guide.max_positions == (512 if kind == "bert" else 510)


def test_a_decoder_of_an_encoder_is_refused() -> None:
    """It counts columns, so that padding would move its positions."""
    config = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4,
              "decoder_ffn_dim": 64, "init_std": 0.3}  # fmt: skip
    with pytest.raises(UnsupportedModelError, match="decoder of an encoder-decoder"):
        CausalLM(build(BartForCausalLM, BartConfig, **config))


def test_keys_without_gaps_for_code_that_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-NeoX Japanese gives keys another shape in place."""
    model = family("gpt_neox_japanese", intermediate_multiple_size=2)
    assert CausalLM(model).memory.layers.contiguous
    assert not CausalLM(tiny.llama(320)).memory.layers.contiguous
    searched(model)
    monkeypatch.setattr(ContiguousLayer, "update", GrowingLayer.update)  # control
    with pytest.raises(UnsupportedModelError, match="a cached forward: RuntimeError: view size"):
        CausalLM(model)


def test_a_failure_without_a_message_shows_the_line() -> None:
    """XLM's code wants the whole text each time."""
    model = family("xlm", emb_dim=32, n_layers=2, n_heads=4, causal=True)
    with pytest.raises(
        UnsupportedModelError, match=r"incremental reading: .*assert mask\.size\(\)"
    ):
        CausalLM(model)


def test_windows_that_the_cache_does_not_show() -> None:
    """GPT-Neo's local layers count columns, and siblings lie between a branch and its past."""
    options = {"num_layers": 2, "num_heads": 4, "window_size": 48, "attention_types":
               [[["global", "local"], 1]]}  # fmt: skip
    sizes = {"max_position_embeddings": 512}
    model = build(GPTNeoForCausalLM, GPTNeoConfig, **options, **sizes)
    assert not CausalLM(model).can_branch
    searched(model, ("The movie was great and the plot of the film is a joy to watch " * 2, "A"))


@pytest.mark.parametrize("make", [tiny.gpt2, tiny.llama], ids=["absolute", "rope"])
def test_padding_steps_end_where_the_positions_end(make: Any) -> None:
    """A row near its end beside one with more steps: both are as they are alone."""
    options = {"n_positions": 64} if make is tiny.gpt2 else {"max_position_embeddings": 64}
    proposer = HuggingFaceProposer(make(320, **options), tiny.byte_tokenizer())
    asks = [
        Expand(
            hypotheses=(Hypothesis.root(text),),
            sampling=SamplingParams(temperature=0, max_tokens=steps),
        )
        for text, steps in (("x " * 29, 4), ("The", 30))
    ]
    prompt = asks[0].hypotheses[0].prompt
    assert 64 - 6 <= len(proposer.tokenizer.prompt_ids(prompt)) <= 64 - 4
    together = [own[0].response_ids for own in proposer.propose(asks)]
    each = [proposer.propose([ask])[0][0].response_ids for ask in asks]
    assert together == each


ARCHITECTURES = {
    "llama": {}, "gpt2": {}, "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32}, "gpt_neox": {},
    "bloom": {}, "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2}, "codegen": {"rotary_dim": 8},
    "gptj": {"rotary_dim": 8}, "gpt_bigcode": {}, "phi": {}, "gemma": {"head_dim": 8}, "olmo2": {},
    "stablelm": {}, "starcoder2": {}, "mixtral": {"num_local_experts": 4, "sliding_window": None},
    "qwen2_moe": {"num_experts": 4, "moe_intermediate_size": 32}, "qwen3": {"head_dim": 8},
    "granitemoe": {"num_local_experts": 4}, "phimoe": {"num_local_experts": 4},
    "smollm3": {"pad_token_id": 2}, "cohere": {}, "ctrl": {"dff": 64}, "xglm": {"ffn_dim": 64},
    "biogpt": {}, "persimmon": {}, "glm": {"head_dim": 8, "pad_token_id": 2}, "nemotron": {},
}  # fmt: skip
"""Each is exact in transformers."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_no_exact_model_is_refused(kind: str, dtype: torch.dtype) -> None:
    sizes: dict[str, Any] = {**SIZES, "num_key_value_heads": 2, **ARCHITECTURES[kind]}
    known = AutoConfig.for_model(kind).to_dict() | AutoConfig.for_model(kind).attribute_map
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{n: v for n, v in sizes.items() if n in known})
    model = AutoModelForCausalLM.from_config(config).eval()
    lm = CausalLM(model.to(dtype))
    assert lm.can_branch is (kind not in ("bloom", "mpt"))
