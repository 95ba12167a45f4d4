"""The studies of the paper at full scale, with tiny models of the same kinds in place of theirs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from cookbook.paper import prepare
from tests.helpers import tiny
from w2s_chains import (
    BestOfN,
    ChunkBeamSearch,
    GuidePair,
    HuggingFaceGuide,
    LogRatioScorer,
    Model,
)
from w2s_chains.comparison import compare, load_study
from w2s_chains.comparison.study import Entry

STUDIES = sorted(Path(prepare.__file__).parent.glob("*.yaml"))
PROMPTS = ["The movie was", "A boring film; the acting"]
MODEL_FIELDS = ("model", "tuned", "untuned", "tokenizer")

# What each model is: its architecture and its kind of tokenizer. Models that share a vocabulary
# share the tokenizer here, too.
STAND_INS = {
    "openai-community/gpt2-large": "gpt2",
    "openai-community/gpt2-xl": "gpt2",
    "lvwerra/gpt2-imdb": "gpt2",
    "cookbook/paper/guides/sentiment-tuned": "gpt2",
    "cookbook/paper/guides/summarization-tuned": "gpt2",
    "cookbook/paper/guides/summarization-untuned": "gpt2",
    "meta-llama/Llama-2-7b-hf": "llama-2",
    "meta-llama/Llama-2-7b-chat-hf": "llama-2",
    "meta-llama/Llama-2-13b-chat-hf": "llama-2",
    "meta-llama/Llama-2-70b-chat-hf": "llama-2",
    "allenai/tulu-2-dpo-7b": "llama-2",
    "allenai/tulu-2-7b": "llama-2",
    "meta-llama/Meta-Llama-3-8B": "llama-3",
    "meta-llama/Meta-Llama-3-8B-Instruct": "llama-3",
    "meta-llama/Meta-Llama-3-70B-Instruct": "llama-3",
    "HuggingFaceH4/zephyr-7b-beta": "mistral",
    "HuggingFaceH4/mistral-7b-sft-beta": "mistral",
    "berkeley-nest/Starling-LM-7B-alpha": "mistral",
    "openchat/openchat_3.5": "mistral",
    "lvwerra/distilbert-imdb": "distilbert",
    "OpenAssistant/reward-model-deberta-v3-large-v2": "deberta",
    "openbmb/UltraRM-13b": "ultrarm",
    "Nexusflow/Starling-RM-34B": "starling-rm",
    "01-ai/Yi-34B-Chat": "yi",
}


def names_in(value: Any) -> Iterator[str]:
    """Every model that a study names."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in MODEL_FIELDS and isinstance(inner, str):
                yield inner
            else:
                yield from names_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from names_in(inner)


