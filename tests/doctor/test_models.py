"""What is said of a model before its weights are loaded is so after they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.doctor.conftest import Write
from tests.helpers import tiny
from w2s_chains import Model
from w2s_chains.backend.loading.load import load, outline
from w2s_chains.backend.loading.placement import free_bytes
from w2s_chains.doctor import Diagnosis, diagnose


def failures(found: Diagnosis) -> str:
    return " | ".join(f"{one.about}: {one.text}" for one in found.failures)


def warned(found: Diagnosis) -> str:
    told = [one for one in found.findings if one.level == "warning"]
    return " | ".join(f"{one.about}: {one.text}" for one in told)


@pytest.mark.parametrize("name", ["proposer", "gpt2", "windowed"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_outline_is_the_loaded_model(
    name: str, dtype: str, tiny_folders: dict[str, Path]
) -> None:
    spec = Model(str(tiny_folders[name]), dtype=dtype)
    known, (lm, tokenizer) = outline(spec), load(spec)
    weights = list(lm.model.parameters())
    assert known.parameters == sum(own.numel() for own in weights)
    assert known.weight_bytes == sum(own.numel() * own.itemsize for own in weights)
    assert known.bytes_per_token == lm.memory.bytes_per_token
    assert known.max_positions == lm.max_positions
    assert known.dtype == dtype
    assert known.tokenizer.vocabulary == tokenizer.vocabulary
    assert known.fetched
    assert outline(Model(str(tiny_folders[name]), dtype="float64")).weight_bytes != (
        known.weight_bytes
    ), "control"


def test_recurrent_states_count(tmp_path: Path) -> None:
    from tests.helpers import families

    families.tiny("mamba").save_pretrained(tmp_path)
    tiny.byte_tokenizer().save_pretrained(tmp_path)
    spec = Model(str(tmp_path), dtype="float32")
    lm, _ = load(spec)
    parts = lm.memory.layers.parts
    assert outline(spec).bytes_per_branch == sum(p.empty.numel() * 4 for p in parts) > 0


def test_nothing_speaks_against_a_good_config(write: Write) -> None:
    found = diagnose(write(), "Hello")
    assert found.exit_code == 0, found.findings
    assert found.loaded is not None, "it is small, so it was loaded"
    assert "shared" in found.vocabulary
    assert "not shared" not in found.vocabulary
    assert [one.role for one in found.local] == ["proposer", "tuned guide", "untuned guide"]
    [memory] = found.memory
    assert memory.weights is not None
    assert memory.free is not None
    assert memory.weights == sum(one.weights or 0 for one in found.local) < memory.free
    assert diagnose(write(), load=False).loaded is None


def test_vocabularies_are_compared_by_content(write: Write, foreign_folder: Path) -> None:
    guides = {"tuned": str(foreign_folder), "untuned": str(foreign_folder), "chat": False}
    found = diagnose(write(guides=guides), load=False)
    assert "not shared by tuned guide, untuned guide" in found.vocabulary
    assert "never differ" in failures(found), "they are one model, too"
    eft = {"type": "emulated_fine_tuning", "beta": 1.0}
    guides["template"] = "{prompt}"
    assert "vocabulary" in failures(diagnose(write(guides=guides, strategy=eft), load=False))
    assert not diagnose(write(strategy=eft), load=False).failures, "control"


def test_a_mixed_pair_is_warned_of(
    write: Write, foreign_folder: Path, tiny_folders: dict[str, Path]
) -> None:
    guides = {"tuned": str(tiny_folders["tuned"]), "untuned": str(foreign_folder), "chat": False}
    assert "different vocabularies" in warned(diagnose(write(guides=guides), load=False))
    assert "different vocabularies" not in warned(diagnose(write(), load=False)), "control"


def test_a_context_that_is_too_small(write: Write) -> None:
    found = diagnose(write(generation={"max_tokens": 5000}), load=False)
    assert found.exit_code == 1
    assert "set max_tokens to at most" in failures(found)
    longest = min(one.context or 0 for one in found.local)
    fits = {"max_tokens": longest - 100}
    assert diagnose(write(generation=fits), load=False).exit_code == 0, "control"
    assert diagnose(write(generation=fits), "x, " * 2000, load=False).exit_code == 1


def test_a_chat_without_a_template(
    write: Write, foreign_folder: Path, tiny_folders: dict[str, Path]
) -> None:
    chat = {"type": "chat", "guides": None, "strategy": {"type": "sampling"}}
    found = diagnose(write(**chat, proposer={"model": str(foreign_folder)}), load=False)
    assert "has no chat template" in warned(found)
    assert found.exit_code == 0
    forced = {"model": str(foreign_folder), "chat": True}
    found = diagnose(write(**chat, proposer=forced), load=False)
    assert found.exit_code == 1
    assert "has no chat template; set chat to false" in failures(found)
    good = diagnose(write(**chat, proposer={"model": str(tiny_folders["proposer"])}), load=False)
    assert "template" not in warned(good), "control"
    assert good.local[0].rendered is not None
    assert good.local[0].rendered.how == "chat template"


def test_a_template_that_is_not_used(write: Write, tiny_folders: dict[str, Path]) -> None:
    raw = {"proposer": {"model": str(tiny_folders["proposer"])}}
    assert "has a chat template, but prompts are read as plain text" in warned(
        diagnose(write(**raw), load=False)
    )
    assert not warned(diagnose(write(), load=False)), "control"
    told = diagnose(write(**raw), load=True)
    assert told.loaded is not None
    assert warned(told).count("tokenizer of") == 1, "and not again as it is loaded"


def test_control_tokens_are_told_from_text(write: Write, tiny_folders: dict[str, Path]) -> None:
    chat = {"type": "chat", "guides": None, "strategy": {"type": "sampling"}}
    proposer = {"model": str(tiny_folders["proposer"])}
    found = diagnose(write(**chat, proposer=proposer), "<|im_end|>", load=False)
    [facts] = found.local
    assert facts.rendered is not None
    pieces = facts.rendered.pieces
    assert [one.text for one in pieces if one.control] == [
        "<|im_start|>",
        "<|im_end|>",
        "<|im_start|>",
    ]
    assert "user\n<|im_end|>" in [one.text for one in pieces if not one.control]


def test_a_model_that_cannot_be_had(write: Write) -> None:
    proposer = {"model": "nobody/no-such-model", "chat": False}
    found = diagnose(write(proposer=proposer))
    assert found.exit_code == 1
    assert "nobody/no-such-model" in failures(found)
    assert found.loaded is None
    found = diagnose(write(guides="zephyr"))
    assert "zephyr-7b-beta" in failures(found)
    assert "mistral-7b-sft-beta" in failures(found)
    assert all("\n" not in one.text for one in found.failures)


def test_a_name_that_is_still_to_be_filled_in(write: Write) -> None:
    found = diagnose(write(proposer={"model": "FILL-IN/large-model"}))
    assert failures(found).startswith("proposer: 'FILL-IN/large-model' stands for a name of yours")


def test_broken_weights_show_when_they_are_loaded(
    write: Write, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "broken"
    shutil.copytree(tiny_folders["proposer"], folder)
    (folder / "model.safetensors").write_bytes(b"\x10")
    proposer = {"model": str(folder), "chat": False}
    assert diagnose(write(proposer=proposer), load=False).exit_code == 0
    found = diagnose(write(proposer=proposer))
    assert found.exit_code == 1
    assert "cannot be loaded" in failures(found)
    found = diagnose(write(proposer={"model": "nobody/no-model"}), load=True)
    assert "not loaded, since" in found.findings[-1].text


def test_a_scorer_that_is_missing(write: Write) -> None:
    assert "no scorer" in failures(diagnose(write(guides=None), load=False))
    assert diagnose(write(guides=None, strategy={"type": "sampling"}), load=False).exit_code == 0


def test_greedy_candidates_are_all_alike(write: Write) -> None:
    greedy = {"max_tokens": 8, "temperature": 0}
    assert "nothing to choose" in warned(diagnose(write(generation=greedy), load=False))
    alone = {"type": "sampling"}
    assert not warned(diagnose(write(generation=greedy, strategy=alone), load=False)), "control"


def test_a_scorer_of_whole_answers(write: Write) -> None:
    scorer = {"type": "reward_model", "model": "embedded:reviews-reward", "partial": False}
    found = diagnose(write(guides=None, scorer=scorer), load=False)
    assert "whole answers only" in failures(found)
    best = {"type": "best_of_n", "n": 2}
    found = diagnose(write(guides=None, scorer=scorer, strategy=best), load=False)
    assert found.exit_code == 0, found.findings


def test_one_model_under_two_prompts(write: Write, tiny_folders: dict[str, Path]) -> None:
    pair = {"model": str(tiny_folders["proposer"]), "chat": False}
    guides = {**pair, "tuned_template": "good: {prompt}", "untuned_template": "{prompt}"}
    found = diagnose(write(guides=guides), load=False)
    assert found.exit_code == 0, found.findings
    assert [one.shares for one in found.local] == [None, "proposer", "proposer"]
    [memory] = found.memory
    assert memory.weights == found.local[0].weights


def test_what_is_free() -> None:
    free = free_bytes("cpu")
    assert free is not None
    assert 2**20 < free < 2**50
    assert free_bytes("meta") is None
