"""What a wrapped model knows of itself, what it passes on, and how it cuts work into batches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.helpers import tiny
from w2s_chains.backend.kv.segment import Segment
from w2s_chains.backend.lm.causal_lm import CausalLM, Counters
from w2s_chains.errors import OutOfMemoryError, PromptError


@pytest.fixture
def lm() -> CausalLM:
    return CausalLM(tiny.llama(320))


def test_names() -> None:
    model = tiny.llama(320)
    assert CausalLM(model).name == "llama"
    model.config._name_or_path = "some/model"
    named = CausalLM(model)
    assert named.name == "some/model"
    assert named.no_numbers.startswith("model 'some/model' in float32 gives")


def test_sizes(lm: CausalLM) -> None:
    [plane] = lm.memory.planes
    assert (plane.layers, plane.heads, plane.key_dim, plane.value_dim) == ((0, 1), 2, 8, 8)
    assert (plane.dtype, plane.device) == (torch.float32, torch.device("cpu"))
    assert lm.memory.bytes_per_token == 2 * 2 * (8 + 8) * 4
    assert (lm.rows, lm.vocabulary_size, lm.max_positions) == (320, 320, 512)
    lm.first_position = 2
    assert lm.max_positions == 510
    assert CausalLM(tiny.bloom()).max_positions is None
    assert lm.counters == Counters(forwards=0, tokens_read=0, prefills=0), "the check left none"
    assert Counters() == lm.counters


def calls_of(lm: CausalLM, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    forward = lm.model.forward

    def watched(*args: Any, **call: Any) -> Any:
        calls.append(call)
        return forward(*args, **call)

    monkeypatch.setattr(lm.model, "forward", watched)
    return calls


@torch.inference_mode()
@pytest.mark.parametrize("offset", [0, 3])
def test_what_a_forward_passes_on(
    lm: CausalLM, offset: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm.first_position = offset
    calls = calls_of(lm, monkeypatch)
    batch = lm.gather([(None, 0)] * 2, width=1, steps=4)
    ids = torch.arange(8).view(2, 4)
    logits = lm.forward(batch, ids[:, :3])
    last = lm.forward(batch, ids[:, 3:], last_only=True)
    assert (logits.shape, last.shape) == ((2, 3, 320), (2, 1, 320))
    assert [call.get("logits_to_keep") for call in calls] == [None, 1]
    assert calls[0]["position_ids"].tolist() == [[offset, offset + 1, offset + 2]] * 2
    assert calls[1]["position_ids"].tolist() == [[offset + 3]] * 2
    assert all(call["use_cache"] for call in calls)
    assert lm.counters == Counters(forwards=2, tokens_read=8)
    lm._keeps_last = False  # some models compute all logits whatever one wants
    batch = lm.gather([(None, 0)] * 2, width=1, steps=4)
    assert torch.allclose(lm.forward(batch, ids, last_only=True), last, atol=1e-4)
    assert "logits_to_keep" not in calls[2]


def test_a_view_has_a_budget_and_an_adapter_of_its_own(lm: CausalLM) -> None:
    lm.adapter = "mine"
    view = lm.view(77)
    assert (view.token_budget, view.adapter, lm.adapter) == (77, None, "mine")
    assert lm.token_budget != 77
    for name in ("model", "memory", "adapters", "counters"):
        assert getattr(view, name) is getattr(lm, name)


def test_the_limit_of_a_batch_is_the_border_while_all_rows_stay_below_it(lm: CausalLM) -> None:
    told: list[dict[str, Any]] = []
    stub: Any = SimpleNamespace(gather=lambda paths, **how: told.append(how))
    lm.memory, lm.border = stub, 10
    root = Segment(None, 0, range(20))
    for upto, steps, limit in (((0, 9), 10, 10), ((0, 10), 3, 512), ((0, 9), 11, 512)):
        lm.gather([(root, n) for n in upto], width=2, steps=steps)
        assert told[-1]["limit"] == limit
        assert (told[-1]["width"], told[-1]["steps"]) == (2, steps)
    assert told[-1]["adapters"] == [None, None]
    lm.adapter = "mine"
    lm.gather([(root, 1)] * 3, width=1, steps=1)
    assert told[-1]["adapters"] == ["mine"] * 3
    lm.gather([(root, 1)] * 2, width=1, steps=1, adapters=("a", None))
    assert told[-1]["adapters"] == ["a", None]
    assert (told[-1]["dtype"], told[-1]["device"]) == (torch.float32, torch.device("cpu"))
    lm.border = None
    lm.gather([(root, 1)], width=1, steps=1)
    assert told[-1]["limit"] == 512


def test_an_answer_that_crosses_the_border(lm: CausalLM) -> None:
    lm.check_border(5, 1000)
    lm.border = 10
    lm.check_border(5, 10)
    lm.check_border(12, 13)
    for prompt in (5, 11):  # the last token of the prompt waits until the answer begins
        with pytest.raises(PromptError, match=rf"beyond 10 .* has {prompt} .*have 11.*least 12"):
            lm.check_border(prompt, 11)


def test_siblings_share_rows_where_they_may(lm: CausalLM) -> None:
    families = ["abc", "d"]
    assert lm.in_rows(families, 1, 5) == (["abc", "d"], 3)
    assert lm.in_rows(["abc"], 4, 5) == (["abc"], 3)
    lm.can_branch = False
    assert lm.in_rows(families, 1, 5) == (["abc", "d"], 3), "one column"
    assert lm.in_rows(["abc"], 4, 5) == (["a", "b", "c"], 1)


def batches(lm: CausalLM, costs: list[int], budget: int) -> list[list[int]]:
    """The costs of the items of each batch."""
    seen: list[list[int]] = []

    def run(items: list[tuple[int, int]]) -> list[int]:
        seen.append([cost for _, cost in items])
        return [i for i, _ in items]

    lm.token_budget = budget
    assert lm.in_batches(list(enumerate(costs)), lambda item: item[1], run) == [*range(len(costs))]
    return seen


def test_items_of_similar_cost_share_a_batch(lm: CausalLM) -> None:
    assert batches(lm, [9, 1, 5, 1, 5], 10) == [[1, 1], [5, 5], [9]]
    assert batches(lm, [9, 1, 5, 1, 5], 9) == [[1, 1], [5], [5], [9]]
    assert batches(lm, [30, 4, 4], 8) == [[4, 4], [30]], "one alone may be larger"
    assert batches(lm, [], 8) == []
    lm.border = 5
    assert batches(lm, [6, 5, 4, 7], 100) == [[4, 5], [6, 7]], "on one side of the border"


def test_other_errors_are_not_tried_again(lm: CausalLM) -> None:
    tried: list[int] = []

    def run(items: list[int]) -> list[int]:
        tried.append(len(items))
        raise RuntimeError("a shape does not fit")

    with pytest.raises(RuntimeError, match="a shape"):
        lm.in_batches([1, 2], lambda _: 1, run)
    assert tried == [2]


def test_an_item_that_does_not_fit_alone_is_told_with_its_size(lm: CausalLM) -> None:
    def run(items: list[int]) -> list[int]:
        raise RuntimeError("can't allocate memory")

    with pytest.raises(OutOfMemoryError, match=r"one row of 7 tokens .* memory of cpu") as caught:
        lm.in_batches([7, 9], lambda cost: cost, run)
    assert isinstance(caught.value.__cause__, RuntimeError)
