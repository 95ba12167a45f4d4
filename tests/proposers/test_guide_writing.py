"""The tuned guide writes: where its words end, what stays of their tokens, and stop strings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.helpers import tiny
from tests.helpers.llms import both_guides
from w2s_chains import (
    ConfigError,
    Expand,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    Hypothesis,
    PromptError,
    SamplingParams,
)
from w2s_chains.backend.kv.segment import Segment
from w2s_chains.core.asks import Until
from w2s_chains.proposers.guide_writing import GuideWriter, check_room, most_tokens

PROMPT = "The movie was great and"


def write(
    proposer: HuggingFaceProposer, pair: GuidePair, h: Hypothesis | None = None, **options: Any
) -> list[Hypothesis]:
    sampling = SamplingParams(**{"max_tokens": 30, **options.pop("sampling", {})})
    ask = Expand(
        hypotheses=(h or Hypothesis.root(PROMPT),), by_guide=True, guides=pair, sampling=sampling,
        **options,
    )  # fmt: skip
    return proposer.propose([ask])[0]


def test_a_word_ends_before_a_token_that_begins_with_a_space(
    proposer: HuggingFaceProposer, pair: GuidePair
) -> None:
    tokenizer = both_guides(pair)[0].tokenizer
    whole = write(proposer, pair, successors=40)
    words = write(proposer, pair, successors=40, until=Until(word=True))
    ends = 0
    for text, word in zip(whole, words, strict=True):
        ids, all_ids = word.token_ids or (), text.token_ids or ()
        assert all_ids[: len(ids)] == ids, "the same noise, in pieces"
        if word.finished:
            assert ids == all_ids
            continue
        ends += 1
        parts = [tokenizer.decode_after((), (), all_ids[:n])[0] for n in range(len(ids) + 2)]
        assert parts[-1][len(parts[-2]) :][:1].isspace()
        inner = [n for n in range(1, len(ids)) if parts[n].strip()]
        assert not any(parts[n + 1][len(parts[n]) :][:1].isspace() for n in inner)
    assert ends > 5, "control: some end"


def test_tokens_of_the_proposers_vocabulary_stay(
    proposer: HuggingFaceProposer, pair: GuidePair, foreign_pair: GuidePair
) -> None:
    for own, same in ((pair, True), (foreign_pair, False)):
        for child in write(proposer, own, successors=6, chunk_tokens=5):
            assert (child.token_ids is not None) is same
            assert child.vocabulary == (proposer.tokenizer.vocabulary if same else None)
            assert child.logprobs is None
            assert 1 <= child.n_tokens <= 5
            assert same or not child.pending


def test_texts_of_another_vocabulary_hold_whole_characters(
    proposer: HuggingFaceProposer, foreign_pair: GuidePair
) -> None:
    """The beginning of a character is cut off, and does not count."""
    root = Hypothesis.root(PROMPT)
    children = [
        child
        for child in write(proposer, foreign_pair, root, successors=40, chunk_tokens=5)
        if not child.finished
    ]
    longer = write(proposer, foreign_pair, root, successors=40, chunk_tokens=9)
    cut = [child for child in children if child.n_tokens < 5]
    assert cut, "control: some end inside a character"
    for child in cut:
        assert not child.pending
        [same] = [other for other in longer if other.stream == child.stream]
        assert same.text.startswith(child.text)
        assert same.text != child.text


def test_a_stop_string_ends_what_the_guide_writes(
    proposer: HuggingFaceProposer, pair: GuidePair, foreign_pair: GuidePair
) -> None:
    """Where its tokens stay, they end before the string; else all that were sampled count."""
    for own, same in ((pair, True), (foreign_pair, False)):
        children = write(proposer, own, successors=150, chunk_tokens=3)
        free = next(c for c in children if c.text.isascii() and len({*c.text}) == 3 == c.n_tokens)
        stop = {"stop": (free.text[1:],)}
        found = write(proposer, own, successors=150, chunk_tokens=3, sampling=stop)
        child = found[children.index(free)]
        assert (child.text, child.finish_reason) == (free.text[0], "stop")
        assert child.token_ids == ((free.token_ids or ())[:1] if same else None)
        assert child.n_tokens == (1 if same else 3)


def test_an_unfinished_character_waits_where_tokens_stay(
    proposer: HuggingFaceProposer, pair: GuidePair
) -> None:
    waiting = 0
    for child in write(proposer, pair, successors=30, chunk_tokens=4):
        tokenizer = proposer.tokenizer
        ids = child.token_ids or ()
        context = tokenizer.prompt_ids(child.prompt)
        assert tokenizer.decode_after(context, (), ids) == (child.text, child.pending)
        waiting += bool(child.pending)
        if child.pending and not child.finished:
            [more] = write(proposer, pair, child, chunk_tokens=8)
            both = (*ids, *(more.token_ids or ()))
            whole = tokenizer.decode_after(context, (), both)
            assert whole == (child.text + more.text, more.pending)
    assert waiting, "control"


def test_a_stop_string_may_begin_in_the_other_models_text(
    proposer: HuggingFaceProposer, pair: GuidePair, foreign_pair: GuidePair
) -> None:
    for own in (pair, foreign_pair):
        root = Hypothesis.root(PROMPT)
        ask = Expand(
            hypotheses=(root,), successors=12, chunk_tokens=4,
            sampling=SamplingParams(max_tokens=30),
        )  # fmt: skip
        seen = 0
        for parent in proposer.propose([ask])[0]:
            if parent.finished or not parent.text:
                continue
            [free] = write(proposer, own, parent, chunk_tokens=6)
            if free.finished or not free.text or not free.parent:
                continue
            stop = parent.text[-1] + free.text[0]
            [child] = write(proposer, own, parent, chunk_tokens=6, sampling={"stop": (stop,)})
            if stop in parent.text:
                continue
            assert child.finish_reason == "stop"
            assert child.response == free.response[: free.response.index(stop)]
            assert child.n_tokens <= free.n_tokens
            # And the other way round: the proposer goes on in what the guide wrote.
            [back] = proposer.propose(
                [Expand(hypotheses=(free,), chunk_tokens=4, sampling=ask.sampling)]
            )[0]
            if not back.text:
                continue
            stop = free.text[-1] + back.text[0]
            if stop in free.response:
                continue
            [[child]] = proposer.propose(
                [
                    Expand(
                        hypotheses=(free,), chunk_tokens=4,
                        sampling=SamplingParams(max_tokens=30, stop=(stop,)),
                    )
                ]
            )  # fmt: skip
            assert child.finish_reason == "stop"
            assert child.response == back.response[: back.response.index(stop)]
            seen += 1
        assert seen, "control: some straddle"


def test_what_the_guide_reads_is_counted(proposer: HuggingFaceProposer, pair: GuidePair) -> None:
    tuned, untuned = both_guides(pair)
    root = Hypothesis.root(PROMPT)
    children = write(proposer, pair, root, successors=3, chunk_tokens=4)
    prompt = len(tuned.tokenizer.prompt_ids(root.prompt))
    sampled = sum(child.n_tokens + child.ended for child in children)
    usage = root.usage
    assert usage.guide_tokens == prompt - 1 + 1 + sampled - 3
    assert usage.guide_flops == usage.guide_tokens * tuned.flops_per_token
    assert (usage.read_tokens, usage.proposed_tokens, usage.prompt_tokens) == (0, 0, 0)
    assert untuned.lm.counters.forwards == proposer.lm.counters.forwards == 0


def test_a_text_that_is_longer_in_the_guides_tokens_is_refused(
    proposer: HuggingFaceProposer, foreign_pair: GuidePair
) -> None:
    limit = both_guides(foreign_pair)[0].max_positions
    assert limit is not None
    with pytest.raises(PromptError, match=f"has {limit} positions"):
        write(proposer, foreign_pair, chunk_tokens=limit, sampling={"max_tokens": limit})


def test_who_cannot_write_is_refused(proposer: HuggingFaceProposer) -> None:
    with pytest.raises(ConfigError, match="only as a local model"):
        write(proposer, None)  # pyright: ignore[reportArgumentType]  # no guides at all


def test_what_a_guide_writes_is_in_its_vocabulary(
    proposer: HuggingFaceProposer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of its table that are no tokens are never drawn."""
    guides = [HuggingFaceGuide(tiny.llama(900, seed), tiny.byte_tokenizer()) for seed in (1, 2)]
    pair = GuidePair(*guides)

    def largest() -> int:
        children = write(proposer, pair, successors=20, sampling={"temperature": 2.0})
        return max(token for child in children for token in child.token_ids or ())

    assert largest() < 320
    monkeypatch.setitem(guides[0].tokenizer.__dict__, "size", 900)
    assert largest() >= 320, "control: most of the table is padding"


