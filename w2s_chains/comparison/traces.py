"""``TraceFiles``: the searches behind the first answers, as a page per prompt."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from w2s_chains.comparison.rows import cannot_write, write_file
from w2s_chains.errors import ConfigError
from w2s_chains.langchain.llms import W2SLLM
from w2s_chains.tracing import Trace
from w2s_chains.user_files import read_text

MOST_BYTES = 2**28
"""The largest trace that is read back."""


class TraceFiles:
    """Traces of the first prompts: JSON for each config, and a page with all of them side by side.

    A search is traced by running it once more, with the seed of its answer.
    """

    def __init__(self, folder: Path, prompts: Sequence[str], count: int) -> None:
        """Trace the first ``count`` prompts into ``folder / "traces"``."""
        self._folder = folder / "traces"
        self._prompts = prompts[:count]

    def _json(self, config: str, place: int) -> Path:
        """Return the file of a trace; a config may have any name."""
        short = re.sub(r"[^A-Za-z0-9.]+", "-", config)[:40].strip("-.")
        digest = hashlib.sha256(config.encode()).hexdigest()[:8]
        return self._folder / f"prompt-{place}-{short}-{digest}.json"

    def missing(self, config: str) -> list[int]:
        """Return the places of prompts whose trace is not there yet."""
        return [at for at in range(len(self._prompts)) if not self._json(config, at).exists()]

    def add(self, llm: W2SLLM, config: str, place: int, seed: int) -> None:
        """Trace one search.

        Raises:
            W2SError: The file cannot be written, or the search fails.
        """
        trace = llm.trace(self._prompts[place], seed=seed).model_copy(update={"name": config})
        try:
            self._folder.mkdir(exist_ok=True)
        except OSError as error:
            raise cannot_write(self._folder, error) from error
        write_file(self._json(config, place), trace.to_json().encode())

    def pages(self, configs: Sequence[str]) -> list[Path]:
        """Write a page for each prompt that has traces; return the files."""
        written: list[Path] = []
        for place in range(len(self._prompts)):
            files = [self._json(config, place) for config in configs]
            traces = [_read(file) for file in files if file.exists()]
            if traces:
                written.append(self._folder / f"prompt-{place}.html")
                traces[0].save(written[-1], *traces[1:])
        return written


def _read(path: Path) -> Trace:
    try:
        return Trace.from_json(read_text(path, "trace", MOST_BYTES))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}; delete it, and it is made anew") from error


def markdown_links(pages: Sequence[Path], folder: Path) -> str:
    """Return links to the pages of traces as Markdown; "" if there are none."""
    if not pages:
        return ""
    links = [f"[{page.stem}]({page.relative_to(folder).as_posix()})" for page in pages]
    return f"\nThe searches behind the answers, all configs side by side: {', '.join(links)}\n"
