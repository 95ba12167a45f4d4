"""The check of exactness on a model of one table: each logit counts, each limit is where it says.

The model weighs the tokens of a path by how near they are, so whoever reads another path than it
should, or leaves a token out, gets other logits. It has no weights to load.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import torch
from torch import Tensor

from w2s_chains.backend.lm.exactness import (
    _rounding,
    _texts,
    check_exact,
    difference,
)
from w2s_chains.backend.lm.positions import longest_text, rope_border, window_of
from w2s_chains.errors import ProposerError, UnsupportedModelError

TABLE = torch.randn(60, 30, generator=torch.Generator().manual_seed(0))
TABLE -= TABLE.mean(1, keepdim=True)  # so that a share of the logits is a share of their norm

Wrong = Callable[[str, int, Tensor], Any]
"""What to do to the logits of the n-th plain forward ("plain") or of another one ("read")."""


class Config:
    def __init__(self, **values: Any) -> None:
        self.pad_token_id = None
        self.__dict__.update(values)

    def to_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def get_text_config(self, decoder: bool = False) -> Config:
        assert decoder
        return self


KEPT: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""How many tokens of each segment were read."""


class Rows:
    """A batch as it is documented, with tokens in place of keys and values."""

    def __init__(self, paths: Any, width: int, steps: int) -> None:
        self.pasts = [list(segment.ids[:upto]) if segment else [] for segment, upto in paths]
        for segment, upto in paths:
            assert upto == 0 if segment is None else len(segment.ids) == upto + 1
            assert segment is None or KEPT[segment] == upto, "it was read so far"
        self.width, self.fork = width, max(map(len, self.pasts)) + 1
        self.filled = self.fork - 1
        self.room = self.fork + width * (steps - 1)
        self.cells: list[dict[int, int]] = [{} for _ in paths]
        self.kv = [[torch.ones(1, 1, len(paths), self.room, 1) for _ in "kv"] for _ in "ab"]

    def path(self, row: int, column: int) -> list[int]:
        own = (column - self.fork) % self.width
        seen = [c for c in self.cells[row] if c < self.fork or (c - self.fork) % self.width == own]
        return self.pasts[row] + [self.cells[row][c] for c in seen if c <= column]

    def keep(self, branches: Any) -> None:
        for segment, row, branch, count in branches:
            assert branch == 0
            assert list(segment.ids[:count]) == list(self.cells[row].values())[:count]
            KEPT[segment] = count


class TableModel:
    """A ``Reader``. Attributes: batches: those gathered. calls: Logits of each forward."""

    name = "table"
    rows = 60
    vocabulary_size = 60
    device = torch.device("cpu")

    def __init__(self, wrong: Wrong = lambda kind, n, logits: None, **config: Any) -> None:
        self.wrong = wrong
        self.config = Config(**config)
        self.model: Any = self
        self.dtype = torch.float32
        self.takes_positions = True
        self.first_position = 0
        self.recurrent = False
        self.memory: Any = SimpleNamespace(whole=True, bytes_per_token=1)
        self.batches: list[Rows] = []
        self.calls: dict[str, list[Tensor]] = {"plain": [], "read": []}

    def parameters(self) -> Iterator[Tensor]:
        yield torch.ones(1, dtype=self.dtype)

    def logits(self, kind: str, paths: list[list[list[int]]]) -> Tensor:
        found = torch.stack([torch.stack([self.after(path) for path in row]) for row in paths])
        changed = self.wrong(kind, len(self.calls[kind]), found)
        self.calls[kind].append(found if changed is None else changed)
        return self.calls[kind][-1]

    def after(self, path: list[int]) -> Tensor:
        return sum((TABLE[token] / 2**i for i, token in enumerate(reversed(path))), TABLE[0] * 0)

    def __call__(self, input_ids: Tensor, use_cache: bool) -> Any:
        assert use_cache is False
        rows = input_ids.tolist()
        paths = [[row[: i + 1] for i in range(len(row))] for row in rows]
        return SimpleNamespace(logits=self.logits("plain", paths))

    def gather(self, paths: Any, *, width: int, steps: int) -> Any:
        self.batches.append(Rows(paths, width, steps))
        return self.batches[-1]

    def forward(self, batch: Any, ids: Tensor, last_only: bool = False) -> Tensor:
        begin, batch.filled = batch.filled, batch.filled + ids.shape[1]
        assert batch.filled <= batch.room
        for row, own in enumerate(ids.tolist()):
            batch.cells[row].update(enumerate(own, begin))
        columns = range(batch.filled - 1 if last_only else begin, batch.filled)
        found = [[batch.path(row, c) for c in columns] for row in range(len(batch.cells))]
        return self.logits("read", found)


