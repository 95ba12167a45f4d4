from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for the hub
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import pytest
import torch
import yaml

from tests.helpers import tiny
from tests.helpers.studies import PROMPTS
from w2s_chains import GuidePair, HuggingFaceGuide, HuggingFaceProposer, LogRatioScorer

torch.set_num_threads(1)  # tiny models; more threads only wait for each other


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files start first, so that the workers of xdist end together."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def proposer() -> HuggingFaceProposer:
    """A tiny Llama with a byte-level vocabulary; its answers rarely end by themselves."""
    return HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer())


@pytest.fixture
def pair() -> GuidePair:
    """Two tiny Llamas with the proposer's vocabulary."""
    base = tiny.llama(320, seed=1)
    tokenizer = tiny.byte_tokenizer()
    return GuidePair(
        HuggingFaceGuide(tiny.noisy(base), tokenizer), HuggingFaceGuide(base, tokenizer)
    )


@pytest.fixture
def foreign_pair() -> GuidePair:
    """Two tiny GPT-2s with another vocabulary than the proposer's."""
    tokenizer = tiny.byte_tokenizer(360, bos=True, name="other")
    base = tiny.gpt2(360, seed=2)
    return GuidePair(
        HuggingFaceGuide(tiny.noisy(base), tokenizer), HuggingFaceGuide(base, tokenizer)
    )


@pytest.fixture
def scorer(pair: GuidePair) -> LogRatioScorer:
    return LogRatioScorer(pair)


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny models, as from_pretrained reads them."""
    from tests.helpers import families

    root = tmp_path_factory.mktemp("models")
    base = tiny.llama(320, seed=1)
    models = {
        "proposer": tiny.llama(320),
        "tuned": tiny.noisy(base),
        "untuned": base,
        "gpt2": tiny.gpt2(320, seed=3),
        "windowed": tiny.mistral(320),
        "compressed": families.tiny("deepseek_v4"),
    }
    folders = {}
    for name, model in models.items():
        folders[name] = root / name
        model.save_pretrained(folders[name])
        tiny.byte_tokenizer().save_pretrained(folders[name])
    return folders


@pytest.fixture
def study(tmp_path: Path, tiny_folders: dict[str, Path]) -> Path:
    """A study of three configs on tiny models and five prompts."""
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    guide = {name: str(tiny_folders[name]) for name in ("tuned", "untuned")}
    values = {
        "prompts": "prompts.txt",
        "seeds": [0, 1],
        "rewards": ["length", {"type": "length", "name": "whole", "template": "{prompt}{answer}"}],
        "base": {
            "proposer": {"model": str(tiny_folders["proposer"])},
            "guide": guide,
            "generation": {"max_tokens": 6},
        },
        "configs": {
            "base": {"strategy": {"type": "sampling"}},
            "eft": {"strategy": {"type": "emulated_fine_tuning", "beta": 1.0}},
            "beam": {
                "strategy": {"type": "chunk_beam", "width": 2, "successors": 2, "chunk_tokens": 2},
                "seeds": [0],
                "generation": {"temperature": 1.5},
            },
        },
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path
