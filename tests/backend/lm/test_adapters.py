"""Adapters of one base: what is refused before weights are loaded, and which rows they change."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import tiny
from w2s_chains.backend.lm import adapters as adapters_module
from w2s_chains.backend.lm.adapters import Adapters, _add_to_rows, check_adapter, input_device
from w2s_chains.errors import ConfigError, UnsupportedModelError

# The config.

PLAIN = {
    "bias": "none",
    "init_lora_weights": True,
    "layer_replication": None,
    "megatron_config": None,
    "use_dora": False,
}


def written(folder: Path, config: Any) -> Path:
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    (folder / "adapter_config.json").write_bytes(text)
    return folder


@pytest.mark.parametrize(
    "values",
    [
        PLAIN,
        dict.fromkeys(PLAIN),
        {},
        {"init_lora_weights": False},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "eva"},
        {"init_lora_weights": "orthogonal"},
        {"r": 4, "note": "ünïcode"},
    ],
)
def test_a_plain_lora_is_taken(values: dict[str, Any], tmp_path: Path) -> None:
    config = json.dumps({"peft_type": "LORA", **values}, ensure_ascii=False)
    check_adapter("mine", written(tmp_path, config.encode()))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"peft_type": "IA3"}, "has type 'IA3', and only LORA is supported"),
        ({"peft_type": None}, "has type None"),
        ({"bias": "lora_only"}, "has bias 'lora_only'"),
        ({"init_lora_weights": "pissa"}, "has init_lora_weights 'pissa'"),
        ({"layer_replication": [[0, 1]]}, "has layer_replication"),
        ({"megatron_config": {}}, "has megatron_config {}"),
        ({"use_dora": True}, "has use_dora True"),
    ],
)
def test_another_adapter_is_refused(values: dict[str, Any], said: str, tmp_path: Path) -> None:
    written(tmp_path, {"peft_type": "LORA", **PLAIN, **values})
    with pytest.raises(UnsupportedModelError) as caught:
        check_adapter("mine", tmp_path)
    assert f"adapter 'mine' cannot be on in some rows of a batch and off in others: it {said}" in (
        str(caught.value)
    )


@pytest.mark.parametrize("config", [b"[", [1], b'{"peft_type": "\xff"}', None], ids=repr)
def test_an_unreadable_config_is_named(config: Any, tmp_path: Path) -> None:
    if config is not None:
        written(tmp_path, config)
    with pytest.raises(ConfigError, match=r"the adapter_config\.json of adapter 'mine' cannot be"):
        check_adapter("mine", tmp_path)


# Which adapter each row has.


def chosen(adapters: Adapters, rows: int = 3) -> Any:
    """The names that a layer is called with, beside other arguments."""
    found = adapters._choose(None, (torch.ones(rows, 2),), {"other": 1})
    if found is None:
        return None
    assert found[0][0].shape == (rows, 2)
    assert found[1].pop("other") == 1
    return found[1].pop("adapter_names")


def test_rows_hold_inside_and_end_outside() -> None:
    base = ["__base__"] * 3
    adapters = Adapters(None)
    assert chosen(adapters) == base
    with adapters.rows(["a", None, "b"]):
        assert chosen(adapters) == ["a", "__base__", "b"]
        with adapters.rows(None):
            assert chosen(adapters) == base
        assert chosen(adapters) == ["a", "__base__", "b"]
        with contextlib.suppress(KeyError), adapters.rows(["c"] * 3):
            assert chosen(adapters) == ["c"] * 3
            raise KeyError
        assert chosen(adapters) == ["a", "__base__", "b"]
    assert chosen(adapters) == base
    adapters._rows = None
    assert chosen(adapters) is None, "PEFT has its own"


@pytest.mark.parametrize("bias", [False, True])
def test_each_adapter_adds_to_its_own_rows(bias: bool) -> None:
    torch.manual_seed(0)
    names = ["a", "a", "__base__", "b", "a"]
    down = {name: nn.Linear(6, 2, bias=False) for name in "ab"}
    up = {name: nn.Linear(2, 4, bias=bias) for name in "ab"}
    base = nn.Linear(6, 4)
    called: list[Any] = []

    def run(x: Tensor, *args: Any) -> Tensor:
        called.append(args)
        return base(x)

    layer = SimpleNamespace(lora_A=down, lora_B=up, scaling={"a": 2.0, "b": 0.5}, base_layer=run)
    x = torch.randn(5, 3, 6)
    with torch.inference_mode():
        found = _add_to_rows(layer, x, "more", adapter_names=names, ignored=1)
        wanted = base(x)
        for row, name in enumerate(names):
            if name in down:
                wanted[row] += layer.scaling[name] * up[name](down[name](x[row]))
        assert torch.allclose(found, wanted, atol=1e-6)
        assert not torch.allclose(found[:2], base(x)[:2], atol=1e-2), "control"
    assert called == [("more",)]


# What is compared when an adapter is loaded.


@pytest.mark.parametrize(
    ("dtype", "limit"),
    [(torch.float32, 1e-3), (torch.float64, 1e-3), (torch.bfloat16, 0.5), (torch.float16, 0.5)],
)
def test_logits_may_differ_by_rounding(dtype: torch.dtype, limit: float) -> None:
    """As a share of the largest one, which is 10 here, whatever its sign."""
    adapters = Adapters(SimpleNamespace(dtype=dtype))
    wanted = torch.tensor([1.0, -10.0, 3.0])
    for sign in (1, -1):
        near = wanted + torch.tensor([0.0, 0.0, sign * 0.97 * limit])
        adapters._compare("mine", near, wanted, "is odd")
        with pytest.raises(UnsupportedModelError, match=r"'mine' .*: it is odd; merge"):
            adapters._compare("mine", wanted + (near - wanted) * 1.1, wanted, "is odd")
    with pytest.raises(UnsupportedModelError, match="is odd"):
        adapters._compare("mine", wanted * torch.nan, wanted, "is odd")


class Recorded(nn.Module):
    """Answers with its tokens as logits, in half precision."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, 1)
        text = SimpleNamespace(vocab_size=vocabulary)
        self.config = SimpleNamespace(get_text_config=lambda decoder: text if decoder else None)
        self.seen: list[Any] = []

    def get_input_embeddings(self) -> nn.Embedding:
        return self.table

    def forward(self, input_ids: Tensor, use_cache: bool) -> Any:
        self.seen.append((input_ids.tolist(), use_cache))
        return SimpleNamespace(logits=input_ids[:, :, None].expand(-1, -1, 2).to(torch.float16))


