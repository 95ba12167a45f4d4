"""Text of an answer: ends, stop strings and characters that fall on chunk borders."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import tiny
from tests.helpers.llms import both_guides
from w2s_chains import (
    Expand,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioScorer,
    SamplingParams,
)
from w2s_chains.core.prompts import Prompt


def scripted(text_or_ids, tokenizer, prompt="The movie", end=True):
    """A real Llama with its logits replaced: greedily it says these tokens, then it ends."""
    size = len(tokenizer)
    model = tiny.llama(size)
    ids = (
        tokenizer(text_or_ids, add_special_tokens=False)["input_ids"]
        if isinstance(text_or_ids, str)
        else list(text_or_ids)
    )
    proposer = HuggingFaceProposer(model, tokenizer)
    first = len(proposer.tokenizer.prompt_ids(Prompt(text=prompt)))
    script = [*ids, tokenizer.eos_token_id if end else ids[-1]]
    forward = model.forward

    def answer(*args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        out: Any = forward(*args, position_ids=position_ids, **kwargs)
        at = (position_ids - first + 1).clamp(0, len(script) - 1)
        columns = out.logits.shape[1]
        wanted = torch.tensor(script)[at][:, -columns:]
        out.logits = torch.nn.functional.one_hot(wanted, size).float() * 50
        return out

    model.forward = answer
    return proposer, ids


def run(proposer, chunk, prompt="The movie", **sampling):
    """Greedy, chunk by chunk; the answer and the pieces as they came."""
    params = SamplingParams(**{"temperature": 0, "max_tokens": 64, **sampling})
    node = Hypothesis.root(prompt)
    while not node.finished:
        ask = Expand(hypotheses=(node,), chunk_tokens=chunk, sampling=params)
        [[node]] = proposer.propose([ask])
    return node


TOKENIZERS = {"bytes": tiny.byte_tokenizer(bos=True), "pieces": tiny.sentencepiece_tokenizer()}
ANSWER = "s were 電影 great 😀🎬, everyone said.\n\nIt was\n\n\nfine 🍿 END of it"


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("chunk", [1, 2, 3, 7, None])
def test_the_answer_is_the_text_whatever_the_chunks(name, chunk):
    proposer, ids = scripted(ANSWER, TOKENIZERS[name])
    answer = run(proposer, chunk, max_tokens=len(ids) + 1)
    prefix = TOKENIZERS[name]("The movie")["input_ids"]
    decoded = proposer.tokenizer.decode([*prefix, *ids])[len("The movie") :]
    assert answer.response == decoded
    assert decoded.lstrip() == ANSWER
    assert answer.finish_reason == "eos"
    assert answer.response_ids == tuple(ids)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("chunk", [1, 2, 5, None])
@pytest.mark.parametrize(
    "stop",
    [
        "END",
        "\n\n",
        "\n\n\n",
        "電影",
        "😀🎬",
        "s",
        "s were",
        "great 😀",
        "reat",
        "ef",
        "it",
        "absent",
        "ryone said.",
    ],
)
def test_stop_strings_cut_exactly(name, chunk, stop):
    """A stop string may span chunks and begin or end inside a token."""
    proposer, ids = scripted(ANSWER, TOKENIZERS[name])
    full = run(proposer, chunk, max_tokens=len(ids) + 1).response
    answer = run(proposer, chunk, max_tokens=len(ids) + 1, stop=[stop, "never there"])
    assert answer.response == full.partition(stop)[0]
    assert answer.finish_reason == ("stop" if stop in full else "eos")
    if answer.response_ids is not None and answer.finish_reason == "stop":
        assert list(answer.response_ids) == ids[: len(answer.response_ids)]


@pytest.mark.parametrize("chunk", [1, 4, None])
def test_the_stop_string_that_is_complete_first_wins(chunk):
    proposer, _ = scripted("abc def ghi", TOKENIZERS["bytes"])
    assert run(proposer, chunk, stop=["ghi", "def", "f g"]).response == "abc "
    assert run(proposer, chunk, stop=["c def g", "e"]).response == "abc d"


@pytest.mark.parametrize("chunk", [1, 4, None])
def test_stop_and_end_at_the_very_first_token(chunk):
    proposer, _ = scripted("\nmore", TOKENIZERS["bytes"])
    stopped = run(proposer, chunk, stop=["\n"])
    assert (stopped.response, stopped.finish_reason) == ("", "stop")
    assert stopped.response_ids == ()
    ended, _ = scripted("", TOKENIZERS["bytes"])
    answer = run(ended, chunk)
    assert (answer.response, answer.finish_reason, answer.response_ids) == ("", "eos", ())
    assert answer.usage.proposed_tokens == 1


def test_only_a_real_end_scores_the_end_token():
    """The score of eos at the first token is the log-ratio of the end token; of a stop it is 0."""
    tokenizer = TOKENIZERS["bytes"]
    base = tiny.llama(len(tokenizer), seed=1)
    pair = GuidePair(
        HuggingFaceGuide(tiny.noisy(base), tokenizer), HuggingFaceGuide(base, tokenizer)
    )
    scorer = LogRatioScorer(pair)
    ended = run(scripted("", tokenizer)[0], 4)
    stopped = run(scripted("\nmore", tokenizer)[0], 4, stop=["\n"])
    guides = both_guides(pair)
    ids = torch.tensor([guides[0].tokenizer.prompt_ids(Prompt(text="The movie"))])
    tuned, untuned = (g.lm.model(ids).logits[0, -1].log_softmax(-1)[1].item() for g in guides)
    assert scorer.score([ended, stopped]) == pytest.approx([tuned - untuned, 0.0], abs=1e-5)
    assert abs(tuned - untuned) > 1e-3


def test_a_length_limit_is_no_end():
    proposer, ids = scripted(ANSWER, TOKENIZERS["bytes"])
    cut = run(proposer, 3, max_tokens=5)
    assert (cut.finish_reason, cut.n_tokens) == ("length", 5)
    whole = run(proposer, 3, max_tokens=len(ids))
    assert (whole.finish_reason, whole.n_tokens) == ("length", len(ids))
    assert run(proposer, 3, max_tokens=len(ids) + 1).finish_reason == "eos"


def test_an_answer_cut_inside_a_character_ends_before_it():
    proposer, _ = scripted("a😀", TOKENIZERS["bytes"])
    cut = run(proposer, 1, max_tokens=2)
    assert (cut.response, cut.finish_reason) == ("a", "length")
    assert cut.pending


@settings(max_examples=60, deadline=None)
@given(
    answer=st.text(alphabet="ab \n😀電", min_size=1, max_size=12),
    stop=st.lists(st.text(alphabet="ab \n😀", min_size=1, max_size=3), max_size=3),
    chunk=st.sampled_from([1, 2, 3, None]),
)
def test_any_answer_any_stop(answer, stop, chunk):
    proposer, _ = scripted(answer, TOKENIZERS["bytes"])
    got = run(proposer, chunk, stop=stop)
    found = [(answer.find(s) + len(s), answer.find(s)) for s in stop if s in answer]
    assert got.response == (answer[: min(found)[1]] if found else answer)


def test_a_path_without_token_ids_can_be_continued(proposer):
    """Text that came from elsewhere is tokenised; the proposer goes on from there."""
    child = Hypothesis.root("The movie").extend(" was great and")
    ask = Expand(hypotheses=(child,), chunk_tokens=5, sampling=SamplingParams(temperature=0))
    [[grown]] = proposer.propose([ask])
    direct = Expand(
        hypotheses=(Hypothesis.root("The movie was great and"),), chunk_tokens=5,
        sampling=SamplingParams(temperature=0),
    )  # fmt: skip
    [[expected]] = proposer.propose([direct])
    assert grown.text == expected.text
