"""The notebook about a model behind a server gives its committed outputs against a real one."""

import pytest

from tests.cookbook.test_notebooks import BLACK_BOX, execute, read, shown

pytest.importorskip("llama_cpp", reason="make llama-cpp builds it")


def test_a_fresh_run_gives_the_committed_outputs() -> None:
    committed = read(BLACK_BOX)
    assert shown(execute(committed, BLACK_BOX.parent)) == shown(committed)
