"""A whole package of plug-ins, installed and used for real."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.helpers.configs import PUBLISHED, guides
from w2s_chains.search import STRATEGIES

EXAMPLE = Path(__file__).with_name("plugin_example")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example package, as pip installs it."""
    root = tmp_path_factory.mktemp("plugin")
    source, target = root / "source", root / "site"
    shutil.copytree(EXAMPLE, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    done = subprocess.run(
        [*pip, "--no-build-isolation", "--target", target, source], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return target


def python(code: str, *arguments: object, site: Path | None) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own that sees the packages in ``site``."""
    paths = [str(EXAMPLE.parents[1]), *([str(site)] if site else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


ANSWERS = """
import json, sys, w2s_chains
for file in sys.argv[1:]:
    model = w2s_chains.load(file)
    config = model.to_config(file + ".again")
    others = [w2s_chains.load(config), w2s_chains.load(file + ".again")]
    text, *same = [getattr(m.invoke("x"), "content", m.invoke("x")) for m in (model, *others)]
    assert same == [text, text]
    assert all(m._identifying_params == model._identifying_params for m in others)
    [job] = model.jobs(["x"])
    score = job.scorer.score([job.root.extend("12345", finish_reason="length")])[0]
    imported = [name for name in ("w2s_plugin_example", "this") if name in sys.modules]
    found = {"class": type(model).__name__, "text": text, "score": score, "imported": imported}
    print(json.dumps({**found, "config": config}))
"""
ERRORS = """
import sys
from w2s_chains.config.files import load_config
from w2s_chains.errors import ConfigError
for file in sys.argv[1:]:
    try:
        load_config(file).check()
    except ConfigError as error:
        print(error)
    else:
        print("fine")
"""


def answered(*files: Path, site: Path | None) -> list[dict[str, Any]]:
    """What models of config files say; a config that is written and read is the same."""
    done = python(ANSWERS, *files, site=site)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def refused(*files: Path, site: Path | None) -> list[str]:
    """The errors of config files, one line each."""
    done = python(ERRORS, *files, site=site)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def written(path: Path, **sections: Any) -> Path:
    sections = {"generation": {"max_tokens": 12, "seed": 0}, **sections}
    path.write_text(yaml.safe_dump(sections, sort_keys=False), encoding="utf-8")
    return path


DICE = {"type": "dice", "words": ["a", "bb", "ccc!"]}
SHORT = {"type": "short", "weight": 2.0}
ROUNDS = {"type": "two_rounds", "n": 3}


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A config of which every part is another package's."""
    return written(tmp_path / "w.yaml", proposer=DICE, scorer=SHORT, strategy=ROUNDS)


def test_every_part_of_another_package(whole: Path, tmp_path: Path, site: Path) -> None:
    chat = tmp_path / "chat.yaml"
    chat.write_text("type: chat\n" + whole.read_text())
    for kind, found in zip(("W2SLLM", "ChatW2S"), answered(whole, chat, site=site), strict=True):
        assert found["class"] == kind
        assert len(found["text"].split()) == 12
        assert set(found["text"].split()) <= set(DICE["words"])
        assert found["score"] == -2.0 * len("12345")
        assert found["config"]["proposer"] == DICE
        assert found["config"]["scorer"] == SHORT
        assert found["config"]["strategy"] == ROUNDS
        assert found["imported"] == ["w2s_plugin_example"]


def test_without_the_package_the_choices_are_told(whole: Path, site: Path, tmp_path: Path) -> None:
    """Control: it is the installed package that brings these names."""
    model = {"model": "x"}
    files = [
        written(tmp_path / "a.yaml", proposer=model, scorer=SHORT),
        written(tmp_path / "b.yaml", proposer=model, strategy=ROUNDS),
        written(tmp_path / "c.yaml", proposer=DICE),
    ]
    assert refused(*files, whole, site=site) == ["fine"] * 4
    scorer, strategy, proposer, *every = refused(*files, whole, site=None)
    assert f"{files[0]}:6: scorer: unknown scorer type 'short'" in scorer
    assert "(choices: llm_judge, log_ratio, loglikelihood, mixture, reward_model)" in scorer
    assert f"{files[1]}:6: strategy: unknown strategy type 'two_rounds'" in strategy
    assert f"(choices: {', '.join(sorted(STRATEGIES))})" in strategy
    assert f"{files[2]}:4: proposer: unknown proposer type 'dice'" in proposer
    assert "(choices: huggingface, langchain, openai)" in proposer
    assert [line.split(": ")[1] for line in every] == ["proposer", "scorer", "strategy"]


def test_faults_in_parts_of_another_package(tmp_path: Path, site: Path) -> None:
    faults: list[tuple[str, Any, str]] = [
        ("proposer", {**DICE, "word": "x"}, "proposer.word: unknown field; did you mean 'words'?"),
        ("proposer", {"type": "dices"}, "'dices'; did you mean 'dice'? (choices: dice, huggingfac"),
        ("scorer", {"type": "short", "wait": 1}, "scorer.wait: unknown field; did you mean 'weig"),
        ("scorer", {"type": "short", "weight": "x"}, "scorer.weight: Input should be a valid num"),
        (
            "scorer",
            {"type": "shorter"},
            "'shorter'; did you mean 'short'? (choices: llm_judge, log_ratio, lo",
        ),
        ("strategy", {"type": "two_rounds", "n": 0}, "strategy.n: Input should be greater than or"),
        ("scorer", {"type": "weighted_log_ratio"}, "'weighted_log_ratio' needs guides"),
    ]
    files = [
        written(tmp_path / f"{i}.yaml", **{"proposer": DICE, "scorer": SHORT, section: values})
        for i, (section, values, _) in enumerate(faults)
    ]
    for (_, _, error), told in zip(faults, refused(*files, site=site), strict=True):
        assert error in told


def test_a_scorer_of_another_package_reads_the_guides(
    tmp_path: Path, site: Path, tiny_folders: dict[str, Path]
) -> None:
    sections: dict[str, Any] = {
        "proposer": {"type": "huggingface", "model": str(tiny_folders["proposer"])},
        "guide": guides(tiny_folders),
        "strategy": {"type": "chunk_beam", "width": 2, "successors": 2, "chunk_tokens": 4},
    }
    steered = {**sections, "strategy": {"type": "best_of_n", "n": 2, "steering": 1.0}}
    weighted = {"type": "weighted_log_ratio", "weight": 1.0}
    built_in, same, other, short = answered(
        written(tmp_path / "a.yaml", **sections),
        written(tmp_path / "b.yaml", **sections, scorer=weighted),
        written(tmp_path / "c.yaml", **sections, scorer={**weighted, "weight": -1.0}),
        written(tmp_path / "d.yaml", **steered, scorer=SHORT),
        site=site,
    )
    assert (same["text"], same["score"]) == (built_in["text"], built_in["score"])
    assert same["config"] == {**built_in["config"], "scorer": weighted}
    assert other["score"] != same["score"], "control"
    assert short["score"] == -2.0 * len("12345")
    assert set(short["config"]["guides"]) == {"tuned", "untuned"}, "they steer"


def test_a_comparison_with_parts_of_another_package(tmp_path: Path, site: Path) -> None:
    study: dict[str, Any] = {
        "prompts": "prompts.txt",
        "rewards": ["exclaims", "length"],
        "base": {"proposer": DICE, "scorer": SHORT, "generation": {"max_tokens": 8}},
        "configs": {"one": {"strategy": {"type": "sampling"}}, "best": {"strategy": ROUNDS}},
    }
    (tmp_path / "prompts.txt").write_text("a\nb\nc\n")
    run = "from w2s_chains.cli import app; app()"
    command = ("compare", tmp_path / "study.yaml", "--out", tmp_path / "out", "--no-plots")

    def compared() -> subprocess.CompletedProcess[str]:
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
        return python(run, *command, site=site)

    done = compared()
    assert done.returncode == 0, done.stderr
    rows = [json.loads(row) for row in (tmp_path / "out" / "rows.jsonl").open()]
    assert len(rows) == 6
    assert all(row["rewards"]["exclaims"] == row["text"].count("!") for row in rows)
    assert all(row["rewards"]["length"] == 8 for row in rows)
    study["base"]["scorer"] = {**SHORT, "weight": 3.0}
    done = compared()
    assert done.returncode == 2, "rows of another scorer are never mixed with these"
    assert "has rows of another config" in done.stderr


def test_the_schema_has_the_types_of_installed_packages(whole: Path, site: Path) -> None:
    done = python("from w2s_chains.cli import app; app()", "schema", site=site)
    assert done.returncode == 0, done.stderr
    schema = json.loads(done.stdout)
    values = yaml.safe_load(whole.read_text())
    jsonschema.validate(values, schema)
    assert schema["$defs"]["Short"]["required"] == ["type"]
    assert schema["$defs"]["Dice"]["description"].startswith("Rolls a die")
    for section in ("proposer", "scorer", "strategy"):
        with pytest.raises(jsonschema.ValidationError):  # control
            jsonschema.validate({**values, section: {**values[section], "x": 1}}, schema)
    with pytest.raises(jsonschema.ValidationError):  # control
        jsonschema.validate(values, json.loads(PUBLISHED.read_text()))
