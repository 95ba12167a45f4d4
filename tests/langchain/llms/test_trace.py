"""``llm.trace``: the answer of ``invoke``, with the tree that led to it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.llms import BEAM, PROMPT, every_strategy
from w2s_chains import (
    W2SLLM,
    BestOfN,
    ConfigError,
    Grown,
    GuidePair,
    HuggingFaceProposer,
    LogRatioScorer,
    PromptError,
    Sampling,
    Scored,
    SearchHandle,
    SearchStrategy,
    Trace,
)


@every_strategy
def test_a_trace_is_the_answer_and_its_tree(llm: W2SLLM, strategy: SearchStrategy) -> None:
    llm = llm.model_copy(update={"strategy": strategy, "guides": llm.guides})
    [[generation]] = llm.generate([PROMPT]).generations
    trace = llm.trace(PROMPT)
    assert trace.answer is not None
    info: dict[str, Any] = generation.generation_info or {}
    assert trace.answer.text == generation.text
    told = trace.answer.model_dump(exclude={"id", "text"})
    assert told == pytest.approx(info, nan_ok=True)
    trace.check()
    assert trace.text(trace.answer.id) == trace.answer.text
    assert len(trace.rounds) == trace.answer.rounds
    assert (trace.model, trace.seed) == (llm.model_name, 0)
    assert trace.strategy == strategy.model_dump(mode="json")
    assert {node.state for node in trace.path(trace.answer.id)} == {"answer"}
    expanded = {id for one in trace.rounds for id in one.expanded}
    for node in trace.nodes[1:]:
        assert (node.state in ("answer", "kept")) >= (node.id in expanded)
        assert node.tokens > 0 or node.finish_reason
    own = sum(node.tokens for node in trace.path(trace.answer.id))
    assert own == trace.answer.completion_tokens
    assert Trace.from_json(trace.to_json()) == trace


def test_scores_are_sums_of_what_the_guides_think_of_tokens(llm: W2SLLM) -> None:
    trace = llm.trace(PROMPT)
    checked = 0
    for node in trace.nodes[1:]:
        ratios: list[float] = []
        texts: list[str] = []
        for step in trace.path(node.id)[1:]:
            assert step.ratios is not None
            assert step.ratios_from == sum(map(len, texts)), "one vocabulary cuts nothing anew"
            ratios += [token.ratio for token in step.ratios]
            texts += [token.text for token in step.ratios]
        assert "".join(texts) == trace.text(node.id)
        assert node.score is not None
        assert sum(ratios) == pytest.approx(node.score, abs=1e-4)
        checked += node.score != pytest.approx(sum(ratios) - ratios[-1], abs=1e-4)
    assert checked > 5, "control: a token less is another sum"


def test_tokens_of_another_vocabulary_join_the_text_of_the_parent(
    proposer: HuggingFaceProposer, foreign_pair: GuidePair
) -> None:
    scorer = LogRatioScorer(foreign_pair)
    llm = W2SLLM(proposer=proposer, scorer=scorer, strategy=BEAM, max_tokens=12, seed=0)
    trace = llm.trace(PROMPT)
    for node in trace.nodes[1:]:
        assert node.ratios is not None
        assert node.ratios_from is not None
        assert node.parent is not None
        before = trace.text(node.parent)
        own = "".join(token.text for token in node.ratios)
        assert before[: node.ratios_from] + own == trace.text(node.id)


def test_guides_that_cannot_tell_leave_ratios_out(llm: W2SLLM, proposer: Any) -> None:
    plain = W2SLLM(proposer=proposer, strategy=Sampling(), max_tokens=5, seed=0)
    trace = plain.trace(PROMPT)
    assert [node.ratios for node in trace.nodes] == [None] * len(trace.nodes)
    assert trace.answer is not None
    assert trace.answer.score is None


def test_a_trace_reads_nothing_more(llm: W2SLLM) -> None:
    [[generation]] = llm.generate([PROMPT]).generations
    trace = llm.trace(PROMPT)
    assert trace.answer is not None
    info = generation.generation_info or {}
    assert trace.answer.guide_tokens == info["guide_tokens"]
    assert trace.rounds[-1].read_tokens == info["read_tokens"]


def test_overrides_and_refusals(llm: W2SLLM) -> None:
    trace = llm.trace(PROMPT, strategy=BestOfN(n=3), max_tokens=4, stop=["zzz"])
    assert trace.strategy["type"] == "best_of_n"
    assert trace.sampling["stop"] == ["zzz"]
    assert len(trace.nodes) == 4
    with pytest.raises(ConfigError, match="n is 2; set n=1"):
        llm.trace(PROMPT, n=2)
    with pytest.raises(ConfigError, match="did you mean 'strategy'"):
        llm.trace(PROMPT, strateggy=BEAM)
    with pytest.raises(PromptError, match="surrogate"):
        llm.trace("\ud800")


async def test_events_can_be_read_while_the_tree_grows(llm: W2SLLM) -> None:
    kinds: list[str] = []
    sizes: list[int] = []
    with llm.traced(PROMPT) as search:
        async for _, event in search:
            kinds.append(type(event).__name__)
            sizes.append(len(search.builder.trace().nodes))
    assert kinds[:2] == ["Grown", "Scored"]
    assert kinds[-1] == "Finished"
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


@pytest.mark.parametrize("traced", [True, False])
def test_a_search_that_nobody_traces_tells_nothing(llm: W2SLLM, traced: bool) -> None:
    told: list[Any] = []
    [job] = llm.jobs([PROMPT])
    handle = SearchHandle(job, told.append, traced=traced)
    llm.engine.start([handle])
    handle.future.result(60)
    assert any(isinstance(event, Grown) for event in told) == traced
    scored = [event for event in told if isinstance(event, Scored)]
    assert scored
    assert {bool(event.ids) for event in scored} == {traced}
    assert any(event.tokens for event in scored) == traced
