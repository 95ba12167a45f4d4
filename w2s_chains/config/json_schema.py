"""The JSON schema of configs, for editors."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, Field, create_model
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from w2s_chains.backend.loading.spec import Model
from w2s_chains.config.scorer import SCORERS, MixtureConfig, MixturePart
from w2s_chains.config.sections import W2SConfig
from w2s_chains.core.plugins import all_plugins
from w2s_chains.core.sampling import SamplingParams
from w2s_chains.guides.config import AdapterPair, Guides, PresetPair, PromptPair
from w2s_chains.guides.presets import presets
from w2s_chains.proposers import PROPOSERS, ProposerConfig
from w2s_chains.scorers import SINGLE_SCORERS, LogRatioConfig, ScorerConfig
from w2s_chains.search import STRATEGIES, ChunkBeamSearch, SearchStrategy


def config_schema() -> dict[str, Any]:
    """The JSON schema of a config, with the types that installed packages bring.

    ``w2s schema > w2s.schema.json`` writes it to a file; with the built-in types alone it is in
    this package, as ``w2s.schema.json``. An editor with a YAML language server checks a config,
    and completes and explains its fields, if its first line is

        # yaml-language-server: $schema=w2s.schema.json

    The schema refuses what ``load_config`` refuses, but for what one field says about another
    (a ``system`` message needs ``chat``). It is stricter about values that stand for others, such
    as the number "4" in quotes.

    Raises:
        ConfigError: A part of an installed package cannot be imported.
    """
    names: Any = Literal[tuple(presets())]
    preset = create_model("PresetPair", __base__=PresetPair, preset=(names, ...))
    guide = Guides | AdapterPair | PromptPair | preset | names
    fields: dict[str, Any] = {
        "proposer": (_one_of("proposers", {**PROPOSERS, "huggingface": HuggingFace}), ...),
        "guide": (guide | None, None),
        "scorer": (_one_of("scorers", {**SCORERS, "mixture": _mixture()}) | None, None),
        "strategy": (_one_of("strategies", STRATEGIES), Field(default_factory=ChunkBeamSearch)),
    }
    config = create_model("W2SConfig", __base__=W2SConfig, **fields)
    schema = config.model_json_schema(schema_generator=_Documented)
    return {"$schema": _Documented.schema_dialect, **schema}


class HuggingFace(Model):
    """A Hugging Face model in this process."""

    type: Literal["huggingface"] = "huggingface"


def _mixture() -> type[MixtureConfig]:
    """A mixture whose parts may have the types of installed packages."""
    single = _one_of("scorers", SINGLE_SCORERS)
    part: Any = create_model("MixturePart", __base__=MixturePart, scorer=(single, LogRatioConfig()))
    parts = Annotated[tuple[part, ...], Field(min_length=1)]
    return create_model("MixtureConfig", __base__=MixtureConfig, parts=(parts, ...))


def _one_of(kind: str, builtin: Mapping[str, type[BaseModel]]) -> Any:
    classes = tuple(all_plugins(kind, builtin).values())
    if len(classes) == 1:
        return classes[0]
    return Annotated[Union[classes], Field(discriminator="type")]  # noqa: UP007


class _Documented(GenerateJsonSchema):
    """Takes descriptions from docstrings, and knows what validators take or refuse."""

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        cls: type[BaseModel] = schema["cls"]
        found = super().model_schema(schema)
        found["description"] = _summary(cls)
        properties = found.get("properties", {})
        for name, text in _attributes(cls).items():
            if name in properties:
                properties[name].setdefault("description", text)
        if (
            issubclass(cls, SearchStrategy | ScorerConfig | ProposerConfig)
            and cls is not LogRatioConfig
        ):
            found["required"] = ["type", *found.get("required", ())]
        if issubclass(cls, SamplingParams):
            stop = properties["stop"]
            several = {key: stop.pop(key) for key in ("type", "items")}
            stop["anyOf"] = [several, several["items"], {"type": "null"}]
        return found


def _summary(cls: type[BaseModel]) -> str:
    """The docstring without its sections, one line for each paragraph."""
    text = re.split(r"\n\n\w+:\n", inspect.getdoc(cls) or "")[0]
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text).replace("``", "`")


def _attributes(cls: type[BaseModel]) -> dict[str, str]:
    """What docstrings say about the fields of a class and its bases."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        section = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2]
        for name, text in re.findall(r"(?m)^ {4}(\w+): (.*(?:\n {8}.*)*)", section):
            texts[name] = " ".join(text.split()).replace("``", "`")
    return texts
