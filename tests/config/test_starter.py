"""Every config that ``w2s init`` can write loads as it is, and fits a terminal."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from w2s_chains.backend.loading.config import Model
from w2s_chains.config.files import load_config
from w2s_chains.config.sections import W2SConfig
from w2s_chains.config.starter import (
    FILL_IN,
    WHOLE_ANSWERS,
    Engine,
    Pair,
    Situation,
    commands,
    starter,
)
from w2s_chains.errors import ConfigError
from w2s_chains.proposers.openai import OpenAIConfig

NAMED = {"model": "my/model", "tuned": "a/tuned", "untuned": "a/base", "preset": "zephyr"}


def read(tmp_path: Path, situation: Situation) -> tuple[str, W2SConfig]:
    path = tmp_path / "w2s.yaml"
    path.write_text(starter(situation, path.name), encoding="utf-8")
    config = load_config(path)
    config.check()
    return path.read_text(encoding="utf-8"), config


PLACES = [("demo", "other"), ("local", "other"), *(("server", one) for one in get_args(Engine))]


@pytest.mark.parametrize("kind", ["llm", "chat"])
@pytest.mark.parametrize(("place", "engine"), PLACES)
def test_every_starter_loads(tmp_path: Path, kind: Any, place: Any, engine: Any) -> None:
    for pair, named, token in itertools.product(get_args(Pair), (True, False), (True, False)):
        names = dict(NAMED) if named else {}
        if place == "demo":
            names.pop("model", None)
        situation = Situation(
            kind=kind, place=place, engine=engine, pair=pair,
            tokenizer="o/tokenizer" if token else None, key="MY_KEY" if token else None, **names,
        )  # fmt: skip
        text, config = read(tmp_path, situation)
        lines = text.splitlines()
        assert lines[0] == "# yaml-language-server: $schema=w2s.schema.json"
        assert [line[2:].strip() for line in lines[-2:]] == commands(situation, "w2s.yaml")
        assert max(map(len, lines)) <= 80
        assert all(("FILL IN" in line) == (FILL_IN in line) for line in lines)
        assert not (named and FILL_IN in text)
        assert config.type == kind
        if place == "server":
            assert isinstance(config.proposer, OpenAIConfig)
            whole = engine in WHOLE_ANSWERS or (kind == "chat" and not config.proposer.tokenizer)
            assert (config.strategy.type == "best_of_n") is whole
            assert (config.proposer.chat is True) is whole
        else:
            assert isinstance(config.proposer, Model)


def test_names_stay_what_they_are(tmp_path: Path) -> None:
    evil = ["a: b", "#x", "{{ 1 }}", "'", '"', "yes", "1:30", "a\nb", "* ", "é", "- x", "[", "null"]
    for name in evil:
        situation = Situation(place="local", model=name, pair="models", tuned=name, untuned="x")
        _, config = read(tmp_path, situation)
        assert isinstance(config.proposer, Model)
        assert config.proposer.model == name
        assert config.guides is not None
        assert config.guides.tuned == name
    with pytest.raises(ConfigError, match="empty"):
        starter(Situation(place="local", model=""), "x")


def test_a_preset_must_exist() -> None:
    with pytest.raises(ConfigError, match="did you mean 'zephyr'"):
        starter(Situation(pair="preset", preset="zephir"), "x")


def test_files_of_any_name(tmp_path: Path) -> None:
    told = commands(Situation(), "my file.yaml")
    assert shlex.split(told[0]) == ["w2s", "doctor", "my file.yaml"]
    text = starter(Situation(), "a\nproposer: evil")
    assert yaml.safe_load(text)["proposer"]["model"].startswith("embedded:")
