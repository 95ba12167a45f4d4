"""Answers are printed while they are read: thoughts apart, several in order."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.llms import PROMPT, STRATEGIES
from w2s_chains import (
    W2SLLM,
    ChatW2S,
    ChunkBeamSearch,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioScorer,
    Proposer,
    Sampling,
    SearchStrategy,
    ThoughtFormat,
)
from w2s_chains.cli.terminal.printing import Printer, Told, in_order
from w2s_chains.core.events import Committed, Grown


class Thinking(Proposer):
    """Thinks before it answers, in chunks of three characters."""

    said = "<think>a b c</think>It is\x1b[31m red"

    def thoughts(self, prompt: Any) -> ThoughtFormat:
        return ThoughtFormat()

    def propose(self, requests: Any) -> list[list[Hypothesis] | Exception]:
        found: list[list[Hypothesis] | Exception] = []
        for request in requests:
            [parent] = request.hypotheses
            end = parent.n_chars + 3
            reason = "eos" if end >= len(self.said) else None
            text = self.said[parent.n_chars : end]
            found.append([parent.extend(text, n_tokens=1, finish_reason=reason)])
        return found


@pytest.mark.parametrize("terminal", [False, True])
def test_thoughts_are_dimmed_and_only_on_a_terminal(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: terminal)
    chat = ChatW2S(proposer=Thinking(), strategy=Sampling(), max_tokens=99)
    with chat.committed(PROMPT) as search:
        told = Told(chat, search.jobs[0], Printer())
        finished = told.read(event for _, event in search)
    assert finished.text == Thinking.said
    assert (told.thoughts, told.text) == ("a b c", "It is\x1b[31m red")
    out, err = capsys.readouterr()
    assert out == ("It is␛[31m red" if terminal else told.text)
    plain = err.replace("\x1b[2m", "").replace("\x1b[22m", "")
    assert plain == ("a b c\n" if terminal else "")


def test_several_answers_come_in_order() -> None:
    from w2s_chains.core.events import Finished

    numbers: Any = dict.fromkeys(
        ("completion_tokens", "prompt_tokens", "read_tokens", "rounds", "proposed_tokens",
         "guide_tokens"), 1
    )  # fmt: skip
    a, b, c = (Committed(text=text) for text in "abc")
    end, other = (
        Finished(text=text, score=None, finish_reason="eos", **numbers) for text in ("ac", "b")
    )
    events = in_order([(1, b), (0, a), (1, other), (0, c), (0, end)])
    assert list(events) == [a, c, end, b, other]


@pytest.mark.parametrize("strategy", [
    *STRATEGIES, ChunkBeamSearch(width=3, chunk_tokens=3, commit_after=1),
], ids=repr)  # fmt: skip
def test_strategies_say_whether_text_comes_late(
    strategy: SearchStrategy, proposer: HuggingFaceProposer, scorer: LogRatioScorer
) -> None:
    llm = W2SLLM(proposer=proposer, scorer=scorer, strategy=strategy, max_tokens=24, seed=1)
    with llm.traced(PROMPT) as search:
        events = [event for _, event in search]
    places = [i for i, event in enumerate(events) if isinstance(event, Committed)]
    early = len(places) > 1 and places[0] < len(events) // 2
    one_round = sum(isinstance(event, Grown) for event in events) < 2
    assert strategy.commits_late or early or one_round
