"""``score_texts``: what guides think of given texts, without a search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from w2s_chains.core.contracts import BaseGuidePair, TokenScores
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.parts import Scorer
from w2s_chains.core.prompts import Prompt
from w2s_chains.core.sampling import SamplingParams
from w2s_chains.engine.scheduler import Engine, shared_engine
from w2s_chains.errors import ConfigError, PromptError, ScorerError, shown
from w2s_chains.values import as_items, as_score, as_scores, is_text

TOGETHER = 64
"""Texts that are held in memory at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextScore:
    """What both guides think of a text.

    Attributes:
        prompt: The prompt that it answers.
        text: The text.
        ended: Whether the end of the turn after it counts.
        tuned: log p_tuned(text | prompt), in nats.
        untuned: log p_untuned(text | prompt), in nats.
        tokens: Both, token by token; None if the guides cannot tell.
        score: What the scorer says; None without one.
    """

    prompt: Prompt
    text: str
    ended: bool
    tuned: float
    untuned: float
    tokens: TokenScores | None = None
    score: float | None = None

    @property
    def ratio(self) -> float:
        """The log-ratio, log p_tuned - log p_untuned, in nats."""
        return self.tuned - self.untuned


def score_texts(
    guides: BaseGuidePair,
    prompts: Sequence[str | Prompt],
    texts: Sequence[str],
    ended: Sequence[bool] | None = None,
    *,
    scorer: Scorer | None = None,
    engine: Engine | None = None,
    places: Sequence[str] | None = None,
) -> list[TextScore]:
    """Ask guides what they think of given texts, token by token where they can tell.

    Searches may run meanwhile: they wait while the guides read some of the texts.

    Args:
        guides: The guides.
        prompts: One per text; an equal one is read once.
        texts: The texts.
        ended: Whether each text ended its turn, so that its end token counts; by default all did.
        scorer: Scores the texts, too.
        engine: The engine that runs models; by default the one of the process.
        places: Where each text comes from, for messages.

    Raises:
        ConfigError: ``guides`` is no pair of guides.
        PromptError: A text is no text, or longer with its prompt than a guide can read.
        ScorerError: The arguments have different lengths, or a part returned what is no score.
    """
    if not isinstance(cast("object", guides), BaseGuidePair):
        raise ConfigError(f"guides must be a pair of guides, not {shown(guides)}; give a GuidePair")
    ended = [True] * len(texts) if ended is None else ended
    places = [f"text {at}" for at in range(1, len(texts) + 1)] if places is None else places
    if not len(prompts) == len(texts) == len(ended) == len(places):
        raise ScorerError(
            f"got {len(prompts)} prompts, {len(texts)} texts, {len(ended)} ended flags and "
            f"{len(places)} places; give one of each per text"
        )
    reader = _Reader(guides, scorer, shared_engine() if engine is None else engine)
    known = [Prompt(text=prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    for place, prompt, text in zip(places, known, texts, strict=True):
        reader.check(place, prompt, text)
    found: list[TextScore] = []
    for begin in range(0, len(texts), TOGETHER):
        part = slice(begin, begin + TOGETHER)
        roots = {prompt: Hypothesis.root(prompt) for prompt in known[part]}
        answers = [
            roots[prompt].extend(text, finish_reason="eos" if end else "length")
            for prompt, text, end in zip(known[part], texts[part], ended[part], strict=True)
        ]
        found += reader.read(answers, places[part])
    return found


class _Reader:
    def __init__(self, guides: BaseGuidePair, scorer: Scorer | None, engine: Engine) -> None:
        self.pair = BaseGuidePair.of(guides)
        self.scorer = scorer
        self.engine = engine
        self.tells_tokens = tells_tokens(guides)

    def check(self, place: str, prompt: Prompt, text: str) -> None:
        """Refuse what cannot be read, before any model runs."""
        if not is_text(text):
            raise PromptError(f"{place} is no text of whole characters: {shown(text)}")
        sampling = SamplingParams(max_tokens=1)
        try:
            self.pair.check(prompt, sampling)
            if self.scorer is not None:
                Scorer.of(self.scorer).check(prompt, sampling)
        except PromptError as error:
            raise PromptError(f"{place}: {error}") from error

    def read(self, answers: Sequence[Hypothesis], places: Sequence[str]) -> list[TextScore]:
        """Score texts together; if that fails, find the one that is to blame."""
        try:
            with self.engine.turn():
                return list(self._scores(answers))
        except PromptError:
            for place, answer in zip(places, answers, strict=True):
                try:
                    with self.engine.turn():
                        list(self._scores([answer]))
                except PromptError as error:
                    raise PromptError(f"{place}: {error}") from error
            raise

    def _scores(self, answers: Sequence[Hypothesis]) -> Iterator[TextScore]:
        source = f"the guide pair {self.pair.__class__.__name__}"
        pairs = as_items(self.pair.loglikelihoods(answers), len(answers), source)
        tokens = self.pair.token_scores(answers) if self.tells_tokens else [None] * len(answers)
        scores: Sequence[float | None] = [None] * len(answers)
        if self.scorer is not None:
            whose = f"the scorer {type(self.scorer).__name__}"
            scores = as_scores(self.scorer.score(answers), answers, whose)
        for h, both, own, score in zip(answers, pairs, tokens, scores, strict=True):
            tuned, untuned = (as_score(value, h, source) for value in as_items(both, 2, source))
            yield TextScore(
                prompt=h.prompt,
                text=h.response,
                ended=h.ended,
                tuned=tuned,
                untuned=untuned,
                tokens=own,
                score=score,
            )


def tells_tokens(guides: BaseGuidePair) -> bool:
    """Return whether guides can tell scores of single tokens."""
    try:
        BaseGuidePair.of(guides).check_token_scores()
    except ConfigError:
        return False
    return True
