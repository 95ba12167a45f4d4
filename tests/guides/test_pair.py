from __future__ import annotations

import pytest
import torch

from tests.helpers import tiny
from tests.helpers.llms import both_guides
from w2s_chains import (
    W2SLLM,
    ChunkBeamSearch,
    GuidePair,
    HuggingFaceGuide,
    Hypothesis,
    LogRatioScorer,
    Message,
    Prompt,
)
from w2s_chains.errors import ConfigError


def test_a_chat_guide_scores_its_own_end_of_turn():
    """The proposer ended its turn; this guide's format ends a turn with <|im_end|>, not </s>."""
    tokenizer = tiny.byte_tokenizer()
    guide = HuggingFaceGuide(tiny.llama(320), tokenizer, chat=True, system="Be kind.")
    turns = (Message(role="user", content="hi"), Message(role="assistant", content="yes"),
             Message(role="user", content="more"))  # fmt: skip
    root = Hypothesis.root(Prompt(messages=turns))
    ended, cut = (root.extend(" well", finish_reason=reason) for reason in ("eos", "length"))
    values = guide.loglikelihood([ended, cut])
    ids = [*guide.tokenizer.prompt_ids(root.prompt), *tokenizer(" well")["input_ids"]]
    with torch.inference_mode():
        last = guide.lm.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert values[0] - values[1] == pytest.approx(last[end].item(), abs=1e-4)
    assert abs(last[end] - last[tokenizer.eos_token_id]) > 1e-3, "the control"


def test_guides_of_one_pair_may_read_the_prompt_differently():
    """One model under two templates is a pair too."""
    model, tokenizer = tiny.llama(320), tiny.byte_tokenizer()
    pair = GuidePair(
        HuggingFaceGuide(model, tokenizer, template="A great film: {prompt}"),
        HuggingFaceGuide(model, tokenizer, template="{prompt}"),
    )
    h = Hypothesis.root("The movie").extend(" was")
    [(tuned, untuned)] = pair.loglikelihoods([h])
    assert tuned != untuned
    [swapped] = pair.swapped().loglikelihoods([h])
    assert swapped == (untuned, tuned)


def test_options_hold_for_both_and_a_spec_has_its_own(tiny_folders):
    from w2s_chains.backend.loading.config import Model

    pair = GuidePair.from_pretrained(
        str(tiny_folders["tuned"]),
        Model(model=str(tiny_folders["untuned"]), template="x {prompt}"),
        template="y {prompt}",
    )
    tuned, untuned = both_guides(pair)
    assert tuned.tokenizer.template.template == "y {prompt}"
    assert untuned.tokenizer.template.template == "x {prompt}"
    assert pair.tuned.spec.model == str(tiny_folders["tuned"])


def test_guides_of_one_pair_may_have_different_vocabularies(proposer):
    """Each scores the text in tokens of its own, whatever the proposer's are."""
    own, other = tiny.byte_tokenizer(), tiny.sentencepiece_tokenizer()
    models = tiny.llama(320, seed=1), tiny.llama(len(other), seed=2)
    pair = GuidePair(HuggingFaceGuide(models[0], own), HuggingFaceGuide(models[1], other))
    root = Hypothesis.root("The movie")
    ids = own(" was great")["input_ids"]
    vocabulary = proposer.tokenizer.vocabulary
    tuned, untuned = both_guides(pair)
    assert vocabulary == tuned.tokenizer.vocabulary != untuned.tokenizer.vocabulary
    h = root.extend(" was great", tuple(ids), vocabulary=vocabulary).extend(
        "", (), finish_reason="eos", vocabulary=vocabulary
    )
    [found] = pair.loglikelihoods([h])

    def by_hand(model, tokenizer):
        alone, whole = (
            tokenizer(text)["input_ids"] for text in ("The movie", "The movie was great")
        )
        whole = [*whole, tokenizer.eos_token_id]
        assert whole[: len(alone)] == alone
        with torch.inference_mode():
            table = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        return sum(table[i - 1, whole[i]].item() for i in range(len(alone), len(whole)))

    expected = [by_hand(model, tok) for model, tok in zip(models, (own, other), strict=True)]
    assert found == pytest.approx(expected, abs=1e-3)
    assert abs(expected[0] - expected[1]) > 1e-2, "control"
    llm = W2SLLM(
        proposer=proposer, scorer=LogRatioScorer(pair), max_tokens=8, seed=0,
        strategy=ChunkBeamSearch(width=2, successors=2, chunk_tokens=3),
    )  # fmt: skip
    assert llm.invoke("The movie") == llm.invoke("The movie")
    with pytest.raises(ConfigError, match="the untuned guide 'pieces' has another one"):
        llm.invoke("The movie", strategy={"type": "emulated_fine_tuning"})
