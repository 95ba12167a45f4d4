from __future__ import annotations

import pytest
import torch

from tests import tiny
from w2s_chains import GuidePair, HuggingFaceGuide, Hypothesis, Message, Prompt


def test_a_chat_guide_scores_its_own_end_of_turn():
    """The proposer ended its turn; this guide's format ends a turn with <|im_end|>, not </s>."""
    tokenizer = tiny.byte_tokenizer()
    guide = HuggingFaceGuide(tiny.llama(320), tokenizer, chat=True, system="Be kind.")
    turns = (Message(role="user", content="hi"), Message(role="assistant", content="yes"),
             Message(role="user", content="more"))  # fmt: skip
    root = Hypothesis.root(Prompt(messages=turns))
    ended, cut = (root.extend(" well", finish_reason=reason) for reason in ("eos", "length"))
    values = guide.loglikelihood([ended, cut])
    ids = [*guide.text.prompt_ids(root.prompt), *tokenizer(" well")["input_ids"]]
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
    from w2s_chains.backend.loading import ModelSpec

    pair = GuidePair.from_pretrained(
        str(tiny_folders["tuned"]),
        ModelSpec(model=str(tiny_folders["untuned"]), template="x {prompt}"),
        template="y {prompt}",
    )
    assert pair.tuned.text.template.template == "y {prompt}"
    assert pair.untuned.text.template.template == "x {prompt}"
    assert pair.tuned.spec.model == str(tiny_folders["tuned"])
