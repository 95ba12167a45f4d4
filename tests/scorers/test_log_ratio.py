from __future__ import annotations

import pytest
import torch

from tests.helpers import tiny
from tests.helpers.llms import both_guides
from w2s_chains import (
    GuidePair,
    HuggingFaceGuide,
    Hypothesis,
    LogRatioScorer,
    MixtureScorer,
)
from w2s_chains.core.hypothesis import FinishReason
from w2s_chains.errors import ConfigError, PromptError, ScorerError


def by_hand(scorer: LogRatioScorer, prompt: str, response: str, ended: bool) -> float:
    """The log-ratio by two plain forwards, over the tokens after the longest common prefix."""
    total = 0.0
    assert isinstance(scorer.pair, GuidePair)
    for guide, sign in zip(both_guides(scorer.pair), (1, -1), strict=True):
        tokenizer, model = guide.tokenizer.hf_tokenizer, guide.lm.model
        alone, ids = tokenizer(prompt)["input_ids"], tokenizer(prompt + response)["input_ids"]
        shared = 0
        while shared < min(len(alone), len(ids)) and alone[shared] == ids[shared]:
            shared += 1
        ids += [tokenizer.eos_token_id] * ended
        with torch.inference_mode():
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        total += sign * sum(logprobs[i - 1, ids[i]].item() for i in range(max(shared, 1), len(ids)))
    return total


TEXTS = [
    ("The movie", " was great and the plot", True),
    ("The mov", "ie was", False),  # a word continued across prompt and response
    ("The movie ", "was", True),
    ("電影", "很好看 😀", True),
    ("The movie", "", True),
    ("The movie", "", False),
    ("T", "he", False),  # one token together, so that nothing before it is shared
]


@pytest.mark.parametrize("which", ["same", "other", "pieces"])
def test_given_texts_are_scored_as_by_hand(which, pair, foreign_pair):
    tokenizer = tiny.sentencepiece_tokenizer()
    base = tiny.llama(len(tokenizer), seed=5)
    pieces = GuidePair(
        HuggingFaceGuide(tiny.noisy(base), tokenizer), HuggingFaceGuide(base, tokenizer)
    )
    scorer = LogRatioScorer({"same": pair, "other": foreign_pair, "pieces": pieces}[which])
    prompts, responses, ended = zip(*TEXTS, strict=True)
    expected = [by_hand(scorer, *text) for text in TEXTS]
    assert scorer.score_texts(prompts, responses, ended) == pytest.approx(expected, abs=1e-4)
    back = scorer.score_texts(prompts[::-1], responses[::-1], ended[::-1])
    assert back == pytest.approx(expected[::-1], abs=1e-4)
    wrong = scorer.score_texts(prompts, responses, [not end for end in ended])
    assert all(abs(a - b) > 1e-4 for a, b in zip(wrong, expected, strict=True)), "the control"


def test_a_prompt_that_comes_often_is_read_once(scorer):
    scorer.score_texts(["The movie"] * 5, [f" {i}" for i in range(5)], [True] * 5)
    assert scorer.pair.tuned.lm.counters.prefills == 1


def test_nothing_to_score_is_fine(scorer):
    assert scorer.score_texts([], [], []) == []


def test_lengths_that_differ_are_refused(scorer):
    with pytest.raises(ScorerError, match="2 prompts, 1 responses and 1 ended"):
        scorer.score_texts(["a", "b"], ["c"], [True])


def test_a_text_beyond_the_context_is_refused(scorer):
    with pytest.raises(PromptError, match="512 positions"):
        scorer.score_texts(["The movie"], [" x" * 600], [False])


def test_the_embedded_guides_like_praise():
    scorer = LogRatioScorer(
        GuidePair.from_pretrained("embedded:reviews-tuned", "embedded:reviews-untuned")
    )
    good, bad = scorer.score_texts(
        ["The film was a"] * 2,
        [" moving and funny delight .", " dull and tedious mess ."],
        [True] * 2,
    )
    assert good > bad + 1


def grown(root: Hypothesis, *texts: str, finish: FinishReason | None = None) -> Hypothesis:
    *first, last = texts
    for text in first:
        root = root.extend(text)
    return root.extend(last, finish_reason=finish)


@pytest.mark.parametrize("other", [False, True])
def test_after_a_mark_only_what_follows_is_read(
    pair: GuidePair, foreign_pair: GuidePair, other: bool
) -> None:
    guides = foreign_pair if other else pair
    scorer = LogRatioScorer(guides, after="</think>")
    plain = LogRatioScorer(guides)
    [expected] = plain.score_texts(["The movie"], ["was great"])
    root = Hypothesis.root("The movie")
    for texts in (
        ["I see. </think>\n\nwas great"],
        ["I see. </th", "ink>", "\n", " was", " great"],
        ["</think>was great"],
    ):
        [score] = scorer.score([grown(root, *texts, finish="eos")])
        assert score == pytest.approx(expected, abs=1e-4)
        [whole] = plain.score([grown(root, *texts, finish="eos")])
        assert abs(whole - expected) > 1e-2, "control"
    thinking = [
        grown(root, "I see"),
        grown(root, "I see", "</thin"),
        grown(root, "a </think>", " "),
    ]
    assert scorer.score(thinking) == [0.0, 0.0, 0.0]
    assert scorer.score([grown(root, "I see", finish="length")]) == [-1e6]
    assert root.usage.guide_tokens > 0, "what guides read is counted"


def test_thoughts_are_never_read_by_guides_and_an_answer_once(pair: GuidePair) -> None:
    scorer = LogRatioScorer(pair, after="</think>")
    mixture = MixtureScorer([(scorer, 1.0)])
    root = Hypothesis.root("The movie")
    node = grown(root, "long thoughts " * 9)
    mixture.score([node])
    assert root.usage.guide_tokens == 0
    node = node.extend("</think>was")
    mixture.score([node])
    before = root.usage.guide_tokens
    mixture.score([node.extend(" great")])
    added = len(" great") * 2  # the tiny vocabulary has mostly single bytes
    assert 0 < root.usage.guide_tokens - before <= added


def test_a_mark_is_some_text(pair: GuidePair) -> None:
    with pytest.raises(ConfigError, match="after"):
        LogRatioScorer(pair, after="")