def verdict(lm: TableModel) -> str:
    """What the check says: "branches", "none", or how the refused model is read wrongly."""
    try:
        return "branches" if check_exact(lm) else "none"
    except UnsupportedModelError as error:
        return str(error)


READ = [
    ((2, 4), "a cached forward", lambda row, column: column < 3),  # the next call has the last
    ((2, 1), "a cached forward", lambda row, column: True),
    ((1, 2), "incremental reading", lambda row, column: True),
    ((1, 1), "incremental reading", lambda row, column: True),
    ((3, 2), "a batch with padding on the left", lambda row, column: True),
    ((3, 1), "a batch with padding on the left", lambda row, column: True),
    ((2, 5), "none", lambda row, column: column % 2 == 0),  # others are the sibling's
    ((2, 1), "none", lambda row, column: True),
    ((2, 2), "none", lambda row, column: column == 1),
    ((2, 2), "none", lambda row, column: column == 1),
]
"""Each forward with a cache: its rows and columns, what it tries, and which logits it is for."""


def test_an_exact_model_is_read_in_every_way() -> None:
    lm = TableModel()
    assert verdict(lm) == "branches"
    assert [logits.shape[:2] for logits in lm.calls["read"]] == [shape for shape, *_ in READ]
    assert [logits.shape[:2] for logits in lm.calls["plain"]] == [(3, 8), (3, 8), (2, 16)]
    pasts = [[len(past) for past in batch.pasts] for batch in lm.batches]
    assert pasts == [[0, 0], [0, 0], [4], [4, 2, 0], [4, 2], [4, 2]]
    assert [batch.width for batch in lm.batches] == [1, 1, 1, 1, 2, 2]
    assert [batch.room - batch.filled for batch in lm.batches] == [0] * 6
    for n, (shape, path, _) in enumerate(READ):
        assert lm.calls["read"][n].shape == (*shape, 30), path


@pytest.mark.parametrize("n", range(len(READ)))
def test_each_logit_counts(n: int) -> None:
    (rows, columns), path, counts = READ[n]
    for row in range(rows):
        for column in range(columns):

            def wrong(kind: str, call: int, logits: Tensor, at: Any = (row, column)) -> None:
                if (kind, call) == ("read", n):
                    logits[at] += 0.1

            said = verdict(TableModel(wrong))
            if not counts(row, column):
                assert said == "branches", "control"
            else:
                assert said == path if path == "none" else f"read wrongly by {path}: " in said


def scaled(wanted: tuple[str, int], rows: Any, share: float) -> Wrong:
    """Change the logits of one forward by a share of their norm."""

    def wrong(kind: str, n: int, logits: Tensor) -> None:
        if (kind, n) == wanted:
            logits[rows] *= 1 + share

    return wrong


def both(*all_of: Wrong) -> Wrong:
    def wrong(kind: str, n: int, logits: Tensor) -> None:
        for own in all_of:
            own(kind, n, logits)

    return wrong


