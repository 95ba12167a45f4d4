"""Rewards that are models: equal to transformers by hand, one text at a time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from tests.helpers import tiny
from w2s_chains.backend.classifiers import load as classifiers
from w2s_chains.errors import ConfigError, ModelNotFoundError, PromptError
from w2s_chains.rewards import SequenceClassifier, ValueHead, build_reward

PROMPTS = ["The movie", "A boring", "I left", "The plot"]
ANSWERS = [" was great.", " film; the acting was terrible and I left!", "", " is a joy to watch."]
ANSWERS_TOO_LONG = [*ANSWERS[:3], " really" * 500]
CONTROL = 1e-3
"""What another text, label or weight changes a reward by, at least."""


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifiers, "_loaded", {})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("judges")
    words, letters = tiny.wordpiece_tokenizer(), tiny.byte_tokenizer(bos=True)
    names = {
        "two": tiny.distilbert_classifier(len(words)),
        "three": tiny.distilbert_classifier(len(words), ("bad", "fair", "good")),
        "many": tiny.distilbert_classifier(len(words)),
        "single": tiny.distilbert_classifier(len(words), ("LABEL_0",)),
        "decoder": tiny.llama_reward(pad_token_id=None),
        "padded": tiny.llama_reward(pad_token_id=3),
    }
    for name, model in names.items():
        if name == "many":
            model.config.problem_type = "multi_label_classification"
        model.save_pretrained(root / name)
        (letters if name in ("decoder", "padded") else words).save_pretrained(root / name)
    for name, body, head in (
        ("plain", "model", "regression_head.weight"),
        ("prefixed", "transformer", "v_head.weight"),
    ):
        tiny.save_value_head(root / name, tiny.llama(320, seed=4), body, head)
    letters.save_pretrained(root / "plain")
    letters.save_pretrained(root / "tokenizer")
    return {path.name: path for path in root.iterdir()}


def by_hand(model: Any, folder: Path, texts: list[str]) -> list[list[float]]:
    """Logits of each text alone, unpadded."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        return [
            model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0].tolist() for text in texts
        ]


def close(a: list[float], b: list[float]) -> bool:
    return len(a) == len(b) and all(
        math.isclose(x, y, abs_tol=1e-4) for x, y in zip(a, b, strict=True)
    )


TEXTS = [prompt + answer for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]


# Classifiers.


def test_the_reward_is_the_difference_of_log_probabilities(folders: dict[str, Path]) -> None:
    reward = build_reward(
        {
            "type": "classifier", "name": "gold", "model": str(folders["two"]),
            "positive": "POSITIVE", "negative": "NEGATIVE", "template": "{prompt}{answer}",
        }
    )  # fmt: skip
    reward.check()
    rows = by_hand(
        tiny.distilbert_classifier(len(tiny.wordpiece_tokenizer())), folders["two"], TEXTS
    )
    logprobs = [torch.tensor(row).log_softmax(0).tolist() for row in rows]
    expected = [positive - negative for negative, positive in logprobs]
    assert reward.column == "gold"
    assert close(reward.score(PROMPTS, ANSWERS), expected)
    assert max(expected) - min(expected) > CONTROL, "control: the texts differ"
    swapped = reward.model_copy(update={"positive": 0, "negative": 1})
    assert close(swapped.score(PROMPTS, ANSWERS), [-value for value in expected])


def test_a_label_against_all_others(folders: dict[str, Path]) -> None:
    reward = SequenceClassifier(model=str(folders["three"]), positive="good")
    rows = by_hand(
        tiny.distilbert_classifier(len(tiny.wordpiece_tokenizer()), ("bad", "fair", "good")),
        folders["three"],
        ANSWERS,
    )
    good = [torch.tensor(row).softmax(0)[2].item() for row in rows]
    expected = [math.log(p) - math.log(1 - p) for p in good]
    assert close(reward.score(PROMPTS, ANSWERS), expected)
    pair = reward.model_copy(update={"negative": "bad"}).score(PROMPTS, ANSWERS)
    assert close(pair, [row[2] - row[0] for row in rows])
    assert not close(pair, expected), "control"


@pytest.mark.parametrize("name", ["single", "decoder", "padded"])
def test_a_single_output_is_the_reward(folders: dict[str, Path], name: str) -> None:
    models = {
        "single": tiny.distilbert_classifier(len(tiny.wordpiece_tokenizer()), ("LABEL_0",)),
        "decoder": tiny.llama_reward(None),
        "padded": tiny.llama_reward(3),
    }
    reward = SequenceClassifier(model=str(folders[name]), template="{prompt}{answer}")
    reward.check()
    expected = [row[0] for row in by_hand(models[name], folders[name], TEXTS)]
    assert close(reward.score(PROMPTS, ANSWERS), expected)
    assert max(expected) - min(expected) > CONTROL, "control: the texts differ"


