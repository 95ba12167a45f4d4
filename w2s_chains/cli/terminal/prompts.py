"""Prompts that are typed, or come through a pipe."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, cast

from w2s_chains.errors import PromptError

if TYPE_CHECKING:
    from w2s_chains.engine.waiting import EventStream


def stdin_lines() -> Iterator[tuple[int, str]]:
    """Yield each line of stdin that is not blank as soon as it is there, with its number.

    Raises:
        PromptError: A line is not UTF-8.
    """
    stream = _stdin()
    # A thread that waits in a buffered read would keep Python from ending.
    stream = getattr(stream, "raw", stream)
    for number, line in enumerate(_split(stream), 1):
        if (text := _decoded(line, number)).strip():
            yield number, text.removesuffix("\r")


def _split(stream: Any) -> Iterator[bytes]:
    rest = b""
    while block := stream.read(2**16):
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    yield rest


def whole_stdin() -> str:
    """Return all of stdin, without one line end at its end; raises like ``stdin_lines``."""
    return _decoded(_stdin().read(), 1).removesuffix("\n").removesuffix("\r")


def _stdin() -> Any:
    if cast("Any", sys.stdin) is None:
        raise PromptError("stdin is closed; give the prompt as an argument")
    return sys.stdin.buffer


def _decoded(data: bytes, line: int) -> str:
    try:
        return data.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise PromptError(
            f"line {line} of stdin is not UTF-8: {error.reason}; convert it, for example with iconv"
        ) from error


def is_typed() -> bool:
    """Return whether stdin is a terminal."""
    return cast("Any", sys.stdin) is not None and sys.stdin.isatty()


def typed_lines(prompt: str) -> Iterator[str]:
    """Yield the lines that someone types at a terminal, with history, until Ctrl-D."""
    with suppress(ImportError):
        import readline  # input() then edits the line and remembers it

        del readline
    while True:
        shown_here = sys.stdout.isatty()
        if not shown_here:  # where input() would print the prompt
            print(prompt, end="", file=sys.stderr, flush=True)
        try:
            line = input(prompt if shown_here else "")
        except EOFError:
            print(file=sys.stderr)
            return
        if line.strip():
            yield line


def ahead(
    lines: Iterable[tuple[int, str]], begin: Callable[[str], EventStream], most: int
) -> Generator[tuple[str, EventStream]]:
    """Yield prompts and their searches in order, while later ones have begun.

    Prompts are read on a thread of their own, since each may be written only after the answer to
    the one before. Searches that were not read are cancelled when this is closed.

    Args:
        lines: The prompts and the numbers of their lines.
        begin: Prepares the search for a prompt.
        most: The most searches that are begun.

    Raises:
        W2SError: As ``lines`` and ``begin`` raise it, when its turn has come.
    """
    begun: SimpleQueue[tuple[str, EventStream] | Exception | None] = SimpleQueue()
    room, over = threading.Semaphore(most), threading.Event()

    def read() -> None:
        try:
            for number, line in lines:
                room.acquire()
                if over.is_set():
                    return
                try:
                    search = begin(line)
                except PromptError as error:
                    raise PromptError(f"line {number} of stdin: {error}") from error
                begun.put((line, search.__enter__()))
                if over.is_set():
                    search.__exit__(None, None, None)
            begun.put(None)
        except Exception as error:  # which is raised on the caller's thread
            begun.put(error)

    reader = threading.Thread(target=read, name="w2s-prompts", daemon=True)
    reader.start()
    try:
        while (found := begun.get()) is not None:
            if isinstance(found, Exception):
                raise found
            with ExitStack() as stack:
                stack.push(found[1])  # which was entered when it began
                yield found
            room.release()
    finally:
        over.set()
        room.release()
        while not begun.empty():
            if isinstance(left := begun.get(), tuple):
                left[1].__exit__(None, None, None)
