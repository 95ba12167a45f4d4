"""The page of model families is about the installed transformers, and what it says is checked."""

from __future__ import annotations

import re

import pytest

from tests import families
from tests.helpers.families import KINDS


def test_the_page_has_every_family_once() -> None:
    """A newer transformers brings new ones: ``make families`` writes the page anew."""
    text = families.PAGE.read_text(encoding="utf-8")
    assert sorted(re.findall(r"^(?:\| |\* )`([\w-]+)`(?: \||:)", text, re.MULTILINE)) == KINDS
    assert len(KINDS) > 190


def test_the_page_says_what_is_found() -> None:
    for kind in ("llama", "bert"):
        line = families.page([families.check(kind)]).splitlines()
        about = next(own for own in line if own.startswith((f"| `{kind}`", f"* `{kind}`")))
        assert about in families.PAGE.read_text(encoding="utf-8").splitlines()


def test_what_differs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: a family whose batches are not their single calls would stand there with no."""

    def wrong(*options: object) -> None:
        raise AssertionError("apart")

    monkeypatch.setattr(families, "batched", wrong)
    row = families.check("llama")
    assert row.wrong == dict.fromkeys(("batch", "other guides"), "AssertionError: apart")
    text = families.page([row])
    assert "**0 are exact**" in text
    assert "| `llama` | shared | yes | yes | no | no | yes | yes |" in text
    assert "* `llama`, batch: AssertionError: apart" in text