def test_each_child_has_noise_of_its_own(proposer: HuggingFaceProposer) -> None:
    """Of seed, prompt, stream, and the place in the answer; and it is not the proposer's."""
    twin = [HuggingFaceGuide(proposer.lm.model, tiny.byte_tokenizer()) for _ in range(2)]
    pair, root = GuidePair(*twin), Hypothesis.root(PROMPT)
    own = write(proposer, pair, root, successors=3)
    [plain] = proposer.propose(
        [Expand(hypotheses=(root,), successors=3, sampling=SamplingParams(max_tokens=30))]
    )
    others = [
        *own,
        *plain,
        *write(proposer, pair, root, seed=1),
        *write(proposer, pair, root.extend("", stream=5, n_tokens=0)),
        *write(proposer, pair, root.extend("", n_tokens=1)),
    ]
    assert len({child.token_ids for child in others}) == len(others)
    assert [child.token_ids for child in write(proposer, pair, successors=3)] == [
        child.token_ids for child in own
    ], "control: the same again"
    tuned, other = twin[0], Hypothesis.root("Another")
    list(tuned.paths.read([root, other], scored=True))
    request = Expand(hypotheses=(root, other), by_guide=True, guides=pair)
    writer = GuideWriter(tuned, same=True)
    places = {writer._draw(request, h, stream).place for h in (root, other) for stream in (0, 1)}
    assert len(places) == 4
    cold: dict[str, Any] = {"temperature": 0}
    [[likeliest]] = proposer.propose(
        [Expand(hypotheses=(root,), sampling=SamplingParams(max_tokens=30, **cold))]
    )
    assert write(proposer, pair, sampling=cold)[0].token_ids == likeliest.token_ids


