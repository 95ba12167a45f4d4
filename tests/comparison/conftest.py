from __future__ import annotations

from pathlib import Path

import pytest
import yaml

PROMPTS = ("the film was", "I went to see", "a plot about", "they say that", "in the end")


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
