"""Traces of any size, made by hand."""

from __future__ import annotations

import json
import random
from typing import Any

from w2s_chains import Trace

WORDS = [
    "a",
    "great",
    "film",
    "with",
    "fine",
    "acting",
    ",",
    "bad",
    "plot",
    "and",
    "moving",
    "dark",
]


def drawn(
    rounds: int, width: int, successors: int, *, words: int = 4, seed: int = 0, **fields: Any
) -> Trace:
    """The trace of a beam over random words: ``width * successors`` candidates a round.

    Args:
        rounds: Number of rounds.
        width: Candidates that go on.
        successors: Children of each.
        words: Words of a chunk, each a token with a ratio.
        seed: Of the words and ratios.
        **fields: Further fields of the trace.
    """
    draw = random.Random(seed)
    nodes: list[dict[str, Any]] = [{"id": 0, "round": 0, "text": "", "tokens": 0}]
    value, begin, parent = {0: 0.0}, {0: 0}, dict[int, int]()
    told: list[dict[str, Any]] = []
    beam, proposed = [0], list[int]()
    for number in range(1, rounds + 1):
        proposed = []
        for above in beam:
            for _ in range(successors if number > 1 else width * successors):
                tokens = [
                    {"text": f" {draw.choice(WORDS)}", "ratio": draw.gauss(0.2, 1)}
                    for _ in range(words)
                ]
                text = "".join(token["text"] for token in tokens)
                new = {"id": len(nodes), "parent": above, "round": number, "text": text}
                new |= {"tokens": words, "logprob": -2.5 * words}
                new |= {"ratios": tokens, "ratios_from": begin[above]}
                new["score"] = value[above] + sum(token["ratio"] for token in tokens)
                if number == rounds:
                    new["finish_reason"] = "length"
                id = new["id"]
                value[id], begin[id] = new["score"], begin[above] + len(text)
                parent[id] = above
                nodes.append(new)
                proposed.append(id)
        told.append({"number": number, "expanded": beam, "proposed": proposed, "seconds": number})
        beam = sorted(proposed, key=lambda id: -value[id])[:width]
    path, at = [beam[0]], beam[0]
    while at := parent[at]:
        path.append(at)
    above = {0, *parent.values()}
    for node in nodes:
        leaf = "finished" if node["round"] == rounds else "rejected"
        node["state"] = "kept" if node["id"] in above else leaf
        if node["id"] in (0, *path):
            node["state"] = "answer"
    for entry in told:
        entry["committed"] = begin[path[-max(1, entry["number"] - 1)]] if rounds > 1 else 0
    answer = {"id": beam[0], "score": value[beam[0]], "rounds": rounds, "kl": 1.5}
    answer["text"] = "".join(nodes[id]["text"] for id in reversed(path))
    answer |= {"read_tokens": 1234, "completion_tokens": words * rounds, "finish_reason": "length"}
    strategy = {"type": "chunk_beam", "width": width, "successors": successors}
    whole = {"version": 1, "prompt": "Although God Is Great", "strategy": strategy, "nodes": nodes}
    whole |= {"rounds": told, "answer": answer, "seconds": float(rounds), **fields}
    return Trace.from_json(json.dumps(whole))
