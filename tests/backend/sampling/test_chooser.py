"""All draws of a batch at once equal each of them by itself, step by step, as its terms say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from tests.helpers.grammars import tiny_grammars
from w2s_chains import Constraint, SamplingParams
from w2s_chains.backend.constrained.grammar import GrammarState
from w2s_chains.backend.kv.segment import Segment
from w2s_chains.backend.lm.logits import log_exponential, tiles
from w2s_chains.backend.sampling.choosing import Chooser
from w2s_chains.backend.sampling.draws import Draw
from w2s_chains.backend.sampling.shaping import Shaper
from w2s_chains.core.asks import Until
from w2s_chains.core.sampling import noise_key

CPU = torch.device("cpu")
KNOWN = 40
SIZES = (50, 45, 64)
"""Rows of each model's table; only the first 40 are tokens."""


def draw(number: int, sampling: SamplingParams, rank: int | None = None, **options: Any) -> Draw:
    how: dict[str, Any] = {
        "parents": (Segment(None, 0, (3, 5, 3)),), "steps": 4, "n_tokens": 7, "known": KNOWN,
        "place": ("salt", number), "parent_place": ("salt", "parent"), **options,
    }  # fmt: skip
    return Draw(sampling=sampling, rank=rank, **how)


def tables(rows: int, models: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [2 * torch.randn(rows, size, generator=generator) for size in SIZES[:models]]


def shaped(one: Draw, base: Tensor, others: Sequence[Tensor], sampled: Sequence[int]) -> Tensor:
    """What a draw is sampled from, in logarithms: [V]."""
    shaper = Shaper([one], CPU)
    steered = shaper.steered(base[None], [own[None] for own in others])
    return shaper.shaped(steered, [torch.tensor([token]) for token in sampled], None)[0]


def alone(
    one: Draw, logits: Sequence[Tensor], step: int, sampled: Sequence[int]
) -> tuple[int, list[float]]:
    """The token of one draw by itself, and its numbers."""
    known = [own.log_softmax(0)[:KNOWN] for own in logits]
    base = logits[0][:KNOWN]
    free = shaped(one, base, known[1:], sampled)
    place = one.place if one.rank is None or step else one.parent_place
    key = torch.tensor([noise_key(*place, one.n_tokens + step)], dtype=torch.int32)
    noise = log_exponential(key, KNOWN)[0]
    scores = free if one.sampling.temperature == 0 else free - noise
    ranked = [i for i in scores.argsort(descending=True).tolist() if math.isfinite(scores[i])]
    token = ranked[0 if one.rank is None or step else one.rank % len(ranked)]
    plain = shaped(one, base, [0 * own for own in known[1:]], sampled)
    drift = (free.log_softmax(0) - plain.log_softmax(0))[token].item()
    entropy = -(known[0].exp() * known[0]).sum().item()
    numbers = [own[token].item() for own in known]
    return token, [*numbers, drift if len(known) > 1 else 0.0, entropy, known[0].exp().max().item()]


WARM = SamplingParams(max_tokens=20)
KINDS: dict[str, tuple[SamplingParams, bool]] = {
    "plain": (WARM, False),
    "distinct": (WARM, True),
    "cold": (SamplingParams(max_tokens=20, temperature=0.0), False),
    "cold and distinct": (SamplingParams(max_tokens=20, temperature=0.0), True),
    "fewer than siblings": (SamplingParams(max_tokens=20, top_k=2), True),
    "one alone": (SamplingParams(max_tokens=20, top_k=1), True),
    "penalised": (SamplingParams(max_tokens=20, repetition_penalty=1.8, top_p=0.8), False),
    "hot": (SamplingParams(max_tokens=20, temperature=3.0, min_p=0.05), True),
}


@pytest.mark.parametrize("tile", [2**17, 50], ids=["whole", "tiles"])
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("weights", [(), (0.7,), (0.7, -0.4)], ids=len)
@pytest.mark.parametrize("kinds", [[*KINDS], ["plain", "penalised"], ["distinct", "hot"]], ids=len)
def test_a_batch_equals_its_draws(
    kinds: list[str],
    weights: tuple[float, ...],
    width: int,
    tile: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("w2s_chains.backend.lm.logits._TILE", tile)
    models = 1 + len(weights)
    rows = [
        [
            draw(
                10 * row + i, KINDS[kind][0], i if KINDS[kind][1] else None, weights=weights,
                until=Until(entropy=1.0, top_probability=0.5),
            )
            for i in range(width)
        ]
        for row, kind in enumerate(kinds)
    ]  # fmt: skip
    flat = [one for own in rows for one in own]
    first = tables(len(rows), models)
    ids, numbers = Chooser(rows, [None] * len(flat), [0], CPU)(first, 0, [])
    expected = [
        alone(one, [own[i] for own in first], 0, []) for i, row in enumerate(rows) for one in row
    ]
    assert ids.tolist() == [token for token, _ in expected]
    assert torch.allclose(numbers.T, torch.tensor([own for _, own in expected]), atol=1e-4)
    chooser = Chooser([[one] for one in flat], [None] * len(flat), [1, 2], CPU)
    sampled = [ids]
    for step in (1, 2):
        later = tables(len(flat), models, seed=step)
        ids, numbers = chooser(later, step, sampled)
        expected = [
            alone(one, [own[i] for own in later], step, [int(earlier[i]) for earlier in sampled])
            for i, one in enumerate(flat)
        ]
        assert ids.tolist() == [token for token, _ in expected]
        assert torch.allclose(numbers.T, torch.tensor([own for _, own in expected]), atol=1e-4)
        sampled.append(ids)
    assert len(set(sampled[1].tolist())) > 1, "control: draws differ"
    if tile == 50:
        assert len(tiles(first[0])) > 1, "control: it is cut"


@pytest.mark.parametrize(
    ("until", "computed"),
    [
        (None, (False, False)),
        (Until(word=True), (False, False)),
        (Until(entropy=1.0), (True, False)),
        (Until(top_probability=0.0), (False, False)),
        (Until(top_probability=0.5), (False, True)),
    ],
)
def test_without_a_limit_nothing_is_computed_for_it(
    until: Until | None, computed: tuple[bool, bool]
) -> None:
    one = draw(0, WARM, until=until)
    _, numbers = Chooser([[one]], [None], [0], CPU)(tables(1, 1), 0, [])
    assert numbers.shape == (4, 1)
    drift, *watched = numbers[1:, 0].tolist()
    assert drift == 0.0
    assert tuple(value > 0 for value in watched) == computed


def test_what_shares_a_distribution() -> None:
    """Draws of one parent and one way to sample, all independent or all distinct."""
    parent, other = Segment(None, 0, (3,)), Segment(None, 0, (3,))
    state = cast("GrammarState", object())
    same: dict[str, Any] = {"parents": (parent,), "weights": (1.0,)}
    one = draw(0, WARM, **same).distribution
    assert draw(1, WARM, steps=2, n_tokens=3, **same).distribution == one
    assert draw(0, WARM, 0, **same).distribution == draw(1, WARM, 1, **same).distribution != one
    assert draw(0, SamplingParams(max_tokens=21), **same).distribution != one
    assert draw(0, WARM, state=state, **same).distribution != one
    assert draw(0, WARM, parents=(other,), weights=(1.0,)).distribution != one
    assert draw(0, WARM, parents=(parent,), weights=(2.0,)).distribution != one


def forms(*patterns: str) -> list[GrammarState]:
    return [tiny_grammars().compile(Constraint.regex(pattern)).start for pattern in patterns]


def text(ids: Sequence[int]) -> str:
    pieces = tiny_grammars().vocabulary.pieces
    return b"".join(pieces.get(i, b"") for i in ids).decode()


@pytest.mark.parametrize("width", [1, 3])
def test_rows_with_a_form_beside_rows_without(width: int) -> None:
    """Independent draws: each keeps to its own form, step by step, and the others are free."""
    pattern, other = forms("(ab|cd|ef)[xyz]", "[0-9][0-9][0-9]")
    states = [pattern, None, other]
    rows = [
        [draw(10 * row + i, WARM, state=state, known=320) for i in range(width)]
        for row, state in enumerate(states)
    ]
    flat = [one for own in rows for one in own]
    generator = torch.Generator().manual_seed(1)
    first = torch.randn(3, 320, generator=generator)
    chooser = Chooser(rows, [one.state for one in flat], [0], CPU)
    ids, _ = chooser([first], 0, [])
    free = Chooser([rows[1]], [None] * width, [0], CPU)([first[1:2]], 0, [])[0]
    assert ids[width : 2 * width].tolist() == free.tolist()
    chosen = [ids.tolist()]
    after = Chooser([[one] for one in flat], chooser.states, [1, 2, 3], CPU)
    for step in (1, 2, 3):
        table = torch.randn(len(flat), 320, generator=generator)
        ids, _ = after([table], step, [torch.tensor(own) for own in chosen])
        chosen.append(ids.tolist())
    answers = [[own[i] for own in chosen] for i in range(len(flat))]
    for own in answers[:width]:
        assert own[-1] in tiny_grammars().vocabulary.end_ids or text(own)[:2] in ("ab", "cd", "ef")
        assert text(own) in {a + b for a in ("ab", "cd", "ef") for b in "xyz"}
    for own in answers[2 * width :]:
        assert text(own).isdigit()
        assert len(text(own)) == 3
    assert all(state is not None and state.ended for state in after.states[:width])
    assert all(state is None for state in after.states[width : 2 * width])


def test_siblings_with_a_form_take_different_tokens_and_states() -> None:
    """As many as the form allows, in the order in which they are drawn; then they come again."""
    words = [a + b for a in ("ab", "cd", "ef") for b in "xyz"]
    [state] = forms("(ab|cd|ef)[xyz]")
    table = torch.randn(1, 320, generator=torch.Generator().manual_seed(2))

    def drawn(sampling: SamplingParams, ranks: Sequence[int], form: GrammarState | None) -> Chooser:
        rows = [
            [draw(i, sampling, rank, state=own, known=320) for i, rank in enumerate(ranks)]
            for own in (None, form)
        ]
        return Chooser(rows, [None] * len(ranks) + [form] * len(ranks), [0], CPU)

    tight = 7 + 3 + 1  # three tokens and the end
    ways: list[tuple[dict[str, Any], int]] = [
        ({}, 9), ({"temperature": 0.0}, 9), ({"top_k": 2}, 2),
    ]  # fmt: skip
    for options, kept in ways:
        sampling = SamplingParams(max_tokens=tight, **options)
        warm = SamplingParams(**{**sampling.model_dump(), "top_k": None})
        order = drawn(warm, range(320), None)([table.expand(2, -1)], 0, [])[0][:320].tolist()
        ranked = [token for token in order if state.advance(token, 9)]
        assert 3 <= len(ranked) < 6
        if kept == 2:
            likely = sorted(ranked, key=lambda token: -table[0, token])[:2]
            ranked = [token for token in ranked if token in likely]
        for ranks in (range(8), (2, 0, 1), (1,)):
            chooser = drawn(sampling, ranks, state)
            ids = chooser([table.expand(2, -1)], 0, [])[0].tolist()[len(ranks) :]
            assert ids == [ranked[rank % len(ranked)] for rank in ranks]
            for token, own in zip(ids, chooser.states[len(ranks) :], strict=True):
                assert own is not None
                begun = text([token])
                for letter in "abcdefxyz":
                    goes_on = any(word.startswith(begun + letter) for word in words)
                    byte = tiny_grammars().vocabulary.spell(letter.encode())
                    assert byte is not None
                    assert (own.advance(byte[0], 9) is not None) is goes_on


def test_siblings_whose_form_has_one_way_out_take_it_together() -> None:
    """Many tokens are allowed, and all but the end are refused, because they take too many more."""
    [start] = forms("a([b-z]{20})?")
    spelt = tiny_grammars().vocabulary.spell(b"a")
    assert spelt is not None
    state = start.advance(spelt[0], 9)
    assert state is not None
    [end] = tiny_grammars().vocabulary.end_ids
    table = torch.zeros(1, 320)
    table[0, end] = -50.0
    sampling = SamplingParams(max_tokens=9)
    rows = [[draw(i, sampling, i, state=state, known=320) for i in range(3)]]
    chooser = Chooser(rows, [state] * 3, [0], CPU)
    assert chooser([table], 0, [])[0].tolist() == [end] * 3
    assert all(own is not None and own.ended for own in chooser.states)


def test_the_drift_of_a_form_is_that_of_steering_alone() -> None:
    """The form bounds both distributions, the steered one and the one without."""
    [state] = forms("(ab|cd|ef)[xyz]")
    own = [draw(i, WARM, state=state, known=320, weights=(0.7,)) for i in range(3)]
    generator = torch.Generator().manual_seed(3)
    base, guide = torch.randn(2, 1, 320, generator=generator)
    ids, numbers = Chooser([own], [state] * 3, [0], CPU)([base, guide], 0, [])
    opens = [i for i in range(320) if state.advance(i, 9)]
    assert 3 <= len(opens) < 6
    steered = (base + 0.7 * guide.log_softmax(1))[0, opens].log_softmax(0)
    plain = base[0, opens].log_softmax(0)
    drifts = dict(zip(opens, (steered - plain).tolist(), strict=True))
    assert numbers[2].tolist() == pytest.approx([drifts[i] for i in ids.tolist()], abs=1e-5)
    assert numbers[0].tolist() == pytest.approx(base.log_softmax(1)[0, ids].tolist(), abs=1e-5)


def test_a_chunk_that_is_full_leaves_its_form_where_it_is() -> None:
    """Its row samples on beside longer ones, whatever it may."""
    [state] = forms("[0-9]{9}")
    short, long = (draw(i, WARM, state=state, known=320, steps=n) for i, n in enumerate((1, 3)))
    chooser = Chooser([[short], [long]], [state, state], [1, 2], CPU)
    for step in (1, 2):
        table = torch.randn(2, 320, generator=torch.Generator().manual_seed(step))
        table[:, 70] += 100.0  # a letter
        ids = chooser([table], step, [torch.tensor([20, 20])])[0].tolist()
        assert text(ids[1:]).isdigit()
        assert chooser.states[0] is state
        assert chooser.states[1] is not state
