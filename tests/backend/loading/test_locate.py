"""Models that are nowhere, on the hub, or in its cache."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from tests.helpers.loading import refused
from w2s_chains.backend.loading.config import Model
from w2s_chains.backend.loading.load import load
from w2s_chains.backend.loading.locate import locate
from w2s_chains.errors import ConfigError, ModelNotFoundError


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("/no/such/folder", ["check the path"]),
        ("no such folder", ["check the path"]),
        ("a/b/c", ["check the path"]),
        ("missing.gguf", ["check the path"]),
        ("owner/missing.gguf", ["check the path"]),
        ("embedded:nothing", ["smollm2-135m-instruct", "reviews-tuned"]),
        ("owner/name", ["hub"]),
        ("name", ["hub"]),
    ],
)
def test_a_model_that_is_nowhere(name: str, parts: list[str]) -> None:
    begun = time.monotonic()
    refused(ModelNotFoundError, name.removeprefix("embedded:"), "embedded:", *parts, model=name)
    assert time.monotonic() - begun < 2


def test_an_empty_name_is_not_this_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=r"model: .*at least 1 character"):
        Model(model="")
    load(Model(model="."))  # control


def test_without_network_a_hub_id_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub alone would try for half a minute before it gives up."""
    asked: list[str] = []

    def unreachable(url: str, **options: Any) -> None:
        asked.append(url)
        assert options["timeout"] <= 10
        raise httpx.ConnectError("[Errno -2] Name or service not known")

    monkeypatch.setattr("w2s_chains.backend.loading.locate.get_hf_file_metadata", unreachable)
    begun = time.monotonic()
    refused(
        ModelNotFoundError, "owner/name", "cannot be reached", "Name or service", "network",
        model="owner/name", revision="v1",
    )  # fmt: skip
    assert time.monotonic() - begun < 2
    assert asked == ["https://huggingface.co/owner/name/resolve/v1/config.json"]


def test_a_cached_hub_model_needs_no_network(
    tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is not asked first for what is there; transformers finds it by itself."""

    def unreachable(url: str, **options: Any) -> None:
        raise AssertionError("the hub is asked")

    monkeypatch.setattr("w2s_chains.backend.loading.locate.get_hf_file_metadata", unreachable)
    monkeypatch.setattr(
        "w2s_chains.backend.loading.locate.try_to_load_from_cache",
        lambda *args, **kwargs: str(tiny_folders["proposer"] / "config.json"),
    )
    message = refused(ModelNotFoundError, "owner/name", model="owner/name")
    assert "cannot be reached" not in message


def test_a_revision_is_for_the_hub(tiny_folders: dict[str, Path]) -> None:
    for name in (str(tiny_folders["proposer"]), "embedded:reviews-tuned"):
        refused(ConfigError, "revision 'v1'", "hub", "leave it out", model=name, revision="v1")


def test_a_gguf_file_on_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []
    where = "w2s_chains.backend.loading.locate."
    name = "owner/name-GGUF/q4/model.Q4_K_M.gguf"
    monkeypatch.setattr(where + "get_hf_file_metadata", lambda url, **_: asked.append(url))
    assert locate(name) == ("owner/name-GGUF", {"gguf_file": "q4/model.Q4_K_M.gguf"})
    assert locate(name, "v1")[1] == {"gguf_file": "q4/model.Q4_K_M.gguf", "revision": "v1"}
    begin = "https://huggingface.co/owner/name-GGUF/resolve"
    assert [unquote(url) for url in asked] == [
        f"{begin}/{at}/q4/model.Q4_K_M.gguf" for at in ("main", "v1")
    ]

    def unreachable(url: str, **options: Any) -> None:
        raise httpx.ConnectError("no network")

    monkeypatch.setattr(where + "get_hf_file_metadata", unreachable)
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: False)
    cached = str(tmp_path / "q4" / "model.Q4_K_M.gguf")
    monkeypatch.setattr(where + "try_to_load_from_cache", lambda *_, **__: cached)
    assert locate(name) == (str(tmp_path / "q4"), {"gguf_file": "model.Q4_K_M.gguf"})
    monkeypatch.setattr(where + "try_to_load_from_cache", lambda *_, **__: None)
    refused(ModelNotFoundError, name.split("/q4")[0], "cannot be reached", model=name)
