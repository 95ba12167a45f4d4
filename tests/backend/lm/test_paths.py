"""Cached, incremental loglikelihoods equal a full forward from scratch."""

from __future__ import annotations

import gc
import random
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import tiny
from w2s_chains import GuidePair, HuggingFaceGuide, Hypothesis
from w2s_chains.backend.kv.segment import Segment
from w2s_chains.backend.lm.causal_lm import CausalLM
from w2s_chains.core.hypothesis import FinishReason
from w2s_chains.errors import PromptError, UnsupportedModelError

ALPHABET = "The movie was great 😀 電影 film!\n"
MODELS = {"rope": tiny.llama, "absolute": tiny.gpt2}


def from_scratch(
    guide: HuggingFaceGuide, h: Hypothesis, ids: list[int], prompt: list[int]
) -> float:
    """The loglikelihood by one plain forward over the whole text."""
    shared = next(
        (i for i, (a, b) in enumerate(zip(prompt, ids, strict=False)) if a != b),
        min(len(prompt), len(ids)),
    )
    if h.ended:
        assert guide.tokenizer.end_id is not None
        ids = [*ids, guide.tokenizer.end_id]
    with torch.inference_mode():
        logprobs = guide.lm.model(torch.tensor([ids])).logits.float().log_softmax(-1)[0]
    return sum(logprobs[i - 1, ids[i]].item() for i in range(max(shared, 1), len(ids)))


def grow(guide: HuggingFaceGuide, rng: random.Random, by_ids: bool) -> list[tuple[Hypothesis, ...]]:
    """Random trees over prompts of unequal lengths, in the order they are scored."""
    rounds = []
    endings: list[FinishReason | None] = [None, "eos", "length", "stop"]
    roots = [Hypothesis.root("".join(rng.choices(ALPHABET, k=k))) for k in (1, 7, 23, 40)]
    beams = {root: [root] for root in roots}
    for _ in range(4):
        asked = []
        for root, beam in beams.items():
            live = [h for h in beam if not h.finished]
            children = []
            for parent in live:
                for _ in range(rng.randint(1, 3)):
                    ending = rng.choices(endings, [6, 1, 1, 1])[0]
                    if by_ids:
                        ids = tuple(rng.choices(range(4, 300), k=rng.randint(1, 6)))
                        text = guide.tokenizer.decode(ids)
                    else:
                        ids, text = None, "".join(rng.choices(ALPHABET, k=rng.randint(0, 8)))
                    vocabulary = guide.tokenizer.vocabulary if by_ids else None
                    children.append(
                        parent.extend(text, ids, finish_reason=ending, vocabulary=vocabulary)
                    )
            asked += children + [h for h in beam if h.finished]
            beams[root] = rng.sample(children, min(3, len(children))) or beam  # prune and reorder
        rng.shuffle(asked)
        rounds.append(tuple(asked))
    return rounds


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("by_ids", [True, False], ids=["by-ids", "by-text"])
@pytest.mark.parametrize("budget", [32_768, 64])
@pytest.mark.parametrize("seed", [0, 1])
def test_incremental_equals_full_forward(kind, by_ids, budget, seed):
    guide = HuggingFaceGuide(
        MODELS[kind](320, seed=seed), tiny.byte_tokenizer(bos=seed == 1), token_budget=budget
    )
    for asked in grow(guide, random.Random(seed), by_ids):
        values = guide.loglikelihood(asked)
        for h, value in zip(asked, values, strict=True):
            prompt = list(guide.tokenizer.prompt_ids(h.prompt))
            if by_ids:
                assert h.response_ids is not None
                ids = prompt + list(h.response_ids)
            else:
                ids = list(guide.tokenizer.ids_with_response(h.prompt, h.response))
            assert value == pytest.approx(from_scratch(guide, h, ids, prompt), abs=1e-4)


