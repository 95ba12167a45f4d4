"""The notebook about a model behind a server gives its committed outputs against a real one.

All but what the server sampled, which begins with "*": that depends a little on what its cache
holds when a request comes.
"""

from __future__ import annotations

import re

import pytest

from tests.helpers.notebooks import BLACK_BOX, execute, read, shown

pytest.importorskip("llama_cpp", reason="make llama-cpp builds it")


Outputs = list[list[tuple[str, str]]]


def told(outputs: Outputs) -> Outputs:
    return [
        [(kind, re.sub(r"^\* .+$", "* ...", text, flags=re.MULTILINE)) for kind, text in cell]
        for cell in outputs
    ]


def test_a_fresh_run_gives_the_committed_outputs() -> None:
    committed = read(BLACK_BOX)
    before, after = (
        [out for _, out in shown(n)] for n in (committed, execute(committed, BLACK_BOX.parent))
    )
    assert told(after) == told(before)
    sampled = [text for cell in before for _, text in cell]
    assert sum(text.count("* ") for text in sampled) >= 7, "control: there is something sampled"
