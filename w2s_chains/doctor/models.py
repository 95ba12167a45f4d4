"""Models in this process: what is known of them before their weights are loaded."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from w2s_chains.backend.loading.config import Model
from w2s_chains.backend.loading.load import Outline, outline
from w2s_chains.backend.text.tokenizer import Tokenizer, warn_of_raw_prompts
from w2s_chains.config.sections import W2SConfig
from w2s_chains.config.starter import FILL_IN
from w2s_chains.core.prompts import Prompt
from w2s_chains.doctor.diagnosis import Diagnosis, Effort, LocalFacts, Rendered
from w2s_chains.doctor.memory import cache_bytes
from w2s_chains.doctor.rendering import attempt, lacks_template
from w2s_chains.errors import W2SError
from w2s_chains.guides.config import Guides, GuideSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A model that was looked at.

    Attributes:
        role: What it does.
        spec: Its section of the config.
        outline: What is known of it; None if it is elsewhere.
        tokenizer: Its tokenizer; None if only a server knows.
    """

    role: str
    spec: object
    outline: Outline | None = None
    tokenizer: Tokenizer | None = None


def guides_of(config: W2SConfig) -> Iterator[tuple[str, GuideSpec]]:
    """Yield every guide with its role: those of the config, and those that scorers load."""
    pairs: list[tuple[str, Guides]] = []
    if config.guides is not None:
        pairs.append(("", config.guides))
    if config.scoring is not None:
        own = config.scoring.own_guides()
        pairs += [(f" {i} of the scorer", pair) for i, pair in enumerate(own, 1)]
    for name, pair in pairs:
        for role, spec in zip(("tuned guide", "untuned guide"), pair.specs(), strict=True):
            yield role + name, spec


@contextmanager
def warned(diagnosis: Diagnosis, about: str) -> Generator[None]:
    """Tell of warnings of ours about a part."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for one in caught:
        if one.category.__module__.startswith("w2s_chains"):
            diagnosis.tell("warning", about, one.message)


@contextmanager
def told(diagnosis: Diagnosis, about: str) -> Generator[None]:
    """Tell of an error of ours about a part as a failure, and of warnings."""
    with warned(diagnosis, about):
        try:
            yield
        except W2SError as error:
            diagnosis.tell("failure", about, error)


def is_filled_in(diagnosis: Diagnosis, about: str, *names: str | None) -> bool:
    """Tell of names that ``w2s init`` left to the user."""
    for name in names:
        if name and FILL_IN in name:
            diagnosis.tell(
                "failure", about, f"{name!r} stands for a name of yours; write that into the config"
            )
            return False
    return True


def examine_local(
    diagnosis: Diagnosis,
    role: str,
    spec: Model,
    prompt: Prompt,
    max_tokens: int,
) -> Found:
    """Look at a model without its weights; facts follow by ``facts_of``."""
    found = Found(role=role, spec=spec)
    if not is_filled_in(diagnosis, role, spec.model, spec.adapter):
        return found
    with told(diagnosis, role):
        known = outline(spec)
        warn_of_raw_prompts(known.tokenizer, spec.model_fields_set)
        found = Found(role=role, spec=spec, outline=known, tokenizer=known.tokenizer)
        if lacks_template(known.tokenizer, spec, diagnosis.type):
            diagnosis.tell(
                "note" if "guide" in role else "warning",
                role,
                f"the tokenizer of {spec.model!r} has no chat template, so conversations are read "
                "as plain text (role: content); set template, or use a model that has one",
            )
        known.check_length(prompt, max_tokens, "guide" if "guide" in role else role)
    return found


def facts_of(
    found: Found, prompt: Prompt, max_tokens: int, effort: Effort | None, proposer: Found | None,
    shares: str | None,
) -> LocalFacts | None:  # fmt: skip
    """Return what a report says of a model in this process; None if it could not be looked at."""
    known = found.outline
    if known is None:
        return None
    reading = attempt(known.tokenizer, prompt)
    adapter = found.spec.adapter if isinstance(found.spec, Model) else None
    ratio = _ratio(known.tokenizer, proposer and proposer.tokenizer, prompt)
    return LocalFacts(
        role=found.role,
        model=known.name + ("" if adapter is None else f" with adapter {adapter}"),
        devices=known.devices,
        dtype=known.dtype,
        parameters=known.parameters,
        weights=known.weight_bytes,
        cache_per_token=known.bytes_per_token,
        cache=None
        if effort is None or isinstance(reading, W2SError)
        else cache_bytes(known, reading.tokens or 0, max_tokens, ratio, effort),
        context=known.max_positions,
        vocabulary=known.tokenizer.size,
        rendered=None if isinstance(reading, W2SError) else reading,
        fetched=known.fetched,
        shares=shares,
    )


def _ratio(own: Tokenizer, other: Tokenizer | None, prompt: Prompt) -> float:
    """Return how many tokens a text has here for one token of the proposer; at least 1."""
    if other is None:
        return 1.0
    text = prompt.plain_text
    return max(len(own.encode(text)) / max(len(other.encode(text)), 1), 1.0)


def compare_vocabularies(diagnosis: Diagnosis, proposer: Found, guides: list[Found]) -> None:
    """Say whether guides and proposer share a vocabulary, compared by content."""
    known = [(one.role, one.tokenizer) for one in guides if one.tokenizer is not None]
    if not known:
        return
    own = proposer.tokenizer
    if own is None:
        diagnosis.vocabulary = (
            "unknown: the proposer's tokenizer is not here, so guides read its text"
        )
    else:
        others = [role for role, one in known if one.vocabulary != own.vocabulary]
        diagnosis.vocabulary = (
            "shared: guides read the proposer's token ids"
            if not others
            else f"not shared by {', '.join(others)}: text is tokenised again for them, which is "
            "exact, but a partial text may end inside one of their tokens (noise in its score)"
        )
    kinds = {one.vocabulary for _, one in known}
    if len(kinds) > 1 and len(known) == 2:
        diagnosis.tell(
            "warning",
            "guides",
            "the two guides have different vocabularies, which adds noise to scores of partial "
            "texts; prefer guides of one family, or longer chunks",
        )


def _pieces(reading: Rendered | W2SError) -> object:
    return reading.pieces if isinstance(reading, Rendered) else object()  # equal to no other


def check_same_prompt(diagnosis: Diagnosis, guides: list[Found], prompt: Prompt) -> None:
    """Tell of two guides with the same weights that read the prompt alike, and cannot differ."""
    specs = [one.spec for one in guides[:2]]
    tokenizers = [one.tokenizer for one in guides[:2]]
    [tuned, untuned] = specs if len(specs) == 2 else [None, None]
    if (
        isinstance(tuned, Model)
        and isinstance(untuned, Model)
        and (tuned.weights, tuned.adapter) == (untuned.weights, untuned.adapter)
        and all(tokenizers)
        and len({_pieces(attempt(one, prompt)) for one in tokenizers if one}) == 1
    ):
        diagnosis.tell(
            "failure",
            "guides",
            "both guides are the same model and read the prompt alike, so that they can never "
            "differ; give two models, an adapter, or two templates",
        )