def test_children_come_in_the_order_of_their_requests(
    proposer: HuggingFaceProposer, pair: GuidePair
) -> None:
    """The last token before siblings is read once, also where a request has them twice."""
    tuned, _ = both_guides(pair)
    first, second = Hypothesis.root(PROMPT), Hypothesis.root("Another")

    def ask(*hypotheses: Hypothesis, successors: int) -> Expand:
        return Expand(
            hypotheses=hypotheses, successors=successors, chunk_tokens=3, by_guide=True,
            guides=pair, sampling=SamplingParams(max_tokens=30),
        )  # fmt: skip

    asks = [ask(first, second, first, successors=2), ask(second, successors=1)]
    found = GuideWriter(tuned, same=True).write(asks)
    assert [[child.parent for child in own] for own in found] == [
        [first, first, second, second, first, first],
        [second],
    ]
    a, b, c = [child.token_ids for child in found[0]][::2]
    assert (a, found[1][0].token_ids) == (c, b)
    assert a != b
    for h, reads, children in (
        (first, 1, [*found[0][:2], *found[0][4:]]),
        (second, 2, [*found[0][2:4], *found[1]]),
    ):
        prompt = len(tuned.tokenizer.prompt_ids(h.prompt))
        rest = sum(child.n_tokens + child.ended - 1 for child in children)
        assert h.usage.guide_tokens == prompt - 1 + reads + rest


