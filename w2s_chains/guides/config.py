"""The section ``guides`` of a config: ``Guides``, its shorthand forms, and their slot."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal, Protocol, Self, Unpack, cast

from pydantic import BaseModel, Discriminator, Field, Tag, create_model, model_validator

from w2s_chains.backend.chat.prompt_template import Template
from w2s_chains.backend.loading.config import Model, ModelFields, ModelName, ModelOptions
from w2s_chains.backend.remote.server import ServerOptions
from w2s_chains.core.configs import Checked, Config, built
from w2s_chains.core.slots import Slot
from w2s_chains.errors import ConfigError, did_you_mean
from w2s_chains.guides.presets import preset, presets


class RemoteGuideConfig(ServerOptions):
    """A guide behind an OpenAI-compatible server that returns logprobs of prompts (vLLM).

    Attributes:
        base_url: The base URL of the API, such as ``http://localhost:8000/v1``.
        template: Text in which ``{prompt}`` is replaced literally. Write out the model's chat
            format here, since conversations are sent as plain text.
        end: The token that ends a turn of this model, as text, such as ``</s>``. It is scored when
            the proposer ended its turn. Without it, the end of a turn is not scored.
    """

    base_url: str = Field()  # no default, unlike in ServerOptions
    template: Template = "{prompt}"
    end: str | None = Field(default=None, min_length=1)


def _kind_of_guide(value: Any) -> str:
    if isinstance(value, str | os.PathLike):
        return "name"
    served = isinstance(value, RemoteGuideConfig) or (
        isinstance(value, Mapping) and "base_url" in value
    )
    return "served" if served else "spec"


GuideSpec = Model | RemoteGuideConfig
"""The spec that one guide is built from."""

GuideRef = Annotated[
    Annotated[ModelName, Tag("name")]
    | Annotated[Model, Tag("spec")]
    | Annotated[RemoteGuideConfig, Tag("served")],
    Discriminator(_kind_of_guide),
]
"""A model given by its name, with its own options, or behind a server."""

GuideLike = str | os.PathLike[str] | Mapping[str, Any] | Model | RemoteGuideConfig
"""The values accepted for one guide."""


class _Form(Protocol):
    """A shorthand for a guide pair."""

    def guides(self) -> Guides: ...


class Guides(ModelOptions):
    """A tuned and an untuned guide; other options apply to guides given only by name.

    Attributes:
        tuned: The name of a model (hub id, local folder, GGUF file, ``embedded:NAME``), a
            ``Model``, or a ``RemoteGuideConfig`` (a mapping with a ``base_url``).
        untuned: The model that ``tuned`` was tuned from, in the same form.
    """

    tuned: GuideRef
    untuned: GuideRef

    def __init__(
        self,
        tuned: GuideLike,
        untuned: GuideLike,
        **options: Unpack[ModelFields],
    ) -> None:
        """Describe a pair without loading it. See the attributes of this class.

        Raises:
            ConfigError: An option is misspelt or out of range.
        """
        Checked.__init__(self, tuned=tuned, untuned=untuned, **options)

    __init__.__pydantic_base_init__ = True  # pyright: ignore[reportFunctionMemberAccess]

    def for_chat(self) -> Self:
        tuned, untuned = (
            guide.for_chat() if isinstance(guide, Config) else guide
            for guide in (self.tuned, self.untuned)
        )
        return super().for_chat().model_copy(update={"tuned": tuned, "untuned": untuned})

    def specs(self) -> tuple[GuideSpec, GuideSpec]:
        """Return the specs of the tuned and the untuned guide."""
        shared = _options(self)
        tuned, untuned = (
            Model(model=ref, **shared) if isinstance(ref, str) else ref
            for ref in (self.tuned, self.untuned)
        )
        return tuned, untuned


class AdapterPair(ModelOptions):
    """One base with a LoRA adapter: on for the tuned guide, off for the untuned one.

    The weights of the base are loaded once, and both guides run in one forward pass.

    Attributes:
        base: Hub id, local folder, GGUF file, or ``embedded:NAME``.
        adapter: Hub id or local folder of an adapter that peft saved as safetensors.
    """

    base: ModelName
    adapter: ModelName

    def guides(self) -> Guides:
        untuned = Model(model=self.base, **_options(self))
        tuned = Model(model=self.base, adapter=self.adapter, **_options(self))
        return Guides(tuned=tuned, untuned=untuned)


class PromptPair(ModelOptions):
    """One model under two prompts; it is loaded once and reads both in one forward pass.

    If the model and its load options equal the proposer's, the proposer's weights are shared too.

    Attributes:
        model: Hub id, local folder, GGUF file, or ``embedded:NAME``.
        tuned_template: Template of the tuned guide, such as "A five-star review: {prompt}"; by
            default ``template``.
        untuned_template: Template of the untuned guide; by default ``template``.
        tuned_system: System message of the tuned guide; by default ``system``. Needs ``chat``.
        untuned_system: System message of the untuned guide; by default ``system``. Needs
            ``chat``.
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
        """Return the template and the system message of one guide, as far as they are given."""
        own = {name: getattr(self, f"{role}_{name}") for name in ("template", "system")}
        given = {name: value for name, value in own.items() if value is not None}
        return {k: v for k, v in _options(self).items() if k in ("template", "system")} | given

    def guides(self) -> Guides:
        tuned, untuned = (
            Model(model=self.model, **{**_options(self), **self.prompt_of(role)})
            for role in ("tuned", "untuned")
        )
        return Guides(tuned=tuned, untuned=untuned)


