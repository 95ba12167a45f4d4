"""``starter``: a commented config for a situation, as ``w2s init`` writes it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

import jinja2
import yaml

from w2s_chains.config.sections import ModelType
from w2s_chains.errors import ConfigError
from w2s_chains.guides.presets import preset

FILL_IN = "FILL-IN"
"""Begins every name that the user has to write; the line says so, too."""

Place = Literal["demo", "local", "server"]
Engine = Literal["vllm", "ollama", "llama.cpp", "openai", "other"]
Pair = Literal["demo", "models", "preset", "lora", "prompts"]

URLS: dict[Engine, str] = {
    "vllm": "http://localhost:8000/v1",
    "ollama": "http://localhost:11434/v1",
    "llama.cpp": "http://localhost:8080/v1",
    "openai": "https://api.openai.com/v1",
    "other": "http://localhost:8000/v1",
}
"""Where each engine listens unless it is told otherwise."""

WHOLE_ANSWERS = ("ollama", "openai")
"""Engines that cannot go on with a partial answer, so that only whole answers are searched."""

DEMO_MODEL = "embedded:smollm2-135m-instruct"


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a starter is for; None where nothing was said.

    Attributes:
        kind: "llm" for texts that go on, "chat" for conversations.
        place: Where the large model runs: the embedded demo, in this process, or on a server.
        model: Its name there.
        engine: Which server.
        url: The server's URL.
        key: The environment variable that holds its key.
        tokenizer: The served model's tokenizer, a hub id or a folder.
        pair: Which guides.
        tuned: The tuned guide of "models"; the adapter of "lora".
        untuned: The untuned guide of "models"; the base of "lora".
        preset: The name of a preset.
    """

    kind: ModelType = "llm"
    place: Place = "demo"
    model: str | None = None
    engine: Engine = "other"
    url: str | None = None
    key: str | None = None
    tokenizer: str | None = None
    pair: Pair = "demo"
    tuned: str | None = None
    untuned: str | None = None
    preset: str | None = None

    @property
    def own_tokenizer(self) -> str | None:
        """The served model's tokenizer; a chat's is what vLLM serves, unless something else is."""
        named = self.tokenizer is None and self.engine == "vllm" and self.kind == "chat"
        return (self.model or f"{FILL_IN}/served-model") if named else self.tokenizer

    @property
    def renders_there(self) -> bool:
        """Whether the server applies the chat template, since we do not have it."""
        return self.engine in WHOLE_ANSWERS or (self.kind == "chat" and self.own_tokenizer is None)

    @property
    def whole(self) -> bool:
        """Whether the proposer can only return whole answers."""
        return self.place == "server" and self.renders_there

    @property
    def sample(self) -> str:
        """A prompt to try it with."""
        return "How was the film?" if self.kind == "chat" else "The best thing about this film"


def starter(situation: Situation, file: str) -> str:
    """Return a config with comments, which ``load_config`` reads as it is.

    Args:
        situation: What it is for.
        file: Its name, for the commands at its end.

    Raises:
        ConfigError: There is no such preset.
    """
    if situation.pair == "preset" and situation.preset is not None:
        preset(situation.preset)
    text = files("w2s_chains.config").joinpath("starter.yaml.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined, autoescape=False,
    )  # fmt: skip
    environment.filters["yaml"] = _scalar
    url = situation.url or URLS[situation.engine]
    return environment.from_string(text).render(
        s=situation, url=url, FILL_IN=FILL_IN, commands=commands(situation, file)
    )


def commands(situation: Situation, file: str) -> list[str]:
    """Return the two commands to run next."""
    name = shlex.quote(file) if file.isprintable() else "FILE"
    return [f"w2s doctor {name}", f"w2s run {name} {shlex.quote(situation.sample)}"]


def _scalar(value: str) -> str:
    """Write a text as YAML, in quotes where it needs them."""
    if not value:
        raise ConfigError("a name is empty; give one, or leave the option out")
    return yaml.safe_dump([value], default_flow_style=True, width=10**9, allow_unicode=True)[1:-2]