@pytest.mark.parametrize("name", ["two", "decoder", "padded", "plain", "prefixed"])
def test_a_batch_equals_its_singles(folders: dict[str, Path], name: str) -> None:
    reward = {
        "two": SequenceClassifier(model=str(folders["two"]), positive="POSITIVE"),
        "decoder": SequenceClassifier(model=str(folders["decoder"])),
        "padded": SequenceClassifier(model=str(folders["padded"])),
        "plain": _ultra(folders),
        "prefixed": _starling(folders),
    }[name]
    together = reward.score(PROMPTS, ANSWERS)
    for size in (1, 3):
        other = reward.model_copy(update={"batch_size": size})
        assert close(other.score(PROMPTS, ANSWERS), together)
    singles = [
        reward.score([prompt], [answer])[0] for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)
    ]
    assert close(singles, together)
    assert not close(reward.score(PROMPTS, ANSWERS[::-1]), together), "control"
    assert reward.score([], []) == []


def test_a_long_text_is_an_error_unless_it_may_be_cut(folders: dict[str, Path]) -> None:
    reward = SequenceClassifier(
        model=str(folders["two"]), positive="POSITIVE", template="{prompt}{answer}"
    )
    with pytest.raises(PromptError, match=r"the text has \d+ tokens, .* at most 64; .* truncate"):
        reward.score(PROMPTS, ANSWERS_TOO_LONG)
    ends = {side: reward.model_copy(update={"truncate": side}) for side in ("left", "right")}
    values = {side: end.score(PROMPTS, ANSWERS_TOO_LONG) for side, end in ends.items()}
    for value in values.values():
        assert close(value[:3], reward.score(PROMPTS[:3], ANSWERS[:3]))
    assert abs(values["left"][3] - values["right"][3]) > CONTROL
    tokenizer = AutoTokenizer.from_pretrained(folders["two"])
    ids = tokenizer("The plot" + ANSWERS_TOO_LONG[3], add_special_tokens=False)["input_ids"]
    model = tiny.distilbert_classifier(len(tokenizer))
    with torch.inference_mode():
        for side, kept in (("left", ids[-62:]), ("right", ids[:62])):
            [negative, positive] = model(torch.tensor([[2, *kept, 3]])).logits[0].tolist()
            assert close([values[side][3]], [positive - negative])