@pytest.mark.parametrize("kind", MODELS)
def test_swapped_slices_are_noticed(kind):
    """The control: the same tree, but two siblings' keys and values are exchanged."""
    guide = HuggingFaceGuide(MODELS[kind](320), tiny.byte_tokenizer())
    root = Hypothesis.root("The movie was")
    one, two = root.extend(" great and"), root.extend(" a bore and")
    guide.loglikelihood([one, two])
    first, second = guide.paths[one], guide.paths[two]
    assert len(first.ids) == len(second.ids), "the control needs slices of one length"
    first.kv, second.kv = second.kv, first.kv
    child = one.extend(" the end")
    [value] = guide.loglikelihood([child])
    prompt = list(guide.tokenizer.prompt_ids(child.prompt))
    ids = list(guide.tokenizer.ids_with_response(child.prompt, child.response))
    assert abs(value - from_scratch(guide, child, ids, prompt)) > 1e-2


@settings(max_examples=40, deadline=None)
@given(
    pieces=st.lists(st.text(alphabet=ALPHABET, max_size=6), min_size=1, max_size=6),
    prompt=st.text(alphabet=ALPHABET, min_size=1, max_size=12),
)
def test_any_cut_of_a_text_has_one_value(pieces, prompt):
    """However a text is cut into chunks, read by text it has the same value."""
    guide = SENTENCEPIECE
    whole = Hypothesis.root(prompt).extend("".join(pieces), finish_reason="eos")
    cut = Hypothesis.root(prompt)
    for i, piece in enumerate(pieces):
        cut = cut.extend(piece, finish_reason="eos" if i == len(pieces) - 1 else None)
        value = guide.loglikelihood([cut])[0]
    assert value == pytest.approx(guide.loglikelihood([whole])[0], abs=1e-4)


SENTENCEPIECE = HuggingFaceGuide(tiny.llama(400), tiny.sentencepiece_tokenizer())


def test_guides_read_each_token_once_and_prompts_once():
    guide = HuggingFaceGuide(tiny.llama(320), tiny.byte_tokenizer())
    root = Hypothesis.root("The movie was great and the plot")
    spent = []
    node = root
    for _ in range(30):
        children = [
            node.extend("xxxxx", (5, 6, 7, 8, i), vocabulary=guide.tokenizer.vocabulary)
            for i in range(4)
        ]
        before = guide.lm.counters.tokens_read
        guide.loglikelihood(children)
        spent.append(guide.lm.counters.tokens_read - before)
        node = children[2]
    prompt = len(guide.tokenizer.prompt_ids(root.prompt))
    # Of a chunk the last token waits, and the one that waited before it is read for all siblings.
    assert spent[0] == prompt - 1 + 1 + 4 * 4
    assert set(spent[1:]) == {1 + 4 * 4}, "the cost of a chunk does not grow with the text"
    assert guide.lm.counters.prefills == 1
    assert root.usage.guide_tokens == sum(spent), "what siblings share counts once"
    guide.loglikelihood(children)
    assert guide.lm.counters.tokens_read == sum(spent), "what is read is not read again"
    assert root.usage.guide_tokens == sum(spent)


@pytest.mark.parametrize("tied", [True, False])
def test_flops_are_two_per_parameter_that_is_multiplied(tied):
    guide = HuggingFaceGuide(tiny.llama(320, tie_word_embeddings=tied), tiny.byte_tokenizer())
    attention = 32 * (32 + 2 * 16 + 32)  # queries, keys and values of half the heads, output
    layer = attention + 3 * 32 * 64 + 2 * 32  # gate, up, down; two norms
    assert guide.flops_per_token == 2 * (2 * layer + 32 + 320 * 32), "the logits once, no look-up"


def test_flops_leave_positions_out():
    guide = HuggingFaceGuide(tiny.gpt2(320), tiny.byte_tokenizer())
    attention, feed = 32 * 96 + 96 + 32 * 32 + 32, 2 * 32 * 128 + 128 + 32
    layer = attention + feed + 2 * 2 * 32
    assert guide.flops_per_token == 2 * (2 * layer + 2 * 32 + 320 * 32)


