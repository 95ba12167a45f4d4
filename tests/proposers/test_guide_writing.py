"""The tuned guide writes: where its words end, what stays of their tokens, and stop strings."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.llms import both_guides
from w2s_chains import (
    ConfigError,
    Expand,
    GuidePair,
    HuggingFaceProposer,
    Hypothesis,
    PromptError,
    SamplingParams,
)
from w2s_chains.core.asks import Until

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
