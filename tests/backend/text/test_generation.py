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
from w2s_chains.backend.text.generation import Suppressed, end_ids, suppressed_by, warn_of_ignored
from w2s_chains.core.asks import Expand
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.errors import GenerationConfigWarning

LETTERS = list(range(40, 300))
"""Most of the vocabulary."""
HARMLESS: dict[str, Any] = {
    "do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.1,
    "max_length": 20, "min_length": 0, "typical_p": 1.0, "no_repeat_ngram_size": 0,
    "eos_token_id": [1, 3], "guidance_scale": 1.0, "suppress_tokens": [5], "bad_words_ids": [[7]],
    "begin_suppress_tokens": [6],
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


def greedy(proposer: HuggingFaceProposer, texts: list[str], size: int) -> list[list[int]]:
    """The answers to some prompts, in chunks of a size, all prompts in one batch."""
    sampling = SamplingParams(max_tokens=8, temperature=0.0)
    found = [Hypothesis.root(text) for text in texts]
    while going := [i for i, h in enumerate(found) if not h.finished]:
        asks = [
            Expand(hypotheses=(found[i],), successors=1, chunk_tokens=size, sampling=sampling)
            for i in going
        ]
        for i, [child] in zip(going, proposer.propose(asks), strict=True):
            found[i] = child
    return [list(h.response_ids or ()) for h in found]


@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_first_token_is_suppressed_as_by_generate(size: int) -> None:
    texts = ["The movie", "I left, and", "A"]
    plain = part(HuggingFaceProposer)
    free = greedy(plain, texts, 8)
    first = sorted({1, *(ids[0] for ids in free)})
    proposer = part(HuggingFaceProposer, begin_suppress_tokens=first, eos_token_id=1)
    found = greedy(proposer, texts, size)
    for text, ids, before in zip(texts, found, free, strict=True):
        prompt = torch.tensor([proposer.tokenizer.prompt_ids(Prompt(text=text))])
        theirs = proposer.lm.model.generate(prompt, max_new_tokens=8, do_sample=False)
        theirs = theirs[0, prompt.shape[1] :].tolist()
        assert ids == [token for token in theirs if token != 1], "generate keeps the end token"
        assert ids == greedy(proposer, [text], 8)[0], "batch = single"
        assert ids[0] not in first
        assert before[0] in first, "control"
    assert {token for ids in found for token in ids[1:]} & set(first), "only the first is"


def test_rows_that_go_on_are_not_suppressed() -> None:
    """In one batch with a beginning, and where a guide drafts."""
    proposer = part(HuggingFaceProposer, begin_suppress_tokens=LETTERS)
    root = Hypothesis.root("The movie")
    sampling = SamplingParams(max_tokens=20, temperature=2.0)
    [[begun]] = proposer.propose(
        [Expand(hypotheses=(root,), successors=1, chunk_tokens=1, sampling=sampling)]
    )
    ask = Expand(hypotheses=(root, begun), successors=20, chunk_tokens=1, sampling=sampling)
    [children] = proposer.propose([ask])
    ids = [child.token_ids or () for child in children]
    assert not {one for own in ids[:20] for one in own} & set(LETTERS)
    assert {one for own in ids[20:] for one in own} & set(LETTERS)
    guides = [part(HuggingFaceGuide, seed) for seed in (1, 2)]
    for drafts in (0, 3):
        llm = W2SLLM(
            proposer=proposer, scorer=LogRatioScorer(GuidePair(*guides)), max_tokens=12,
            temperature=2.0, seed=0, strategy=EmulatedFineTuning(beta=1.0, draft_tokens=drafts),
        )  # fmt: skip
        told = [proposer.tokenizer.encode(llm.invoke(text)) for text in ("The movie", "A", "I")]
        assert not {ids[0] for ids in told if ids} & set(range(40, 127))
        assert {token for ids in told for token in ids} & set(range(40, 127)), "control"


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
        eos_token_id=[1, 3], bad_words_ids=[[1], [8], [8, 9]], suppress_tokens=[3],
        begin_suppress_tokens=[9, 1],
    )  # fmt: skip
    assert end_ids(config) == [1, 3]
    assert suppressed_by(config) == Suppressed((3, 8), (1, 9))
    assert (end_ids(None), suppressed_by(None)) == ([], Suppressed())
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
    assert guide.tokenizer.suppressed.ids == (44,)