def test_a_model_is_loaded_once_and_only_one_stays(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    load = classifiers._load

    def counting(options: Any, head: Any) -> Any:
        assert classifiers._loaded == {}, "the one before is gone, or two have to fit"
        loads.append(Path(options.model).name)
        return load(options, head)

    monkeypatch.setattr(classifiers, "_load", counting)
    two = SequenceClassifier(model=str(folders["two"]), positive="POSITIVE")
    other = SequenceClassifier(model=str(folders["two"]), positive="NEGATIVE", name="other")
    assert loads == [], "not before it is needed"
    for reward in (two, other, two, _ultra(folders), _ultra(folders)):
        reward.score(PROMPTS, ANSWERS)
    assert loads == ["two", "plain"]


# Value heads.


def _ultra(folders: dict[str, Path], **fields: Any) -> ValueHead:
    options = {
        "model": str(folders["plain"]),
        "head": "regression_head.weight",
        "template": "Human: {prompt}\n\nAssistant: {answer}",
    }
    return ValueHead(**{**options, **fields})


def _starling(folders: dict[str, Path], **fields: Any) -> ValueHead:
    options = {
        "model": str(folders["prefixed"]),
        "tokenizer": str(folders["tokenizer"]),
        "head": "v_head.weight",
        "body": "transformer",
        "chat": True,
    }
    return ValueHead(**{**options, **fields})


def value_by_hand(text: str, last: int = -1) -> float:
    """The head of the saved reward models, at one token of a text."""
    decoder = tiny.llama(320, seed=4)
    head = torch.randn(1, 32, generator=torch.Generator().manual_seed(5))
    ids = torch.tensor([tiny.byte_tokenizer(bos=True)(text)["input_ids"]])
    with torch.inference_mode():
        states = decoder.model(ids).last_hidden_state[0, last]
    return (head[0] @ states).item()


def test_a_value_head_is_read_at_the_last_token(folders: dict[str, Path]) -> None:
    reward = _ultra(folders)
    reward.check()
    texts = [f"Human: {p}\n\nAssistant: {a}" for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    expected = [value_by_hand(text) for text in texts]
    assert close(reward.score(PROMPTS, ANSWERS), expected)
    assert not close([value_by_hand(text, -2) for text in texts], expected), "control"


def test_other_names_of_weights_and_a_chat_template(folders: dict[str, Path]) -> None:
    reward = _starling(folders)
    reward.check()
    template = _starling(
        folders, chat=False, template="<s>" + tiny.EXCHANGE.format("{prompt}", "{answer}")
    )
    texts = [
        tiny.EXCHANGE.format(prompt, answer)
        for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)
    ]
    tokenizer = AutoTokenizer.from_pretrained(folders["tokenizer"])
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == tiny.EXCHANGE.format("a", "b")
    begun = len(tokenizer("")["input_ids"])  # the template itself writes no start token
    decoder = tiny.llama(320, seed=4)
    head = torch.randn(1, 32, generator=torch.Generator().manual_seed(5))
    expected = []
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"][begun:]])
        with torch.inference_mode():
            expected.append((head[0] @ decoder.model(ids).last_hidden_state[0, -1]).item())
    values = reward.score(PROMPTS, ANSWERS)
    assert close(values, expected)
    assert not close(template.score(PROMPTS, ANSWERS), values), "control: two start tokens more"


def test_a_truncated_chat_keeps_its_end(folders: dict[str, Path]) -> None:
    reward = _starling(folders, max_length=40)
    with pytest.raises(PromptError, match="at most 40"):
        reward.score(PROMPTS, ANSWERS_TOO_LONG)
    cut = _starling(folders, max_length=40, truncate="left")
    longer = " really" * 501
    assert close(cut.score(PROMPTS[3:], [longer]), cut.score(PROMPTS[3:], ANSWERS_TOO_LONG[3:])), (
        "what was cut off makes no difference"
    )
    assert len(cut.score(PROMPTS, ANSWERS_TOO_LONG)) == 4


# What is refused, and before weights are loaded.


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(
        classifiers.AutoModelForSequenceClassification, "from_pretrained", staticmethod(fail)
    )


@pytest.mark.parametrize(
    ("name", "fields", "parts"),
    [
        ("two", {"positive": "POSTIVE"}, ["POSTIVE", "did you mean 'POSITIVE'", "NEGATIVE"]),
        ("two", {"positive": 2}, ["positive is 2", "POSITIVE"]),
        ("two", {}, ["has the labels", "POSITIVE"]),
        ("two", {"positive": 1, "negative": "bad"}, ["negative is 'bad'"]),
        ("two", {"positive": 1, "negative": "POSITIVE"}, ["same label"]),
        ("two", {"positive": 1, "max_length": 65}, ["max_length is 65", "64 positions"]),
        ("two", {"positive": 1, "chat": True}, ["no chat template", "template"]),
        ("two", {"positive": 1, "device": "gpu"}, ["device 'gpu'"]),
        ("two", {"positive": 1, "dtype": "flaot"}, ["dtype 'flaot'"]),
        ("single", {"positive": "LABEL_0"}, ["single output", "leave out"]),
        ("many", {"positive": 1}, ["do not exclude each other"]),
    ],
)
def test_a_setting_that_does_not_fit(
    folders: dict[str, Path],
    name: str,
    fields: dict[str, Any],
    parts: list[str],
    no_weights: None,
) -> None:
    with pytest.raises(ConfigError) as caught:
        SequenceClassifier(model=str(folders[name]), **fields).check()
    assert all(part in str(caught.value) for part in parts), caught.value
    assert "\n" not in str(caught.value)
    SequenceClassifier(model=str(folders["two"]), positive="POSITIVE").check()  # control


def test_a_model_that_is_nowhere_or_cannot_judge(
    folders: dict[str, Path], tmp_path: Path, no_weights: None
) -> None:
    with pytest.raises(ModelNotFoundError, match="check the path"):
        SequenceClassifier(model="/no/such/model", positive=1).check()
    with pytest.raises(ModelNotFoundError, match="check the path"):
        _starling(folders, tokenizer="/no/such/tokenizer").check()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ConfigError, match=r"cannot judge texts.*ViTConfig"):
        SequenceClassifier(model=str(tmp_path), positive=1).check()


def test_two_renderings_or_none_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="chat renders prompt and answer by itself"):
        _starling(folders, template="{prompt}{answer}")
    with pytest.raises(ConfigError, match=r"give a template with '\{prompt\}'"):
        _ultra(folders, template="{answer}")


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"head": "v_heed.weight"}, ["'v_heed.weight'", "did you mean 'v_head.weight'"]),
        ({"body": "decoder"}, ["no decoder with a value head", "body", "model.embed_tokens"]),
    ],
)
def test_weights_with_other_names(
    folders: dict[str, Path], fields: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        _starling(folders, **fields).score(PROMPTS, ANSWERS)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_a_classifier_without_its_head_is_refused(folders: dict[str, Path]) -> None:
    reward = SequenceClassifier(model=str(folders["plain"]), positive="LABEL_1")
    with pytest.raises(ConfigError, match=r"no sequence classifier: .* score.weight"):
        reward.score(PROMPTS, ANSWERS)


def test_pickled_weights_are_never_opened(folders: dict[str, Path], tmp_path: Path) -> None:
    tiny.save_value_head(tmp_path / "pickled", tiny.llama(320))
    tiny.byte_tokenizer().save_pretrained(tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pickled" / "pytorch_model.bin")
    reward = ValueHead(
        model=str(tmp_path / "pickled"), head="v_head.weight", template="{prompt}{answer}"
    )
    with pytest.raises(ModelNotFoundError, match=r"pickled.*convert it once to safetensors"):
        reward.check()
