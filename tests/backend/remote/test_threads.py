"""Calls on threads of their own."""

from __future__ import annotations

import gc
import time
import traceback
import weakref

from w2s_chains.backend.remote.threads import Threads


class Reply(str):
    """Megabytes, perhaps."""


def test_what_a_failed_call_held_is_free_at_once() -> None:
    """Not when the collector next comes by."""
    replies: list[weakref.ref[Reply]] = []

    def fail() -> None:
        reply = Reply("no JSON")
        replies.append(weakref.ref(reply))
        raise ValueError("I cannot read it")

    gc.collect()
    gc.disable()
    try:
        call = Threads(1, 60.0).start(fail)
        error = call.future.exception(timeout=10)
        assert isinstance(error, ValueError)
        assert replies[0]() is not None, "control: the error's traceback holds it"
        assert "fail" in [entry.name for entry in _entries(error)], "it says where it happened"
        del call, error
        end = time.monotonic() + 5
        while replies[0]() is not None and time.monotonic() < end:
            time.sleep(0.01)  # the thread ends
        assert replies[0]() is None
    finally:
        gc.enable()


def _entries(error: BaseException | None) -> list[traceback.FrameSummary]:
    assert error is not None
    return list(traceback.extract_tb(error.__traceback__))