CHUNK, PADDED, COLUMN, AT_ONCE = ("read", 2), ("read", 4), ("read", 7), ("read", 6)
ALL = slice(None)


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("call", [CHUNK, PADDED, AT_ONCE, COLUMN], ids=str)
@pytest.mark.parametrize(
    ("dtype", "noise", "limit"),
    [
        (torch.float32, 0.0, 1e-4),
        (torch.float32, 1e-5, 1e-4),
        (torch.float32, 2e-4, 8e-4),
        (torch.float32, 0.1, 2e-3),
        (torch.float64, 0.0, 1e-4),
        (torch.bfloat16, 0.0, 0.02),
        (torch.bfloat16, 0.05, 0.2),
        (torch.bfloat16, 1.0, 0.4),
    ],
)
def test_what_is_rounding(
    dtype: torch.dtype, noise: float, limit: float, call: tuple[str, int], row: int
) -> None:
    """The noise is what another shape changes in a plain forward, in the text where it is most."""

    def said(share: float) -> str:
        # All calls of a kind at once, or the error would be a share of a part of the logits.
        kind = [n for n, own in enumerate(READ) if own[1] == READ[call[1]][1]]
        wrong = [scaled(("read", n), ALL, share) for n in kind]
        lm = TableModel(both(scaled(("plain", 2), row, noise), *wrong))
        lm.dtype = dtype
        return verdict(lm)

    assert said(0.97 * limit) == "branches"
    assert said(1.03 * limit) != "branches"


@pytest.mark.parametrize(
    ("dtype", "beside", "limit"),
    [
        (torch.float32, 0.0, 1e-4),
        (torch.float32, 1e-3, 4e-3),
        (torch.bfloat16, 0.0, 1e-3),
        (torch.bfloat16, 1e-3, 4e-3),
    ],
)
def test_how_much_a_later_token_may_change(dtype: torch.dtype, beside: float, limit: float) -> None:
    def said(share: float) -> str:
        def other(kind: str, n: int, logits: Tensor) -> None:
            if (kind, n) == ("plain", 0):  # behind what is read of this text with a cache
                part = (logits[0, :-1].norm() / logits[0, 3:-1].norm()).item()
                logits[2, 3:-1] *= 1 + share * part

        lm = TableModel(both(other, scaled(("plain", 1), 0, beside)))
        lm.dtype = dtype
        return verdict(lm)

    assert said(0.97 * limit) == "branches"
    assert "does not read from left to right" in said(1.03 * limit)


def test_the_last_token_is_another() -> None:
    """Control: where all logits of the third text were compared, no model would be accepted."""
    lm = TableModel()
    check_exact(lm)
    first, _, other = lm.calls["plain"][0]
    assert torch.equal(first[:-1], other[:-1])
    assert not torch.allclose(first[-1], other[-1])


@pytest.mark.parametrize(
    ("config", "positions", "first"),
    [
        ({"pad_token_id": 1}, True, 2),
        ({"pad_token_id": 0}, True, 1),
        ({"pad_token_id": None}, True, None),
        ({"pad_token_id": -1}, True, None),
        ({"pad_token_id": 1}, False, None),
        ({"pad_token_id": 4}, True, None),
    ],
)
def test_positions_may_begin_after_the_padding_token(
    config: dict[str, Any], positions: bool, first: int | None
) -> None:
    """As RoBERTa's do. If that is wrong, too, the first error is told."""
    tried: list[int] = []

    def wrong(kind: str, n: int, logits: Tensor) -> None:
        if kind == "read":
            tried.append(lm.first_position)
            logits *= 1 if lm.first_position in (1, 2) else 2 if lm.first_position == 0 else 3

    lm = TableModel(wrong, **config)
    lm.takes_positions = positions
    said = verdict(lm)
    if first is not None:
        assert said == "branches"
        assert lm.first_position == first
        return
    assert "differ from those of one plain forward by 100.00% (at most" in said
    retried = positions and config["pad_token_id"] == 4
    assert set(tried) == ({0, 5} if retried else {0})


def test_a_config_may_have_no_padding_token() -> None:
    lm = TableModel(scaled(CHUNK, ALL, 1.0))
    del lm.config.pad_token_id
    assert "read wrongly by incremental reading" in verdict(lm)


def test_without_positions_there_are_no_branches() -> None:
    lm = TableModel()
    lm.takes_positions = False
    assert verdict(lm) == "none"
    assert len(lm.calls["read"]) == 6


@pytest.mark.parametrize(
    "error", [RuntimeError, ValueError, IndexError, TypeError, KeyError, torch.OutOfMemoryError]
)
def test_branches_that_fail(error: type[Exception]) -> None:
    def wrong(kind: str, n: int, logits: Tensor) -> None:
        if kind == "read" and n == 8:
            raise error("no such thing")

    lm = TableModel(wrong)
    if error in (KeyError, torch.OutOfMemoryError):
        with pytest.raises(error):
            check_exact(lm)
    else:
        assert verdict(lm) == "none"


