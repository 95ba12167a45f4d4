"""Drafts token by token: what ``speculate`` returns is what its definition gives, draw by draw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers import tiny
from w2s_chains import SamplingParams
from w2s_chains.backend.kv.segment import Segment
from w2s_chains.backend.lm.causal_lm import CausalLM
from w2s_chains.backend.lm.logits import log_exponential
from w2s_chains.backend.lm.reading import Reading, read
from w2s_chains.backend.sampling.draws import Draw, last_id
from w2s_chains.backend.sampling.shaping import Shaper
from w2s_chains.backend.sampling.speculative import speculate
from w2s_chains.core.sampling import noise_key

KNOWN = 290
PROMPTS = (
    ((5, 6, 7, 8, 9), (5, 6, 30), (11, 6)),
    ((20, 21, 22), (23, 21), (20, 21, 22, 40)),
)
"""Of the proposer and the guides, whose templates are not the same."""
COLD = SamplingParams(max_tokens=30, temperature=0)
PARAMS = [
    SamplingParams(max_tokens=30, temperature=1.3),
    SamplingParams(max_tokens=30, temperature=0.8, top_k=4, repetition_penalty=1.5),
    SamplingParams(max_tokens=30, top_p=0.9, min_p=0.001),
    COLD,
]


@pytest.fixture(scope="module")
def lms() -> list[CausalLM]:
    """Relatives, so that some drafts are accepted; their tables end with padding, not all alike."""
    base = tiny.llama(320, seed=1)
    tables = base, tiny.noisy(base, 0.4, seed=2), tiny.noisy(base, 0.2, seed=3)
    for model, size in zip(tables, (320, 312, 330), strict=True):
        model.resize_token_embeddings(size, mean_resizing=False)
    return [CausalLM(model) for model in tables]


def draws(lms: Sequence[CausalLM], params: Sequence[SamplingParams], each: int) -> list[Draw]:
    parents = [[Segment(None, 0, ids) for ids in prompts] for prompts in PROMPTS]
    for i, lm in enumerate(lms):
        read(lm, [Reading(segment=own[i], scored=False) for own in parents])
    return [
        Draw(
            parents=tuple(parents[i % 2]), steps=1 + i % 5, sampling=own, place=("salt", i, n),
            n_tokens=3 * (i % 3), weights=(0.7, -0.4 - 0.1 * n), known=KNOWN,
        )
        for n, own in enumerate(params) for i in range(each)
    ]  # fmt: skip


@torch.inference_mode()
def by_definition(lms: Sequence[CausalLM], draw: Draw) -> tuple[list[int], list[Any], list[str]]:
    """The tokens of one draw, its numbers, one row a token, and how each was found."""
    shaper = Shaper([draw], torch.device("cpu"))
    cold = draw.sampling.temperature == 0

    def logits(i: int, ids: Sequence[int]) -> Tensor:
        text = torch.tensor([[*draw.parents[i].path_ids(), *ids]])
        return lms[i].model(input_ids=text).logits[:, -1].float()

    def probabilities(table: Tensor, ids: Sequence[int]) -> Tensor:
        shaped = shaper.shaped(table, [torch.tensor([token]) for token in ids], None)[0].double()
        return (shaped == shaped.max()).double() if cold else shaped.softmax(0)

    def noise(step: int, use: str, count: int) -> Tensor:
        key = noise_key(*draw.place, draw.n_tokens + step, use)
        return log_exponential(torch.tensor([key], dtype=torch.int32), count)[0]

    def picked(weights: Tensor, step: int, use: str) -> int:
        return int((weights.log() - (0 if cold else noise(step, use, len(weights)))).argmax())

    drafts: list[int] = []
    for step in range(draw.steps - 1):
        own = probabilities(logits(1, drafts)[:, :KNOWN], drafts)
        drafts.append(picked(own, step, "draft"))
    ids: list[int] = []
    rows: list[Any] = []
    found: list[str] = []
    for step in range(draw.steps):
        tables = [logits(i, ids) for i in range(3)]
        likely = [own.log_softmax(1)[:, :KNOWN] for own in tables]
        plain = tables[0][:, :KNOWN]
        p, d = (probabilities(own[:, :KNOWN], ids) for own in tables[:2])
        q = probabilities(shaper.steered(plain, likely[1:]), ids)
        if step + 1 == draw.steps:
            how, token = "last", picked(q, step, "last")
        else:
            uniform = float((-noise(step, "accept", 1).exp()).exp())
            if uniform < q[drafts[step]] / d[drafts[step]]:
                how, token = "accepted", drafts[step]
            else:
                how, token = "another", picked((q - d).clamp(min=0), step, "last")
        ids.append(token)
        rows.append(
            [*(float(own[0, token]) for own in likely), float(q[token].log() - p[token].log())]
        )
        found.append(how)
        if how != "accepted":
            break
    return ids, rows, found


def compare(lms: Sequence[CausalLM], asked: Sequence[Draw], ends: set[int]) -> Counter[str]:
    """Compare each draw with the definition; returns how tokens were found, and what ended."""
    seen: Counter[str] = Counter()
    for draw, one in zip(asked, speculate(lms, asked, ends), strict=True):
        ids, rows, found = by_definition(lms, draw)
        count = next((i for i, token in enumerate(ids) if token in ends), len(ids))
        ended = count < len(ids)
        seen.update([*found, "ended" if ended else "goes on"])
        assert [own.ids for own in one.segments] == [tuple(ids[:count])] * 3
        assert one.ended is ended
        *logprobs, drifts = zip(*rows[: count + ended], strict=True)
        for own, parent, values in zip(one.segments, draw.parents, logprobs, strict=True):
            assert (own.parent, own.start) == (parent, parent.end)
            assert own.logprobs == pytest.approx(values[:count], abs=1e-3)
            assert (own.kv is None) is ended, "nothing follows an end"
        assert one.drifts == pytest.approx(drifts, abs=1e-3)
        if ended:
            assert one.end_logprob == pytest.approx(logprobs[0][count], abs=1e-3)
        assert (one.state, one.entropies) == (None, None)
    return seen


@pytest.mark.parametrize("params", [PARAMS, PARAMS[:1], [COLD]], ids=["mixed", "warm", "cold"])
def test_each_token_is_that_of_the_definition(
    lms: list[CausalLM], params: list[SamplingParams]
) -> None:
    asked = draws(lms, params, 20)
    seen = compare(lms, asked, set())
    assert min(seen["accepted"], seen["another"], seen["last"]) >= 4, seen

    # What was kept is what the next chunk goes on from.
    following = [
        replace(draw, parents=one.segments, n_tokens=draw.n_tokens + len(one.ids), steps=3)
        for draw, one in zip(asked, speculate(lms, asked, []), strict=True)
    ]
    assert compare(lms, following[::3], set()).total() > 0


def test_what_ends_is_cut_and_not_kept(lms: list[CausalLM]) -> None:
    seen = compare(lms, draws(lms, PARAMS[:1], 20), set(range(0, 320, 3)))
    assert min(seen["ended"], seen["goes on"], seen["accepted"]) >= 3, seen


def test_a_text_may_add_no_token(lms: list[CausalLM]) -> None:
    """One that was tokenised again, and is a part of the one before it."""
    [draw] = draws(lms, PARAMS[:1], 1)
    empty = tuple(Segment(own, own.end - 1, ()) for own in draw.parents)
    for segment in empty:
        segment.kv = ()
    assert [last_id(own) for own in empty] == [8, 6, 11]
    compare(lms, [replace(draw, parents=empty, steps=3)], set())


def test_who_reads_how_much_in_how_many_passes(
    lms: list[CausalLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And in batches as large as the proposer has room for."""
    read: dict[CausalLM, list[tuple[int, ...]]] = {}
    forward = CausalLM.forward

    def counted(lm: CausalLM, batch: Any, ids: Tensor, **options: Any) -> Tensor:
        read.setdefault(lm, []).append(tuple(ids.shape))
        return forward(lm, batch, ids, **options)

    asked = draws(lms, PARAMS[:1], 10)
    monkeypatch.setattr(CausalLM, "forward", counted)
    speculate(lms, asked, [])
    assert [read[lm] for lm in lms] == [[(10, 5)], [(10, 1)] * 5, [(10, 5)]]
    read.clear()
    monkeypatch.setattr(lms[0], "token_budget", 5 * max(draw.cost for draw in asked))
    speculate(lms, asked, [])
    assert len(read[lms[0]]) == len(read[lms[2]]) > 1
