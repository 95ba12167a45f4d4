"""What a checkpoint's generation config says is respected, or warned of."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from tests.helpers import tiny
from w2s_chains import (
    W2SLLM,
    EmulatedFineTuning,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    LogRatioScorer,
    Model,
    Prompt,
    Sampling,
    SamplingParams,
)
from w2s_chains.backend.text.generation import end_ids, suppressed_ids, warn_of_ignored
from w2s_chains.core.asks import Expand
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.errors import GenerationConfigWarning

LETTERS = list(range(40, 300))
"""Most of the vocabulary."""
HARMLESS: dict[str, Any] = {
    "do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.1,
    "max_length": 20, "min_length": 0, "typical_p": 1.0, "no_repeat_ngram_size": 0,
    "eos_token_id": [1, 3], "guidance_scale": 1.0, "suppress_tokens": [5], "bad_words_ids": [[7]],
}  # fmt: skip


def part(kind: Any, seed: int = 0, rows: int = 320, **options: Any) -> Any:
    model = tiny.llama(rows, seed=seed)
    model.generation_config = GenerationConfig(**options)
    return kind(model, tiny.byte_tokenizer())


def sampled(proposer: HuggingFaceProposer, **sampling: Any) -> set[int]:
    ask = Expand(
        hypotheses=(Hypothesis.root("The movie"),),
        successors=20,
        sampling=SamplingParams(**{"max_tokens": 20, "temperature": 2.0, **sampling}),
    )
    [children] = proposer.propose([ask])
    return {token for child in children for token in child.response_ids or ()}


@pytest.mark.parametrize("sampling", [{}, {"top_k": 5}, {"temperature": 0.0}])
@pytest.mark.parametrize(
    "options", [{"suppress_tokens": LETTERS}, {"bad_words_ids": [[one] for one in LETTERS]}]
)
def test_suppressed_tokens_are_never_sampled(
    options: dict[str, Any], sampling: dict[str, Any]
) -> None:
    found = sampled(part(HuggingFaceProposer, **options), **sampling)
    assert not found & set(LETTERS)
    assert sampled(part(HuggingFaceProposer), **sampling) & set(LETTERS), "control"


def test_generate_suppresses_the_same() -> None:
    proposer = part(HuggingFaceProposer, suppress_tokens=[1, *LETTERS], bad_words_ids=[[20], [21]])
    ids = torch.tensor([proposer.tokenizer.prompt_ids(Prompt(text="The movie"))])
    theirs = proposer.lm.model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
    ask = Expand(
        hypotheses=(Hypothesis.root("The movie"),),
        successors=1,
        sampling=SamplingParams(max_tokens=8, temperature=0.0),
    )
    [[child]] = proposer.propose([ask])
    assert list(child.response_ids or ()) == theirs.tolist()[: len(child.response_ids or ())]
    assert len(child.response_ids or ()) == 8


def test_scores_are_of_the_model_itself() -> None:
    """What is suppressed changes samples, and no loglikelihood."""
    plain, silent = part(HuggingFaceProposer), part(HuggingFaceProposer, suppress_tokens=LETTERS)
    child = Hypothesis.root("The movie").extend(" was", None)
    assert silent.loglikelihood([child]) == plain.loglikelihood([child])


def test_tables_of_several_sizes() -> None:
    """A guide whose table ends before a suppressed token; also where the guide drafts."""
    proposer = part(HuggingFaceProposer, rows=900, suppress_tokens=[*range(40, 290), 350, 899])
    pair = GuidePair(part(HuggingFaceGuide, 1), part(HuggingFaceGuide, 2, rows=384))
    for drafts in (0, 3):
        llm = W2SLLM(
            proposer=proposer, scorer=LogRatioScorer(pair), max_tokens=12, temperature=2.0, seed=0,
            strategy=EmulatedFineTuning(beta=1.0, draft_tokens=drafts),
        )  # fmt: skip
        ids = proposer.tokenizer.encode(llm.invoke("The movie"))
        assert not {token for token in ids if token < 256} & set(range(40, 256))


def test_ends_that_are_bad_words_stay() -> None:
    config = GenerationConfig(
        eos_token_id=[1, 3], bad_words_ids=[[1], [8], [8, 9]], suppress_tokens=[3]
    )
    assert end_ids(config) == [1, 3]
    assert suppressed_ids(config) == [3, 8]
    assert (end_ids(None), suppressed_ids(None)) == ([], [])
    assert end_ids(GenerationConfig(eos_token_id=2)) == [2]


def told_by(**options: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        proposer = part(HuggingFaceProposer, **options)
        warn_of_ignored("again", proposer.lm.model)
    return [str(one.message) for one in found if one.category is GenerationConfigWarning]


@pytest.mark.parametrize(
    ("option", "value", "part_of_message"),
    [
        ("no_repeat_ngram_size", 3, "no_repeat_ngram_size (3)"),
        ("min_new_tokens", 5, "min_new_tokens (5)"),
        ("begin_suppress_tokens", [7], "begin_suppress_tokens ([7])"),
        ("bad_words_ids", [[7], [8, 9]], "bad_words_ids ([[8, 9]])"),
        ("forced_eos_token_id", 1, "forced_eos_token_id (1)"),
        ("forced_bos_token_id", 0, "forced_bos_token_id (0)"),
        ("sequence_bias", [[[8], 1.5]], "sequence_bias"),
        ("typical_p", 0.5, "typical_p (0.5)"),
        ("stop_strings", ["User:"], "our own stop for stop_strings"),
    ],
)
def test_what_is_ignored_is_said_once(option: str, value: Any, part_of_message: str) -> None:
    [told] = told_by(**{option: value})
    assert part_of_message in told
    assert "take them out" in told
    assert "\n" not in told


def test_several_options_are_one_warning() -> None:
    [told] = told_by(min_length=5, no_repeat_ngram_size=2, suppress_tokens=[5])
    assert "min_length (5)" in told
    assert "no_repeat_ngram_size (2)" in told
    assert "suppress_tokens" not in told


def test_what_the_caller_says_or_what_changes_nothing_is_not_warned_of() -> None:
    assert told_by(**HARMLESS) == []
    assert told_by() == []


def test_a_folder_says_it_of_its_proposer_alone(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    """Guides only score, unless one of them writes."""
    tiny.llama(320).save_pretrained(tmp_path)
    tiny.byte_tokenizer().save_pretrained(tmp_path)
    file = tmp_path / "generation_config.json"
    said = {"min_new_tokens": 4, "suppress_tokens": [44]}
    file.write_text(json.dumps({**json.loads(file.read_text()), **said}))
    with pytest.warns(GenerationConfigWarning, match=rf"{tmp_path}.*min_new_tokens \(4\)"):
        W2SLLM(proposer=Model(tmp_path, chat=False), strategy=Sampling()).invoke("The movie")
    with warnings.catch_warnings():
        warnings.simplefilter("error", GenerationConfigWarning)
        guide = HuggingFaceGuide.from_pretrained(str(tmp_path), chat=False)
    assert guide.tokenizer.suppressed_ids == (44,)