def test_the_text_that_is_compared_fits_any_vocabulary() -> None:
    model = Recorded(100)
    found = Adapters(model)._logits(2)
    assert model.seen == [([[1, 2, 3, 4]] * 2, False)]
    assert found.tolist() == [[4.0, 4.0]] * 2
    assert found.dtype is torch.float32
    small = Recorded(3)
    assert Adapters(small)._logits().tolist() == [[1.0, 1.0]]
    assert small.seen == [([[1, 2, 0, 1]], False)]
    assert input_device(small) == torch.device("cpu")


# Loading.


@pytest.fixture
def base() -> Any:
    return tiny.llama(64, num_hidden_layers=1)


def adapter(folder: Path, seed: int = 3, **options: Any) -> tuple[Path, Any]:
    """A folder with an adapter, and the base with it merged in."""
    model = tiny.llama(64, num_hidden_layers=1)
    return folder, tiny.save_adapter(folder, model, seed, **options)


def logits(model: Any, rows: int = 1) -> Tensor:
    with torch.inference_mode():
        return model(torch.arange(5, 11).expand(rows, -1), use_cache=False).logits


def hooks(model: Any) -> list[int]:
    from peft.tuners.lora import LoraLayer

    layers: list[Any] = [module for module in model.modules() if isinstance(module, LoraLayer)]
    return [len(module._forward_pre_hooks) for module in layers]


def test_what_is_refused_is_refused_before_the_model_is_touched(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"adapter 'mine' .* has type 'IA3'"):
        Adapters(None).load("mine", written(tmp_path, {"peft_type": "IA3"}))


def test_an_adapter_is_loaded_once(base: Any, tmp_path: Path) -> None:
    plain = logits(base)
    (first, one), (second, two) = (adapter(tmp_path / f"{i}", i) for i in (1, 2))
    adapters = Adapters(base)
    assert adapters.load("x", first) == "adapter0"
    (tmp_path / "link").symlink_to(first)
    assert adapters.load("y", tmp_path / "link") == "adapter0"
    assert adapters.load("z", second) == "adapter1"
    assert set(hooks(base)) == {1}, "each layer asks once"
    with adapters.rows(["adapter1", None, "adapter0", "adapter0"]):
        found = logits(base, 4)
    wanted = torch.cat([logits(two), plain, logits(one), logits(one)])
    assert torch.allclose(found, wanted, atol=1e-4)
    assert torch.allclose(logits(base), plain, atol=1e-5), "outside it is the base"
    assert not torch.allclose(wanted[0], wanted[2], atol=1e-2), "control"


