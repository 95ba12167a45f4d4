"""Tables of logits in slices, and the noise as the papers define it."""

from __future__ import annotations

import math

import pytest
import torch

from w2s_chains.backend.lm.logits import log_exponential, log_softmax_at, read_chosen, tiles


def lengths(slices: list[slice]) -> list[int]:
    assert [own.start for own in slices[1:]] == [own.stop for own in slices[:-1]]
    return [own.stop - own.start for own in slices]


def test_no_slice_has_more_than_the_allocator_keeps() -> None:
    """2^17 logits, or one row."""
    most = 2**17
    for vocabulary, expected in ((most // 2, [2, 2, 1]), (most + 1, [1] * 5), (most // 5, [5])):
        assert lengths(tiles(torch.empty(5, vocabulary, device="cpu"))) == expected
    table = torch.empty(2, most // 2)
    assert lengths(tiles(table, 5)) == [2, 2, 1], "as many rows as are said"
    assert tiles(table, 0) == tiles(table[:0]) == []


def test_elsewhere_a_table_stays_in_one_piece() -> None:
    table = torch.empty(5, 2**17, device="meta")
    assert lengths(tiles(table)) == [5]
    assert lengths(tiles(table, 7)) == [7]
    assert lengths(tiles(table[:1])) == [1]
    assert tiles(table, 0) == []


def test_slices_change_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    table = torch.randn(7, 30, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(14).view(7, 2)
    whole = log_softmax_at(table, ids)
    assert whole.tolist() == table.log_softmax(1).gather(1, ids).tolist()
    monkeypatch.setattr("w2s_chains.backend.lm.logits._TILE", 60)
    assert len(tiles(table)) == 4
    assert log_softmax_at(table, ids).tolist() == whole.tolist()


def test_tokens_and_numbers_are_read_exactly() -> None:
    ids = [torch.tensor([1, 2, 3]), torch.tensor([4, 5, 2**31 - 1])]
    numbers = [torch.tensor([[0.1, -math.inf, 0.3]]), torch.tensor([[1e-38, 0.5, 3.4e38]])]
    tokens, table = read_chosen(ids, numbers)
    assert tokens == [[1, 4], [2, 5], [3, 2**31 - 1]]
    assert table == torch.stack(numbers, dim=-1).tolist()
    assert table[0][1] == [-math.inf, 0.5]


def lowbias32(x: int) -> int:
    """Wellons' mixer with the constants of its successor, on unsigned numbers."""
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
        x = ((x ^ (x >> shift)) * factor) % 2**32
    return x ^ (x >> 15)


def signed(x: int) -> int:
    return x - 2**32 if x >= 2**31 else x


def test_the_noise_is_that_of_the_mixer() -> None:
    """-log(1 - u) with u in the middle of one of 2^31 equal parts of (0, 1)."""
    mixed = [lowbias32(token) for token in range(1000)]
    # The last key takes token 5 to 0, the smallest number there is.
    keys = [(1, 2), (-7, 2**31 - 1), (2**31 - 1, -5), (-(2**31), 3), (signed(mixed[5]), 1)]
    found = log_exponential(torch.tensor(keys, dtype=torch.int32), 1000)
    for (flip, factor), row in zip(keys, found.tolist(), strict=True):
        parts = [
            lowbias32(((token ^ flip % 2**32) * (factor % 2**32 | 1)) % 2**32) % 2**31
            for token in mixed
        ]
        expected = [math.log(-math.log1p(-(part + 0.5) / 2**31)) for part in parts]
        assert row == pytest.approx(expected, abs=1e-4)
    assert found[-1, 5].item() == pytest.approx(math.log(0.5 / 2**31), abs=1e-5)