@pytest.mark.parametrize(
    "call", [*(("plain", n) for n in range(3)), *(("read", n) for n in (0, 3, 5))], ids=str
)
@pytest.mark.parametrize(
    "error", [KeyError("no\nsuch"), KeyError, ProposerError("x"), MemoryError,
              torch.OutOfMemoryError("x")], ids=repr
)  # fmt: skip
def test_ways_that_fail(call: tuple[str, int], error: Any) -> None:
    """Errors of the model's code are the model's; those of memory, and our own, are not."""

    def wrong(kind: str, n: int, logits: Tensor) -> None:
        if (kind, n) == call:
            raise error

    path = "a plain forward" if call[0] == "plain" else READ[call[1]][1]
    if isinstance(error, KeyError) or error is KeyError:
        said = verdict(TableModel(wrong))
        assert f"model 'table' cannot be read by {path}: KeyError: " in said
        assert ("raise error" in said) is (error is KeyError)
    else:
        kind: Any = error if isinstance(error, type) else type(error)
        with pytest.raises(kind) as caught:
            check_exact(TableModel(wrong))
        assert not isinstance(caught.value, UnsupportedModelError)


# Windows.


def test_a_window_would_end_in_the_gap_before_a_branch() -> None:
    lm = TableModel(sliding_window=6)
    assert verdict(lm) == "branches"
    *_, at_once, columns = lm.batches
    assert (at_once.width, len(at_once.pasts)) == (2, 2)
    assert (columns.width, [len(past) for past in columns.pasts]) == (8, [4])
    # The columns between a branch and its past; what lies in them must not matter.
    assert sorted(columns.cells[0]) == [4, 11, 12, 19, 20]
    for plane in (plane for kv in columns.kv for plane in kv):
        assert plane[0, 0, 0, :, 0].tolist() == [1.0] * 5 + [0.0] * 16


def test_a_gap_may_need_too_much_memory() -> None:
    columns = 5 + 2 * (100 + 2)
    for more, said in ((0, "branches"), (1, "none")):
        lm = TableModel(window_size=100)
        lm.memory.bytes_per_token = 2**29 // columns + more
        assert verdict(lm) == said
    lm = TableModel()
    lm.memory.bytes_per_token = 2**30
    assert verdict(lm) == "branches", "there is no gap"


@pytest.mark.parametrize(
    ("config", "window"),
    [
        ({}, 0),
        ({"sliding_window": None}, 0),
        ({"sliding_window": True}, 0),
        ({"use_sliding_window": True, "sliding_window": 7}, 7),
        ({"window": 3, "attention_chunk_size": 9, "local_window_size": 5}, 9),
        ({"block_size": 4}, 4),
        ({"max_window_layers": 28, "windowed": 5, "rewindow": 6, "chunk_size_factor": 7}, 0),
    ],
)
def test_windows_are_found_by_their_names(config: dict[str, Any], window: int) -> None:
    assert window_of(Config(**config)) == window


@pytest.mark.parametrize(
    ("rope", "border"),
    [
        (None, None),
        ({}, None),
        ({"rope_type": "default", "original_max_position_embeddings": 9}, None),
        ({"rope_type": "longrope", "original_max_position_embeddings": 9}, 9),
        ({"rope_type": "longrope", "original_max_position_embeddings": None}, None),
        ({"rope_type": "longrope"}, None),
        (
            {
                "full_attention": {"rope_type": "longrope", "original_max_position_embeddings": 8},
                "other_attention": {"rope_type": "longrope", "original_max_position_embeddings": 7},
                "sliding_attention": {"rope_type": "x", "original_max_position_embeddings": 5},
            },
            7,
        ),
    ],
)
def test_borders_of_longrope(rope: Any, border: int | None) -> None:
    assert rope_border(Config(rope_parameters=rope)) == border
    assert rope_border(Config()) is None


