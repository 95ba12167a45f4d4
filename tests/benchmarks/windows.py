"""Memory and time of a long text where all layers have windows, with and without giving back.

    python -m tests.benchmarks.windows            # a minute

``whole`` keeps and gathers what no layer sees any more, as models with full attention must.
"""

from __future__ import annotations

import time
from typing import Any

from tests.helpers import tiny
from tests.helpers.windowed import build
from w2s_chains import (
    W2SLLM,
    ChunkBeamSearch,
    Engine,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
)
from w2s_chains.backend.kv.batch import Batch

LARGE = {
    "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8,
    "num_key_value_heads": 8, "head_dim": 32, "num_hidden_layers": 4,
}  # fmt: skip


def measure(window: int, tokens: int, whole: bool) -> tuple[int, int, int, float]:
    """Return the tokens written, the most slots in use, the most columns, and CPU seconds."""

    def lm_of(part: Any) -> Any:
        part.lm.memory.whole = whole
        return part

    def model(seed: int, **options: Any) -> Any:
        options |= {"sliding_window": window, "max_position_embeddings": 8192}
        return build("mistral", seed, **options)

    proposer = lm_of(HuggingFaceProposer(model(0, **LARGE), tiny.byte_tokenizer()))
    guides = [
        lm_of(HuggingFaceGuide(own, tiny.byte_tokenizer()))
        for own in (tiny.noisy(model(1)), model(1))
    ]
    memory = proposer.lm.memory
    gather, columns, slots = memory.gather, [0], [0]

    def counted(*args: Any, **options: Any) -> Batch:
        batch = gather(*args, **options)
        columns.append(batch.kv[0][0].shape[3])
        slots.append(memory._store().used)
        return batch

    memory.gather = counted
    llm = W2SLLM(
        proposer=proposer,
        guides=GuidePair(*guides),
        strategy=ChunkBeamSearch(width=2, successors=2, chunk_tokens=4),
        max_tokens=tokens,
        temperature=0.9,
        seed=1,
        engine=Engine(),
    )
    begun = time.process_time()
    [[answer]] = llm.generate(["The movie was great"]).generations
    took = time.process_time() - begun
    written = (answer.generation_info or {})["completion_tokens"]
    return written, max(slots), max(columns), took


def main() -> None:
    print("windows  tokens  whole   slots  columns  CPU s")
    for windows in (4, 8, 16):
        for whole in (True, False):
            written, slots, columns, took = measure(128, 128 * windows, whole)
            print(f"{windows:7}  {written:6}  {whole!s:5}  {slots:6}  {columns:7}  {took:5.1f}")


if __name__ == "__main__":
    main()
