"""A sequence classifier as scorer: equal to transformers by hand, batched and remembered."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.helpers import tiny
from w2s_chains import (
    W2SLLM,
    BestOfN,
    ChunkBeamSearch,
    HuggingFaceProposer,
    Hypothesis,
    MixtureScorer,
    RewardModelScorer,
    Sampling,
)
from w2s_chains.backend.classifiers import load as classifiers
from w2s_chains.core.prompts import Message, Prompt
from w2s_chains.errors import ConfigError, ModelNotFoundError, PromptError, ScorerError
from w2s_chains.rewards import SequenceClassifier

TEXTS = [
    " was great",
    " film; the acting was terrible and I left",
    " x",
    " is a joy to watch, really",
]


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifiers, "_loaded", {})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("judges")
    words, letters = tiny.wordpiece_tokenizer(), tiny.byte_tokenizer()
    models: dict[str, tuple[Any, Any]] = {
        "two": (tiny.distilbert_classifier(len(words)), words),
        "single": (tiny.distilbert_classifier(len(words), ("LABEL_0",), seed=3), words),
        "decoder": (tiny.llama_reward(pad_token_id=3), letters),
    }
    for name, (model, tokenizer) in models.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return {name: str(root / name) for name in models}


def nodes(reason: Any = None, prompt: str = "The movie") -> list[Hypothesis]:
    root = Hypothesis.root(prompt)
    return [root.extend(text, finish_reason=reason) for text in TEXTS]


def by_hand(folder: str, texts: list[str]) -> torch.Tensor:
    """Logits of each text alone. [texts, labels]"""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        rows = [model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0] for text in texts]
    return torch.stack(rows)


def test_it_is_the_classifier_by_hand_and_the_reward_of_comparisons(folders: Any) -> None:
    template = "{prompt}{answer}"
    options: dict[str, Any] = {"positive": "POSITIVE", "template": template, "batch_size": 3}
    scorer = RewardModelScorer.from_pretrained(folders["two"], **options)
    logprobs = by_hand(folders["two"], ["The movie" + text for text in TEXTS]).log_softmax(1)
    expected = (logprobs[:, 1] - logprobs[:, 0]).tolist()
    assert scorer.score(nodes()) == pytest.approx(expected, abs=1e-4)
    reward = SequenceClassifier(model=folders["two"], **options)
    assert reward.score(["The movie"] * 4, TEXTS) == pytest.approx(expected, abs=1e-4)
    other = RewardModelScorer.from_pretrained(folders["two"], **{**options, "positive": 0})
    assert other.score(nodes()) == pytest.approx([-value for value in expected], abs=1e-4)
    assert max(expected) - min(expected) > 1e-2, "control"


def test_a_single_output_is_the_score(folders: Any) -> None:
    scorer = RewardModelScorer.from_pretrained(folders["single"])
    expected = by_hand(folders["single"], TEXTS)[:, 0].tolist()
    assert scorer.score(nodes()) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["single", "decoder"])
def test_a_batch_equals_its_singles_in_any_order(folders: Any, name: str) -> None:
    def fresh(size: int) -> RewardModelScorer:
        return RewardModelScorer.from_pretrained(folders[name], batch_size=size)

    batch = fresh(8).score(nodes())
    one = fresh(1)
    assert [one.score([h])[0] for h in nodes()] == pytest.approx(batch, abs=1e-4)
    assert fresh(2).score(nodes()[::-1]) == pytest.approx(batch[::-1], abs=1e-4)
    assert batch != pytest.approx(batch[::-1], abs=1e-2), "control"


def test_cached_equals_uncached(folders: Any) -> None:
    scorer = RewardModelScorer.from_pretrained(folders["single"])
    read: list[int] = []
    logits = scorer._judge.logits
    scorer._judge.logits = lambda texts: read.append(len(texts)) or logits(texts)
    own = nodes()
    there = scorer.score(own)
    assert scorer.score(own) == there
    assert scorer.score(nodes()) == there
    assert read == [4, 0, 4]


def test_chat_turns_are_closed_where_they_ended(folders: Any) -> None:
    scorer = RewardModelScorer.from_pretrained(folders["decoder"], chat=True)
    closed = [tiny.EXCHANGE.format("The movie", text) for text in TEXTS]
    opened = [text.removesuffix("<|im_end|>\n") for text in closed]
    finished, going_on = (by_hand(folders["decoder"], t)[:, 0].tolist() for t in (closed, opened))
    assert scorer.score(nodes("eos")) == pytest.approx(finished, abs=1e-4)
    for reason in (None, "length", "stop"):
        assert scorer.score(nodes(reason)) == pytest.approx(going_on, abs=1e-4)
    whole = RewardModelScorer.from_pretrained(folders["decoder"], chat=True, partial=False)
    assert whole.score(nodes("length")) == pytest.approx(finished, abs=1e-4)
    assert finished != pytest.approx(going_on, abs=1e-2), "control"


def test_a_whole_conversation_is_rendered(folders: Any) -> None:
    turns = (Message(role="system", content="Be kind."), Message(role="user", content="The movie"))
    h = Hypothesis.root(Prompt(messages=turns)).extend(" was great", finish_reason="eos")
    text = "<|im_start|>system\nBe kind.<|im_end|>\n" + tiny.EXCHANGE.format(
        "The movie", " was great"
    )
    scorer = RewardModelScorer.from_pretrained(folders["decoder"], chat=True)
    expected = by_hand(folders["decoder"], [text])[0].tolist()
    assert scorer.score([h]) == pytest.approx(expected, abs=1e-4)
    assert scorer.score(nodes("eos")[:1]) != pytest.approx(expected, abs=1e-2), "control"


def test_an_empty_answer(folders: Any) -> None:
    """A text without tokens is worth least; where there are special tokens it is read."""
    empty = Hypothesis.root("The movie").extend("", finish_reason="eos")
    decoder = RewardModelScorer.from_pretrained(folders["decoder"])
    assert decoder.score([empty, *nodes()[:1]])[0] == float("-inf")
    with_prompt = RewardModelScorer.from_pretrained(folders["decoder"], template="{prompt}{answer}")
    assert abs(with_prompt.score([empty])[0]) < 100
    bert = RewardModelScorer.from_pretrained(folders["single"])
    assert bert.score([empty]) == pytest.approx(by_hand(folders["single"], [""])[0].tolist())


def test_only_whole_answers(folders: Any, proposer: HuggingFaceProposer) -> None:
    whole = RewardModelScorer.from_pretrained(folders["single"], partial=False)
    assert whole.score(nodes("length"))
    with pytest.raises(ScorerError, match=r"judges whole answers only .* ' was great', which goes"):
        whole.score(nodes())
    llm = W2SLLM(proposer=proposer, scorer=whole, max_tokens=8, seed=0, strategy=BestOfN(n=3))
    best = llm.invoke("The movie")
    assert isinstance(llm.invoke("x", strategy=ChunkBeamSearch(chunk_tokens=None)), str)
    assert isinstance(llm.invoke("x", strategy=Sampling()), str)
    for scorer in (whole, MixtureScorer([(whole, 1.0)])):
        refusing = llm.model_copy(update={"scorer": scorer})
        with pytest.raises(ConfigError, match=r"scores texts that go on, .* \(partial: false\)"):
            refusing.invoke("The movie", strategy=ChunkBeamSearch())
    partial = RewardModelScorer.from_pretrained(folders["single"])
    llm = llm.model_copy(update={"scorer": partial})
    assert llm.invoke("The movie") == best
    assert isinstance(llm.invoke("The movie", strategy=ChunkBeamSearch()), str)


def test_it_raises_its_own_reward(folders: Any, proposer: HuggingFaceProposer) -> None:
    scorer = RewardModelScorer.from_pretrained(folders["single"])
    llm = W2SLLM(
        proposer=proposer, scorer=scorer, max_tokens=16, seed=0,
        strategy=ChunkBeamSearch(width=2, successors=3, chunk_tokens=4),
    )  # fmt: skip
    prompts = ["The movie", "x", "A boring film"]

    def mean(**options: Any) -> float:
        result = llm.generate(prompts, **options)
        info = [own[0].generation_info or {} for own in result.generations]
        return sum(own["score"] for own in info) / len(prompts)

    assert mean() > mean(strategy=Sampling()) + 0.1


def test_what_is_refused(folders: Any, tmp_path: Path) -> None:
    scorer = RewardModelScorer.from_pretrained(
        folders["two"], positive=1, template="{prompt}{answer}"
    )
    long = Hypothesis.root("The movie " * 40)
    from w2s_chains import SamplingParams

    with pytest.raises(PromptError, match="more for the answer that exceeds the 64 that reward"):
        scorer.check(Hypothesis.root("The movie").prompt, SamplingParams(max_tokens=64))
    with pytest.raises(PromptError, match="reads at most 64"):
        scorer.check(long.prompt, SamplingParams(max_tokens=2))
    cut = RewardModelScorer.from_pretrained(
        folders["two"], positive=1, template="{prompt}{answer}", truncate="left"
    )
    cut.check(long.prompt, SamplingParams(max_tokens=64))
    assert cut.score([long.extend(" x")])
    wrong: list[tuple[type[Exception], dict[str, Any], str]] = [
        (ConfigError, {"positive": "GOOD"}, "'GOOD', but that is none of the labels"),
        (ConfigError, {}, "has the labels"),
        (ConfigError, {"chat": True, "positive": 1}, "has no chat template"),
        (ConfigError, {"template": "{promt}"}, "has no '{answer}'"),
        (ConfigError, {"positve": 1}, "unknown field; did you mean 'positive'"),
    ]
    for kind, options, told in wrong:
        with pytest.raises(kind, match=told):
            RewardModelScorer.from_pretrained(folders["two"], **options)
    with pytest.raises(ModelNotFoundError):
        RewardModelScorer.from_pretrained(str(tmp_path / "nothing"))


def test_the_embedded_reward_model_likes_praise() -> None:
    scorer = RewardModelScorer.from_pretrained("embedded:reviews-reward")
    root = Hypothesis.root("The film was")
    good, bad = scorer.score([root.extend(" a joy to watch."), root.extend(" a stupid bore.")])
    assert good > 0 > bad


def test_logits_that_are_no_numbers_fail_the_search_that_reads_them(
    folders: Any, tmp_path: Path
) -> None:
    words = AutoTokenizer.from_pretrained(folders["two"])
    model = AutoModelForSequenceClassification.from_pretrained(folders["two"])
    model.distilbert.embeddings.word_embeddings.weight.data[words.encode("joy")[1]] = math.nan
    model.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    scorer = RewardModelScorer.from_pretrained(str(tmp_path), positive="POSITIVE")
    assert all(map(math.isfinite, scorer.score(nodes()[:3])))
    told = r"in float32 gives logits that are no numbers \(NaN or inf\); load it in another dtype"
    with pytest.raises(ScorerError, match=told):
        scorer.score(nodes())
    with pytest.raises(ScorerError, match=told):
        SequenceClassifier(model=str(tmp_path), positive="POSITIVE").score([""] * 4, TEXTS)