@pytest.mark.parametrize(
    ("rope", "longest"),
    [
        ({}, 512),
        ({"rope_type": "default"}, 512),
        ({"rope_type": "linear", "factor": 4.0}, 2048),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}, 1024),
        ({"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 8}, 512),
        ({"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 64}, 512),
        ({"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 600}, 600),
        # These name the whole length themselves, or change with it.
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 512}, 512),
        ({"rope_type": "dynamic", "factor": 4.0}, 512),
        ({"full_attention": {"rope_type": "linear", "factor": 8.0}}, 512),
    ],
)
def test_a_stretched_rope_reaches_further(rope: dict[str, Any], longest: int) -> None:
    assert longest_text(Config(max_position_embeddings=512, rope_parameters=rope)) == longest


def test_where_columns_are_counted_texts_end() -> None:
    config = {"max_position_embeddings": 512, "log_scaling_n_floor": 100}
    assert longest_text(Config(**config, model_type="inkling_text")) == 100
    assert longest_text(Config(**config, model_type="inkling2_text")) == 512


def test_a_model_without_positions_has_no_longest_text() -> None:
    assert longest_text(Config(rope_parameters={"rope_type": "linear", "factor": 4.0})) is None


# Parts.


def test_the_difference_is_a_share_of_the_norm() -> None:
    def apart(found: list[float], wanted: list[float]) -> float:
        return difference(*(torch.tensor(own, dtype=torch.float32) for own in (found, wanted)))

    nan, inf = math.nan, math.inf
    assert apart([1, 4], [1, 3]) == pytest.approx(1 / math.sqrt(2))
    assert apart([4, 7], [1, 3]) == pytest.approx(5 / math.sqrt(2))
    assert apart([1, 4, 5], [1, 3, -inf]) == pytest.approx(1 / math.sqrt(2))
    assert apart([1, nan], [1, 3]) == apart([1, inf], [1, 3]) == inf
    assert apart([9, 9], [nan, inf]) == 0.0, "there is nothing to compare with"
    assert apart([2, 5], [2, 2]) == pytest.approx(3), "there is no norm"


def test_rounding_is_small_where_everything_is_exact() -> None:
    lm = TableModel()
    assert _rounding(lm) == 1e-4
    lm.dtype = torch.float64
    assert _rounding(lm) == 1e-4
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert _rounding(lm) == 0.02
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert _rounding(lm) == 0.02
    finally:
        torch.set_float32_matmul_precision(before)
    lm.config = Config(quantization_config={"bits": 4})
    assert _rounding(lm) == 0.02
    lm = TableModel()
    weights = [torch.ones(1), torch.ones(1, dtype=torch.float16)]
    lm.parameters = lambda: iter(weights)
    assert _rounding(lm) == 0.02


def test_texts_are_of_usual_tokens() -> None:
    """Special ones may be read in ways of their own."""
    special = {"eos_token_id": [4, 7], "pad_token_id": 5, "image_token_index": 8, "ids": [9]}
    lm = TableModel(**special, suppressed_ids=[10, "x"], sep_id=11, n_id_like=12)
    lm.vocabulary_size, lm.rows = 26, 23
    ids = _texts(lm)
    assert (ids.shape, ids.dtype) == ((3, 8), torch.int64)
    used = {*ids.flatten().tolist()}
    assert used == {*range(23)} - {4, 5, 7, 8, 10, 11}, "all 17 that are left, each once"
    assert ids[2, :-1].tolist() == ids[0, :-1].tolist()
    assert ids[2, -1] != ids[0, -1]
    lm.vocabulary_size = 20
    assert {*_texts(lm).flatten().tolist()} <= {*range(20)}
    lm.vocabulary_size, lm.rows = 1000, 1000
    spread = _texts(lm).flatten().tolist()
    assert len({*spread}) == 17
    assert max(spread) > 900, "from the whole vocabulary"
    lm.config = Config(bos_token_id=0)
    for size in range(18, 90):
        lm.vocabulary_size = size
        assert len({*_texts(lm).flatten().tolist()}) == 17, "no token twice"
    lm.vocabulary_size = 1
    assert {*_texts(lm).flatten().tolist()} == {0}, "better than none"
