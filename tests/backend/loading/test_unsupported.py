"""Models that cannot branch are refused before their weights load."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers import families, tiny
from tests.helpers.loading import as_prompt, refused
from w2s_chains import W2SLLM, HuggingFaceProposer
from w2s_chains.backend.loading.config import Model
from w2s_chains.backend.loading.load import load
from w2s_chains.errors import ConfigError, UnsupportedModelError


def test_layers_that_keep_something_else_are_refused_before_weights_load(
    tiny_folders: dict[str, Path], no_weights: None
) -> None:
    model = str(tiny_folders["compressed"])
    refused(UnsupportedModelError, model, "cannot branch", "DeepseekV4CSACache", model=model)
    with pytest.raises(ConfigError, match="weights are loaded"):  # control
        load(Model(model=str(tiny_folders["windowed"])))


@pytest.mark.parametrize("kind", ["deepseek_v4", "xlnet"])
def test_such_a_model_by_hand_is_refused(kind: str) -> None:
    with pytest.raises(UnsupportedModelError, match="cannot branch"):
        HuggingFaceProposer(families.tiny(kind), tiny.byte_tokenizer())


def test_a_window_that_is_switched_off(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    """As long as a text is shorter than the window, nothing changes."""
    model = tiny.mistral(320, seed=2)
    model.save_pretrained(tmp_path)
    tiny.byte_tokenizer().save_pretrained(tmp_path)
    spec = Model(model=str(tmp_path), config={"sliding_window": None})
    lm, text = load(spec)
    assert lm.model.config.sliding_window is None
    ids = torch.tensor([text.prompt_ids(as_prompt("The movie was great and the plot"))])
    assert ids.shape[1] > 8
    with torch.inference_mode():
        ours, theirs = lm.model(ids).logits[0], model(ids).logits[0]
    assert torch.allclose(ours[:8], theirs[:8], atol=1e-5)
    assert not torch.allclose(ours[8:], theirs[8:], atol=1e-2), "control: there the window ends"
    assert spec.model_dump(exclude_defaults=True)["config"] == {"sliding_window": None}
    assert hash(spec) == hash(spec.model_copy()) != hash(Model(model=str(tmp_path)))
    llm = W2SLLM.from_pretrained(
        str(tiny_folders["proposer"]), tuned=str(tmp_path), untuned=str(tmp_path),
        guide_config={"sliding_window": None}, max_tokens=5, seed=0,
    )  # fmt: skip
    assert isinstance(llm.invoke("The movie"), str)


def test_an_override_that_the_config_does_not_know(
    tiny_folders: dict[str, Path], no_weights: None
) -> None:
    for name in ("windowed", "proposer"):
        refused(
            ConfigError, "no field 'sliding_windov'", "choices: ",
            model=str(tiny_folders[name]), config={"sliding_windov": None},
        )  # fmt: skip
    refused(
        ConfigError, "did you mean 'sliding_window'",
        model=str(tiny_folders["windowed"]), config={"sliding_windov": None},
    )  # fmt: skip
