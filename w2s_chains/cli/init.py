"""``w2s init`` and ``w2s schema``: what a config is written with."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from w2s_chains.cli.options import told_errors
from w2s_chains.errors import ConfigError, did_you_mean


def init(
    file: Annotated[str, typer.Argument(help="The config to write; - prints it.")] = "w2s.yaml",
    proposer: Annotated[
        str | None,
        typer.Option(
            metavar="demo|local|server",
            help="Where the large model runs: the embedded demo, in this process (Hugging Face), "
            "or on a server.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The large model: hub id, folder, .gguf; or its name on the server"
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="vllm|ollama|llama.cpp|openai|other",
            help="Which server; other is any with OpenAI's API.",
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="The server's URL; by default where the engine listens.")
    ] = None,
    key_env: Annotated[
        str | None,
        typer.Option(metavar="VARIABLE", help="The environment variable that holds its key."),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The served model's tokenizer: hub id or folder."),
    ] = None,
    guides: Annotated[
        str | None,
        typer.Option(
            metavar="demo|models|preset|lora|prompts",
            help="The small models: the demo's (film reviews), two models, a pair of the paper, a "
            "base with a LoRA, or one model under two prompts.",
        ),
    ] = None,
    tuned: Annotated[
        str | None, typer.Option(metavar="NAME", help="The tuned guide; with lora the adapter.")
    ] = None,
    untuned: Annotated[
        str | None, typer.Option(metavar="NAME", help="The untuned guide; with lora the base.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="zephyr, starling, tulu, gpt2-imdb, or yours")
    ] = None,
    chat: Annotated[
        bool | None, typer.Option("--chat/--llm", help="Conversations, or texts that go on.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    ask: Annotated[
        bool, typer.Option(help="On a terminal, ask for what is not said; else take defaults.")
    ] = True,
) -> None:
    """Write a commented config to begin with.

    With no option it is the embedded demo, which runs at once.

    w2s init                                            what runs at once

    w2s init --engine ollama --model llama3.2           a model behind a server

    w2s init --model my/8b --preset zephyr              in this process

    w2s init my.yaml --model my/8b --tuned my/1b-dpo --untuned my/1b
    """
    from w2s_chains.config.starter import commands, starter

    said = {
        "place": proposer, "model": model, "engine": engine, "url": url, "key": key_env,
        "tokenizer": tokenizer, "pair": guides, "tuned": tuned, "untuned": untuned,
        "preset": preset, "kind": None if chat is None else "chat" if chat else "llm",
    }  # fmt: skip
    with told_errors():
        if file != "-" and os.path.lexists(file) and not force:
            raise ConfigError(f"{file!r} is there already; give another name, or --force")
        asks = ask and sys.stdin.isatty() and sys.stderr.isatty()
        situation = _situation({name: one for name, one in said.items() if one is not None}, asks)
        text = starter(situation, "FILE" if file == "-" else file)
        if file == "-":
            print(text, end="")
            return
        try:
            with Path(file).open("w" if force else "x", encoding="utf-8") as out:
                out.write(text)
        except OSError as error:
            raise ConfigError(f"cannot write {file!r}: {error.strerror}") from error
        print(f"{file} is written. Next:\n")
        print("\n".join(f"  {command}" for command in commands(situation, file)))
        if left := [line for line in text.splitlines() if "<- FILL IN" in line]:
            print(f"\nFirst fill in {len(left)} name{'s' if len(left) > 1 else ''}:\n")
            print("\n".join(left))


def _situation(said: dict[str, Any], asks: bool) -> Any:
    """Complete what was said: by what follows from it, by asking, else by defaults.

    Raises:
        ConfigError: A choice is unknown, or two options contradict each other.
    """
    from w2s_chains.config.starter import URLS, Engine, Pair, Place, Situation

    for name, choices, option in (
        ("place", Place, "proposer"), ("engine", Engine, "engine"), ("pair", Pair, "guides"),
    ):  # fmt: skip
        if (value := said.get(name)) is not None and value not in get_args(choices):
            hint = did_you_mean(value, get_args(choices))
            raise ConfigError(f"--{option} {value!r} is unknown{hint}")
    served = {"engine", "url", "key", "tokenizer"} & said.keys()
    if served:
        said.setdefault("place", "server")
    elif "model" in said:
        said.setdefault("place", "local")
    for name, pair in (("preset", "preset"), ("tuned", "models"), ("untuned", "models")):
        if name in said:
            said.setdefault("pair", pair)
    if asks:
        _ask(said, "place", "Where does the large model run? demo, local (in this process), server",
             "demo", get_args(Place))  # fmt: skip
        if said["place"] == "server":
            _ask(said, "engine", "Which server?", "other", get_args(Engine))
            _ask(said, "url", "Its URL", URLS[said["engine"]])
            _ask(said, "model", "The model's name there", None)
        elif said["place"] == "local":
            _ask(said, "model", "The model: hub id, folder or .gguf file", None)
        _ask(said, "kind", "Texts that go on, or conversations?", "llm", ("llm", "chat"))
        _ask(said, "pair", "Guides: demo (film reviews), two models, preset, lora, prompts",
             "demo", get_args(Pair))  # fmt: skip
        names = {
            "models": {"tuned": "The tuned guide", "untuned": "The untuned guide"},
            "lora": {"untuned": "The base", "tuned": "The adapter"},
            "preset": {"preset": "Preset"},
        }
        for name, label in names.get(said["pair"], {}).items():
            _ask(said, name, label, "zephyr" if name == "preset" else None)
    _check(said)
    return Situation(**said)


def _ask(
    said: dict[str, Any],
    name: str,
    question: str,
    default: str | None,
    choices: tuple[str, ...] = (),
) -> None:
    """Ask for one thing, unless it was said; nothing is said if the answer is empty."""
    from rich.console import Console
    from rich.prompt import Prompt
    from rich.text import Text

    if name in said:
        return
    console = Console(stderr=True, markup=False)
    if default is None:
        text = Text(f"{question} (empty: fill it in later)")
        found = Prompt.ask(text, console=console, default="", show_default=False)
    else:
        found = Prompt.ask(
            Text(question), console=console, default=default, choices=list(choices) or None
        )
    if found.strip():
        said[name] = found.strip()


def _check(said: dict[str, Any]) -> None:
    place, pair = said.get("place", "demo"), said.get("pair", "demo")
    wrong = [name for name in ("engine", "url", "key", "tokenizer") if name in said]
    if place != "server" and wrong:
        option = {"key": "key-env"}.get(wrong[0], wrong[0])
        raise ConfigError(f"--{option} is for a server; give --proposer server, or leave it out")
    if place == "demo" and "model" in said:
        raise ConfigError("--model is for --proposer local or server; the demo has its own")
    fitting = {"tuned": ("models", "lora"), "untuned": ("models", "lora"), "preset": ("preset",)}
    for name, pairs in fitting.items():
        if name in said and pair not in pairs:
            raise ConfigError(
                f"--{name} is for --guides {' or '.join(pairs)}, not {pair}; leave one out"
            )


def schema() -> None:
    """Print the JSON schema of configs, for editors.

    It includes the types of installed packages. Write it to a file,
    w2s schema > w2s.schema.json, and begin a config with the line
    # yaml-language-server: $schema=w2s.schema.json
    """
    from w2s_chains.config.json_schema import config_schema

    with told_errors():
        print(json.dumps(config_schema(), indent=2, ensure_ascii=False))
