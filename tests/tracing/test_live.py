from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from tests.helpers.llms import PROMPT
from w2s_chains import W2SLLM, BestOfN, ChunkBeamSearch, HuggingFaceProposer, LogRatioScorer
from w2s_chains.core.events import Candidate, Committed, Event, Finished, Grown, Scored
from w2s_chains.tracing.live import LiveSearch, harmless


def drawn(live: LiveSearch, width: int = 80, height: int = 24) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, force_terminal=True, no_color=True)
    console.print(live)
    text = out.getvalue().replace("\x1b[0m", "").replace("\x1b[1m", "").replace("\x1b[2m", "")
    assert "\x1b" not in text
    return text.splitlines()


def grown(
    round_: int, parent: int, texts: list[str], first: int, dropped: tuple[int, ...] = ()
) -> Grown:
    new = [Candidate(id=first + i, parent=parent, text=t, tokens=1) for i, t in enumerate(texts)]
    return Grown(round=round_, candidates=tuple(new), dropped=dropped, read_tokens=1234 * round_)


STEPS: list[Event] = [
    grown(1, 0, [" one", " two", " three"], 1),
    Scored(texts=(" one", " two"), scores=(-1.0, 2.5), ids=(1, 2)),
    grown(2, 2, [" more", " most"], 4, dropped=(1, 3)),
    Scored(texts=(" two more", " two most"), scores=(3.0, 4.0), ids=(4, 5)),
]


def test_rounds_scores_and_what_became_of_candidates() -> None:
    live = LiveSearch("beam")
    assert drawn(live)[0].startswith("beam · round 1 · ")
    for step in STEPS:
        live.take(step)
    live.take(Committed(text=" two"))
    lines = [line.rstrip() for line in drawn(live)]
    assert lines[0].startswith("beam · round 2 · 2,468 rows read · ")
    assert lines[1:] == [
        "── Committed",
        "two",
        "── Round 1",
        "kept   +2.50  two",
        "out    -1.00  one",  # " three" was the same as another, which is why it has no score
        "── Round 2",
        "       +4.00  most",
        "       +3.00  more",
    ]


def test_the_end_is_told_in_a_line() -> None:
    live = LiveSearch("beam")
    numbers = dict.fromkeys(("prompt_tokens", "read_tokens", "proposed_tokens", "guide_tokens"), 7)
    live.take(
        Finished(text="x", score=1.234, finish_reason="eos", completion_tokens=1, rounds=1,
                 **numbers)
    )  # fmt: skip
    assert "score +1.23 · ended by eos" in live.summary
    assert "\n" not in live.summary


@pytest.mark.parametrize("strategy", [
    ChunkBeamSearch(width=4, successors=5, chunk_tokens=3),
    BestOfN(n=30),
])  # fmt: skip
@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 8), (20, 3)])
def test_it_fits_and_never_shrinks(
    proposer: HuggingFaceProposer,
    scorer: LogRatioScorer,
    strategy: ChunkBeamSearch | BestOfN,
    width: int,
    height: int,
) -> None:
    llm = W2SLLM(proposer=proposer, scorer=scorer, strategy=strategy, max_tokens=30, seed=0)
    live = LiveSearch(strategy.type)
    heights: list[int] = []
    with llm.traced(PROMPT) as search:
        for _ in live.seen(search):
            lines = drawn(live, width, height)
            heights.append(len(lines))
            assert all(cell_len(line) <= width for line in lines)
    assert max(heights) < height or height < 5
    answer = search.builder.trace().answer
    assert answer is not None
    assert live.committed == answer.text
    assert heights == sorted(heights)


def test_text_is_no_markup_and_no_command() -> None:
    bad = " [red]x[/red] [/] \x1b[31m\x1b]0;title\x07 \x9b2J \u202eabc\r\nnext\ttab"
    live = LiveSearch("beam")
    live.take(grown(1, 0, [bad], 1))
    live.take(Scored(texts=(bad,), scores=(0.0,), ids=(1,)))
    shown = "\n".join(drawn(live))
    assert "[red]x[/red] [/] ␛[31m␛]0;title␇" in shown
    assert "abc␍↵next tab" in shown
    assert not set("\x07\x9b\u202e\r") & set(shown)
    live.take(Committed(text=bad))
    assert "[red]x[/red] [/] ␛[31m␛]0;title␇" in "\n".join(drawn(live))
    assert harmless("plain ☃ 한국어 👩‍👩‍👧\n\tx") == "plain ☃ 한국어 👩‍👩‍👧\n\tx", "control"


def test_wide_characters_are_cut_by_theircell_len() -> None:
    live = LiveSearch("beam")
    live.take(grown(1, 0, ["映画" * 60], 1))
    assert all(cell_len(line) <= 80 for line in drawn(live))