def test_all_rows_run_in_our_own_method(base: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """It neither gathers nor scatters; what it may not replace is left to PEFT."""
    seen: list[Any] = []
    real = adapters_module._add_to_rows

    def counted(layer: Any, x: Tensor, *args: Any, **options: Any) -> Tensor:
        seen.append(options["adapter_names"])
        return real(layer, x, *args, **options)

    monkeypatch.setattr(adapters_module, "_add_to_rows", counted)
    base = base.to(torch.bfloat16)
    folder, _ = adapter(tmp_path, target_modules=["q_proj", "embed_tokens"])
    adapters = Adapters(base)
    key = adapters.load("x", folder)
    seen.clear()
    with adapters.rows([key, None]):
        logits(base, 2)
    assert seen == [[key, "__base__"]], "the embedding is no linear layer"
    weights = [own for name, own in base.named_parameters() if "lora_A" in name or "lora_B" in name]
    assert {weight.dtype for weight in weights} == {torch.bfloat16}
    assert not base.training


def test_the_base_in_the_file_of_an_adapted_embedding_is_not_taken(
    base: Any, tmp_path: Path
) -> None:
    """PEFT saves it beside the adapter, and would put it in place of ours, whatever its dtype."""
    own = base.to(torch.bfloat16).get_input_embeddings().weight
    plain = logits(base)
    folder, _ = adapter(tmp_path / "same", target_modules=["embed_tokens"])
    adapters = Adapters(base)
    key = adapters.load("same", folder)
    assert base.get_input_embeddings().base_layer.weight is own
    assert torch.equal(logits(base), plain)
    with adapters.rows([key]):
        assert not torch.allclose(logits(base), plain, atol=0.1), "control"
    other = tiny.llama(64, num_hidden_layers=1)
    with torch.no_grad():
        other.model.embed_tokens.weight[5] += 0.5
    tiny.save_adapter(tmp_path / "other", other, target_modules=["embed_tokens"])
    with pytest.raises(UnsupportedModelError, match=r"'other' .* changes its base"):
        adapters.load("other", tmp_path / "other")
    assert base.get_input_embeddings().base_layer.weight is own
    assert torch.equal(logits(base), plain)


def test_only_plain_linear_layers_run_in_our_own_method() -> None:
    """A convolution, and LoRA of another kind (DoRA), have a method of their own."""
    from peft import LoraConfig, inject_adapter_in_model

    model = nn.ModuleDict(
        {"plain": nn.Linear(4, 4), "wide": nn.Conv1d(4, 4, 1), "dora": nn.Linear(4, 4)}
    )
    for key, names, dora in (("a", ["plain", "wide"], False), ("b", ["dora"], True)):
        inject_adapter_in_model(LoraConfig(target_modules=names, use_dora=dora), model, key)
        Adapters(model)._watch("mine", key)
    own = {name for name, layer in model.items() if "_mixed_batch_forward" in layer.__dict__}
    assert own == {"plain"}


@pytest.mark.parametrize("loaded", [False, True])
def test_nothing_is_left_of_an_adapter_that_does_not_fit(
    loaded: bool, base: Any, tmp_path: Path
) -> None:
    plain = logits(base)
    deep = tiny.llama(64, num_hidden_layers=2)
    tiny.save_adapter(tmp_path / "deep", deep)
    fits, merged = adapter(tmp_path / "fits")
    adapters = Adapters(base)
    if loaded:
        adapters.load("fits", fits)
    before = list(base.state_dict())
    with pytest.raises(ConfigError, match=r"'deep' does not fit its base: 14 weights such as '"):
        adapters.load("deep", tmp_path / "deep")
    assert list(base.state_dict()) == before
    assert torch.allclose(logits(base), plain, atol=1e-5)
    key = adapters.load("fits", fits)
    assert key == "adapter0"
    with adapters.rows([key]):
        assert torch.allclose(logits(base), logits(merged), atol=1e-4)


def test_one_adapter_alone_may_replace_modules(base: Any, tmp_path: Path) -> None:
    whole, merged = adapter(tmp_path / "whole", modules_to_save=["lm_head"])
    other, _ = adapter(tmp_path / "other")
    adapters = Adapters(base)
    key = adapters.load("whole", whole)
    with adapters.rows([key]):
        assert torch.allclose(logits(base), logits(merged), atol=1e-4)
    with pytest.raises(UnsupportedModelError, match=r"'other' .* replaces modules \(modules_to"):
        adapters.load("other", other)
    with adapters.rows([key]):
        assert torch.allclose(logits(base), logits(merged), atol=1e-4), "the first one is as it was"


@pytest.mark.parametrize(
    ("rows", "said"),
    [(1, "changes its base where it is off"), (0, "gives other logits beside rows of the base")],
)
def test_rows_that_are_mixed_wrongly_are_found(
    rows: int, said: str, base: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    real = adapters_module._add_to_rows

    def wrong(layer: Any, x: Tensor, *args: Any, **options: Any) -> Tensor:
        found = real(layer, x, *args, **options)
        if len(x) == 2:
            found[rows] += 1
        return found

    monkeypatch.setattr(adapters_module, "_add_to_rows", wrong)
    folder, _ = adapter(tmp_path)
    with pytest.raises(UnsupportedModelError, match=f"adapter 'x' .*: it {said}"):
        Adapters(base).load("x", folder)


@pytest.mark.parametrize("error", [ValueError, TypeError, KeyError])
def test_what_peft_refuses_is_refused(
    error: type[Exception], base: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    def refuse(*args: Any, **options: Any) -> Tensor:
        raise error("not so")

    monkeypatch.setattr(adapters_module, "_add_to_rows", refuse)
    folder, _ = adapter(tmp_path)
    with pytest.raises(error if error is KeyError else UnsupportedModelError, match="not so"):
        Adapters(base).load("x", folder)
    assert not any("lora_" in name for name in base.state_dict())