def replaced(value: Any, folders: dict[str, Path]) -> Any:
    """The same with the folders of the stand-ins."""
    if isinstance(value, dict):
        return {key: replaced(inner, folders) for key, inner in value.items()}
    if isinstance(value, list):
        return [replaced(inner, folders) for inner in value]
    return str(folders[value]) if isinstance(value, str) and value in folders else value


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for every model of the studies."""
    root = tmp_path_factory.mktemp("paper")
    tokenizers = {
        "gpt2": tiny.byte_tokenizer(),
        "llama-2": tiny.sentencepiece_tokenizer(),
        "llama-3": tiny.byte_tokenizer(360, bos=True, name="llama-3"),
        "mistral": tiny.sentencepiece_tokenizer(130),
        "distilbert": tiny.wordpiece_tokenizer(),
        "deberta": tiny.unigram_tokenizer(),
        "ultrarm": tiny.sentencepiece_tokenizer(),
        "yi": tiny.sentencepiece_tokenizer(140),
    }
    found: dict[str, Path] = {}
    for seed, (name, kind) in enumerate(STAND_INS.items()):
        folder = found[name] = root / name.replace("/", "--")
        tokenizer = tokenizers.get(kind, tokenizers["yi"])
        save(kind, folder, tokenizer, seed)
        if kind != "starling-rm":  # its tokenizer is that of Yi
            tokenizer.save_pretrained(folder)
    return found


def save(kind: str, folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    size = len(tokenizer)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    match kind:
        case "gpt2":
            tiny.gpt2(size, seed).save_pretrained(folder)
        case "llama-2" | "llama-3":
            tiny.llama(size, seed, **ends).save_pretrained(folder)
        case "mistral":
            tiny.mistral(size, seed, **ends).save_pretrained(folder)
        case "distilbert":
            tiny.distilbert_classifier(size).save_pretrained(folder)
        case "deberta":
            tiny.deberta_reward(size).save_pretrained(folder)
        case "ultrarm":
            decoder = tiny.llama(size, seed, max_position_embeddings=4096)
            tiny.save_value_head(folder, decoder, "model", "regression_head.weight")
        case "starling-rm":
            decoder = tiny.llama(size, seed, max_position_embeddings=4096)
            tiny.save_value_head(folder, decoder, "transformer", "v_head.weight")
        case _:
            assert kind == "yi", "only a tokenizer"


def small(study: Path, folders: dict[str, Path], tmp_path: Path, **fields: Any) -> Path:
    """A study with tiny models, two prompts, short answers and one seed."""
    values = replaced(yaml.safe_load(study.read_text("utf-8")), folders)
    values["base"]["generation"]["max_tokens"] = 6
    prompts = tmp_path / "prompts.jsonl"
    prepare.write_prompts(PROMPTS, prompts)
    path = tmp_path / study.name
    path.write_text(yaml.safe_dump({**values, "prompts": str(prompts), "seeds": [0], **fields}))
    return path


def test_every_model_of_every_study_has_a_stand_in() -> None:
    assert len(STUDIES) == 4
    named = {name for study in STUDIES for name in names_in(yaml.safe_load(study.read_text()))}
    assert named == set(STAND_INS), "a new model needs a stand-in of its own kind above"
    control = {"proposer": {"model": "new/model"}, "rewards": [{"tokenizer": "new/tokenizer"}]}
    assert set(names_in(control)) == {"new/model", "new/tokenizer"}


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
def test_a_study_runs(
    study: Path, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("w2s_chains.comparison.report.paired.DRAWS", 10)  # of the bootstrap
    path = small(study, folders, tmp_path)
    loaded = load_study(path)
    done = compare(path, out=tmp_path / "out", plots=False, alpaca_eval=True)
    assert len(done.rows) == 2 * len(loaded.configs)
    rewards = [reward.column for reward in loaded.rewards]
    for row in done.rows:
        assert row.text is not None
        assert not row.errors, row
        values = [row.rewards[column] for column in rewards]
        assert all(value is not None and math.isfinite(value) for value in values), row
        guided = loaded.configs[row.config].guides is not None
        assert (row.guide_score is not None) == guided
    exported = [json.loads(file.read_text()) for file in (tmp_path / "out/alpaca_eval").iterdir()]
    assert len(exported) == len(loaded.configs)
    assert {row["instruction"] for file in exported for row in file} == set(PROMPTS)
    assert len({row.text for row in done.rows}) > len(loaded.configs) / 4, "control: they differ"


def test_the_settings_are_those_of_the_paper() -> None:
    studies = {path.stem: load_study(path) for path in STUDIES}
    for name, study in studies.items():
        short = name in ("sentiment", "summarization")
        assert study.limit == (200 if short else None)
        for label, config in study.configs.items():
            assert isinstance(config, Entry)
            assert isinstance(config.proposer, Model)
            strategy = config.strategy
            assert config.generation.temperature == 0.7
            assert config.generation.max_tokens == (50 if short else 2048)
            assert config.proposer.dtype == "bfloat16"
            kind = label.rpartition(", ")[2].split()[0]
            if strategy.type == "chunk_beam":
                assert isinstance(strategy, ChunkBeamSearch)
                setting = (strategy.width, strategy.successors, strategy.chunk_tokens)
                assert setting == ((4, 4, 5) if short else (2, 2, 30))
            if strategy.type == "best_of_n":
                assert isinstance(strategy, BestOfN)
                assert kind == f"best-of-{strategy.n}" or label.endswith(f"best-of-{strategy.n}")
            if strategy.type == "emulated_fine_tuning":
                assert config.guides is not None
                kinds = {
                    STAND_INS[spec.model] for spec in (config.proposer, *config.guides.specs())
                }
                assert len(kinds) == 1, "only where the vocabulary is shared"
        assert next(iter(study.configs.values())).strategy.type == "sampling", "the baseline"


# Preparing and training.


def test_prompts_are_written_one_per_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["a\nb", "電影 \u2028 x"]
    monkeypatch.setitem(prepare.TASKS, "sentiment", lambda: texts)
    prepare.main(["sentiment", "--out", str(tmp_path / "data" / "file.jsonl")])
    lines = (tmp_path / "data" / "file.jsonl").read_text("utf-8").split("\n")
    assert [json.loads(line)["prompt"] for line in lines[:-1]] == texts


@pytest.mark.parametrize("shards", [1, 2])
def test_pickled_weights_become_safetensors(tmp_path: Path, shards: int) -> None:
    model = tiny.llama(320)
    model.save_pretrained(tmp_path / "old")
    tiny.byte_tokenizer().save_pretrained(tmp_path / "old")
    (tmp_path / "old" / "model.safetensors").unlink()
    weights = list(model.state_dict().items())
    for i in range(shards):
        name = f"pytorch_model-{i + 1:05}-of-{shards:05}.bin" if shards > 1 else "pytorch_model.bin"
        torch.save(dict(weights[i::shards]), tmp_path / "old" / name)
    prepare.main(["convert", str(tmp_path / "old"), str(tmp_path / "new")])
    assert not list((tmp_path / "new").glob("*.bin*"))
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "new", use_safetensors=True)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in weights)
    assert HuggingFaceGuide.from_pretrained(str(tmp_path / "new")).tokenizer.vocabulary


PAIRS = [
    {"prompt": "The movie", "responses": [" was great!", " was terrible."], "chosen": 0},
    {"prompt": "A boring", "responses": [" film.", " joy to watch, really."], "chosen": 1},
] * 4


@pytest.mark.parametrize("task", ["sentiment", "summarization"])
def test_the_recipe_trains(task: str, folders: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("trl")
    from cookbook.paper import train_guides

    pairs: list[dict[str, Any]] = PAIRS
    if task == "summarization":  # its data have three columns
        pairs = [train_guides.as_pair(pair) for pair in PAIRS]
        assert pairs[1]["chosen"] == " joy to watch, really."
        assert pairs[1]["rejected"] == " film."
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    base = folders["lvwerra/gpt2-imdb"]
    train_guides.main(
        [
            task, "--base", str(base), "--data", str(data), "--validation", str(data),
            "--max-steps", "2", "--batch", "4", "--out", str(tmp_path / "guides"),
        ]
    )  # fmt: skip
    tuned = tmp_path / "guides" / f"{task}-tuned"
    untuned = base if task == "sentiment" else tmp_path / "guides" / f"{task}-untuned"
    weights = [load_weights(folder) for folder in (base, untuned, tuned)]
    assert differ(weights[1], weights[2])
    assert differ(weights[0], weights[1]) == (task == "summarization")
    pair = GuidePair.from_pretrained(str(tuned), str(untuned))
    scores = LogRatioScorer(pair).score_texts(["The movie"] * 2, [" was great!", " was"])
    assert all(abs(score) > 1e-4 for score in scores)
    same = GuidePair.from_pretrained(str(untuned), str(untuned))
    assert LogRatioScorer(same).score_texts(["The movie"], [" was great!"]) == [0.0], "control"


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def differ(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(value, b[name]) for name, value in a.items())
