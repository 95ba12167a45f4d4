"""Draws how the search works: a real search on the embedded models, with every candidate.

python docs/pictures/search.py     # writes search-light.svg and search-dark.svg beside this file
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve

from w2s_chains import W2SLLM, ChunkBeamSearch, GuidePair, Hypothesis, LogRatioScorer, Scorer
from w2s_chains.proposers import HuggingFaceProposer

FOLDER = Path(__file__).parent
PROMPT = "The acting of this"
STRATEGY = ChunkBeamSearch(width=2, successors=2, chunk_tokens=4)
TOKENS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One partial answer of one step.

    Attributes:
        chunk: The text that this step added, with the spaces around it.
        score: Of the whole text so far, in nats.
        parent: Place of the text it continues, among the candidates of the step before.
        kept: Whether the search went on with it.
    """

    chunk: str
    score: float
    parent: int
    kept: bool


class RecordingScorer:
    """Scores like another scorer, and remembers what it was asked."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.steps: list[tuple[list[Hypothesis], list[float]]] = []

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        scores = self.scorer.score(hypotheses)
        self.steps.append((list(hypotheses), scores))
        return scores


def search() -> list[list[Candidate]]:
    """Run the search; returns the candidates of each step, in the order of their parents."""
    pair = GuidePair.from_pretrained("embedded:reviews-tuned", "embedded:reviews-untuned")
    scorer = RecordingScorer(LogRatioScorer(pair))
    llm = W2SLLM(
        proposer=HuggingFaceProposer.from_pretrained(
            "embedded:smollm2-135m-instruct", template="Here is a movie review: {prompt}"
        ),
        scorer=scorer,
        strategy=STRATEGY,
        max_tokens=TOKENS,
        temperature=0.7,
        seed=0,
    )
    llm.invoke(PROMPT)
    steps: list[list[Candidate]] = []
    before: list[Hypothesis] = []
    for nodes, scores in scorer.steps:
        parents = [before.index(h.parent) if h.parent in before else 0 for h in nodes]
        order = sorted(range(len(nodes)), key=lambda i: parents[i])
        best = sorted(scores, reverse=True)[: STRATEGY.width]
        steps.append(
            [
                Candidate(
                    chunk=nodes[i].text,
                    score=scores[i],
                    parent=parents[i],
                    kept=scores[i] in best,
                )
                for i in order
            ]
        )
        before = [nodes[i] for i in order]
    return steps


# Drawing. One unit is one CSS pixel, and the origin is the upper left corner.

WIDTH, HEIGHT = 620, 354
MARGIN, GAP = 10, 28
ROOT_WIDTH, BOX_WIDTH, BOX_HEIGHT = 84, 142, 44
TOP, ROW = 96, 54
CHARACTERS = 15
"""Most characters on a line of a box."""

LIGHT = {"text": "#1f2328", "quiet": "#59636e", "kept": "#0b6b60", "fill": "#d3f3ec"}
DARK = {"text": "#f0f3f6", "quiet": "#a3abb5", "kept": "#6ee7d3", "fill": "#0f4a43"}
ROLES = (
    ("1  Propose", "the large frozen model\ncontinues each text twice"),
    ("2  Score", "two small models:\nlog p_tuned \u2212 log p_untuned"),
    ("3  Keep the best two", "drop the rest,\nand propose again"),
)

Colours = Mapping[str, str]


def draw(steps: Sequence[Sequence[Candidate]], colours: Colours) -> Figure:
    """The picture, for a light or for a dark page; its background is clear."""
    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0))
    axes.axis("off")
    for place, (role, what) in enumerate(ROLES):
        x = MARGIN + place * 212
        axes.text(x, 20, role, color=colours["text"], size=13, weight="bold", va="center")
        axes.text(x, 52, what, color=colours["quiet"], size=11.5, va="center", linespacing=1.35)
        if place:
            _arrow(axes, x - 24, 20, colours["quiet"])
    middle = _middle(len(steps[0]) / 2 - 0.5)
    _box(axes, MARGIN, middle, ROOT_WIDTH, textwrap.fill(PROMPT, 10), colours, kept=True)
    for level, candidates in enumerate(steps):
        for place, candidate in enumerate(candidates):
            start = _middle(candidate.parent) if level else middle
            _edge(axes, level, start, _middle(place), colours, candidate.kept)
            text = textwrap.fill(candidate.chunk.strip(), CHARACTERS)
            _box(axes, _left(level), _middle(place), BOX_WIDTH, text, colours, candidate.kept)
            axes.text(
                _left(level) + BOX_WIDTH - 7,
                _middle(place),
                shown(candidate.score),
                color=colours["kept" if candidate.kept else "quiet"],
                size=11.5,
                weight="bold" if candidate.kept else "normal",
                ha="right",
                va="center",
            )
    answer = f"Answer: {PROMPT}{answer_of(steps)}"
    axes.text(MARGIN, HEIGHT - 20, answer, color=colours["text"], size=12, va="center")
    return figure


def answer_of(steps: Sequence[Sequence[Candidate]]) -> str:
    """The text of the best candidate of the last step."""
    place = max(range(len(steps[-1])), key=lambda i: steps[-1][i].score)
    chunks: list[str] = []
    for candidates in reversed(steps):
        chunks.append(candidates[place].chunk)
        place = candidates[place].parent
    return "".join(reversed(chunks))


def shown(score: float) -> str:
    """A score as the picture writes it."""
    return f"{score:+.1f}".replace("-", "\u2212")


def _left(level: int) -> float:
    return MARGIN + ROOT_WIDTH + GAP + level * (BOX_WIDTH + GAP)


def _middle(place: float) -> float:
    return TOP + place * ROW + BOX_HEIGHT / 2


def _box(
    axes: Axes, x: float, middle: float, width: float, text: str, colours: Colours, kept: bool
) -> None:
    """A box with text; kept ones are filled, others dashed."""
    box = FancyBboxPatch(
        (x, middle - BOX_HEIGHT / 2),
        width,
        BOX_HEIGHT,
        boxstyle="round,pad=0,rounding_size=7",
        facecolor=colours["fill"] if kept else "none",
        edgecolor=colours["kept" if kept else "quiet"],
        linewidth=1.4 if kept else 0.9,
        linestyle="-" if kept else (0, (4, 3)),
    )
    axes.add_patch(box)
    colour = colours["text" if kept else "quiet"]
    axes.text(x + 8, middle, text, color=colour, size=12, va="center", linespacing=1.25)


def _edge(axes: Axes, level: int, start: float, end: float, colours: Colours, kept: bool) -> None:
    """A curve from a box to one that continues it."""
    x1 = _left(level)
    x0 = x1 - GAP
    half = (x0 + x1) / 2
    points = [(x0, start), (half, start), (half, end), (x1, end)]
    axes.add_patch(
        PathPatch(
            Curve(points, [Curve.MOVETO, *[Curve.CURVE4] * 3]),
            facecolor="none",
            edgecolor=colours["kept" if kept else "quiet"],
            linewidth=1.8 if kept else 0.9,
            linestyle="-" if kept else (0, (4, 3)),
        )
    )


def _arrow(axes: Axes, x: float, y: float, colour: str) -> None:
    style = {"arrowstyle": "->", "color": colour, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (x + 14, y), (x - 10, y), arrowprops=style)


def svg(figure: Figure) -> bytes:
    """The figure as an SVG whose text stays text; equal figures give equal files."""
    image = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "search"}):
        figure.savefig(image, format="svg", transparent=True, metadata={"Date": None})
    return image.getvalue()


def main() -> None:
    """Write both pictures."""
    steps = search()
    for name, colours in {"light": LIGHT, "dark": DARK}.items():
        (FOLDER / f"search-{name}.svg").write_bytes(svg(draw(steps, colours)))


if __name__ == "__main__":
    main()
