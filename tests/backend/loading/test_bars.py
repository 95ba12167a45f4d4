"""transformers draws no bars of its own while we load, and draws them again afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM
from transformers.utils import logging as bars

from w2s_chains import HuggingFaceProposer
from w2s_chains.backend.loading.locate import clear_errors_of, without_bars


def test_loading_draws_nothing(
    tiny_folders: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = str(tiny_folders["proposer"])
    auto: Any = AutoModelForCausalLM
    auto.from_pretrained(folder)
    assert "Loading weights" in capfd.readouterr().err, "control"
    HuggingFaceProposer.from_pretrained(folder, chat=False)
    assert capfd.readouterr().err == ""
    auto.from_pretrained(folder)
    assert "Loading weights" in capfd.readouterr().err


def test_the_hook_of_someone_else_comes_back() -> None:
    def hook(factory: Any, args: Any, options: Any) -> Any:
        return factory(*args, **options)

    before = bars.set_tqdm_hook(hook)
    first, second = without_bars(), without_bars()  # two threads, of which the first ends first
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert isinstance(bars.tqdm([]), bars.EmptyTqdm)
    second.__exit__(None, None, None)
    with pytest.raises(ValueError, match="cannot be loaded"), clear_errors_of("x"):
        raise ValueError
    assert bars.set_tqdm_hook(before) is hook
