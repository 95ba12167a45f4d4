"""Fetch the prompts of the studies in this folder, or convert pickled weights to safetensors.

Run it from the root of the repository: ``python -m cookbook.paper.prepare sentiment`` (or
``summarization``, ``instructions``, or ``convert MODEL FOLDER``).
"""

# datasets comes with the extra "train", which the checks do without.
# pyright: reportMissingImports=false

import argparse
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import huggingface_hub
import safetensors.torch
import torch

hub = cast(Any, huggingface_hub)  # it is only partly typed
DATA = Path(__file__).parent / "data"
NEEDED = ["*.json", "*.model", "*.txt", "*.bin"]


def sentiment() -> list[str]:
    """Return the beginnings of 200 movie reviews, as in the paper."""
    return _column("ZHZisZZ/imdb_preference", "test", 200)


def summarization() -> list[str]:
    """Return 200 Reddit posts; each ends with ``TL;DR:``."""
    return _column("trl-lib/tldr", "test", 200)


def instructions() -> list[str]:
    """Return the 805 instructions of AlpacaEval."""
    path = hub.hf_hub_download("tatsu-lab/alpaca_eval", "alpaca_eval.json", repo_type="dataset")
    return [row["instruction"] for row in json.loads(Path(path).read_text("utf-8"))]


TASKS = {"sentiment": sentiment, "summarization": summarization, "instructions": instructions}


def _column(name: str, split: str, count: int) -> list[str]:
    import datasets

    rows = cast(Any, datasets).load_dataset(name, split=split)
    return rows.select(range(count))["prompt"][:]


def write_prompts(prompts: Iterable[str], path: Path) -> None:
    """Write prompts as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"prompt": prompt}, ensure_ascii=False) + "\n" for prompt in prompts)
    path.write_text("".join(lines), encoding="utf-8")


def convert(model: str, folder: Path) -> None:
    """Convert a model that has only pickled weights to safetensors.

    torch opens the weights with ``weights_only=True``, so that no code in them runs.

    Args:
        model: A hub id, or a local folder.
        folder: The folder to write the model to, with tokenizer and config.
    """
    source = Path(model)
    if not source.is_dir():
        source = Path(hub.snapshot_download(model, allow_patterns=NEEDED))
    folder.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix in (".json", ".model", ".txt", ".jinja") and ".bin" not in file.name:
            shutil.copy(file, folder)
    files: dict[str, str] = {}
    shards = sorted(source.glob("pytorch_model*.bin"))
    if not shards:
        raise SystemExit(f"{model} has no pytorch_model*.bin")
    for shard in shards:
        weights: dict[str, torch.Tensor] = torch.load(shard, map_location="cpu", weights_only=True)
        name = shard.name.replace("pytorch_model", "model").replace(".bin", ".safetensors")
        # Cloned, as safetensors refuses tensors that share memory.
        copies = {key: value.clone().contiguous() for key, value in weights.items()}
        cast(Any, safetensors.torch).save_file(copies, folder / name, {"format": "pt"})
        files.update(dict.fromkeys(weights, name))
    if len(shards) > 1:
        index = {"metadata": {}, "weight_map": files}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the task that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True)
    for name in TASKS:
        task = tasks.add_parser(name, help=f"write data/{name}.jsonl")
        task.add_argument("--out", type=Path, default=DATA / f"{name}.jsonl")
    task = tasks.add_parser("convert", help="write pickled weights as safetensors")
    task.add_argument("model", help="hub id or local folder")
    task.add_argument("folder", type=Path, help="where the converted model goes")
    arguments = parser.parse_args(argv)
    if arguments.task == "convert":
        convert(arguments.model, arguments.folder)
    else:
        prompts = TASKS[arguments.task]()
        write_prompts(prompts, arguments.out)
        print(f"{len(prompts)} prompts in {arguments.out}")


if __name__ == "__main__":
    main()
