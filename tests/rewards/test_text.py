"""Rewards that need no model, and the slot that builds them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from tests.helpers import tiny
from w2s_chains.errors import ConfigError, ModelNotFoundError
from w2s_chains.rewards import (
    REWARDS,
    AnyReward,
    Length,
    Loglikelihood,
    Repetition,
    Reward,
    TextClassifier,
    Vader,
    build_reward,
)


class Slot(BaseModel):
    reward: AnyReward


def test_length_and_repetition_count_words() -> None:
    answers = ["a b c", "a a a a", "", "  "]
    assert Length().score([""] * 4, answers) == [3, 4, 0, 0]
    assert Repetition().score([""] * 4, answers) == [0, 0.75, 0, 0]


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_repetition_rises_when_a_text_is_said_twice(answers: list[str]) -> None:
    prompts = [""] * len(answers)
    once = Repetition().score(prompts, answers)
    twice = Repetition().score(prompts, [f"{a} {a}" for a in answers])
    for text, one, two in zip(answers, once, twice, strict=True):
        assert 0 <= one <= two < 1
        assert one < two or not text.split()


def test_a_template_says_what_is_judged() -> None:
    assert Length(template="{prompt} and {answer}").score(["a b"], ["c"]) == [4]
    odd = Length(template="{prompt}{answer}")
    assert odd.texts(["{answer}"], ["{prompt}"]) == ["{answer}{prompt}"]  # replaced once, literally
    with pytest.raises(ConfigError, match="answer"):
        Length(template="{prompt}")


def test_vader_knows_good_from_bad() -> None:
    good, bad = Vader().score(["", ""], ["a wonderful film", "a horrible film"])
    assert -1 <= bad < 0 < good <= 1


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.csv"
    lines = [f'"good film, number {i}",pos\nbad film number {i},neg' for i in range(20)]
    path.write_text("words,kind\n" + "\n".join(lines) + "\n")
    return path


def test_a_text_classifier_is_fitted_from_its_data(data: Path) -> None:
    reward = TextClassifier(data=data, text="words", label="kind", positive="pos")
    reward.check()
    good, bad = reward.score(["", ""], ["a good one", "a bad one"])
    assert good > 0 > bad
    swapped = reward.model_copy(update={"positive": "neg"})
    assert swapped.score(["", ""], ["a good one", "a bad one"]) == pytest.approx([-good, -bad])
    assert reward.score([], []) == []


def test_a_text_classifier_is_fitted_once_until_its_data_change(data: Path, monkeypatch) -> None:
    from sklearn.pipeline import Pipeline

    fits: list[int] = []
    fit = Pipeline.fit
    monkeypatch.setattr(Pipeline, "fit", lambda *a, **k: fits.append(1) or fit(*a, **k))
    reward = TextClassifier(data=data, text="words", label="kind", positive="pos")
    [before] = reward.score([""], ["a new word"])
    reward.score([""], ["another"])
    assert len(fits) == 1
    with data.open("a") as file:
        file.write("a new word,pos\n" * 9)
    [after] = reward.score([""], ["a new word"])
    assert len(fits) == 2
    assert after > before


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("text,kind\na,pos\n", r"data\.csv:1: no column 'words'"),
        ("words,kind\na,pos\n,neg\n", r"data\.csv:3: text or label is missing"),
        ("words,kind\na\n", r"data\.csv:2: text or label is missing"),
        ("words,kind\na,pos\nb,pos\n", "two labels, .*it has 1: 'pos'"),
        ("words,kind\na,x\nb,y\n", "'pos' be one of them; it has 2: 'x', 'y'"),
        (b"words,kind\n\xff,pos\n", "cannot read"),
    ],
)
def test_bad_data_are_refused(data: Path, content: str | bytes, told: str) -> None:
    data.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=told):
        TextClassifier(data=data, text="words", label="kind", positive="pos").check()
    data.unlink()
    with pytest.raises(ConfigError, match="cannot read data"):
        TextClassifier(data=data).check()


def test_loglikelihood_of_a_model_of_its_own(tiny_folders: dict[str, Path]) -> None:
    named: Any = {"model": str(tiny_folders["gpt2"])}
    reward = Loglikelihood(name="fluency", model=named)
    reward.check()
    prompts, answers = ["the film", "the film", "a"], [" was good", "", " b"]
    values = reward.score(prompts, answers)
    model, tokenizer = tiny.gpt2(320, seed=3), tiny.byte_tokenizer()
    for prompt, answer, value in zip(prompts, answers, values, strict=True):
        start = len(tokenizer(prompt)["input_ids"])
        ids = torch.tensor([tokenizer(prompt + answer)["input_ids"]])
        logprobs = model(ids).logits[0].log_softmax(-1)
        own = [logprobs[i - 1, ids[0, i]].item() for i in range(start, ids.shape[1])]
        assert value == pytest.approx(sum(own) / len(own) if own else 0.0, abs=1e-4)
    nowhere: Any = {"model": "./nope"}
    with pytest.raises(ModelNotFoundError):
        Loglikelihood(model=nowhere).check()


@pytest.mark.parametrize("name", sorted(REWARDS))
def test_every_type_is_built_by_name(name: str, data: Path) -> None:
    needed = {
        "text_classifier": {"data": str(data)},
        "classifier": {"model": "m"},
        "value_head": {"model": "m", "head": "h", "template": "{prompt}{answer}"},
    }
    values = {"type": name, "name": "x", **needed.get(name, {})}
    reward = Slot.model_validate({"reward": values}).reward
    assert type(reward) is REWARDS[name]
    assert reward.column == "x"
    assert Slot.model_validate(Slot(reward=reward).model_dump()).reward == reward


def always_one(prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
    return [1.0] * len(answers)


class Shouting(Reward):
    type: str = "shouting"
    factor: float = 1.0

    def score(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        return [self.factor * answer.isupper() for answer in answers]


def test_functions_and_classes_of_other_packages(monkeypatch) -> None:
    group = "w2s_chains.rewards"
    points = [
        EntryPoint("one", f"{__name__}:always_one", group),
        EntryPoint("shouting", f"{__name__}:Shouting", group),
        EntryPoint("broken", "no_such_module:x", group),
        EntryPoint("number", f"{__name__}:group_of_numbers", group),
    ]
    monkeypatch.setattr("w2s_chains.core.slots.entry_points", lambda group: points)
    assert Slot.model_validate({"reward": "one"}).reward.score(["p"], ["a"]) == [1.0]
    assert Slot.model_validate({"reward": {"type": "one", "name": "uno"}}).reward.column == "uno"
    loud = Slot.model_validate({"reward": {"type": "shouting", "factor": 3}}).reward
    assert loud.score([""], ["A"]) == [3.0]
    with pytest.raises(ValidationError, match="cannot be imported"):
        Slot.model_validate({"reward": "broken"})
    with pytest.raises(ValidationError, match="cannot be imported"):
        Slot.model_validate({"reward": "number"})
    with pytest.raises(ValidationError, match="did you mean 'one'"):
        Slot.model_validate({"reward": "on"})


def test_a_plain_function_is_a_reward_called_after_itself() -> None:
    reward = build_reward(always_one)
    assert reward.column == "always_one"
    assert reward.score(["p", "q"], ["a", "b"]) == [1.0, 1.0]
    with pytest.raises(ConfigError, match="reward"):
        build_reward({"name": "x"})
    with pytest.raises(ValidationError):
        Slot.model_validate({"reward": 3})
