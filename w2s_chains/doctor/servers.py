"""Models elsewhere: which server, whether its key is there, and what it can do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from w2s_chains.backend.remote.probe import Capabilities
from w2s_chains.backend.remote.server import ServerOptions
from w2s_chains.core.asks import Expand
from w2s_chains.core.prompts import Prompt
from w2s_chains.core.sampling import SamplingParams
from w2s_chains.doctor.diagnosis import Diagnosis, ServedFacts
from w2s_chains.doctor.models import Found, is_filled_in, told, warned
from w2s_chains.doctor.rendering import lacks_template, rendered, rendered_elsewhere
from w2s_chains.errors import PromptError, W2SError
from w2s_chains.guides.config import RemoteGuideConfig
from w2s_chains.guides.remote import RemoteGuide
from w2s_chains.proposers.langchain import LangChainConfig
from w2s_chains.proposers.openai import OpenAIConfig, OpenAIProposer

_BY_MESSAGES = "messages, rendered by the server with its own chat template"
CAPABILITIES = {
    "completions": "goes on with a partial answer",
    "n": "several samples in one call",
    "seed": "keeps to seeds",
    "token_ids": "takes and returns token ids",
    "logprobs": "tells log-probabilities",
    "top_logprobs": "likeliest tokens that it tells",
    "echo": "scores a given text (could hold guides)",
    "top_k": "keeps to top_k",
    "min_p": "keeps to min_p",
    "repetition_penalty": "takes repetition_penalty",
}
"""What is said of a server, in the order of the report."""


def examine_openai(
    diagnosis: Diagnosis,
    spec: OpenAIConfig,
    prompt: Prompt,
    asks: Sequence[Expand],
    sampling: SamplingParams,
    timeout: float | None,
) -> tuple[Found, ServedFacts]:
    """Ask a server what it can do, and whether it can do what the strategy asks for.

    Args:
        diagnosis: Where to tell what was found.
        spec: The proposer's section.
        prompt: The sample prompt.
        asks: What the strategy asks for.
        sampling: How it samples.
        timeout: Seconds to wait for a call; None asks nothing.
    """
    facts = _facts("proposer", spec)
    found = Found(role="proposer", spec=spec)
    if not is_filled_in(diagnosis, "proposer", spec.model, spec.base_url, spec.tokenizer):
        return found, facts
    try:
        with warned(diagnosis, "proposer"):
            proposer = OpenAIProposer.from_spec(_patient(spec, timeout))
    except W2SError as error:  # there is no such tokenizer, or the key cannot be sent
        diagnosis.tell("failure", "proposer", error)
        return found, facts
    found = replace(found, tokenizer=proposer.tokenizer)
    if found.tokenizer is not None and lacks_template(found.tokenizer, spec, diagnosis.type):
        diagnosis.tell(
            "warning",
            "proposer",
            f"tokenizer {spec.tokenizer!r} has no chat template, so conversations are sent as "
            "plain text (role: content); give the tokenizer of a chat model",
        )
    with told(diagnosis, "proposer"):
        facts = replace(facts, rendered=_rendering(proposer, spec, prompt))
        proposer.check(prompt, sampling)
    if timeout is not None:
        with told(diagnosis, "proposer"):
            facts = replace(facts, can=_capabilities(proposer.capabilities))
            if not proposer.capabilities.completions:
                sent = rendered_elsewhere(spec.template, prompt, _BY_MESSAGES, spec.system)
                facts = replace(facts, rendered=sent)
            for ask in asks:
                proposer.check_request(replace(ask, sampling=sampling))
    _judge_key(diagnosis, facts, timeout)
    _judge_capabilities(diagnosis, facts)
    return found, facts


def examine_remote_guide(
    diagnosis: Diagnosis, role: str, spec: RemoteGuideConfig, prompt: Prompt, timeout: float | None
) -> ServedFacts:
    """Have a server sample a text and score it: both must agree."""
    facts = replace(
        _facts(role, spec), rendered=rendered_elsewhere(spec.template, prompt, "template")
    )
    if not is_filled_in(diagnosis, role, spec.model, spec.base_url):
        return facts
    if timeout is not None:
        with told(diagnosis, role):
            RemoteGuide.from_spec(_patient(spec, timeout)).probe()
            facts = replace(facts, can={"echo": True})
            diagnosis.tell(
                "note",
                role,
                f"{spec.base_url} reads prompt and answer anew for every chunk; a local guide "
                "reads each token once",
            )
    _judge_key(diagnosis, facts, timeout)
    return facts


def examine_langchain(
    diagnosis: Diagnosis,
    spec: LangChainConfig,
    prompt: Prompt,
    asks: Sequence[Expand],
    sampling: SamplingParams,
) -> tuple[Found, ServedFacts]:
    """Make the client of a LangChain model, which finds packages and keys that are missing."""
    provider = spec.model.partition(":")[0]
    facts = ServedFacts(
        role="proposer",
        model=spec.model,
        server=f"LangChain's {provider}",
        rendered=rendered_elsewhere(spec.template, prompt, "messages, rendered by the provider"),
    )
    with told(diagnosis, "proposer"):
        proposer = spec.build()
        proposer.check(prompt, sampling)
        for ask in asks:
            proposer.check_request(ask)
        diagnosis.tell(
            "note", "proposer", f"{spec.model!r} was not called: what it can do is not known"
        )
    return Found(role="proposer", spec=spec), facts


def _patient(spec: Any, timeout: float | None) -> Any:
    """Return the spec with one short attempt for each call."""
    if timeout is None:
        return spec
    return spec.model_copy(update={"timeout": min(spec.timeout, timeout), "max_retries": 0})


def _facts(role: str, spec: ServerOptions) -> ServedFacts:
    variable = spec.key_variable
    return ServedFacts(
        role=role,
        model=spec.model,
        server=spec.base_url,
        key=variable,
        key_is_set=bool(variable and os.environ.get(variable)),
    )


def _rendering(proposer: OpenAIProposer, spec: OpenAIConfig, prompt: Prompt) -> Any:
    if proposer.tokenizer is not None:
        return rendered(proposer.tokenizer, prompt)
    if spec.chat is True:
        return rendered_elsewhere(spec.template, prompt, _BY_MESSAGES, spec.system)
    if spec.system is not None and spec.chat == "auto":
        raise PromptError(
            "system needs the chat template, which is not known here; set tokenizer, or chat to "
            "true (the server renders; whole answers only)"
        )
    return rendered_elsewhere(spec.template, prompt, "text, to which the server adds start tokens")


def _capabilities(can: Capabilities) -> dict[str, Any]:
    told: dict[str, Any] = {name: getattr(can, name) for name in CAPABILITIES}
    if not can.completions:  # the rest was not tried
        told = {"completions": False, "n": can.n}
    return told | {"unknown": dict(can.unknown)}


def _judge_key(diagnosis: Diagnosis, facts: ServedFacts, timeout: float | None) -> None:
    if facts.key is None or facts.key_is_set:
        return
    text = f"the environment variable {facts.key}, which should hold the key, is not set"
    if facts.can is not None:
        diagnosis.tell("warning", facts.role, f"{text}, though {facts.server} answers without it")
    else:
        remedy = f'export {facts.key}="..." (the key itself never goes into the config)'
        diagnosis.tell("failure" if timeout is None else "warning", facts.role, f"{text}; {remedy}")


def _judge_capabilities(diagnosis: Diagnosis, facts: ServedFacts) -> None:
    can = facts.can
    if can is None:
        return
    for name, why in can["unknown"].items():
        diagnosis.tell("warning", facts.role, f"whether it can {name!r} is not known: {why}")
    if not can["completions"]:
        return
    if not can["n"]:
        diagnosis.tell(
            "note", facts.role, "it ignores n: every candidate is a call of its own, with a seed"
        )
    if not can["seed"]:
        diagnosis.tell(
            "warning", facts.role, "it does not keep to seeds, so the same call differs each time"
        )
    if not can["token_ids"]:
        diagnosis.tell(
            "note",
            facts.role,
            "partial answers travel as text: a sampled text may be read back as other tokens, so "
            "candidates drift a little (greedy text is exact)",
        )
