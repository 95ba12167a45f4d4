"""Runs the blocks of a page, in order and in one folder, as a reader would."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, chdir, contextmanager, redirect_stdout
from inspect import CO_COROUTINE
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from typer.testing import CliRunner

from tests.docs.blocks import ROOT, Block
from tests.docs.outputs import difference
from w2s_chains.cli import app
from w2s_chains.comparison import load_study
from w2s_chains.config.files import load_config

LACKS = {
    "hub": ("ModelNotFoundError", ""),
    "GPU": ("ConfigError", "cannot be used on this machine"),
    "server": ("ServerError", ""),
    "torchao": ("ModuleNotFoundError", "torchao"),
}
"""What a page may say that a block needs: the error that it must end in here, and its message."""

PROPOSER = {"model": "embedded:smollm2-135m-instruct"}
GUIDES = {"tuned": "embedded:reviews-tuned", "untuned": "embedded:reviews-untuned"}


class BlockError(AssertionError):
    """A block of a page is wrong."""


class PageRun:
    """The blocks of one page share names, files and installed packages."""

    def __init__(self, folder: Path) -> None:
        """Start in an empty folder, beside which the repository's files are reachable."""
        self.folder = folder
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.printed: str | None = None
        for name in ("cookbook", "Makefile", "pyproject.toml"):
            (folder / name).symlink_to(ROOT / name)

    def run(self, blocks: list[Block]) -> None:
        """Run all blocks.

        Raises:
            BlockError: One is wrong; the message has its page and line.
        """
        modules = set(sys.modules)
        self._servers = ExitStack()
        paths = [str(self.folder), *sys.path]
        with (
            chdir(self.folder),
            patch.dict(os.environ, COLUMNS="100"),
            patch.object(sys, "path", paths),
        ):
            try:
                with self._servers:
                    for block in blocks:
                        self._run(block)
            finally:
                for name in set(sys.modules) - modules:
                    file = getattr(sys.modules[name], "__file__", None) or ""
                    if file.startswith(str(self.folder)):
                        del sys.modules[name]

    def _run(self, block: Block) -> None:
        kinds: Mapping[str, Callable[[Block], None]] = {
            "python": self._python,
            "yaml": self._yaml,
            "toml": self._toml,
            "bash": self._bash,
            "text": self._text,
        }
        if block.language not in kinds:
            raise BlockError(
                f"{block.place}: nobody checks blocks of language {block.language!r}; use one of "
                f"{', '.join(kinds)}"
            )
        if block.file is not None:
            (self.folder / block.file).write_text(block.code, encoding="utf-8")
        try:
            kinds[block.language](block)
        except BlockError:
            raise
        except Exception as error:
            trace = "".join(traceback.format_exception(error))
            raise BlockError(f"{block.place}: {trace}") from error

    # Languages.

    def _python(self, block: Block) -> None:
        out = io.StringIO()
        with redirect_stdout(out):
            if block.needs:
                self._lacks(block, lambda: self._execute(block))
            else:
                self._execute(block)
        self.printed = None if block.needs else out.getvalue()

    def _execute(self, block: Block) -> None:
        """Run statements; a last expression is printed, as in an interactive session."""
        tree = ast.parse(block.code)
        ast.increment_lineno(tree, block.line - 1)
        if tree.body and isinstance(last := tree.body[-1], ast.Expr):
            shown = ast.Call(ast.Name("__show__", ast.Load()), [last.value], [])
            tree.body[-1] = ast.copy_location(ast.Expr(shown), last)
            ast.fix_missing_locations(tree)
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(tree, str(block.page), "exec", flags=flags, dont_inherit=True)
        self.names["__show__"] = _show
        found = eval(code, self.names)
        if code.co_flags & CO_COROUTINE:
            asyncio.run(found)

    def _lacks(self, block: Block, run: Callable[[], None]) -> None:
        """Run a block up to the point where it meets what is missing here, and no other fault."""
        known = {word: error for word, error in LACKS.items() if word in block.needs}
        if not known:
            raise BlockError(f"{block.place}: {block.needs!r} names none of {', '.join(LACKS)}")
        try:
            run()
        except Exception as error:
            for name, message in known.values():
                kinds = {kind.__name__ for kind in type(error).__mro__}
                if name in kinds and message in str(error):
                    return
            raise
        raise BlockError(f"{block.place}: it works here, so take away {block.needs!r}")

    def _yaml(self, block: Block) -> None:
        self.printed = None
        values = yaml.safe_load(block.code)
        if "configs" in values:
            study = self.folder / (block.file or "study.yaml")
            study.write_text(block.code, encoding="utf-8")
            load_study(study)
        elif block.file is None or "proposer" in values:
            whole = "proposer" in values
            load_config(values if whole else {"proposer": PROPOSER, "guides": GUIDES, **values})
        elif not all(isinstance(value, str | Mapping) for value in values.values()):
            raise BlockError(f"{block.place}: {block.file} is no mapping from names")

    def _toml(self, block: Block) -> None:
        """The package that this describes is installed, as far as a page can tell."""
        self.printed = None
        points = _entry_points(block.code)
        known = _entry_points((ROOT / "tests/plugin_example/pyproject.toml").read_text("utf-8"))
        lines: list[str] = []
        for group, entries in points.items():
            if group not in known:
                raise BlockError(f"{block.place}: {group!r} is no known group")
            lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
        package = self.folder / f"page_{block.line}-1.0.dist-info"
        package.mkdir()
        (package / "METADATA").write_text(f"Name: page_{block.line}\nVersion: 1.0\n")
        (package / "entry_points.txt").write_text("\n".join(lines) + "\n")
        importlib.invalidate_caches()
        for entries in points.values():
            for value in entries.values():
                module, _, name = value.partition(":")
                getattr(importlib.import_module(module), name)

    def _bash(self, block: Block) -> None:
        self.printed = ""
        for line in block.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                self.printed += self._command(block, words)

    def _text(self, block: Block) -> None:
        if self.printed is None:
            raise BlockError(f"{block.place}: shows an output, but no block above it has one")
        if (found := difference(block.code, self.printed)) is not None:
            raise BlockError(f"{block.place}: {found}")

    # Commands: ours run; of others all that can be known here is checked.

    def _command(self, block: Block, words: list[str]) -> str:
        if words[0] == "w2s":
            return self._w2s(block, words[1:])
        if words[0] == "curl":
            return subprocess.run(words, check=True, capture_output=True, text=True).stdout
        if words[0] == "make":
            targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
            unknown = set(words[1:]) - targets
        elif words[:2] == ["pip", "install"]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
            named = re.findall(r"\[([\w,]+)\]", " ".join(words))
            unknown = {e for some in named for e in some.split(",")} - set(
                extras["optional-dependencies"]
            )
        elif words[:2] == ["python", "-m"]:
            unknown = set() if importlib.util.find_spec(words[2]) else {words[2]}
        elif words[0] in ("git", "cd"):
            unknown = set()
        else:
            unknown = {words[0]}
        if unknown:
            raise BlockError(f"{block.place}: {shlex.join(words)!r}: unknown {', '.join(unknown)}")
        return ""

    def _w2s(self, block: Block, words: list[str]) -> str:
        if words[0] == "serve" and "--help" not in words:
            self._servers.enter_context(_served(words))
            return ""
        target = None
        if ">" in words:
            at = words.index(">")
            words, target = words[:at], words[at + 1]
        done = CliRunner().invoke(app, words)
        if done.exit_code:
            raise BlockError(
                f"{block.place}: w2s {shlex.join(words)} ended with {done.exit_code}: {done.output}"
            ) from done.exception
        if target is None:
            return done.stdout
        (self.folder / target).write_text(done.stdout, encoding="utf-8")
        return ""


@contextmanager
def _served(words: list[str]) -> Generator[None]:
    """Run a server while the rest of the page runs."""
    command = [sys.executable, "-m", "w2s_chains", *words]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "PYTHONPATH": paths},
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("Serving"), "it did not start"
            yield
        finally:
            process.terminate()


def _entry_points(toml: str) -> Mapping[str, Mapping[str, str]]:
    return tomllib.loads(toml)["project"]["entry-points"]


def _show(value: object) -> None:
    if value is not None:
        print(repr(value))
