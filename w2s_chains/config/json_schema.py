"""The JSON schema of configs, for editors."""

from __future__ import annotations

import inspect
import re
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from w2s_chains.config.sections import W2SConfig
from w2s_chains.core.configs import Plugin, aliases
from w2s_chains.core.sampling import SamplingParams
from w2s_chains.scorers.config import SCORER


def config_schema() -> dict[str, Any]:
    """The JSON schema of a config, with the types that installed packages bring.

    ``w2s schema > w2s.schema.json`` writes it to a file; with the built-in types alone it is in
    this package, as ``w2s.schema.json``. An editor with a YAML language server checks a config,
    and completes and explains its fields, if its first line is

        # yaml-language-server: $schema=w2s.schema.json

    The schema refuses what ``load_config`` refuses, except for what one field says about another
    (a ``system`` message needs ``chat``; width times successors has a limit).

    Raises:
        ConfigError: A part of an installed package cannot be imported.
    """
    schema = W2SConfig.model_json_schema(schema_generator=_Documented)
    return {"$schema": _Documented.schema_dialect, **schema}


def fields_of(cls: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schemas of a section's fields, each with its description."""
    return cls.model_json_schema(schema_generator=_Documented)["properties"]


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
        for name, field in cls.model_fields.items():
            for alias in aliases(field)[1:]:
                properties[alias] = {**properties[name], "deprecated": True}
        if issubclass(cls, Plugin) and cls is not SCORER.find("log_ratio"):
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