class PresetPair(ModelOptions):
    """A pair given by the name of a preset; other fields override the preset.

    Attributes:
        preset: One of the paper's pairs (zephyr, starling, tulu, gpt2-imdb), or a preset from the
            YAML file named by the environment variable ``W2S_PRESETS``.
        tuned: Replaces the preset's tuned guide.
        untuned: Replaces the preset's untuned guide.
    """

    preset: str
    tuned: GuideRef | None = None
    untuned: GuideRef | None = None

    @model_validator(mode="before")
    @classmethod
    def _chat_by_default(cls, values: Any) -> Any:
        return values  # a preset sets how its guides read prompts, in a chat model too

    def guides(self) -> Guides:
        own = {name: getattr(self, name) for name in self.model_fields_set - {"preset"}}
        return GUIDES.build({"chat": False, **preset(self.preset), **own})


_FORMS: Mapping[type[BaseModel], frozenset[str]] = {
    PresetPair: frozenset({"preset"}),
    Guides: frozenset({"tuned", "untuned"}),
    AdapterPair: frozenset({"base", "adapter"}),
    PromptPair: frozenset({"model", *(PromptPair.model_fields.keys() - ModelOptions.model_fields)}),
}
"""The fields that identify each form; the first form that matches is used."""


class GuidesSlot(Slot[BaseModel]):
    """Hold a guide pair in any form, identified by its fields instead of a ``type``.

    Every form is built into ``Guides``. A string is the name of a preset.
    """

    def class_of(self, value: Any) -> type[BaseModel]:
        if not isinstance(value, Mapping):
            return Guides
        for form, telling in _FORMS.items():
            if telling & value.keys():
                return form
        raise ConfigError(
            "the guides are 'tuned' and 'untuned', or 'base' and 'adapter', or 'model' with "
            "'tuned_template' and 'untuned_template', or the name of a preset"
            f"{did_you_mean('', presets())}"
        )

    def build(self, value: Any, context: Any = None) -> Guides:
        found = super().build(value, context)
        return found if isinstance(found, Guides) else cast("_Form", found).guides()

    def json_type(self) -> Any:
        names: Any = Literal[tuple(presets())]
        preset = create_model("PresetPair", __base__=PresetPair, preset=(names, ...))
        return Guides | AdapterPair | PromptPair | preset | names


GUIDES = GuidesSlot(kind="guide pair", base=BaseModel, builtins={}, shorthand="preset")
"""The slot of the section ``guides`` of a config, in any form."""


build_guide = partial(built, GUIDES)

AnyGuides = Annotated[Guides, GUIDES]
"""The type of a config field that holds a guide pair, in any form."""


def _options(section: ModelOptions) -> dict[str, Any]:
    """Return only the options that were given, since the others may be decided later."""
    given = section.model_fields_set & set(ModelOptions.model_fields)
    return {name: getattr(section, name) for name in given}
