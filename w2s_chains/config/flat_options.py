"""Flat arguments such as ``proposer_chat=True`` as the sections of a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from w2s_chains.backend.loading.spec import Model
from w2s_chains.config.sections import GenerationSection
from w2s_chains.core.plugins import did_you_mean
from w2s_chains.errors import ConfigError


def sections_of(
    proposer: str, tuned: str | None, untuned: str | None, options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Flat arguments as the sections of a config, and what belongs to the LLM itself."""
    models: dict[str, dict[str, Any]] = {"proposer": {}, "guide": {}, "tuned": {}, "untuned": {}}
    everywhere = {name: options[name] for name in ("device", "dtype") if name in options}
    sections: dict[str, Any] = {"generation": {}}
    fields: dict[str, Any] = {}
    for name, value in options.items():
        role, _, option = name.partition("_")
        if name in everywhere:
            continue
        if role in models and option:
            if option not in Model.model_fields:
                hint = did_you_mean(name, [f"{role}_{field}" for field in Model.model_fields])
                raise ConfigError(f"unknown option {name!r}{hint}")
            if role != "proposer" and tuned is None and untuned is None:
                raise ConfigError(f"option {name!r} is for a guide, but tuned and untuned are None")
            models[role][option] = value
        elif name in GenerationSection.model_fields:
            sections["generation"][name] = value
        elif name == "strategy" or (name == "guide" and isinstance(value, str | Mapping)):
            sections[name] = value
        else:
            fields[name] = value
    sections["proposer"] = {"model": proposer, **everywhere, **models["proposer"]}
    if tuned is not None or untuned is not None:
        if "guide" in sections:
            raise ConfigError("guide names the pair, and so do tuned and untuned; give one of them")
        sections["guide"] = {
            name: {"model": model, **everywhere, **models["guide"], **models[name]}
            for name, model in (("tuned", tuned), ("untuned", untuned))
            if model is not None
        }
    return sections, fields
