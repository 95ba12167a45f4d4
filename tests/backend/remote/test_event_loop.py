"""The event loop that remote models share: it outlives forks, and keeps no process from ending."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import anyio
import pytest

from w2s_chains.backend.remote.event_loop import all_of, wait_for

TIMEOUT = 60.0
"""Seconds: a process that hangs would hang for ever."""


def run(script: str) -> subprocess.CompletedProcess[str]:
    beginning = """
        import atexit, os, threading, time, warnings
        from concurrent.futures import CancelledError
        import anyio
        from w2s_chains.backend.remote.event_loop import wait_for
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(beginning) + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


def test_a_process_exits_while_a_server_is_silent() -> None:
    ended = run(
        """
        def ask():
            try:
                wait_for(anyio.sleep, 1000)
            except CancelledError:
                print("cancelled", flush=True)

        thread = threading.Thread(target=ask, daemon=True)
        atexit.register(thread.join)  # as the engine waits for its thread
        thread.start()
        time.sleep(0.1)
        wait_for(anyio.sleep, 0)
        """
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "cancelled\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_has_a_loop_of_its_own() -> None:
    ended = run(
        """
        wait_for(anyio.sleep, 0)
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of every fork
        child = os.fork()
        wait_for(anyio.sleep, 0)
        if child:
            _, status = os.waitpid(child, 0)
            print("parent", status, flush=True)
        """
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "parent 0\n", "")


def test_the_first_error_ends_the_other_calls() -> None:
    ended: list[str] = []

    async def call(what: str) -> str:
        if what == "fails":
            raise ZeroDivisionError
        try:
            await anyio.sleep(1000 if what == "waits" else 0)
        finally:
            ended.append(what)
        return what

    assert wait_for(all_of, call, ["a", "b"]) == ["a", "b"]
    with pytest.raises(ZeroDivisionError):
        wait_for(all_of, call, ["waits", "fails"])
    assert ended == ["a", "b", "waits"]