def test_what_a_child_may_have() -> None:
    h = Hypothesis.root("x").extend("abc", n_tokens=3)
    for limit, expected in ((None, 7), (4, 4), (7, 7), (9, 7)):
        request = Expand(
            hypotheses=(h,), chunk_tokens=limit, sampling=SamplingParams(max_tokens=10)
        )
        assert most_tokens(request, h) == expected
    model: Any = SimpleNamespace(
        paths={h: Segment(None, 0, (1, 2, 3))}, max_positions=8, tokenizer=SimpleNamespace(name="m")
    )
    check_room(model, h, 5)
    with pytest.raises(PromptError, match="may have 9 tokens for the model 'm', which has 8"):
        check_room(model, h, 6)
    model.max_positions = None
    check_room(model, h, 99)


def test_what_the_guide_wrote_is_scored_without_reading_it_again(
    proposer: HuggingFaceProposer, pair: GuidePair
) -> None:
    """Also its end token; and what nothing can follow has no keys and values."""
    tuned, _ = both_guides(pair)
    model, tokenizer = tuned.lm.model, tiny.byte_tokenizer()
    children = write(proposer, pair, successors=60)
    assert {child.finish_reason for child in children} == {"eos", "length"}, "control"
    begun = write(proposer, pair, chunk_tokens=3)[0]
    before = tuned.lm.counters.tokens_read
    found = tuned.loglikelihood([*children, begun])
    assert tuned.lm.counters.tokens_read == before
    fresh = HuggingFaceGuide(model, tokenizer).loglikelihood([*children, begun])
    assert found == pytest.approx(fresh, abs=1e-3)
    assert all(tuned.paths[child].kv is None for child in children)
    assert tuned.paths[begun].kv is not None


def test_a_chunk_without_text_counts_as_a_token(
    proposer: HuggingFaceProposer, foreign_pair: GuidePair
) -> None:
    """So that whoever asks again comes to an end; an end token alone is none."""
    children = write(proposer, foreign_pair, successors=2000, chunk_tokens=1)
    ended = [child for child in children if child.ended]
    begun = [child for child in children if not child.text and not child.ended]
    assert ended, "control"
    assert begun, "control: some are the beginning of a character"
    assert {child.n_tokens for child in begun} == {1}
    assert {(child.text, child.n_tokens) for child in ended} == {("", 0)}


def test_texts_of_another_vocabulary_are_scored_as_they_are_read(
    proposer: HuggingFaceProposer, foreign_pair: GuidePair
) -> None:
    tuned, _ = both_guides(foreign_pair)
    [begun] = write(proposer, foreign_pair, chunk_tokens=5)
    write(proposer, foreign_pair, begun, chunk_tokens=5)
    before = tuned.lm.counters.tokens_read
    [found] = tuned.loglikelihood([begun])
    assert tuned.lm.counters.tokens_read == before
    fresh = HuggingFaceGuide(tuned.lm.model, tuned.tokenizer.hf_tokenizer)
    assert fresh.loglikelihood([begun]) == pytest.approx([found], abs=1e-3)


def test_little_is_sampled_behind_the_end_of_a_word(
    proposer: HuggingFaceProposer, pair: GuidePair
) -> None:
    cost: list[int] = []
    for until in (None, Until(word=True)):
        root = Hypothesis.root(PROMPT)
        write(proposer, pair, root, successors=40, until=until)
        cost.append(root.usage.guide_tokens)
    assert cost[1] < cost[0]


def test_what_its_decoding_looks_at(proposer: HuggingFaceProposer, pair: GuidePair) -> None:
    """Tokens of its own before the chunk; unfinished characters of another vocabulary are none."""
    tuned, _ = both_guides(pair)
    short, long = Hypothesis.root("x"), Hypothesis.root(PROMPT * 3)
    own, other = GuideWriter(tuned, same=True), GuideWriter(tuned, same=False)
    list(tuned.paths.read([short, long], scored=True))
    for root in (short, long):
        assert own._context(root) == list(tuned.tokenizer.prompt_ids(root.prompt))[-16:]
    begun = long.extend("a", (70, 243), pending=(243,), vocabulary=tuned.tokenizer.vocabulary)
    list(tuned.paths.read([begun], scored=True))
    assert own._pending(begun) == (243,)
    assert other._pending(begun) == ()
    assert len(own._context(begun)) == 15
    assert own._context(begun)[-1] == 70
