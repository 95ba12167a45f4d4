"""Takes figures of the cookbook into the site; pages name them by their path in the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
_FIGURE = re.compile(r"\]\((?:\.\./)+(cookbook/\S+\.png)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the figures that a page shows."""
    for page in files.documentation_pages():
        for name in _FIGURE.findall(page.content_string):
            if files.get_file_from_path(name) is None:
                files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Have pages find them there."""
    up = "../" * page.file.src_uri.count("/")
    return _FIGURE.sub(lambda found: f"]({up}{found[1]})", markdown)