def test_dead_branches_are_freed():
    guide = HuggingFaceGuide(tiny.llama(320), tiny.byte_tokenizer())
    root = Hypothesis.root("The movie")
    children = [root.extend(f" was {i}") for i in range(8)]
    guide.loglikelihood(children)
    kept = children[3]
    assert sum(type(o) is Segment for o in gc.get_objects()) >= 9
    mine = {id(guide.paths[root]), id(guide.paths[kept])}
    dead = {id(guide.paths[h]) for h in children} - mine
    del children
    gc.collect()
    alive = {id(o) for o in gc.get_objects() if type(o) is Segment}
    assert mine <= alive
    assert not dead & alive


@torch.inference_mode()
def test_a_batch_is_freed_when_it_is_dropped():
    """Not when the collector next comes by: its keys and values can be gigabytes."""
    model = CausalLM(tiny.llama(320))
    gc.disable()
    try:
        batch = model.gather([(None, 0)] * 2, width=1, steps=3)
        model.forward(batch, torch.zeros((2, 3), dtype=torch.long))
        gone, held = weakref.ref(batch), [batch]
        del batch
        assert gone() is not None  # control
        del held
        assert gone() is None
    finally:
        gc.enable()


def test_long_texts_make_few_logits(monkeypatch):
    """Logits are made slice by slice, and the slices add up to the same value."""
    guide = HuggingFaceGuide(tiny.llama(320), tiny.byte_tokenizer())
    texts = ["The movie was great and the plot " * n for n in (1, 4, 9)]

    def values():
        return guide.loglikelihood(
            [Hypothesis.root("A").extend(text, finish_reason="eos") for text in texts]
        )

    whole = values()
    seen = []
    forward = guide.lm.forward

    def watch(*args, **kwargs):
        logits = forward(*args, **kwargs)
        seen.append(logits.numel())
        return logits

    monkeypatch.setattr(guide.lm, "forward", watch)
    monkeypatch.setattr("w2s_chains.backend.lm.reading._LOGITS_PER_PASS", 320 * 30)
    assert values() == pytest.approx(whole, abs=1e-4)
    assert max(seen) <= 320 * 30


@pytest.mark.parametrize("kind", MODELS)
def test_attention_implementations_agree(kind):
    """Eager attention sees the same masks: padding is attended to on neither side."""
    tokenizer = tiny.byte_tokenizer()
    values = []
    for attention in ("sdpa", "eager"):
        model = MODELS[kind](320)
        model.set_attn_implementation(attention)
        guide = HuggingFaceGuide(model, tokenizer)
        roots = [Hypothesis.root(text) for text in ("A", "The movie was great", "x y z " * 9)]
        children = [r.extend(t) for r in roots for t in (" no", " the plot of the film", "")]
        guide.loglikelihood(children)
        grown = [child.extend(" and more " * i) for i, child in enumerate(children)]
        values.append(guide.loglikelihood(grown))
    assert values[0] == pytest.approx(values[1], abs=1e-4)


def test_attention_that_takes_no_padding_is_refused():
    model = tiny.llama(320)
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(UnsupportedModelError, match="use 'sdpa'"):
        HuggingFaceGuide(model, tiny.byte_tokenizer())


def test_two_wrappers_of_one_model_find_what_they_have_read() -> None:
    """Each has a cache of its own; what one of them reads for both, the other would not find."""
    model, tokenizer = tiny.llama(320), tiny.byte_tokenizer()
    guides = [HuggingFaceGuide(model, tokenizer) for _ in range(2)]
    guides[0].loglikelihood([Hypothesis.root("they do not have the same slots")])
    root = Hypothesis.root("It was")
    first, second = root.extend(" a"), root.extend(" the")
    GuidePair(*guides).loglikelihoods([first, second])
    longer = [first.extend(" film"), second.extend(" best")]
    expected = HuggingFaceGuide(model, tokenizer).loglikelihood(longer)
    for guide in guides[::-1]:
        assert guide.loglikelihood(longer) == pytest.approx(expected, abs=1e-4)


