"""The JSON schema for editors takes what the config takes."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.helpers.configs import NAMES, PUBLISHED, WHOLE, outcome, schema
from w2s_chains.cli import app
from w2s_chains.search import STRATEGIES


def test_the_published_schema_is_the_one_that_the_command_prints() -> None:
    done = CliRunner().invoke(app, ["schema"])
    assert done.exit_code == 0
    message = "write it anew: w2s schema > w2s_chains/w2s.schema.json"
    assert done.stdout == PUBLISHED.read_text(encoding="utf-8"), message


def test_the_schema_explains_itself() -> None:
    root: Any = schema().schema
    kinds = root["$defs"]
    assert root["properties"]["strategy"]["anyOf"][0]["discriminator"]["mapping"] == {
        name: f"#/$defs/{strategy.__name__}" for name, strategy in STRATEGIES.items()
    }
    for name, strategy in STRATEGIES.items():
        assert kinds[strategy.__name__]["properties"]["type"]["const"] == name
        assert "type" in kinds[strategy.__name__]["required"]
    assert kinds["Model"]["properties"]["type"]["const"] == "huggingface"
    assert "type" not in kinds["Model"]["required"]
    assert kinds["LogRatioConfig"]["properties"]["type"]["const"] == "log_ratio"
    for name, kind in [*kinds.items(), ("W2SConfig", root)]:
        assert len(kind["description"]) > 20, name
        assert not any(mark in kind["description"] for mark in ("Attributes", "Example", "``"))
        for field, about in kind["properties"].items():
            assert about.get("description") or field == "type", (name, field)
    assert kinds["EmulatedFineTuning"]["properties"]["beta"]["description"] == (
        "Weight of the guides; 0 is plain sampling."
    )


MODEL = {"model": "x"}
ALIKE: list[Any] = [
    # What both take.
    {"proposer": MODEL},
    {"proposer": {**MODEL, "type": "huggingface", "chat": "auto", "device_map": {"": 0}}},
    {"type": "chat", "proposer": {**MODEL, "chat": True, "system": "Be kind.", "config": {"a": 1}}},
    {"type": None, "proposer": MODEL, "guide": None, "scorer": None},
    {"proposer": MODEL, "guide": {"tuned": "a", "untuned": MODEL, "template": "{prompt}\n"}},
    {"proposer": MODEL, "scorer": {}, "guide": {"tuned": MODEL, "untuned": "b"}},
    {"proposer": MODEL, "generation": {"stop": "x", "top_k": None, "seed": -3, "temperature": 0}},
    {"proposer": MODEL, "generation": {"stop": None, "top_p": 1, "n": 2}},
    {"proposer": MODEL, "generation": {"stop": ["a", "b"]}},
    {"proposer": MODEL, "strategy": {"type": "chunk_beam", "chunk_tokens": None}},
    {"proposer": MODEL, "strategy": {"type": "best_of_n", "n": 16, "steering": -0.5}},
    {"proposer": "x", "strategy": "sampling"},
    {"proposer": MODEL, "guides": {"tuned": "a", "untuned": {**MODEL, "type": "huggingface"}}},
    {"proposer": MODEL, "guides": "zephyr", "scorer": "log_ratio"},
    # What both refuse.
    {"proposer": ""},
    {"proposer": MODEL, "guides": "zephir"},
    {"proposer": MODEL, "scorer": "mixture"},
    {"proposer": MODEL, "strategy": "samplin"},
    {"proposer": MODEL, "guide": {"tuned": "a", "untuned": {**MODEL, "type": "openai"}}},
    {},
    [],
    {"proposer": None},
    {"proposer": {}},
    {"proposer": {"model": ""}},
    {"proposer": {**MODEL, "type": "nope"}},
    {"proposer": {**MODEL, "type": 3}},
    {"proposer": {**MODEL, "template": "{promt}"}},
    {"proposer": {**MODEL, "token_budget": 0}},
    {"proposer": {**MODEL, "chat": "perhaps"}},
    {"type": "talk", "proposer": MODEL},
    {"proposer": MODEL, "stratgy": {"type": "sampling"}},
    {"proposer": MODEL, "guide": {"tuned": "a"}},
    {"proposer": MODEL, "guide": {"tuned": "a", "untuned": ["b"]}},
    {"proposer": MODEL, "scorer": {"type": "logratio"}},
    {"proposer": MODEL, "scorer": {"type": "log_ratio", "x": 1}},
    {"proposer": MODEL, "strategy": None},
    {"proposer": MODEL, "strategy": {}},
    {"proposer": MODEL, "strategy": {"width": 4}},
    {"proposer": MODEL, "strategy": {"type": "sampling", "n": 3}},
    {"proposer": MODEL, "strategy": {"type": "chunk_beam", "width": 0}},
    {"proposer": MODEL, "strategy": {"type": "chunk_beam", "width": 1.5}},
    {"proposer": MODEL, "strategy": {"type": "chunk_beam", "return_best": "worst"}},
    {"proposer": MODEL, "generation": None},
    {"proposer": MODEL, "generation": {"stop": [""]}},
    {"proposer": MODEL, "generation": {"stop": ""}},
    {"proposer": MODEL, "generation": {"top_p": 0}},
    {"proposer": MODEL, "generation": {"temperature": "hot"}},
    {"proposer": MODEL, "generation": {"seed": 0.5}},
]


@pytest.mark.parametrize("values", ALIKE, ids=str)
def test_the_schema_takes_what_is_taken(values: Any) -> None:
    taken = isinstance(values, dict) and outcome(values) is None
    assert schema().is_valid(values) == taken


def test_the_examples_are_good_and_bad() -> None:
    """Control of the test above."""
    taken = [schema().is_valid(values) for values in ALIKE]
    assert taken == sorted(taken, reverse=True)
    assert min(taken.count(True), taken.count(False)) > 10


COOKBOOK = Path(__file__).parents[2] / "cookbook"


def test_the_schema_takes_the_configs_of_the_cookbook() -> None:
    count = 0
    for path in COOKBOOK.rglob("study.yaml"):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        for own in values["configs"].values():
            config = {**values["base"], **{k: v for k, v in own.items() if k != "seeds"}}
            schema().validate(config)
            count += 1
    assert count > 10


def test_the_schema_knows_the_whole_file() -> None:
    assert schema().is_valid(yaml.safe_load(WHOLE))
    broken = WHOLE.replace("  width: 2", "  widht: 2")
    assert not schema().is_valid(yaml.safe_load(broken)), "control"


def places(values: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = values.items() if isinstance(values, dict) else ()
    return [path, *(p for key, value in inner for p in places(value, (*path, key)))]


PLAIN = st.sampled_from([*NAMES, "sampling", "log_ratio", "huggingface", "{prompt}", "auto", ""])
VALUES = st.recursive(
    PLAIN | st.booleans() | st.integers(-3, 3) | st.none() | st.floats(-2, 2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(PLAIN, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_what_the_schema_takes_is_taken(data: st.DataObject) -> None:
    """One or two values of a good config are replaced by others, or other fields added."""
    values = yaml.safe_load(WHOLE)
    for _ in range(data.draw(st.integers(1, 2))):
        *path, last = data.draw(st.sampled_from(places(values)[1:]))
        node = functools.reduce(lambda inner, key: inner[key], path, values)
        key = data.draw(st.just(last) | st.sampled_from(NAMES))
        node[key] = data.draw(VALUES)
    if schema().is_valid(values) and (told := outcome(values)) is not None:
        assert "a system message needs the chat template" in told
