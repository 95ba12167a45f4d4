"""``CausalLM``: one Hugging Face causal language model, its forward passes and its memory."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from w2s_chains.backend.kv.batch import Batch, GivenBackError, Path, best_width
from w2s_chains.backend.kv.frames import Frames
from w2s_chains.backend.kv.masks import Mask
from w2s_chains.backend.kv.memory import Memory, read_given_back, read_lost_states
from w2s_chains.backend.kv.replay import CudaGraphs, Recorder, Replays
from w2s_chains.backend.lm import DEFAULT_TOKEN_BUDGET
from w2s_chains.backend.lm.adapters import Adapters, input_device
from w2s_chains.backend.lm.attention import asks_for_sdpa, check_pads, grouped
from w2s_chains.backend.lm.exactness import check_exact
from w2s_chains.backend.lm.logits import no_numbers
from w2s_chains.backend.lm.planes import cannot_branch, find_layers, find_windows, name_of, narrowed
from w2s_chains.backend.lm.positions import check_border, longest_text, rope_border, text_config
from w2s_chains.errors import OutOfMemoryError, UnsupportedModelError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True)
class Counters:
    """Counts the work of a model, for tests and benchmarks."""

    forwards: int = 0
    tokens_read: int = 0
    prefills: int = 0


class CausalLM:
    """A model, the batches that it reads, and the memory that they take.

    Not thread-safe: the engine's model thread is its only user.

    Attributes:
        model: The transformers model; shared by all views.
        adapters: The LoRA adapters that are loaded into it; shared likewise.
        adapter: The adapter of this view; None for the base model.
        memory: The keys and values of all texts that were read; shared likewise.
        replays: Decode steps that were recorded; None to run each of them.
        takes_positions: Whether the model takes position ids; others count columns themselves.
        recurrent: Whether some layers keep one state for all that they have read.
        can_branch: Whether siblings may share a row.
        first_position: The model's number for the position of a text's first token.
        border: Longer texts are read with other rotary frequencies; None if none are.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        token_budget: int = DEFAULT_TOKEN_BUDGET,
        cuda_graphs: bool = False,
    ) -> None:
        """Wrap a loaded model.

        Args:
            model: Any ``AutoModelForCausalLM`` of attention layers, with or without windows.
            token_budget: Most columns of one batch; halved whenever memory runs out.
            cuda_graphs: Whether to record decode steps as CUDA graphs.

        Raises:
            UnsupportedModelError: The model's cache cannot branch, or a way in which a search reads
                it gives other logits than one plain forward.
        """
        windows = find_windows(model.config)
        if not isinstance(getattr(model.get_input_embeddings(), "weight", None), Tensor):
            raise cannot_branch(model.config, "it has no table of embeddings, a row for each token")
        check_pads(getattr(model.config, "_attn_implementation", None))
        self.model = model.eval()
        self.adapters = Adapters(model)
        self.adapter: str | None = None
        self.token_budget = token_budget
        self.dtype: torch.dtype = model.dtype
        self.device = input_device(model)
        parameters = inspect.signature(model.forward).parameters
        self.takes_positions = "position_ids" in parameters
        self._keeps_last = "logits_to_keep" in parameters
        self._grouped = not asks_for_sdpa(model)
        # transformers 5.24 renamed it.
        self._cache = "cache" if "cache" in parameters else "past_key_values"
        self.first_position = 0
        self.border = rope_border(model.config)
        planes, layers = find_layers(model, self._cache, self.device)
        if getattr(model, "_is_stateful", False) and not layers.parts:
            raise cannot_branch(model.config, "it keeps a recurrent state of its own")
        self.memory = Memory(planes, windows, layers, whole=not self.takes_positions)
        self.recurrent = bool(layers.parts)
        self.counters = Counters()
        self.replays: Replays | None = None
        self.can_branch = self._check_exact()
        if cuda_graphs:
            self.record(CudaGraphs(), torch.device("cuda"))
        self.counters = Counters()

    def record(self, recorder: Recorder, kind: torch.device) -> None:
        """Record decode steps from now on, and check that repeating them changes nothing.

        Args:
            recorder: Makes the recordings.
            kind: The kind of device that it records.

        Raises:
            UnsupportedModelError: The model lies elsewhere, or cannot be recorded.
        """
        devices = {plane.device for plane in self.memory.planes}
        if devices != {self.device} or self.device.type != kind.type:
            raise UnsupportedModelError(
                f"cuda_graphs needs a model on one GPU, but {self.name!r} lies on "
                f"{', '.join(sorted(map(str, devices)))}; leave it out, or give a device"
            )
        if self.takes_positions and self.memory.layers.plain:
            self.memory.frames = Frames(self.memory.planes)
            self.replays = Replays(self.device, recorder)
        refused = UnsupportedModelError(
            f"the decode steps of model {self.name!r} cannot be recorded: its code waits for "
            "the device, or changes from step to step; leave cuda_graphs out"
        )
        try:
            # Twice, since a step is run before it is recorded.
            same = all(self._check_exact() is self.can_branch for _ in range(2))
        except UnsupportedModelError as error:
            raise refused from error
        if not same or self.replays is None:
            raise refused

    def _check_exact(self) -> bool:
        with narrowed(self.model, self.memory):
            return check_exact(self)

    def view(self, token_budget: int) -> CausalLM:
        """Return the same model with a token budget and an adapter of its own."""
        view = copy.copy(self)
        view.token_budget = token_budget
        view.adapter = None
        return view

    @property
    def name(self) -> str:
        """The model's name, for messages."""
        return name_of(self.model.config)

    @property
    def no_numbers(self) -> str:
        """The message of an error about logits that are NaN or infinite."""
        return no_numbers(self.name, self.dtype)

    @property
    def rows(self) -> int:
        """Number of tokens that the model can read: the rows of its embeddings."""
        embeddings: Any = self.model.get_input_embeddings()
        return embeddings.weight.shape[0]

    @property
    def vocabulary_size(self) -> int:
        """Number of logits that the model gives for one token."""
        return text_config(self.model.config).vocab_size

    @property
    def max_positions(self) -> int | None:
        """Longest text that the model can read, in tokens; None if its config does not say."""
        limit = longest_text(self.model.config)
        return None if limit is None else limit - self.first_position

    def check_border(self, prompt: int, total: int) -> None:
        """Check that an answer does not cross the border, as ``positions.check_border`` says."""
        check_border(self.name, self.border, prompt, total)

    def gather(
        self,
        paths: Sequence[Path],
        *,
        width: int,
        steps: int,
        adapters: Sequence[str | None] | None = None,
    ) -> Batch:
        """Make a batch from positions [0, upto) of each (segment, upto), with room for branches.

        Args:
            paths: One per row.
            width: Branches per row.
            steps: Tokens that each branch reads, including the one that all branches of a row
                share.
            adapters: The adapter of each row; by default the adapter of this view.
        """
        own = [self.adapter] * len(paths) if adapters is None else list(adapters)
        if self.recurrent:
            read_lost_states(paths, own, self._again)
        try:
            return self._gather(paths, own, width=width, steps=steps)
        except GivenBackError as error:
            read_given_back(error, paths, own, self._again)
            return self._gather(paths, own, width=width, steps=steps)

    def _again(
        self, paths: Sequence[Path], ids: Sequence[Sequence[int]], adapters: Sequence[str | None]
    ) -> Batch:
        batch = self._gather(paths, adapters, width=1, steps=len(ids[0]))
        self.forward(batch, torch.tensor(ids, device=self.device), last_only=True)
        return batch

    def _gather(
        self, paths: Sequence[Path], adapters: Sequence[str | None], *, width: int, steps: int
    ) -> Batch:
        limit, border = self.max_positions, self.border
        if border is not None and steps <= border and all(upto < border for _, upto in paths):
            limit = border  # not even padding may cross it
        return self.memory.gather(
            paths,
            width=width,
            steps=steps,
            adapters=adapters,
            limit=limit,
            device=self.device,
            dtype=self.dtype,
        )

    def forward(self, batch: Batch, ids: Tensor, last_only: bool = False) -> Tensor:
        """Read the next columns of a batch.

        Args:
            batch: The batch; it gets the keys and values of these columns.
            ids: Tokens. [B, n]
            last_only: Compute logits for the last column only.

        Returns:
            Logits in float32. [B, n, V], or [B, 1, V] with ``last_only``
        """
        rows, count = ids.shape
        if self.recurrent and batch.filled and count > 1:
            # Architectures go on from a state by one token, and only some of them by several.
            passes = [self.forward(batch, ids[:, i : i + 1]) for i in range(count)]
            return passes[-1] if last_only else torch.cat(passes, dim=1)
        config = text_config(self.model.config)
        with grouped(config, self._grouped), self.adapters.rows(batch.adapters):
            logits = None if self.replays is None else self.replays.read(self._logits, batch, ids)
            if logits is None:
                positions = batch.positions(count) if self.takes_positions else None
                # Recurrent layers alone need no mask: each row's tokens begin with its first.
                mask = batch.attention_mask(count) if self.memory.planes else None
                logits = self._logits(ids, positions, mask, batch.cache, last_only)
        batch.filled += count
        self.counters.forwards += 1
        self.counters.tokens_read += rows * count
        return (logits[:, -1:] if last_only else logits).float()

    def _logits(
        self,
        ids: Tensor,
        positions: Tensor | None,
        mask: Mask | None,
        cache: Cache,
        last_only: bool = False,
    ) -> Tensor:
        options: dict[str, Any] = {self._cache: cache}
        if positions is not None:
            offset = self.first_position
            options["position_ids"] = positions + offset if offset else positions
        if last_only and self._keeps_last:
            options["logits_to_keep"] = 1
        return self.model(input_ids=ids, attention_mask=mask, use_cache=True, **options).logits

    def in_rows(
        self, families: Collection[Sequence[T]], steps: int, past: int
    ) -> tuple[list[Sequence[T]], int]:
        """Arrange siblings in rows so that as few tokens as possible are read.

        Args:
            families: The siblings of each parent.
            steps: Most tokens that a branch reads, the shared one included.
            past: Tokens of the longest path.

        Returns:
            The siblings of each row, and the width of a row.
        """
        shares = self.can_branch or steps == 1  # all branches are one column
        width = best_width(map(len, families), steps, past) if shares else 1
        return [own[at : at + width] for own in families for at in range(0, len(own), width)], width

    def in_batches(
        self, items: Sequence[T], cost: Callable[[T], int], run: Callable[[list[T]], list[R]]
    ) -> list[R]:
        """Run items in batches of at most ``token_budget`` columns.

        Items of similar cost share a batch, which keeps padding low. When memory runs out, the
        budget is halved for good and the batch is tried again.

        Args:
            items: The items to run.
            cost: The number of columns that an item needs.
            run: Runs one batch; returns one result per item.

        Returns:
            The results, in the order of ``items``.

        Raises:
            OutOfMemoryError: One item alone does not fit.
        """
        order = sorted(range(len(items)), key=lambda i: cost(items[i]))
        results: dict[int, R] = {}
        at = 0
        while at < len(order):
            size = 1
            while at + size < len(order) and (
                (size + 1) * (columns := cost(items[order[at + size]])) <= self.token_budget
                and self._is_long(columns) is self._is_long(cost(items[order[at]]))
            ):
                size += 1
            indices = order[at : at + size]
            try:
                outcome = run([items[i] for i in indices])
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                self._shrink(size * max(cost(items[i]) for i in indices), size, error)
                continue
            results.update(zip(indices, outcome, strict=True))
            at += size
        return [results[i] for i in range(len(items))]

    def _is_long(self, columns: int) -> bool:
        return self.border is not None and columns > self.border

    def _shrink(self, columns: int, rows: int, error: BaseException) -> None:
        if rows == 1:
            raise OutOfMemoryError(
                f"one row of {columns} tokens does not fit into the memory of {self.device}; "
                "shorten the prompt or max_tokens, or load the models in a smaller dtype"
            ) from error
        self.token_budget = min(self.token_budget, columns) // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _out_of_memory(error: BaseException) -> bool:
    # The CPU allocator raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
