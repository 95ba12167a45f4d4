"""A real black box: SmolLM2 in a llama.cpp server, which takes and returns nothing but text.

``make llama-cpp`` builds the server and runs these tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import mean
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from w2s_chains import W2SLLM, Expand, HuggingFaceProposer, Hypothesis, SamplingParams, load
from w2s_chains.backend.loading.config import Model
from w2s_chains.backend.loading.embedded import embedded_path
from w2s_chains.proposers import OpenAIProposer

pytest.importorskip("llama_cpp", reason="make llama-cpp builds it")

from cookbook.black_box.server import serve

OPENINGS = (
    "Here is a movie review:", "def main():\n", "Dear Sir,\n\n", "1. ", "The recipe:\n- ",
    "Q: What is 2+2?\nA:", "I love emoji 😀", "電影", "List of facts\n\n*", "Once upon a time",
)  # fmt: skip
WORDS = ("the cat", "a house", "my dog", "physics", "love", "war", "seven", "code", "tea", "Paris")
PROMPTS = [f"{opening} {word}" for opening in OPENINGS for word in WORDS]
TOKENS, CHUNK = 8, 3
SERVER_ROUNDING = 0.3
"""By how much the server's log-probabilities differ from those of the same model in process."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve() as url:
        yield url


def greedy(url: str, prompt: str, tokens: int) -> str:
    """The server's own text, by its own client."""
    body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "top_k": 0, "min_p": 0}
    reply = httpx.post(f"{url}/completions", json={**body, "repeat_penalty": 1}, timeout=60)
    return reply.json()["choices"][0]["text"]


def in_chunks(proposer: OpenAIProposer, prompt: str) -> Hypothesis:
    h = Hypothesis.root(prompt)
    sampling = SamplingParams(max_tokens=TOKENS, temperature=0.0)
    while not h.finished:
        [answer] = proposer.propose(
            [Expand(hypotheses=(h,), chunk_tokens=CHUNK, sampling=sampling)]
        )
        assert isinstance(answer, list), answer
        [h] = answer
    return h


@pytest.fixture(scope="module")
def near_tie() -> Callable[[str, str, str], bool]:
    """Return whether two texts part where the same model in process likes both tokens as much.

    The server reads four-bit weights, and rounds differently when it reads tokens together: of
    two tokens that are as likely, it may take either.
    """
    folder = embedded_path("smollm2-135m-instruct")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)

    def near(prompt: str, one: str, other: str) -> bool:
        ids, others = (tokenizer(prompt + text)["input_ids"] for text in (one, other))
        alike = next((i for i, (a, b) in enumerate(zip(ids, others, strict=False)) if a != b), 0)
        if not alike:
            return False
        with torch.no_grad():
            logits = model(torch.tensor([ids[:alike]])).logits[0, -1]
        return abs(float(logits[ids[alike]] - logits[others[alike]])) < SERVER_ROUNDING

    return near


def test_what_it_can_do(url: str) -> None:
    can = OpenAIProposer("smollm2", base_url=url).capabilities
    assert (can.completions, can.seed, can.top_k) == (True, True, True)
    assert (can.n, can.token_ids, can.logprobs, can.echo) == (False, False, False, False)


def test_joined_chunks_are_the_text_of_the_server(
    url: str, near_tie: Callable[[str, str, str], bool]
) -> None:
    """100 searches lose no character, and drift nowhere but where two tokens are as likely."""
    proposer = OpenAIProposer("smollm2", base_url=url)
    drifted = ties = seen = 0
    for prompt in PROMPTS:
        whole = greedy(url, prompt, TOKENS)
        h = in_chunks(proposer, prompt)
        if h.response != whole:
            assert near_tie(prompt, whole, h.response), (whole, h.response)
            ties += 1
        seen += not near_tie(prompt, whole, whole[:-3] + whole[-2:])
        assert h.ended or (h.n_tokens >= TOKENS and len(h.path) > 2)  # it ends no character early
        if "\n\n" in whole:
            naive = ""
            for at in range(0, TOKENS, CHUNK):
                naive += greedy(url, prompt + naive, min(CHUNK, TOKENS - at))
            drifted += naive != whole
    assert ties <= len(PROMPTS) // 20
    assert seen >= len(PROMPTS) * 0.9, "control: a lost character is no tie"
    assert drifted, "control: joining whatever comes is not enough"


def test_guides_steer_it(url: str) -> None:
    """Chunk beam with guides of another vocabulary, all of it from a config."""
    config: dict[str, Any] = {
        "proposer": {
            "type": "openai",
            "base_url": url,
            "model": "smollm2",
            "template": "Here is a movie review: {prompt}",
            "max_concurrency": 1,  # its samples depend a little on the order of requests
        },
        "guide": {"tuned": "embedded:reviews-tuned", "untuned": "embedded:reviews-untuned"},
        "strategy": {"type": "chunk_beam", "width": 2, "successors": 2, "chunk_tokens": 5},
        "generation": {"max_tokens": 20, "temperature": 0.7, "seed": 0},
    }
    llm = load(config)
    assert isinstance(llm, W2SLLM)
    prompts = ["Although God Is Great", "I went to see", "The acting of this", "A plot about"]

    def scores(**how: Any) -> list[float]:
        answers = llm.generate(prompts, **how).generations
        return [(one.generation_info or {})["score"] for [one] in answers]

    steered = scores()
    assert mean(steered) > mean(scores(strategy={"type": "sampling"}))
    assert steered == pytest.approx(scores(), abs=1e-3), (
        "an answer is a function of prompt, parameters and seed"
    )


def test_candidates_are_those_of_the_same_model_in_process() -> None:
    """With log-probabilities, a call of one token gives all of them, the end of a turn too."""
    question = "Reply with one short sentence: what is the capital of France?"
    said = "The capital of France is Paris."
    asked = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{said}"
    prompts = [PROMPTS[0], PROMPTS[31], PROMPTS[99], asked]
    sampling = SamplingParams(max_tokens=8, temperature=0.0)

    def likeliest(proposer: Any, prompt: str) -> dict[str, float]:
        root = Hypothesis.root(prompt)
        request = Expand(
            hypotheses=(root,), successors=5, chunk_tokens=1, distinct=True, sampling=sampling
        )
        [children] = proposer.propose([request])
        assert isinstance(children, list), children
        assert (root.usage.read_tokens, root.usage.proposed_tokens) == (1, 5)
        return {h.text or str(h.finish_reason): (h.logprobs or (0.0,))[0] for h in children}

    local = HuggingFaceProposer.from_spec(Model("embedded:smollm2-135m-instruct", chat=False))
    with serve(logprobs=True) as url:
        proposer = OpenAIProposer("smollm2", base_url=url, max_concurrency=1)
        can = proposer.capabilities
        assert (can.logprobs, can.top_logprobs, can.top_texts) == (True, 64, True)
        for prompt in prompts:
            far, near = likeliest(proposer, prompt), likeliest(local, prompt)
            shared = far.keys() & near.keys()
            assert len(shared) >= 4, (far, near)
            assert ("eos" in shared) == (prompt == asked)
            for name in shared:
                assert far[name] == pytest.approx(near[name], abs=SERVER_ROUNDING)