def test_a_text_may_fill_all_positions_of_a_model():
    guide = HuggingFaceGuide(tiny.llama(320, max_position_embeddings=24), tiny.byte_tokenizer())
    root = Hypothesis.root("The movie")
    room = 24 - len(guide.tokenizer.prompt_ids(root.prompt))

    def ids(count: int) -> Hypothesis:
        ids = tuple(range(10, 10 + count))
        return root.extend("x", ids, vocabulary=guide.tokenizer.vocabulary)

    assert guide.loglikelihood([ids(room)])[0] < 0
    with pytest.raises(PromptError, match=r"25 tokens for the model .* 24 positions"):
        guide.loglikelihood([ids(room + 1)])


def test_a_token_one_beyond_the_embeddings_is_refused():
    guide = HuggingFaceGuide(tiny.llama(300), tiny.byte_tokenizer())
    root = Hypothesis.root("xy")
    last, beyond = (
        root.extend("x", (i,), vocabulary=guide.tokenizer.vocabulary) for i in (299, 300)
    )
    assert guide.loglikelihood([last])[0] < 0
    with pytest.raises(PromptError, match="token 300"):
        guide.loglikelihood([beyond])


def test_an_answer_may_change_the_first_token_of_its_prompt():
    """The whole text is then read anew, and nothing of the prompt stays."""
    guide = HuggingFaceGuide(tiny.llama(320), tiny.byte_tokenizer())
    root = Hypothesis.root("m")
    child = root.extend("ovie")
    prompt = list(guide.tokenizer.prompt_ids(root.prompt))
    ids = list(guide.tokenizer.ids_with_response(child.prompt, child.response))
    assert ids[0] != prompt[0], "control"
    [value] = guide.loglikelihood([child])
    assert guide.paths[child].parent is None
    assert guide.paths[root].logprobs == (), "prompts are not scored"
    assert value == pytest.approx(from_scratch(guide, child, ids, prompt), abs=1e-4)


def test_values_per_token_count_the_end_and_are_0_without_tokens():
    guide = HuggingFaceGuide(tiny.llama(320), tiny.byte_tokenizer())
    root = Hypothesis.root("The movie")
    vocabulary = guide.tokenizer.vocabulary
    cut = root.extend("x", (10, 11, 12), finish_reason="length", vocabulary=vocabulary)
    ended = root.extend("x", (10, 11, 12), finish_reason="eos", vocabulary=vocabulary)
    empty = root.extend("", (), finish_reason="length", vocabulary=vocabulary)
    each = [cut, ended, empty]
    wholes = guide.loglikelihood(each)
    values = [guide.paths.loglikelihood_per_token(h) for h in each]
    assert values == pytest.approx([wholes[0] / 3, wholes[1] / 4, 0.0])
    assert wholes[1] < wholes[0] < 0
    guide.paths.keep(again := root.extend("y", (10,), vocabulary=vocabulary), guide.paths[cut])
    assert guide.paths.loglikelihood(again) == wholes[0], "no end of its own"


def test_what_is_read_for_each_is_told():
    guide = HuggingFaceGuide(tiny.llama(320), tiny.byte_tokenizer())
    root, vocabulary = Hypothesis.root("The movie was"), guide.tokenizer.vocabulary
    prompt = len(guide.tokenizer.prompt_ids(root.prompt))
    children = [
        root.extend("x", ids, vocabulary=vocabulary) for ids in ((5,), (6,), (), (7, 8, 9), ())
    ]
    told = guide.paths.read(children, scored=True)
    assert [row.hypothesis for row in told] == [root, *children]
    # The last token of the prompt is read for the first child; an empty one has nothing to read.
    assert [row.number for row in told] == [prompt - 1, 1, 0, 0, 2, 0]
    assert {row.flops_per_token for row in told} == {guide.flops_per_token}
    assert guide.paths.read(children, scored=True) == []
    assert all(child in guide.paths for child in children)
    assert root.extend("z") not in guide.paths
