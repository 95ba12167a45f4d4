"""No file of a model runs code: pickles are never opened, kernels never fetched."""

from __future__ import annotations

import json
import logging
import shutil
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.helpers import tiny
from tests.helpers.loading import refused
from w2s_chains.backend.classifiers.judge import JudgeOptions
from w2s_chains.backend.classifiers.load import load_judge
from w2s_chains.backend.loading import locate as locating
from w2s_chains.backend.loading import safety
from w2s_chains.backend.loading.config import Model
from w2s_chains.backend.loading.load import load, preview
from w2s_chains.backend.loading.locate import clear_errors_of, held_back
from w2s_chains.errors import ConfigError, ModelNotFoundError

INDEX = "model.safetensors.index.json"


@pytest.fixture(autouse=True)
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*args: Any, **options: Any) -> None:
        raise AssertionError("a pickle is opened")

    monkeypatch.setattr(torch, "load", opened)


def pickled(folder: Path, file: str = "pytorch_model.bin") -> None:
    torch.save(tiny.llama(320).state_dict(), folder / file)


def edit(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def index_of(folder: Path, file: str, name: str = INDEX) -> None:
    names = dict.fromkeys(tiny.llama(320).state_dict(), file)
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": names}))


def by_index(folder: Path) -> None:
    """The index names a pickle; another file only looks as if the folder were safe."""
    (folder / "model.safetensors").unlink()
    save_file({"x": torch.zeros(1)}, folder / "other.safetensors")
    pickled(folder)
    index_of(folder, "pytorch_model.bin")


def by_config(folder: Path) -> None:
    pickled(folder, "adapter_model.bin")
    edit(folder, transformers_weights="adapter_model.bin")


def by_own_index(folder: Path) -> None:
    pickled(folder)
    index_of(folder, "pytorch_model.bin", "own.safetensors.index.json")
    edit(folder, transformers_weights="own.safetensors.index.json")


def by_adapter(folder: Path) -> None:
    """With peft, transformers loads an adapter that lies beside a model, of whatever format."""
    tiny.save_adapter(folder / "adapter", tiny.llama(320))
    shutil.copy(folder / "adapter" / "adapter_config.json", folder)
    pickled(folder, "adapter_model.bin")


@pytest.mark.parametrize("trap", [by_index, by_config, by_own_index, by_adapter])
def test_a_pickle_is_refused_before_anything_is_loaded(trap: Any, folder: Path) -> None:
    trap(folder)
    refused(ModelNotFoundError, str(folder), "*.bin", "safetensors", model=str(folder))
    with pytest.raises(ModelNotFoundError, match="never opens pickled weights"):
        preview(Model(model=str(folder)))


def test_shards_in_safetensors_load(folder: Path) -> None:
    """The control: an index is no fault, nor are pickles that nothing names."""
    shard = "model-00001-of-00001.safetensors"
    (folder / "model.safetensors").rename(folder / shard)
    index_of(folder, shard)
    pickled(folder)
    index_of(folder, "pytorch_model.bin", "pytorch_model.bin.index.json")
    lm, _ = load(Model(model=str(folder)))
    assert torch.equal(lm.model.lm_head.weight, tiny.llama(320).lm_head.weight)


def test_an_adapter_in_safetensors_beside_a_model_loads(folder: Path) -> None:
    tiny.save_adapter(folder, tiny.llama(320))
    lm, _ = load(Model(model=str(folder)))
    assert lm.token_budget > 0


@pytest.mark.parametrize("trap", [by_index, by_config, by_own_index, by_adapter])
def test_a_pickle_on_the_hub_is_refused(
    trap: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap(folder)

    def fetched(source: str, name: str, **options: Any) -> str | None:
        assert source == "owner/name"
        assert options["revision"] == "v1"
        return str(folder / name) if (folder / name).exists() else None

    monkeypatch.setattr(safety, "_cached_file", fetched)
    config, _ = preview_config(folder)
    with pytest.raises(ModelNotFoundError, match=r"'owner/name'.*never opens pickled"):
        safety.check_safe("owner/name", "owner/name", {"revision": "v1"}, config)
    shutil.rmtree(folder)  # control: a repository without such files
    safety.check_safe("owner/name", "owner/name", {"revision": "v1"})


def preview_config(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder), None


@pytest.mark.parametrize("trap", [by_index, by_config])
def test_classifiers_are_held_to_the_same(trap: Any, tmp_path: Path) -> None:
    folder = tmp_path / "judge"
    tiny.llama_reward(2).save_pretrained(folder)
    tiny.byte_tokenizer().save_pretrained(folder)
    options = JudgeOptions(model=str(folder))
    assert load_judge(options)  # control
    trap(folder)
    with pytest.raises(ModelNotFoundError, match="never opens pickled"):
        load_judge(JudgeOptions(model=str(folder), max_length=9))


@pytest.mark.parametrize("name", ["owner/repo:func", "owner/repo", "sdpaa", "paged|owner/repo"])
def test_an_attention_from_the_hub_is_refused(name: str, folder: Path, no_weights: None) -> None:
    refused(
        ConfigError, repr(name), "sdpa", "eager", "no code from the hub",
        model=str(folder), attn_implementation=name,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="no code from the hub"):
        load_judge(JudgeOptions(model=str(folder), attn_implementation=name))
    for field in ("attn_implementation", "_attn_implementation"):
        edit(folder, **{field: name})
        refused(ConfigError, repr(name), str(folder), model=str(folder))
        edit(folder, **{field: None})


def test_attention_that_transformers_has_is_used(folder: Path) -> None:
    for name in ("eager", "sdpa"):
        lm, _ = load(Model(model=str(folder), attn_implementation=name))
        assert lm.model.config._attn_implementation == name


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What transformers logs and what anyone warns of, in order."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    listener, log = Listener(), logging.getLogger("transformers")
    log.addHandler(listener)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *args, **options: lines.append(str(message))
        yield lines
    log.removeHandler(listener)


def warn() -> None:
    logging.getLogger("transformers.modeling_utils").warning("transformers says")
    warnings.warn("torch says", UserWarning, stacklevel=1)


def test_a_failed_load_says_its_error_alone(folder: Path, said: list[str]) -> None:
    edit(folder, num_hidden_layers=3)
    refused(ConfigError, "no weights for", model=str(folder))
    assert said == []
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(folder)
    assert "LOAD REPORT" in said[0], "control: transformers alone prints a table"


def test_warnings_wait_for_success(said: list[str]) -> None:
    with held_back():
        warn()
        assert said == []
        other = threading.Thread(target=warn)
        other.start()
        other.join()
        assert said == ["transformers says", "torch says"], "other threads speak"
    assert said == ["transformers says", "torch says"] * 2
    with pytest.raises(ConfigError, match="broken"), clear_errors_of("x"):
        warn_and_fail()
    assert len(said) == 4


def warn_and_fail() -> None:
    warn()
    raise RuntimeError("broken")


def test_without_network_the_cached_files_are_read_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """huggingface_hub would ask for each of ten files six times."""

    class UnreachableError(Exception):
        """Of whatever HTTP library."""

    def unreachable(url: str, **options: Any) -> None:
        raise UnreachableError("Name or service not known")

    monkeypatch.setattr(locating, "get_hf_file_metadata", unreachable)
    monkeypatch.setattr(locating._hub, "is_offline_mode", lambda: False)
    with pytest.raises(ModelNotFoundError, match=r"cannot be reached.*not known.*network"):
        load(Model(model="owner/name"))
    monkeypatch.setattr(
        locating, "try_to_load_from_cache", lambda *args, **options: str(folder / "config.json")
    )
    lm, _ = load(Model(model="owner/name", revision="v1"))
    assert torch.equal(lm.model.lm_head.weight, tiny.llama(320).lm_head.weight)
