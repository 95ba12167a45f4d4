"""The section ``guide`` of a config: two guides, or a shorthand for them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Discriminator, Tag, model_validator

from w2s_chains.backend.loading.spec import Model, ModelName, ModelOptions
from w2s_chains.backend.text.template import Template
from w2s_chains.core.plugins import did_you_mean
from w2s_chains.errors import ConfigError
from w2s_chains.guides.presets import preset, presets
from w2s_chains.guides.remote import RemoteGuideConfig


def _kind_of_guide(value: Any) -> str:
    if isinstance(value, str | os.PathLike):
        return "name"
    served = isinstance(value, RemoteGuideConfig) or (
        isinstance(value, Mapping) and "base_url" in value
    )
    return "served" if served else "spec"


GuideSpec = Model | RemoteGuideConfig
"""What one guide is built from."""

GuideRef = Annotated[
    Annotated[ModelName, Tag("name")]
    | Annotated[Model, Tag("spec")]
    | Annotated[RemoteGuideConfig, Tag("served")],
    Discriminator(_kind_of_guide),
]
"""A model by name alone, with options of its own, or behind a server."""


class Guides(ModelOptions):
    """The guide pair; options beside ``tuned`` and ``untuned`` hold for those given by name.

    Attributes:
        tuned: Model reference, a mapping of ``Model``, or of ``RemoteGuideConfig`` (with a
            ``base_url``).
        untuned: Likewise.
    """

    tuned: GuideRef
    untuned: GuideRef

    def specs(self) -> tuple[GuideSpec, GuideSpec]:
        """What the tuned and the untuned guide are built from."""
        shared = _options(self)
        tuned, untuned = (
            Model(model=ref, **shared) if isinstance(ref, str) else ref
            for ref in (self.tuned, self.untuned)
        )
        return tuned, untuned


class AdapterPair(ModelOptions):
    """One base with a LoRA adapter: on for the tuned guide, off for the untuned one.

    The base's weights are loaded once, and both guides read in one forward pass.

    Attributes:
        base: Hub id, local folder, GGUF file, or ``embedded:NAME``.
        adapter: Hub id or local folder of what peft saved, as safetensors.
    """

    base: ModelName
    adapter: ModelName

    def section(self) -> Guides:
        untuned = Model(model=self.base, **_options(self))
        tuned = Model(model=self.base, adapter=self.adapter, **_options(self))
        return Guides(tuned=tuned, untuned=untuned)


class PromptPair(ModelOptions):
    """One model under two prompts; it is loaded once, and reads both in one forward pass.

    If model and load options are the proposer's, its weights are shared too.

    Attributes:
        model: Hub id, local folder, GGUF file, or ``embedded:NAME``.
        tuned_template: How the tuned guide reads a prompt, such as "A five-star review: {prompt}";
            by default as ``template`` says, and likewise below.
        untuned_template: How the untuned guide reads it.
        tuned_system: System message of the tuned guide. Needs ``chat``.
        untuned_system: System message of the untuned guide. Needs ``chat``.
    """

    model: ModelName
    tuned_template: Template | None = None
    untuned_template: Template | None = None
    tuned_system: str | None = None
    untuned_system: str | None = None

    @model_validator(mode="after")
    def _two_prompts(self) -> PromptPair:
        tuned, untuned = (self.prompt_of(role) for role in ("tuned", "untuned"))
        if tuned == untuned:
            raise ValueError(
                "both guides read the prompt in the same way, so that they can never differ; give "
                "two templates (tuned_template, untuned_template), or with chat two system "
                "messages (tuned_system, untuned_system)"
            )
        return self

    def prompt_of(self, role: str) -> dict[str, Any]:
        """The template and the system message of one guide, where they are given."""
        own = {name: getattr(self, f"{role}_{name}") for name in ("template", "system")}
        given = {name: value for name, value in own.items() if value is not None}
        return {k: v for k, v in _options(self).items() if k in ("template", "system")} | given

    def section(self) -> Guides:
        tuned, untuned = (
            Model(model=self.model, **{**_options(self), **self.prompt_of(role)})
            for role in ("tuned", "untuned")
        )
        return Guides(tuned=tuned, untuned=untuned)


class PresetPair(ModelOptions):
    """A pair by its name; what is given beside it wins over what the preset says.

    Attributes:
        preset: One of the paper's pairs (zephyr, starling, tulu, gpt2-imdb), or one in the YAML
            file that the environment variable ``W2S_PRESETS`` names.
        tuned: Another tuned guide than the preset's.
        untuned: Another untuned guide than the preset's.
    """

    preset: str
    tuned: GuideRef | None = None
    untuned: GuideRef | None = None

    def section(self) -> Guides:
        own = {name: getattr(self, name) for name in self.model_fields_set - {"preset"}}
        return build_guide({**preset(self.preset), **own})


_SHORTHANDS: Mapping[type[BaseModel], frozenset[str]] = {
    PresetPair: frozenset({"preset"}),
    Guides: frozenset({"tuned", "untuned"}),
    AdapterPair: frozenset({"base", "adapter"}),
    PromptPair: frozenset(
        {"model", *(set(PromptPair.model_fields) - set(ModelOptions.model_fields))}
    ),
}
"""What tells the forms of the section apart; the first that matches counts."""


def section_type(value: Mapping[str, Any]) -> type[BaseModel] | None:
    """Which form of the section a mapping has; None if nothing tells."""
    return next((kind for kind, names in _SHORTHANDS.items() if names & value.keys()), None)


def build_guide(value: Any) -> Any:
    """Two guides, whatever the section says: a preset's name, or a mapping of any form.

    Raises:
        ConfigError: The mapping has no known form, or the preset is unknown.
    """
    if isinstance(value, str):
        value = {"preset": value}
    if not isinstance(value, Mapping):
        return value
    kind = section_type(value)
    if kind is None:
        raise ConfigError(
            "the section guide has 'tuned' and 'untuned', or 'base' and 'adapter', or 'model' with "
            "'tuned_template' and 'untuned_template', or it is the name of a preset"
            f"{did_you_mean('', presets())}"
        )
    section: Any = kind.model_validate(value)
    return section if isinstance(section, Guides) else section.section()


AnyGuide = Annotated[Guides, BeforeValidator(build_guide)]
"""A config slot for a guide pair, in any form."""


def _options(section: ModelOptions) -> dict[str, Any]:
    """The options that are given, and no others: what is not given may be decided later."""
    given = section.model_fields_set & set(ModelOptions.model_fields)
    return {name: getattr(section, name) for name in given}
