"""Chunks equal what a plain forward and one choice after another give, and no more is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch

from tests.helpers import tiny
from tests.helpers.grammars import tiny_grammars
from w2s_chains import Constraint, SamplingParams
from w2s_chains.backend.kv.segment import Segment
from w2s_chains.backend.lm.causal_lm import CausalLM
from w2s_chains.backend.lm.reading import Reading, read
from w2s_chains.backend.sampling.choosing import Chooser
from w2s_chains.backend.sampling.chunks import (
    Drawn,
    _check_numbers,
    _may_look,
    _rest,
    drawn_of,
    sample,
)
from w2s_chains.backend.sampling.draws import Draw
from w2s_chains.core.asks import Until
from w2s_chains.errors import ProposerError

PROMPTS = ((5, 6, 7, 8, 9), (20, 21, 22))
PARAMS = SamplingParams(max_tokens=30)


def models(*seeds: int) -> list[CausalLM]:
    return [CausalLM(tiny.llama(320, seed=seed)) for seed in seeds]


def draws(lms: Sequence[CausalLM], *counts: int, **options: Any) -> list[Draw]:
    """So many children of each prompt."""
    parents = [[Segment(None, 0, ids) for _ in lms] for ids in PROMPTS[: len(counts)]]
    for i, lm in enumerate(lms):
        read(lm, [Reading(segment=own[i], scored=False) for own in parents])
    weights = (0.7, -0.4)[: len(lms) - 1]
    how: dict[str, Any] = {"steps": 5, "sampling": PARAMS, "n_tokens": 0, **options}
    return [
        Draw(parents=tuple(own), place=("salt", row, i), weights=weights, **how)
        for row, (own, count) in enumerate(zip(parents, counts, strict=True))
        for i in range(count)
    ]


@torch.inference_mode()
def step_by_step(lms: Sequence[CausalLM], draw: Draw) -> tuple[list[int], list[list[float]]]:
    """The tokens of one draw, and its numbers, one row a token, by plain forwards."""
    ids: list[int] = []
    rows: list[list[float]] = []
    for step in range(draw.steps):
        text = torch.tensor([[*draw.parents[0].path_ids(), *ids]])
        tables = [lm.model(input_ids=text).logits[:, -1].float() for lm in lms]
        chooser = Chooser([[draw]], [None], [step], torch.device("cpu"))
        token, numbers = chooser(tables, step, [torch.tensor([i]) for i in ids])
        ids.append(int(token))
        rows.append(numbers[:, 0].tolist())
    return ids, rows


MODELS = {
    "alone": lambda: models(0),
    "steered": lambda: models(0, 1, 2),
    "a guide without branches": lambda: [*models(0, 1), CausalLM(tiny.bloom())],
}


@pytest.mark.parametrize("of", MODELS)
@pytest.mark.parametrize("tile", [2**17, 640], ids=["whole", "tiles"])
def test_chunks_are_chosen_token_by_token(
    of: str, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("w2s_chains.backend.lm.logits._TILE", tile)
    lms = MODELS[of]()
    asked = draws(lms, 3, 2, steps=4)  # in rows of three branches
    for draw, drawn in zip(asked, sample(lms, asked, []), strict=True):
        ids, rows = step_by_step(lms, draw)
        *logprobs, drifts, _, _ = zip(*rows, strict=True)
        assert [own.ids for own in drawn.segments] == [tuple(ids)] * len(lms)
        for own, values in zip(drawn.segments, logprobs, strict=True):
            assert own.logprobs == pytest.approx(values, abs=1e-3)
            assert own.kv is not None
        assert drawn.drifts == pytest.approx(drifts, abs=1e-3)
        assert (drawn.end_logprob, drawn.entropies, drawn.state) == (None, None, None)
    assert of != "steered" or any(abs(value) > 0.1 for value in drifts), "control"


def forwards(lms: list[CausalLM], asked: list[Draw], ends: Sequence[int]) -> list[Drawn]:
    lms[0].counters.forwards = 0
    return sample(lms, asked, ends)


def test_nothing_is_read_once_all_have_ended() -> None:
    """Each at another token; what was drawn before is the same."""
    lms = models(0)
    asked = draws(lms, 1, 1, steps=9)
    whole = [one.segments[0].ids for one in sample(lms, asked, [])]
    for at in ((1, 4), (4, 1), (0, 2), (3, 3)):
        ends = [ids[i] for ids, i in zip(whole, at, strict=True)]
        first = [min(ids.index(end) for end in ends if end in ids) for ids in whole]
        cut = forwards(lms, asked, ends)
        assert [one.segments[0].ids for one in cut] == [
            ids[:i] for ids, i in zip(whole, first, strict=True)
        ]
        assert all(one.ended for one in cut)
        assert [one.segments[0].kv for one in cut] == [None, None], "nothing follows"
        assert lms[0].counters.forwards == 1 + max(first)
    forwards(lms, asked, [])
    assert lms[0].counters.forwards == 9, "control"


def test_nothing_is_read_once_all_have_met_too_much_entropy() -> None:
    lms = models(0)
    free = draws(lms, 1, 1, steps=9, until=Until(entropy=100.0))
    whole = sample(lms, free, [])
    seen = [one.entropies or () for one in whole]
    for draw, own in zip(free, seen, strict=True):
        _, rows = step_by_step(lms, draw)
        assert own == pytest.approx([row[-2] for row in rows], abs=1e-3)
    cuts: set[tuple[int, int]] = set()
    for limit in sorted(value + 1e-4 for own in seen for value in own[1:]):
        asked = draws(lms, 1, 1, steps=9, until=Until(entropy=limit))
        at = [next((i for i in range(1, 9) if own[i] > limit), 9) for own in seen]
        cut = forwards(lms, asked, [])
        assert [len(one.segments[0].ids) for one in cut] == at
        assert [one.entropies for one in cut] == [
            pytest.approx(own[:i], abs=1e-5) for own, i in zip(seen, at, strict=True)
        ]
        assert lms[0].counters.forwards == min(9, 1 + max(at))
        cuts.add((at[0], at[1]))
    assert any(a < b < 9 for a, b in cuts) or any(b < a < 9 for a, b in cuts), "control"


def test_a_chunk_ends_before_a_token_of_too_little_probability() -> None:
    """It may have no token at all, and keeps as many as it has to."""
    lms = models(0)
    free = draws(lms, 1, 1, steps=9)
    whole = [one.ids for one in sample(lms, free, [])]
    tops = [[row[-1] for row in step_by_step_of_tops(lms, draw)] for draw in free]
    ends: set[int] = set()
    for limit in sorted(value for own in tops for value in own):
        for least in (0, 1, 4):
            until = Until(top_probability=limit + 1e-6, least=least)
            asked = draws(lms, 1, 1, steps=9, until=until)
            at = [next((i for i in range(least, 9) if own[i] <= limit), 9) for own in tops]
            cut = forwards(lms, asked, [])
            assert [one.ids for one in cut] == [ids[:i] for ids, i in zip(whole, at, strict=True)]
            assert [one.sampled for one in cut] == [min(i + 1, 9) for i in at]
            assert lms[0].counters.forwards == min(9, 1 + max(at)), "and nothing more is read"
            assert all(one.entropies is None for one in cut)
            ends.update(at)
    assert {0, 1, 4, 9} <= ends, "control"


def step_by_step_of_tops(lms: Sequence[CausalLM], draw: Draw) -> list[list[float]]:
    watching = replace(draw, until=Until(top_probability=0.5))
    return step_by_step(lms, watching)[1]


def test_chunks_that_go_on_leave_the_others_behind() -> None:
    """In pieces, and each of them equals the whole: tokens, numbers, and what is kept."""
    lms = models(0, 1)
    whole = sample(lms, draws(lms, 3, 2, steps=11), [])

    def end_of(ids: Sequence[int]) -> int | None:
        """The first three end after a token, the others never."""
        return 1 if ids[0] in {one.ids[0] for one in whole[:3]} else None

    asked = [
        replace(draw, until=Until(strings=("x",)), end_of=end_of)
        for draw in draws(lms, 3, 2, steps=11)
    ]
    assert not {one.ids[0] for one in whole[:3]} & {one.ids[0] for one in whole[3:]}
    lms[0].counters.tokens_read = 0
    pieces = sample(lms, asked, [])
    for one, wanted, length in zip(pieces, whole, (1, 1, 1, 11, 11), strict=True):
        assert one.ids == wanted.ids[:length]
        assert one.drifts == pytest.approx(wanted.drifts[:length], abs=1e-4)
        for own, its in zip(one.segments, wanted.segments, strict=True):
            assert own.logprobs == pytest.approx(its.logprobs[:length], abs=1e-4)
            assert own.kv is not None
    assert [one.sampled for one in pieces] == [2, 2, 2, 11, 11]
    # Two last tokens of prompts, one token of two rows with three branches, and the rest of two.
    assert lms[0].counters.tokens_read == 2 + 2 * 3 + 2 * 9
    rest = [
        Draw(
            parents=one.segments, steps=3, sampling=PARAMS, place=draw.place, n_tokens=11,
            weights=draw.weights,
        )
        for one, draw in zip(pieces[3:], asked[3:], strict=True)
    ]  # fmt: skip
    longer = sample(lms, draws(lms, 3, 2, steps=14), [])[3:]
    assert [one.ids for one in sample(lms, rest, [])] == [one.ids[11:] for one in longer]


def test_an_end_token_of_too_much_entropy_is_cut_off_and_can_be_gone_on_from() -> None:
    lms = models(0)
    [whole] = sample(lms, draws(lms, 1, until=Until(entropy=100.0)), [])
    ids, seen = whole.segments[0].ids, whole.entropies or ()
    last = max(range(1, 5), key=seen.__getitem__)
    assert ids[last] not in ids[:last]
    limit = Until(entropy=(seen[last] + sorted(seen[1:])[-2]) / 2)
    [cut] = sample(lms, draws(lms, 1, until=limit), [ids[last]])
    assert (cut.segments[0].ids, cut.ended) == (ids[:last], False)
    assert len(cut.drifts) == len(cut.entropies or ()) == last
    [kept] = sample(lms, draws(lms, 1, until=Until(entropy=100.0)), [ids[last]])
    assert (kept.segments[0].ids, kept.ended) == (ids[:last], True)
    assert kept.end_logprob == pytest.approx(whole.segments[0].logprobs[last], abs=1e-4)
    assert len(kept.drifts) == len(kept.entropies or ()) == last + 1, "the end's own included"
    assert kept.segments[0].kv is not None, "a string may cut off its end as well"


def test_each_child_has_the_state_of_its_form() -> None:
    [lm] = models(0)
    state = tiny_grammars().compile(Constraint.regex("[0-9]{3}")).start
    asked = draws([lm], 2, steps=2, state=state, known=320)
    pieces = tiny_grammars().vocabulary.pieces
    for drawn in sample([lm], asked, tiny_grammars().vocabulary.end_ids):
        text = b"".join(pieces[i] for i in drawn.segments[0].ids)
        assert text.isdigit()
        own = drawn.state
        for digit in b"7" * (3 - len(text)):
            spelt = tiny_grammars().vocabulary.spell(bytes([digit]))
            assert own is not None
            assert spelt is not None
            own = own.advance(spelt[0], 9)
        assert own is not None
        assert own.complete


@pytest.mark.parametrize(
    ("until", "steps", "count", "ended"),
    [
        (None, 4, 3, True),
        (None, 3, 3, False),
        (None, 2, 2, False),
        (Until(entropy=0.4, least=0), 4, 0, False),
        (Until(entropy=0.4), 4, 1, False),
        (Until(entropy=1.0, least=2), 4, 3, False),
        (Until(entropy=2.0), 4, 3, False),
        (Until(entropy=3.0), 4, 3, True),
        (Until(entropy=2.5), 3, 3, False),
        (Until(top_probability=0.85), 4, 1, False),
        (Until(top_probability=0.8), 4, 2, False),
        (Until(top_probability=0.75, least=3), 4, 3, False),
        (Until(top_probability=0.3), 4, 3, True),
        (Until(entropy=2.5, top_probability=0.85), 4, 1, False),
        (Until(entropy=1.0, top_probability=0.5), 4, 1, False),
        (Until(entropy=9.0, top_probability=0.1, least=9), 4, 3, True),
    ],
)
def test_one_branch_is_cut_where_its_chunk_ends(
    until: Until | None, steps: int, count: int, ended: bool
) -> None:
    """By two models, so that no row of numbers has the place of another."""
    parents = (Segment(None, 0, (5, 6)), Segment(None, 0, (7,)))
    draw = Draw(
        parents=parents, steps=steps, sampling=PARAMS, place=(), n_tokens=0, until=until
    )  # fmt: skip
    likely, other, drifts = [-1.0, -2.0, -3.0, -4.0], [-5.0, -6.0, -7.0, -8.0], [0.1, 0.2, 0.3, 0.4]
    entropies, tops = [0.5, 2.0, 0.6, 3.0], [0.9, 0.8, 0.3, 0.7]
    values = [likely, other, drifts, entropies, tops]
    lms: Any = [SimpleNamespace(name="base"), SimpleNamespace(name="guide")]
    one = drawn_of(draw, [11, 12, 13, 1], values, {1, 2}, lms)
    assert [own.ids for own in one.segments] == [(11, 12, 13)[:count]] * 2
    assert [(own.parent, own.start) for own in one.segments] == [(parents[0], 2), (parents[1], 1)]
    assert [own.logprobs for own in one.segments] == [tuple(likely[:count]), tuple(other[:count])]
    assert (one.ended, one.end_logprob) == (ended, -4.0 if ended else None)
    assert one.drifts == tuple(drifts[: count + ended])
    measured = until is not None and until.entropy is not None
    assert one.entropies == (tuple(entropies[: count + ended]) if measured else None)
    assert one.sampled == min(count + 1, steps)


def test_a_shorter_child() -> None:
    segment = Segment(None, 0, (1, 2, 3))
    segment.logprobs = (-1.0, -2.0, -3.0)
    whole = Drawn(segments=(segment,), end_logprob=-4.0, drifts=(1.0, 2.0, 3.0, 4.0))
    cut = whole.cut(2)
    assert cut.segments[0].ids == (1, 2)
    assert (cut.end_logprob, cut.drifts, cut.entropies, cut.state) == (None, (1.0, 2.0), None, None)
    assert cut.sampled == 0
    measured = Drawn(segments=(segment,), end_logprob=None, drifts=(), entropies=(0.1, 0.2, 0.3))
    assert measured.cut(2).entropies == (0.1, 0.2)


def test_a_child_with_what_was_sampled_after_it() -> None:
    [lm] = models(0)
    parent = Segment(None, 0, (5, 6))
    first, second = Segment(parent, 2, (1,)), Segment(None, 0, (2, 3))
    first.logprobs, second.logprobs = (-1.0,), (-2.0, -3.0)
    states: Any = ["before", "after"]
    begun = Drawn(
        segments=(first,), end_logprob=None, drifts=(1.0,), state=states[0], entropies=(0.1,),
        sampled=1,
    )  # fmt: skip
    more = Drawn(
        segments=(second,), end_logprob=-4.0, drifts=(2.0, 3.0, 4.0), state=states[1],
        entropies=(0.2, 0.3, 0.4), sampled=3,
    )  # fmt: skip
    both = begun.then(more)
    [segment] = both.segments
    assert (segment.parent, segment.start, segment.ids) == (parent, 2, (1, 2, 3))
    assert segment.logprobs == (-1.0, -2.0, -3.0)
    assert (both.ended, both.end_logprob, both.state) == (True, -4.0, "after")
    assert both.drifts == (1.0, 2.0, 3.0, 4.0)
    assert both.entropies == (0.1, 0.2, 0.3, 0.4)
    assert both.sampled == 4
    unmeasured = replace(begun, entropies=None)
    assert unmeasured.then(replace(more, entropies=None)).entropies is None
    assert both.cut(2).sampled == 4, "what lay behind the end included"
    kv = sample([lm], draws([lm], 1), [])[0].segments[0].kv
    assert kv
    for own, its, wanted in ((kv, kv, kv + kv), (kv, None, None), (None, kv, None)):
        first.kv, second.kv = own, its
        assert begun.then(more).segments[0].kv == wanted, "nothing can follow a part without any"


def test_what_follows_a_piece_is_drawn_after_it() -> None:
    [lm] = models(0)
    state: Any = "here"
    until = Until(strings=("x",), least=6)
    [draw] = draws([lm], 1, steps=9, n_tokens=3, until=until, begun=1, rank=2)
    begun = Drawn(
        segments=(Segment(draw.parents[0], 5, (1, 2)),), end_logprob=None, drifts=(0.0, 0.0),
        state=state,
    )  # fmt: skip
    rest = _rest(draw, begun)
    assert rest.parents == begun.segments
    assert (rest.steps, rest.n_tokens, rest.begun, rest.least) == (7, 5, 3, 3)
    assert (rest.state, rest.rank) == ("here", None)
    assert (rest.place, rest.until) == (draw.place, until)


def test_pieces_grow_and_none_is_longer_than_what_is_left() -> None:
    """A draw with an end of its own is looked at after 2, 6 and all tokens; others never."""
    [lm] = models(0)
    looked: list[int] = []

    def end_of(ids: Sequence[int]) -> int | None:
        looked.append(len(ids))
        return None

    until = Until(strings=("x",))
    asked = draws([lm], 1, steps=9)
    with mock.patch.object(lm, "gather", wraps=lm.gather) as gather:
        [whole] = sample([lm], asked, [])
    assert gather.call_count == 1, "in one piece"
    for steps, seen in ((9, [2, 6, 9]), (6, [2, 6]), (1, [1])):
        looked.clear()
        asked = draws([lm], 1, steps=steps, until=until, end_of=end_of)
        with mock.patch.object(lm, "gather", wraps=lm.gather) as gather:
            [one] = sample([lm], asked, [])
        assert looked == seen
        assert gather.call_count == len(seen)
        assert (one.ids, one.sampled) == (whole.ids[:steps], steps)
    # What ended by an end token has nothing after it.
    looked.clear()
    [one] = sample([lm], draws([lm], 1, steps=9, until=until, end_of=end_of), [whole.ids[1]])
    assert (looked, one.ids, one.ended) == ([1], whole.ids[:1], True)


def test_on_a_gpu_it_looks_seldom_whether_all_have_ended() -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert [step for step in range(50) if _may_look(gpu, step)] == [15, 31, 47]
    assert all(_may_look(cpu, step) for step in range(50))


def test_numbers_that_are_none_name_their_model() -> None:
    nan = float("nan")
    both: Any = [
        SimpleNamespace(name=name, no_numbers=f"{name} is broken") for name in ("base", "guide")
    ]
    _check_numbers(both, [[-1.0], [-2.0]], [0.0])
    for rows, told in (([[nan], [-2.0]], "base is"), ([[-1.0], [nan]], "guide is")):
        with pytest.raises(ProposerError, match=told):
            _check_numbers(both, rows, [0.0])
    with pytest.raises(ProposerError, match="logits of model 'base' beyond float32"):
        _check_numbers(both, [[-1.0], [-2.0]], [0.0, nan])
