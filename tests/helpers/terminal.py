"""The command line in a terminal of its own, and what its screen shows in the end."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

ROWS, COLUMNS = 24, 80
_PATIENCE = 90.0
_PIECE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)|(\x1b)")


class Terminal:
    """``w2s`` with arguments, in a terminal of 24 rows and 80 columns."""

    def __init__(self, *arguments: object) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "w2s_chains.cli", *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm-256color", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        os.close(slave)
        self.output = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def until(self, text: str) -> str:
        """Read until a text comes; return what came before it, this call."""
        begin = len(self.output)
        end = time.monotonic() + _PATIENCE
        while text not in self.output[begin:]:
            if not self._read(end):
                raise AssertionError(f"no {text!r} in {self.output[begin:]!r}")
        return self.output[begin:]

    def interrupt_until(self, text: str) -> None:
        """Interrupt until a text comes.

        Python misses a signal just before it waits for a key, and in a weak reference's callback.
        """
        begin = len(self.output)
        end = time.monotonic() + _PATIENCE
        while text not in self.output[begin:]:
            self.interrupt()
            again = time.monotonic() + 3
            while text not in self.output[begin:] and (left := again - time.monotonic()) > 0:
                if select.select([self._master], [], [], left)[0]:
                    assert self._read(end), self.output[begin:]
            assert time.monotonic() < end, f"no {text!r} in {self.output[begin:]!r}"

    def more(self) -> None:
        """Read what comes next."""
        assert self._read(time.monotonic() + _PATIENCE)

    def type(self, line: str) -> None:
        os.write(self._master, line.encode() + b"\n")

    def end_input(self) -> None:
        os.write(self._master, b"\x04")

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def wait(self) -> int:
        """Read to the end; return the exit code."""
        end = time.monotonic() + _PATIENCE
        while self._read(end):
            pass
        return self._process.wait(10)

    def _read(self, end: float) -> bool:
        if not select.select([self._master], [], [], max(end - time.monotonic(), 0))[0]:
            raise AssertionError(f"it takes too long: {self.output[-2000:]!r}")
        try:
            data = os.read(self._master, 2**16)
        except OSError:  # the other side is closed
            return False
        self.output += data.decode(errors="replace")
        return bool(data)


def screen(output: str) -> list[str]:
    """The lines that a terminal shows in the end, for the few commands that are used here."""
    lines, row, column = [""], 0, 0
    for match in _PIECE.finditer(output):
        arguments, command, back, down, text, _ = match.groups()
        if command == "A":
            row = max(row - int(arguments or 1), 0)
        elif command == "K":
            lines[row] = "" if arguments == "2" else lines[row][:column]
        elif back:
            column = 0
        elif down:
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif text:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + text + line[column + len(text) :]
            column += len(text)
        elif command not in (None, "m", "h", "l"):
            raise AssertionError(f"unknown command {match[0]!r}")
    return lines


def piped(*arguments: object) -> subprocess.Popen[bytes]:
    """``w2s`` with arguments, its streams in pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "w2s_chains.cli", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
