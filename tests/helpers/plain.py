"""What a family of models must do: its searches, compared with what transformers computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.helpers import tiny
from tests.helpers.recording import CPU, Recorder
from w2s_chains import (
    W2SLLM,
    BestOfN,
    ChunkBeamSearch,
    EmulatedFineTuning,
    Engine,
    Expand,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    Hypothesis,
    SamplingParams,
    SearchStrategy,
    TokenSearch,
)

SIZES = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 512, "initializer_range": 0.3,
    "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip


def build(model: Any, config: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    return model(config(**{**SIZES, **options})).eval()


def family(kind: str, seed: int = 0, **options: Any) -> Any:
    """Build a tiny random model of a family, by the name that transformers has for it."""
    own: Any = AutoConfig.for_model(kind).get_text_config(decoder=True)
    config = type(own)(**{**SIZES, "pad_token_id": 0, **options})
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config).eval()


def alone(guide: Any, h: Hypothesis) -> float:
    """The loglikelihood by one plain forward over the whole text."""
    prompt, ids = list(guide.tokenizer.prompt_ids(h.prompt)), list(h.response_ids or ())
    with torch.inference_mode():
        table = guide.lm.model(torch.tensor([prompt + ids]), use_cache=False).logits[0]
    table = table.log_softmax(-1)[len(prompt) - 1 :]
    return sum(table[i, token].item() for i, token in enumerate(ids))


def searched(model: Any, prompts: Sequence[str] = ("The movie was great", "A")) -> None:
    """A small search by hand, by a proposer and a guide: every value is that of a plain forward."""
    proposer = HuggingFaceProposer(model, tiny.byte_tokenizer())
    guide = HuggingFaceGuide(model, tiny.byte_tokenizer())
    beams = [[Hypothesis.root(prompt)] for prompt in prompts]
    for _ in range(2):
        asks = [
            Expand(
                hypotheses=tuple(beam),
                successors=3,
                chunk_tokens=4,
                sampling=SamplingParams(max_tokens=40, temperature=1.0),
                seed=1,
            )
            for beam in beams
        ]
        beams = [[h for h in own if not h.finished] for own in proposer.propose(asks)]
        flat = [h for beam in beams for h in beam]
        plain = [alone(guide, h) for h in flat]
        assert proposer.loglikelihood(flat) == pytest.approx(plain, abs=2e-3)
        assert guide.loglikelihood(flat) == pytest.approx(plain, abs=2e-3)


BEAM = ChunkBeamSearch(width=2, successors=3, chunk_tokens=4)
FOREIGN: Sequence[SearchStrategy] = (BEAM, TokenSearch())
"""Strategies that guides of any vocabulary can serve."""
STRATEGIES: Sequence[SearchStrategy] = (*FOREIGN, BestOfN(n=3), EmulatedFineTuning(beta=0.5))


def guided(
    build: Callable[..., Any], same: bool = True, recorder: Recorder | None = None
) -> W2SLLM:
    """An LLM whose models are ``build(seed, **options)``.

    Args:
        build: Makes a model.
        same: Whether the guides have the proposer's vocabulary.
        recorder: Records steps, if given.
    """
    proposer = HuggingFaceProposer(build(0), tiny.byte_tokenizer())
    tokenizer = tiny.byte_tokenizer() if same else tiny.byte_tokenizer(360, bos=True, name="other")
    base = build(1, vocab_size=len(tokenizer))
    guides = [HuggingFaceGuide(model, tokenizer) for model in (tiny.noisy(base), base)]
    if recorder is not None:
        for part in (proposer, *guides):
            part.lm.record(recorder, CPU)
    return W2SLLM(
        proposer=proposer, guides=GuidePair(*guides), max_tokens=14, temperature=0.9, seed=0,
        engine=Engine(),
    )  # fmt: skip


def batched(
    make: Callable[[], W2SLLM], prompts: Sequence[str], strategies: Sequence[SearchStrategy]
) -> None:
    """Each strategy answers a batch as single calls are answered; another seed as a control."""
    llm = make()
    for strategy in strategies:
        together = llm.batch([*prompts], strategy=strategy)
        assert together == [llm.invoke(prompt, strategy=strategy) for prompt in prompts]
        other = make().batch([*prompts], strategy=strategy, seed=1)
        assert together != other, "control: another seed writes the same, so nothing is shown"


def generated(model: Any, prompts: Sequence[str]) -> None:
    """Greedy text is that of transformers' ``generate``."""
    proposer = HuggingFaceProposer(model, tiny.byte_tokenizer())
    for prompt in prompts:
        root = Hypothesis.root(prompt)
        greedy = SamplingParams(temperature=0, max_tokens=30)
        [[child]] = proposer.propose([Expand(hypotheses=(root,), sampling=greedy)])
        ids = torch.tensor([proposer.tokenizer.prompt_ids(root.prompt)])
        found = model.generate(ids, do_sample=False, max_new_tokens=30, pad_token_id=0)
        end = [proposer.tokenizer.end_id] if child.ended else []
        assert [*(child.response_ids or ()), *end] == found[0, ids.shape[1] :].tolist()
