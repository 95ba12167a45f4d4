"""The ten lines of the README on the embedded models, and the chat template of the large one."""

from __future__ import annotations

import pytest
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate

from w2s_chains import (
    W2SLLM,
    ChunkBeamSearch,
    HuggingFaceGuide,
    HuggingFaceProposer,
    LogRatioScorer,
    Sampling,
)

START = "this movie is about"


@pytest.fixture(scope="module")
def llm() -> W2SLLM:
    return W2SLLM.from_pretrained(
        "embedded:smollm2-135m-instruct",
        tuned="embedded:reviews-tuned",
        untuned="embedded:reviews-untuned",
        proposer_template="Here is a movie review: {prompt}",
        strategy=ChunkBeamSearch(width=2, successors=2, chunk_tokens=4),
        max_tokens=12,
        temperature=0.7,
        seed=0,
    )


def test_the_readme_runs_as_a_chain(llm: W2SLLM) -> None:
    chain = PromptTemplate.from_template("{start} about") | llm | StrOutputParser()
    text = chain.invoke({"start": "this movie is"})
    assert text
    assert text.isprintable() or "\n" in text
    assert "".join(chain.stream({"start": "this movie is"})) == text
    assert text != llm.invoke(START, strategy=Sampling()), "control: the search changes the text"


def test_what_comes_with_the_text(llm: W2SLLM) -> None:
    [[one]] = llm.generate([START]).generations
    info = one.generation_info or {}
    assert info["finish_reason"] in ("length", "eos")
    assert info["prompt_tokens"] == 10
    assert info["score"] is not None
    # The guides have another vocabulary: their score is one of the text alone.
    assert isinstance(llm.scorer, LogRatioScorer)
    again = llm.scorer.score_texts([START], [one.text], [info["finish_reason"] == "eos"])
    assert info["score"] == pytest.approx(again[0], abs=1e-3)


def test_the_search_raises_the_score_of_the_guides(llm: W2SLLM) -> None:
    prompts = ["the plot of this film", START, "i went to see"]
    guided = _scores(llm, prompts)
    base = _scores(llm.model_copy(update={"strategy": Sampling()}), prompts)
    assert sum(guided) > sum(base)


def _scores(llm: W2SLLM, prompts: list[str]) -> list[float]:
    infos = [own[0].generation_info or {} for own in llm.generate(prompts).generations]
    return [info["score"] for info in infos]


def test_the_config_names_the_embedded_models(llm: W2SLLM) -> None:
    values = llm.to_config()
    assert values["proposer"]["model"] == "embedded:smollm2-135m-instruct"
    assert values["guides"]["tuned"]["model"] == "embedded:reviews-tuned"


def test_chat_uses_the_chat_template() -> None:
    chat = W2SLLM.from_pretrained(
        "embedded:smollm2-135m-instruct", proposer_chat=True, strategy=Sampling(), max_tokens=8,
        temperature=0,
    )  # fmt: skip
    assert isinstance(chat.proposer, HuggingFaceProposer)
    text = chat.proposer.tokenizer
    from w2s_chains import Prompt

    rendered = text.hf_tokenizer.decode(
        text.prompt_ids(Prompt(text="What is the capital of France?"))
    )
    assert rendered.endswith(
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert "Paris" in chat.invoke("What is the capital of France?")
    assert text.hf_tokenizer.decode([text.end_id]) == "<|im_end|>"


def test_guides_are_small_and_shared(llm: W2SLLM) -> None:
    assert isinstance(llm.scorer, LogRatioScorer)
    guide = getattr(llm.scorer.pair, "tuned", None)
    assert isinstance(guide, HuggingFaceGuide)
    assert sum(weight.numel() for weight in guide.lm.model.parameters()) < 200_000
