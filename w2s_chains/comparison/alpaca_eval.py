"""Answers as the JSON that ``alpaca_eval --model_outputs`` takes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from w2s_chains.comparison.rows import Row, write_file


def write_alpaca_eval(folder: Path, rows: Iterable[Row]) -> None:
    """Write one file per config and seed: a list of instruction, output and generator.

    Prompts without an answer are left out, so that nobody mistakes an error for an answer.
    """
    files: dict[tuple[str, int], list[dict[str, str]]] = {}
    for row in rows:
        if row.text is not None:
            files.setdefault((row.config, row.seed), []).append(
                {"instruction": row.prompt, "output": row.text, "generator": row.config}
            )
    folder.mkdir(parents=True, exist_ok=True)
    for (config, seed), outputs in files.items():
        name = re.sub(r"[^\w.+-]+", "-", config).strip("-")
        data = json.dumps(outputs, ensure_ascii=False, indent=2) + "\n"
        write_file(folder / f"{name}-seed{seed}.json", data.encode())
