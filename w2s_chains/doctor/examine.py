"""Look at the parts of a config: proposer, guides, scorer, and whether they suit the strategy."""

from __future__ import annotations

import time
from collections.abc import Sequence

from w2s_chains.backend.loading.config import Model
from w2s_chains.config.sections import W2SConfig
from w2s_chains.core.asks import Expand
from w2s_chains.core.prompts import Prompt
from w2s_chains.core.sampling import SamplingParams
from w2s_chains.doctor.diagnosis import Diagnosis, LocalFacts, size
from w2s_chains.doctor.models import (
    Found,
    check_same_prompt,
    compare_vocabularies,
    examine_local,
    facts_of,
    guides_of,
    told,
)
from w2s_chains.doctor.servers import examine_langchain, examine_openai, examine_remote_guide
from w2s_chains.langchain.load import load as load_model
from w2s_chains.proposers.langchain import LangChainConfig, LangChainProposer
from w2s_chains.proposers.openai import OpenAIConfig, OpenAIProposer

_ABILITIES: dict[type, frozenset[str]] = {
    OpenAIConfig: OpenAIProposer.abilities,
    LangChainConfig: LangChainProposer.abilities,
}
SMALL = 10**9
"""Bytes of weights that are loaded unasked: that takes seconds."""


def examine(
    diagnosis: Diagnosis,
    config: W2SConfig,
    prompt: Prompt,
    asks: Sequence[Expand],
    timeout: float | None,
) -> list[LocalFacts]:
    """Look at the proposer, the guides and the scorer; return facts of those in this process.

    Args:
        diagnosis: Where to tell what is found.
        config: The config.
        prompt: The sample prompt.
        asks: What the strategy asks for, of each kind.
        timeout: Seconds to wait for each call of a server; None calls none.
    """
    sampling = SamplingParams(
        **{name: getattr(config.generation, name) for name in SamplingParams.model_fields}
    )
    proposer = _proposer(diagnosis, config, prompt, asks, sampling, timeout)
    guides: list[Found] = []
    for role, spec in guides_of(config):
        if isinstance(spec, Model):
            guides.append(examine_local(diagnosis, role, spec, prompt, sampling.max_tokens))
        else:
            guides.append(Found(role=role, spec=spec))
            diagnosis.served.append(examine_remote_guide(diagnosis, role, spec, prompt, timeout))
    with told(diagnosis, "scorer"):
        if config.scoring is not None:
            config.scoring.preview()
            if config.scoring.type == "reward_model":
                diagnosis.tell("note", "scorer", "memory of its reward model is not counted here")
    if config.guides is not None:
        compare_vocabularies(diagnosis, proposer, guides[:2])
        check_same_prompt(diagnosis, guides, prompt)
    _check_strategy(diagnosis, config, proposer, guides)
    first: dict[str, str] = {}
    for one in (proposer, *guides):
        shares = None
        if isinstance(one.spec, Model):
            other = first.setdefault(one.spec.weights, one.role)
            shares = None if other == one.role else other
        facts = facts_of(one, prompt, sampling.max_tokens, diagnosis.effort, proposer, shares)
        diagnosis.local += () if facts is None else (facts,)
    return diagnosis.local


def _proposer(
    diagnosis: Diagnosis,
    config: W2SConfig,
    prompt: Prompt,
    asks: Sequence[Expand],
    sampling: SamplingParams,
    timeout: float | None,
) -> Found:
    spec = config.proposer
    if isinstance(spec, Model):
        return examine_local(diagnosis, "proposer", spec, prompt, sampling.max_tokens)
    if isinstance(spec, OpenAIConfig):
        found, served = examine_openai(diagnosis, spec, prompt, asks, sampling, timeout)
    elif isinstance(spec, LangChainConfig):
        found, served = examine_langchain(diagnosis, spec, prompt, asks, sampling)
    else:
        diagnosis.tell(
            "note",
            "proposer",
            f"type {spec.type!r} comes from another package, which alone knows more about it",
        )
        return Found(role="proposer", spec=spec)
    diagnosis.served.append(served)
    return found


def _check_strategy(
    diagnosis: Diagnosis, config: W2SConfig, proposer: Found, guides: Sequence[Found]
) -> None:
    """Tell of what a strategy needs and does not have, as far as that shows without weights."""
    strategy = config.strategy
    if strategy.needs_scorer and config.scoring is None:
        diagnosis.tell(
            "failure",
            "strategy",
            f"{strategy.type!r} chooses by a score, but there is no scorer; give guides (tuned, "
            "untuned) or a scorer, or use strategy sampling",
        )
    if strategy.scores_partial and not getattr(config.scoring, "partial", True):
        diagnosis.tell(
            "failure",
            "strategy",
            f"{strategy.type!r} scores texts that go on, but the scorer judges whole answers only "
            "(partial: false); use strategy best_of_n, or set partial to true",
        )
    if config.generation.temperature == 0 and strategy.branches > 1 and not strategy.needs:
        diagnosis.tell(
            "warning",
            "strategy",
            "temperature is 0, so all candidates of a text are alike and there is nothing to "
            "choose; raise it (0.7)",
        )
    local = isinstance(proposer.spec, Model)
    abilities = _ABILITIES.get(type(proposer.spec))
    if abilities is not None and (strategy.token_steering or strategy.needs - abilities):
        diagnosis.tell(
            "failure",
            "strategy",
            f"{strategy.type!r} needs more of the proposer than samples, which only a model in "
            "this process can do; use another strategy, or a proposer of type huggingface",
        )
    pair = [one.tokenizer for one in guides[:2]]
    if strategy.token_steering and local and proposer.tokenizer is not None:
        if config.guides is None or any(not isinstance(one.spec, Model) for one in guides[:2]):
            diagnosis.tell(
                "failure", "strategy", f"{strategy.type!r} steers every token, which needs guides "
                "in this process; give guides (tuned, untuned), or another strategy",
            )  # fmt: skip
        elif any(one and one.vocabulary != proposer.tokenizer.vocabulary for one in pair):
            diagnosis.tell(
                "failure",
                "strategy",
                f"{strategy.type!r} steers every token, which needs guides that share the "
                "proposer's vocabulary, and these do not; use guides of its family, or a strategy "
                "without steering",
            )


def load_small(
    diagnosis: Diagnosis,
    config: W2SConfig,
    facts: Sequence[LocalFacts],
    prompt: Prompt,
    load: bool | None,
) -> None:
    """Load the models if asked to, or if they are small; check what only that can show.

    Args:
        diagnosis: Where to tell what is found.
        config: The config.
        facts: The models in this process.
        prompt: The sample prompt.
        load: Whether to load them; None if they are small, here, and nothing has failed.
    """
    own = [one.weights for one in facts if one.shares is None]
    weights = None if None in own else sum(one or 0 for one in own)
    known = isinstance(config.proposer, Model | OpenAIConfig | LangChainConfig)
    small = known and weights is not None and weights <= SMALL
    small = small and all(one.fetched for one in facts)
    if diagnosis.failures:
        if load:
            diagnosis.tell("note", "models", "not loaded, since an answer will fail anyway")
        return
    if not (small if load is None else load):
        if facts:
            diagnosis.tell(
                "note",
                "models",
                f"weights ({size(weights)}) were not loaded; --load also checks that they are "
                "whole, and that a search reads these models exactly",
            )
        return
    began = time.monotonic()
    with told(diagnosis, "models"):
        model = load_model(diagnosis.config)
        model.jobs([prompt])
        diagnosis.loaded = time.monotonic() - began
