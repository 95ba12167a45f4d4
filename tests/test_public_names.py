"""What the package promises: `public_api.txt`, changed on purpose only and told in CHANGELOG.md."""

from __future__ import annotations

from difflib import unified_diff

import pytest

import w2s_chains
from tests.helpers.public_api import PINNED, public_api


def changes(pinned: str, now: str) -> str:
    """The lines that differ, each with the class that it belongs to."""
    lines = unified_diff(_with_classes(pinned), _with_classes(now), "pinned", "now", "", "", 0, "")
    return "\n".join(line for line in lines if not line.startswith("@@"))


def _with_classes(api: str) -> list[str]:
    owner, lines = "", list[str]()
    for line in api.splitlines():
        owner = line.removeprefix("class ").split("(")[0] if line[:1].strip() else owner
        lines.append(f"{owner}: {line.strip()}" if line.startswith(" ") else line)
    return lines


def test_the_public_interface_is_pinned() -> None:
    found = changes(PINNED.read_text(encoding="utf-8"), public_api())
    assert not found, f"say so in CHANGELOG.md, then `make public-api`:\n{found}"


def test_a_changed_signature_is_shown_by_its_line() -> None:
    api = PINNED.read_text(encoding="utf-8")
    line = "    chunk_tokens: ChunkTokens | None = 5"
    assert api.count(line) == 1
    found = changes(api, api.replace(line, line.replace("5", "6")))
    assert found.splitlines()[2:] == [
        f"-w2s_chains.ChunkBeamSearch: {line.strip()}",
        f"+w2s_chains.ChunkBeamSearch: {line.strip().replace('5', '6')}",
    ]


@pytest.mark.parametrize("name", w2s_chains.__all__)
def test_every_name_resolves_and_is_ours(name: str) -> None:
    value = getattr(w2s_chains, name)
    assert value is not None
    if isinstance(value, type):
        assert value.__name__ == name
        assert value.__module__.startswith("w2s_chains.")
        assert value.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'W2SLlm'"):
        w2s_chains.W2SLlm  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
    assert not hasattr(w2s_chains, "torch")


def test_the_version_is_the_installed_one() -> None:
    from importlib.metadata import version

    assert w2s_chains.__version__ == version("w2s_chains")


def test_every_error_is_one_of_ours() -> None:
    from w2s_chains import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert len(kinds) > 8
    assert all(issubclass(kind, w2s_chains.W2SError | Warning) for kind in kinds)
