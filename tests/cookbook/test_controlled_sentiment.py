"""The data, the judges and the guides of the controlled-sentiment recipe."""

from collections.abc import Sequence

import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("vaderSentiment")

from sklearn.metrics import roc_auc_score
from transformers import AutoModelForCausalLM, AutoTokenizer

from cookbook.controlled_sentiment.data import CLEAR, prompts, split
from cookbook.controlled_sentiment.gold import accuracy, gold_reward
from w2s_chains.backend.loading.embedded import embedded_path
from w2s_chains.rewards import TextClassifier, Vader

GOOD_AND_BAD = ["A wonderful, moving film.", "A dull, lifeless mess."]


@pytest.fixture(scope="module")
def gold() -> TextClassifier:
    return gold_reward()


def loglikelihoods(kind: str, texts: Sequence[str]) -> list[float]:
    """Of whole reviews with their end token, in one padded batch."""
    folder = embedded_path(f"reviews-{kind}")
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    batch = tokenizer([text + tokenizer.eos_token for text in texts], padding=True)
    batch = batch.convert_to_tensors("pt")
    ids, mask = batch.input_ids, batch.attention_mask  # [B, T]
    with torch.inference_mode():
        logprobs = model(ids).logits[:, :-1].log_softmax(-1)  # [B, T - 1, V]
    taken = logprobs.gather(-1, ids[:, 1:, None])[..., 0]
    return (taken * mask[:, 1:]).sum(1).tolist()


def test_split_is_disjoint_and_complete():
    parts = [split().gold, split().guides, split().test]
    assert [len(part) for part in parts] == [5301, 4702, 600]
    assert len({review.text for part in parts for review in part}) == 10603


def test_reviews_are_clean_and_rated():
    reviews = split().gold + split().guides + split().test
    assert all(-4 <= review.rating <= 4 for review in reviews)
    assert all(review.text == " ".join(review.text.split()) for review in reviews)
    assert all(review.prompt + review.response == review.text for review in reviews)


def test_prompts_are_distinct_beginnings_of_test_reviews():
    found = prompts(100)
    assert len(set(found)) == 100
    assert {len(prompt.split()) for prompt in found} == {4}
    assert set(found) <= {review.prompt for review in split().test}
    assert found[:10] == prompts(10)


def test_too_many_prompts_are_refused():
    with pytest.raises(ValueError, match="1000 prompts"):
        prompts(1000)


def test_gold_is_right_on_reviews_it_has_not_seen(gold: TextClassifier):
    assert accuracy(gold, split().test) >= 0.75
    assert accuracy(gold, split().guides) >= 0.75


@pytest.mark.parametrize("judge", [gold_reward, Vader])
def test_judges_score_in_order(judge):
    good, bad = judge().score(["", ""], GOOD_AND_BAD)
    assert good > 0 > bad
    assert judge().score([], []) == []


def test_guides_tell_good_reviews_from_bad_ones():
    reviews = [review for review in split().test if abs(review.rating) >= CLEAR]
    positive = [review.rating > 0 for review in reviews]
    texts = [review.text for review in reviews]
    tuned, untuned = (loglikelihoods(kind, texts) for kind in ("tuned", "untuned"))
    ratio = [t - u for t, u in zip(tuned, untuned, strict=True)]
    assert roc_auc_score(positive, ratio) > 0.75
    assert roc_auc_score(positive, [-value for value in ratio]) < 0.25  # the pair swapped
    assert 0.4 < roc_auc_score(positive, untuned) < 0.6  # the untuned guide alone cannot
