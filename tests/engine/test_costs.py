"""What a search costs: rows that the models read, counted from the tree of the search alone.

Every number is derived here from what the strategy asked for and what it was answered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.helpers import tiny
from tests.helpers.llms import both_guides
from tests.helpers.remote_parts import Here
from w2s_chains import (
    BestOfN,
    ChunkBeamSearch,
    EmulatedFineTuning,
    Engine,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    Hypothesis,
    Job,
    LogRatioScorer,
    Sampling,
    SamplingParams,
    TokenSearch,
)
from w2s_chains.backend.text.incremental import common_prefix
from w2s_chains.backend.text.tokenizer import Tokenizer
from w2s_chains.core.asks import Expand, Expands, Score, Until
from w2s_chains.core.events import Finished
from w2s_chains.search.base import SearchStrategy

PROMPTS = ["The movie", "A boring film; the", "電影很好看 😀 and", "def main():\n    return", "x"]
STRATEGIES = [
    ChunkBeamSearch(width=1, successors=8, chunk_tokens=1),
    ChunkBeamSearch(width=4, successors=4, chunk_tokens=5),
    ChunkBeamSearch(width=2, successors=3, chunk_tokens=4, steering=0.5, return_best="finished"),
    BestOfN(n=6),
    TokenSearch(candidates=4, tau=0.5),
    Sampling(),
    EmulatedFineTuning(beta=0.7),
]
NAMES = ["1,8,1", "4,4,5", "steered", "best-of-n", "tokens", "sampling", "eft"]
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES, ids=NAMES)


class Logged:
    """A strategy that remembers what it asked for, and what it was answered."""

    def __init__(self, strategy: SearchStrategy) -> None:
        self.strategy = strategy
        self.log: list[tuple[Any, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.strategy, name)

    def search(self, root: Hypothesis) -> Any:
        search, answer = self.strategy.search(root), None
        while True:
            try:
                ask = search.send(answer)
            except StopIteration as stop:
                return stop.value
            answer = yield ask
            self.log.append((ask, answer))

    @property
    def expanded(self) -> list[tuple[Expand, list[Hypothesis]]]:
        found = [([ask], [answer]) for ask, answer in self.log if isinstance(ask, Expand)]
        found += [(ask.asks, answer) for ask, answer in self.log if isinstance(ask, Expands)]
        return [pair for asks, answers in found for pair in zip(asks, answers, strict=True)]

    @property
    def scored(self) -> list[list[Hypothesis]]:
        """The hypotheses of each ask that had no score before."""
        seen: set[Hypothesis] = set()
        found: list[list[Hypothesis]] = []
        for ask, _ in self.log:
            if isinstance(ask, Score):
                found.append([h for h in ask.hypotheses if h not in seen])
                seen.update(found[-1])
        return found


Expanded = Sequence[tuple[Expand, list[Hypothesis]]]


def sampled(expanded: Expanded) -> list[int]:
    """Tokens that were sampled for each child, end tokens included; without stop strings."""
    return [
        child.n_tokens - ask.hypotheses[place // ask.successors].n_tokens + child.ended
        for ask, children in expanded
        for place, child in enumerate(children)
    ]


def rows_of(expanded: Expanded) -> int:
    """One per parent, and for every child its sampled tokens but the last."""
    parents = sum(len(ask.hypotheses) for ask, _ in expanded)
    return parents + sum(count - 1 for count in sampled(expanded))


def ends(expanded: Expanded) -> int:
    return sum(child.ended for _, children in expanded for child in children)


def endless(make: Callable[[int], tuple[Logged, Job]]) -> tuple[Logged, Finished]:
    """Run the first job, by seed, all of whose texts reach ``max_tokens``."""
    for seed in range(50):
        logged, one = make(seed)
        [answer] = run(one)
        if not ends(logged.expanded):
            return logged, answer
    raise AssertionError("some text ends with every seed")


def run(*jobs: Job, max_live: int = 64) -> list[Finished]:
    running = Engine(max_live=max_live).submit(list(jobs))
    return [one.future.result(timeout=60) for one in running]


def job(
    proposer: Any,
    scorer: Any,
    strategy: Any,
    prompt: str | Hypothesis = "The movie",
    **options: Any,
) -> Job:
    return Job(
        root=Hypothesis.root(prompt) if isinstance(prompt, str) else prompt,
        strategy=strategy,
        proposer=proposer,
        scorer=scorer,
        guides=getattr(scorer, "pair", None),
        seed=options.pop("seed", 0),
        sampling=SamplingParams(**{"max_tokens": 20, **options}),
    )


def guides_of(scorer: LogRatioScorer) -> list[HuggingFaceGuide]:
    assert isinstance(scorer.pair, GuidePair)
    return both_guides(scorer.pair)


def rows(answer: Finished) -> int:
    assert answer.read_tokens is not None
    return answer.read_tokens


def costs(answer: Finished) -> dict[str, Any]:
    names = ("prompt_tokens", "read_tokens", "rounds", "proposed_tokens", "guide_tokens")
    return {name: getattr(answer, name) for name in names} | {
        "guide_flops_ratio": pytest.approx(answer.guide_flops_ratio)
    }


@pytest.fixture
def ending() -> HuggingFaceProposer:
    """A proposer whose answers often end early."""
    model = tiny.llama(320)
    with torch.no_grad():
        model.lm_head.weight[1] *= 2.5
    return HuggingFaceProposer(model, tiny.byte_tokenizer())


@pytest.fixture(params=["same-vocabulary", "other-vocabulary"])
def any_scorer(request: pytest.FixtureRequest, pair: GuidePair, foreign_pair: GuidePair) -> Any:
    return LogRatioScorer(pair if request.param == "same-vocabulary" else foreign_pair)


@pytest.mark.parametrize(
    ("strategy", "read", "rounds", "candidates"),
    [
        # All candidates for a token come from one row.
        (ChunkBeamSearch(width=1, successors=8, chunk_tokens=1), 20, 20, 8 * 20),
        (TokenSearch(candidates=8), 20, 20, 8 * 20),
        # Once 16 children of the root, then three times four children of four parents.
        (
            ChunkBeamSearch(width=4, successors=4, chunk_tokens=5),
            (1 + 16 * 4) + 3 * (4 + 16 * 4),
            4,
            16 * 20,
        ),
        (BestOfN(n=4), 1 + 4 * 19, 1, 4 * 20),
        (Sampling(), 20, 2, 20),  # it asks for 16 tokens at once, to stream
    ],
    ids=["1,8,1", "tokens", "4,4,5", "best-of-n", "sampling"],
)
def test_costs_of_answers_of_20_tokens(
    proposer: HuggingFaceProposer,
    scorer: LogRatioScorer,
    strategy: SearchStrategy,
    read: int,
    rounds: int,
    candidates: int,
) -> None:
    def make(seed: int) -> tuple[Logged, Job]:
        logged = Logged(strategy)
        return logged, job(proposer, scorer, logged, seed=seed)

    _, answer = endless(make)
    assert (answer.read_tokens, answer.rounds) == (read, rounds)
    assert answer.proposed_tokens == candidates


@every_strategy
def test_rows_are_those_of_the_tree(
    ending: HuggingFaceProposer, scorer: LogRatioScorer, strategy: SearchStrategy
) -> None:
    early = 0
    for prompt in PROMPTS:
        logged = Logged(strategy)
        [answer] = run(job(ending, scorer, logged, prompt))
        early += ends(logged.expanded)
        assert answer.read_tokens == rows_of(logged.expanded)
        assert answer.rounds == len(logged.expanded)
        assert answer.proposed_tokens == sum(sampled(logged.expanded))
        root = Hypothesis.root(prompt)
        assert answer.prompt_tokens == len(ending.tokenizer.prompt_ids(root.prompt))
    assert early, "control: answers end early"


def test_rows_are_what_the_model_reads(
    proposer: HuggingFaceProposer, scorer: LogRatioScorer
) -> None:
    """As long as a batch needs no padding and siblings fit into one row."""
    [answer] = run(job(proposer, scorer, TokenSearch(candidates=8)))
    counters = proposer.lm.counters
    assert counters.tokens_read == answer.prompt_tokens - 1 + rows(answer)
    assert counters.forwards > 20


@every_strategy
@pytest.mark.parametrize("slice_tokens", [1, 3, None])
def test_slices_cost_what_the_whole_chunk_costs(
    ending: HuggingFaceProposer,
    scorer: LogRatioScorer,
    strategy: SearchStrategy,
    slice_tokens: int | None,
) -> None:
    whole = [costs(own) for own in run(*(job(ending, scorer, strategy, p) for p in PROMPTS))]
    ending.slice_tokens = slice_tokens
    sliced = [costs(own) for own in run(*(job(ending, scorer, strategy, p) for p in PROMPTS))]
    if strategy.token_steering:
        # What ended is scored by a second reading of its last slice.
        for own in (*sliced, *whole):
            del own["guide_tokens"], own["guide_flops_ratio"]
    assert sliced == whole


@every_strategy
def test_batch_mates_cost_nothing(
    ending: HuggingFaceProposer,
    scorer: LogRatioScorer,
    any_scorer: LogRatioScorer,
    strategy: SearchStrategy,
) -> None:
    """Nor do padding, batches that are cut small, and the number of searches at once."""
    if strategy.token_steering:
        any_scorer = scorer  # whose guides have the proposer's vocabulary
    alone = [costs(run(job(ending, any_scorer, strategy, p))[0]) for p in PROMPTS]

    def together(token_budget: int = 10_000, max_live: int = 64) -> tuple[list[Any], int]:
        """Costs, and forward passes of the proposer."""
        for part in (ending, *guides_of(any_scorer)):
            part.lm.token_budget = token_budget
        mate = job(ending, any_scorer, BestOfN(n=3), "A long one: " * 4)
        jobs = [mate, *(job(ending, any_scorer, strategy, p) for p in PROMPTS)]
        before = ending.lm.counters.forwards
        found = [costs(own) for own in run(*jobs, max_live=max_live)[1:]]
        return found, ending.lm.counters.forwards - before

    large, few = together()
    small, many = together(token_budget=60)
    assert large == small == together(max_live=2)[0] == alone
    assert many > few, "control: the batches were smaller"


def test_answers_to_one_prompt_read_it_once(
    proposer: HuggingFaceProposer, scorer: LogRatioScorer
) -> None:
    root = Hypothesis.root("The movie")
    logged = [Logged(BestOfN(n=3)), Logged(ChunkBeamSearch(width=2, successors=2))]
    answers = run(*(job(proposer, scorer, own, root) for own in logged))
    rounds = [len(own.expanded) for own in logged]
    assert [answer.rounds for answer in answers] == rounds, "each waits for its own"
    assert rounds[1] > 1
    last = max(answers, key=rows)
    assert last.prompt_tokens == len(proposer.tokenizer.prompt_ids(root.prompt))
    assert last.read_tokens == sum(rows_of(own.expanded) for own in logged)


def read_by(tokenizer: Tokenizer, logged: Logged, root: Hypothesis) -> int:
    """Rows that a guide reads for the scores of a search.

    Of a prompt and of each scored text, the tokens after the last one that was read, but the last,
    which waits, unless an end token follows. Texts that go on from one token of one text share it,
    and siblings of one text all of it.
    An answer in slices was scored as a whole, so that its parent is the nearest one with a score.
    """
    known: dict[Hypothesis, list[int]] = {root: list(tokenizer.prompt_ids(root.prompt))}
    total = len(known[root]) - 1
    for hypotheses in logged.scored:
        begun: set[tuple[Hypothesis, int]] = set()
        texts: set[tuple[Hypothesis, tuple[int, ...], bool]] = set()
        for h in hypotheses:
            parent = next(a for a in h.ancestors() if a in known)
            ids, shared = h.response_ids, len(known[parent])
            if h.vocabulary == tokenizer.vocabulary and ids is not None:
                ids = [*known[root], *ids]
            else:
                ids = list(tokenizer.ids_with_response(h.prompt, h.response))
                shared = common_prefix(known[parent], ids)
            read = len(ids) - (not h.ended) - (shared - 1)
            again = (parent, tuple(ids), h.ended) in texts
            texts.add((parent, tuple(ids), h.ended))
            if read and not again:
                total += read - ((parent, shared) in begun)
                begun.add((parent, shared))
            known[h] = ids
    return total


@pytest.mark.parametrize("strategy", [*STRATEGIES[:2], BestOfN(n=6)], ids=["1,8,1", "4,4,5", "n"])
def test_guides_read_what_siblings_share_once(
    ending: HuggingFaceProposer, any_scorer: LogRatioScorer, strategy: SearchStrategy
) -> None:
    for prompt in PROMPTS:
        logged, root = Logged(strategy), Hypothesis.root(prompt)
        [answer] = run(job(ending, any_scorer, logged, root))
        guides = guides_of(any_scorer)
        expected = sum(read_by(guide.tokenizer, logged, root) for guide in guides)
        assert answer.guide_tokens == expected
        same = all(g.tokenizer.vocabulary == ending.tokenizer.vocabulary for g in guides)
        scored = sum(map(len, logged.scored))
        if same and scored == len(sampled(logged.expanded)):
            # None was dropped as the double of another: they read what the large model reads.
            assert expected == 2 * (answer.prompt_tokens - 1 + rows(answer))


@pytest.mark.parametrize("strategy", [EmulatedFineTuning(), ChunkBeamSearch(steering=0.5)])
def test_guides_that_steer_read_what_the_large_model_reads(
    proposer: HuggingFaceProposer, scorer: LogRatioScorer, strategy: SearchStrategy
) -> None:
    def make(seed: int) -> tuple[Logged, Job]:
        logged = Logged(strategy)
        return logged, job(proposer, scorer, logged, seed=seed)

    logged, answer = endless(make)
    assert answer.guide_tokens == 2 * (answer.prompt_tokens - 1 + rows(answer))
    assert answer.read_tokens == rows_of(logged.expanded)


def test_what_was_sampled_after_a_stop_string_was_read(
    proposer: HuggingFaceProposer, scorer: LogRatioScorer
) -> None:
    proposer.slice_tokens = None
    logged = Logged(BestOfN(n=4))
    [answer] = run(job(proposer, scorer, logged, stop=("e",), max_tokens=16))
    [(_, children)] = logged.expanded
    assert any(child.finish_reason == "stop" for child in children)
    assert answer.read_tokens == 1 + 4 * 15
    assert answer.proposed_tokens == 4 * 16


@pytest.mark.parametrize("until", [Until(entropy=2.0), Until(strings=("e", " "))])
def test_what_ended_a_chunk_early_was_sampled(proposer: HuggingFaceProposer, until: Until) -> None:
    """A token too uncertain to keep, as an end token, and what was sampled before a look."""
    ask = Expand(hypotheses=(Hypothesis.root("The movie"),), successors=8, chunk_tokens=12)
    [plain], [children] = (
        proposer.propose([replace(ask, hypotheses=(root,), until=end)])
        for root, end in ((Hypothesis.root("The movie"), None), (ask.hypotheses[0], until))
    )
    kept = [child.n_tokens for child in children]
    assert any(n < m.n_tokens for n, m in zip(kept, plain, strict=True)), "control: some are cut"
    counts = [min(n + 1, 12) for n in kept]  # the one after the last that was kept
    if until.strings:  # it is looked for after 2, 6 and 12 tokens
        looks = [next(n for n in (2, 6, 12) if n >= count) for count in kept]
        counts = [min(n, m.n_tokens + 1) for n, m in zip(looks, plain, strict=True)]
    usage = children[0].usage
    assert usage.proposed_tokens == sum(counts)
    assert usage.read_tokens == 1 + sum(count - 1 for count in counts)


def test_several_expansions_are_one_round(
    proposer: HuggingFaceProposer, scorer: LogRatioScorer
) -> None:
    class Both(BestOfN):
        def search(self, root: Hypothesis) -> Any:
            asks = [
                Expand(hypotheses=(root,), successors=2, chunk_tokens=4),
                Expand(hypotheses=(root,), first=2, chunk_tokens=8, distinct=True),
            ]
            [[one, two], [three]] = yield Expands(asks=tuple(asks))
            del two, three
            [answer] = yield Expand(hypotheses=(one,))
            return answer

    def make(seed: int) -> tuple[Logged, Job]:
        logged = Logged(Both())
        return logged, job(proposer, scorer, logged, seed=seed)

    logged, answer = endless(make)
    assert answer.rounds == 2
    assert answer.read_tokens == rows_of(logged.expanded) == (1 + 2 * 3) + (1 + 7) + (1 + 15)


def test_flops_are_relative_to_the_large_models(
    proposer: HuggingFaceProposer, scorer: LogRatioScorer
) -> None:
    [answer] = run(job(proposer, scorer, BestOfN(n=4)))
    small = guides_of(scorer)[0].flops_per_token
    read = answer.prompt_tokens - 1 + rows(answer)
    wanted = answer.guide_tokens * small / (read * proposer.flops_per_token)
    assert answer.guide_flops_ratio == pytest.approx(wanted)
    [alone] = run(job(proposer, None, Sampling()))
    assert alone.guide_flops_ratio == 0, "no guide has read anything"


def test_flops_of_guides_of_two_sizes_add_up(proposer: HuggingFaceProposer) -> None:
    tokenizer = tiny.byte_tokenizer()
    large, small = (
        HuggingFaceGuide(tiny.llama(320, num_hidden_layers=layers), tokenizer) for layers in (6, 1)
    )
    assert large.flops_per_token > 2 * small.flops_per_token
    [answer] = run(job(proposer, LogRatioScorer(GuidePair(large, small)), BestOfN(n=4)))
    spent = answer.guide_tokens / 2 * (large.flops_per_token + small.flops_per_token)
    read = answer.prompt_tokens - 1 + rows(answer)
    assert answer.guide_flops_ratio == pytest.approx(spent / (read * proposer.flops_per_token))


def test_flops_of_a_model_of_unknown_size_are_unknown(
    proposer: HuggingFaceProposer, scorer: LogRatioScorer
) -> None:
    class Uncounted(LogRatioScorer):
        def score(self, hypotheses: Any) -> list[float]:
            for h in hypotheses:
                h.usage.guide_tokens += 1  # a guide of somebody's own
            return [0.0] * len(hypotheses)

    class Served(Uncounted):
        def score(self, hypotheses: Any) -> list[float]:
            scores = LogRatioScorer.score(self, hypotheses)
            hypotheses[0].usage.add_guide(5)
            return scores

    for kind in (Uncounted, Served):
        [answer] = run(job(proposer, kind(scorer.pair), BestOfN(n=2)))
        assert answer.guide_tokens > 0
        assert answer.guide_flops_ratio is None
    [answer] = run(job(Here(), scorer, BestOfN(n=2)))
    assert answer.read_tokens is answer.guide_flops_ratio is None, "the proposer counts nothing"
    assert answer.rounds == 1


def test_a_text_that_the_large_model_reads_again_to_score_it_costs_rows(
    proposer: HuggingFaceProposer,
) -> None:
    root = Hypothesis.root(PROMPTS[0])
    texts = [root.extend(text, finish_reason="stop") for text in (" was great", " ended")]
    before = proposer.lm.counters.tokens_read
    proposer.loglikelihood(texts)
    prompt = len(proposer.tokenizer.prompt_ids(root.prompt))
    whole = [proposer.tokenizer.ids_with_response(root.prompt, h.response) for h in texts]
    # The last prompt token once, and of each text all tokens but the last.
    assert [ids[:prompt] for ids in whole] == [proposer.tokenizer.prompt_ids(root.prompt)] * 2
    assert root.usage.prompt_tokens == prompt
    assert root.usage.read_tokens == 1 + sum(len(ids) - prompt - 1 for ids in whole)
    read = proposer.lm.counters.tokens_read - before
    assert read == prompt - 1 + root.usage.read_tokens
