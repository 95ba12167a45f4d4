"""Whole comparisons on tiny models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from filelock import FileLock

from tests.helpers.studies import PROMPTS
from w2s_chains import (
    W2SLLM,
    BestOfN,
    ChunkBeamSearch,
    GuidePair,
    LogRatioScorer,
    Prompt,
    Sampling,
    Trace,
)
from w2s_chains.comparison import Row, compare, load_study
from w2s_chains.errors import ConfigError
from w2s_chains.proposers import HuggingFaceProposer

FINAL = {
    ".lock", "plan.yaml", "rows.jsonl", "summary.md", "summary.csv",
    "pareto-length.png", "distribution-length.png", "pareto-whole.png", "distribution-whole.png",
}  # fmt: skip


def without_seconds(rows: Sequence[Row]) -> list[dict]:
    return [row.model_dump(exclude={"seconds"}) for row in rows]


def changed(study: Path, **sections: object) -> Path:
    values = yaml.safe_load(study.read_text())
    path = study.with_name("changed.yaml")
    path.write_text(yaml.safe_dump({**values, **sections}, sort_keys=False))
    return path


@pytest.fixture
def llm(proposer: HuggingFaceProposer, pair: GuidePair) -> W2SLLM:
    return W2SLLM(
        proposer=proposer, scorer=LogRatioScorer(pair), strategy=BestOfN(n=2), max_tokens=5
    )


def test_a_study_becomes_rows_a_table_and_plots(study: Path, tmp_path: Path) -> None:
    found = compare(study, out=tmp_path / "out")
    assert {path.name for path in found.folder.iterdir()} == FINAL
    assert [(r.config, r.seed, r.index) for r in found.rows] == [
        (config, seed, index)
        for config, seeds in (("base", (0, 1)), ("eft", (0, 1)), ("beam", (0,)))
        for seed in seeds
        for index in range(5)
    ]
    written = [json.loads(line) for line in (found.folder / "rows.jsonl").open()]
    assert written == [row.model_dump() for row in found.rows]
    for row in found.rows:
        assert row.prompt == PROMPTS[row.index]
        assert row.text is not None
        assert row.rewards["length"] == len(row.text.split())
        assert row.rewards["whole"] == len((row.prompt + row.text).split())
        assert set(row.rewards) == {"length", "whole", "repetition"}
        assert row.guide_score is not None
        assert row.loglikelihood is not None
        assert row.finish_reason in ("eos", "length")
        assert row.seconds > 0
        assert not row.errors
        assert row.read_tokens
        assert row.guide_flops_ratio is not None
    costs = {line.config: line.costs for line in found.summary.lines}
    proposed = {name: own["proposed_tokens"] for name, own in costs.items()}
    assert proposed["beam"] == pytest.approx(4 * proposed["base"], rel=0.2)
    # Chunks of two tokens: a row for the parent, and one for each of its children.
    assert costs["base"]["read_tokens"] < costs["beam"]["read_tokens"] < proposed["beam"]
    assert costs["base"]["rounds"] == 1 < costs["beam"]["rounds"] <= 3
    assert costs["eft"]["guide_flops_ratio"] == pytest.approx(2, rel=0.01), "two guides of its size"
    assert found.summary.lines[2].seeds == 1


def test_answers_are_those_of_the_llm_itself(llm: W2SLLM, tmp_path: Path) -> None:
    found = compare({"llm": llm}, PROMPTS, seeds=[3, 4], out=tmp_path, plots=False)
    for seed in (3, 4):
        rows = [row for row in found.rows if row.seed == seed]
        answers = llm.generate(list(PROMPTS), seed=seed).generations
        assert [row.text for row in rows] == [own[0].text for own in answers]
        info = [own[0].generation_info or {} for own in answers]
        assert [row.guide_score for row in rows] == pytest.approx([i["score"] for i in info])
    assert found.rows[0].text != found.rows[5].text  # control: seeds matter


def test_loglikelihood_is_the_frozen_models_own(llm: W2SLLM, tmp_path: Path) -> None:
    found = compare({"llm": llm}, PROMPTS, out=tmp_path, plots=False)
    assert isinstance(llm.proposer, HuggingFaceProposer)
    model, text = llm.proposer.lm.model, llm.proposer.tokenizer
    for row in found.rows:
        assert row.text is not None
        prompt = text.prompt_ids(Prompt(text=row.prompt))
        ids = text.ids_with_response(Prompt(text=row.prompt), row.text)
        with torch.inference_mode():
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        own = [logprobs[i - 1, ids[i]].item() for i in range(len(prompt), len(ids))]
        assert row.loglikelihood == pytest.approx(sum(own) / len(own), abs=1e-4)


def test_batches_do_not_change_the_rows(study: Path, tmp_path: Path) -> None:
    one = compare(study, out=tmp_path / "1", batch_size=1, plots=False)
    many = compare(study, out=tmp_path / "5", batch_size=5, plots=False)
    assert [r.text for r in one.rows] == [r.text for r in many.rows]


def test_a_finished_comparison_is_not_run_again(study: Path, tmp_path: Path, monkeypatch) -> None:
    first = compare(study, out=tmp_path / "out")
    before = {path.name: path.read_bytes() for path in first.folder.iterdir()}

    def never(*_: object) -> None:
        raise AssertionError("a finished row was computed again")

    monkeypatch.setattr("w2s_chains.comparison.run.answer", never)
    monkeypatch.setattr("w2s_chains.comparison.run.judge", never)
    compare(study, out=tmp_path / "out")
    assert {path.name: path.read_bytes() for path in first.folder.iterdir()} == before
    with pytest.raises(AssertionError):  # control
        compare(study, out=tmp_path / "other")


def test_configs_seeds_prompts_and_rewards_can_be_added(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = compare(study, out=out, limit=3, seeds=[0])
    more = yaml.safe_load(study.read_text())["configs"]
    more = {"greedy": {"strategy": {"type": "sampling"}, "generation": {"temperature": 0}}, **more}
    later = changed(study, configs=more, rewards=["length", "repetition", "loglikelihood"])
    second = compare(later, out=out)
    kept = {row.key: row for row in second.rows}
    for row in first.rows:
        assert kept[row.key] == row  # seconds included: it is the same row
    assert len(second.rows) == 5 * (2 + 2 + 2 + 1)
    assert second.rows[0].config == "greedy"
    assert all(row.rewards["length"] is not None for row in second.rows)
    fewer = compare(study, out=out, limit=2, seeds=[1])
    assert len(fewer.rows) == 2 * (1 + 1 + 1)
    assert len((out / "rows.jsonl").read_text().split("\n")) == 35 + 2 + 1  # nothing was lost


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rewards": [{"type": "length", "template": "{prompt}{answer}"}]}, "reward 'length'"),
        ({"prompts": ["another prompt"]}, "'another prompt'"),
    ],
)
def test_a_folder_is_not_mixed_with_another_comparison(
    study: Path, tmp_path: Path, change: dict, told: str
) -> None:
    compare(study, out=tmp_path / "out", plots=False)
    before = (tmp_path / "out" / "rows.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=told):
        compare(changed(study, **change), out=tmp_path / "out", plots=False)
    assert (tmp_path / "out" / "rows.jsonl").read_bytes() == before


def test_a_reward_is_known_by_the_content_of_its_file(study: Path, tmp_path: Path) -> None:
    data = "text,label\n" + "good,1\nbad,0\n" * 5
    rewards = [{"type": "text_classifier", "name": "gold", "data": "gold.csv"}]
    (study.parent / "gold.csv").write_text(data)
    compare(changed(study, rewards=rewards), out=tmp_path / "out", limit=1, plots=False)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "gold.csv").write_text(data)
    rewards[0]["data"] = str(elsewhere / "gold.csv")
    compare(changed(study, rewards=rewards), out=tmp_path / "out", limit=1, plots=False)
    (elsewhere / "gold.csv").write_text(data + "fine,1\n")
    with pytest.raises(ConfigError, match="another reward 'gold'"):
        compare(changed(study, rewards=rewards), out=tmp_path / "out", limit=1, plots=False)


def test_another_config_of_the_same_name_is_refused(llm: W2SLLM, tmp_path: Path) -> None:
    compare({"a": llm}, PROMPTS, out=tmp_path, plots=False)
    other = llm.model_copy(update={"strategy": BestOfN(n=3)})
    with pytest.raises(ConfigError, match="another config 'a'"):
        compare({"a": other}, PROMPTS, out=tmp_path, plots=False)
    compare({"b": other}, PROMPTS, out=tmp_path, plots=False)


def test_two_comparisons_do_not_share_a_folder(study: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with (
        FileLock(tmp_path / "out" / ".lock"),
        pytest.raises(ConfigError, match="another comparison is running"),
    ):
        compare(study, out=tmp_path / "out")


def test_a_reward_that_fails_on_one_text_harms_no_other(llm: W2SLLM, tmp_path: Path) -> None:
    calls: list[int] = []

    def picky(  # pyright: ignore[reportRedeclaration]
        prompts: Sequence[str], answers: Sequence[str]
    ) -> list[float]:
        calls.append(len(answers))
        if PROMPTS[1] in prompts:
            raise RuntimeError("I do not like this one")
        return [float("nan") if prompt == PROMPTS[2] else 1.0 for prompt in prompts]

    found = compare({"a": llm}, PROMPTS, rewards=[picky, "length"], out=tmp_path, plots=False)
    assert [row.rewards["picky"] for row in found.rows] == [1.0, None, None, 1.0, 1.0]
    assert found.rows[1].errors == {"picky": "RuntimeError: I do not like this one"}
    assert "nan" in found.rows[2].errors["picky"]
    assert all(row.rewards["length"] is not None for row in found.rows)
    assert found.summary.lines[0].failed == 2
    assert calls[0] == 5

    def picky(prompts: Sequence[str], answers: Sequence[str]) -> list[float]:  # mended
        calls.append(len(answers))
        return [2.0] * len(answers)

    calls.clear()
    mended = compare({"a": llm}, PROMPTS, rewards=[picky, "length"], out=tmp_path, plots=False)
    assert calls == [2]  # only what failed
    assert [row.rewards["picky"] for row in mended.rows] == [1.0, 2.0, 2.0, 1.0, 1.0]
    assert not any(row.errors for row in mended.rows)
    assert [r.text for r in mended.rows] == [r.text for r in found.rows]


def test_a_reward_with_the_wrong_number_of_values_is_an_error(llm: W2SLLM, tmp_path: Path) -> None:
    def short(prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        return [1.0] * (len(answers) - 1)

    found = compare({"a": llm}, PROMPTS[:2], rewards=[short], out=tmp_path, plots=False)
    assert all("0 values for 1 answers" in row.errors["short"] for row in found.rows)


def test_a_prompt_that_is_too_long_harms_no_other(llm: W2SLLM, tmp_path: Path) -> None:
    long = "word " * 5000
    found = compare({"a": llm}, [PROMPTS[0], long, PROMPTS[1]], out=tmp_path, plots=False)
    assert [row.text is None for row in found.rows] == [False, True, False]
    assert "PromptError" in found.rows[1].errors["answer"]
    assert found.rows[1].rewards == {}
    alone = compare({"a": llm}, PROMPTS[:1], out=tmp_path / "alone", plots=False)
    assert found.rows[0].text == alone.rows[0].text


def test_an_llm_that_cannot_work_is_refused_before_another_runs(
    llm: W2SLLM, tmp_path: Path
) -> None:
    unscored = llm.model_copy(update={"scorer": None})
    with pytest.raises(ConfigError, match=r"config 'b': .*no scorer"):
        compare({"a": llm, "b": unscored}, PROMPTS, out=tmp_path / "out", plots=False)
    assert not (tmp_path / "out").exists()


def test_equal_prompts_are_answered_each(llm: W2SLLM, tmp_path: Path) -> None:
    found = compare({"a": llm}, ["same", "same"], out=tmp_path, plots=False)
    assert len(found.rows) == 2
    assert found.rows[0].text == found.rows[1].text


def test_given_seeds_hold_for_every_config(study: Path, tmp_path: Path) -> None:
    found = compare(study, out=tmp_path / "a", limit=1, seeds=[7], plots=False)
    assert {row.seed for row in found.rows} == {7}
    found = compare(load_study(study), out=tmp_path / "b", limit=1, seeds=[7], plots=False)
    assert {row.seed for row in found.rows} == {7}
    own = compare(study, out=tmp_path / "c", limit=1, plots=False)
    assert {(row.config, row.seed) for row in own.rows} == {
        ("base", 0), ("base", 1), ("eft", 0), ("eft", 1), ("beam", 0),
    }  # fmt: skip


def test_strategies_on_one_config(llm: W2SLLM, tmp_path: Path) -> None:
    strategies = [{"type": "best_of_n", "n": 2}, ChunkBeamSearch(width=2, chunk_tokens=2)]
    found = compare({"a": llm}, PROMPTS, strategies=strategies, out=tmp_path, plots=False)
    assert [line.config for line in found.summary.lines] == [
        "best_of_n n=2", "chunk_beam width=2 chunk_tokens=2",
    ]  # fmt: skip
    named = {"one": Sampling(), "two": {"type": "sampling"}}
    found = compare({"a": llm}, PROMPTS, strategies=named, out=tmp_path / "2", plots=False)
    assert found.summary.lines[1].differences == {}
    assert [r.text for r in found.rows[:5]] == [r.text for r in found.rows[5:]]
    with pytest.raises(ConfigError, match="on one config, but there are 2: a, b"):
        compare({"a": llm, "b": llm}, PROMPTS, strategies=strategies, out=tmp_path / "3")
    with pytest.raises(ConfigError, match="unknown strategy type 'nope'"):
        compare({"a": llm}, PROMPTS, strategies=[{"type": "nope"}], out=tmp_path / "4")


def test_plots_without_matplotlib_are_refused_before_work(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="--no-plots"):
        compare(study, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    compare(study, out=tmp_path / "out", limit=1, plots=False)


def test_files_are_named_only_if_they_were_written(study: Path, tmp_path: Path) -> None:
    tables = {"rows.jsonl", "summary.md", "summary.csv"}
    first = compare(study, out=tmp_path / "out", limit=1)
    plots = {name for name in FINAL if name.endswith(".png")}
    assert {file.name for file in first.files} == tables | plots
    again = compare(study, out=tmp_path / "out", limit=1, plots=False, alpaca_eval=True)
    assert {file.name for file in again.files} == {
        *tables, "base-seed0.json", "base-seed1.json", "beam-seed0.json", "eft-seed0.json",
        "eft-seed1.json",
    }  # fmt: skip
    assert all(file.is_file() for file in (*first.files, *again.files))
    failed = changed(study, prompts=["word " * 9000], rewards=["length"])
    none = compare(failed, out=tmp_path / "failed")
    assert {file.name for file in none.files} == tables
    assert not list((tmp_path / "failed").glob("*.png")), "there is nothing to draw"


def test_a_run_that_goes_on_says_what_is_there(
    study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def told(**options: Any) -> list[str]:
        caplog.clear()
        compare(study, out=tmp_path / "out", plots=False, **options)
        return [record.message for record in caplog.records if "answers" in record.message]

    caplog.set_level("INFO", "w2s_chains.comparison")
    assert told(limit=1) == [], "nothing is there"
    assert told(limit=2) == ["5 of 10 answers are there already; answering 5"]
    assert told(limit=2) == ["all 10 answers are there already"]
    assert told(limit=1) == ["all 5 answers are there already"]
    file = tmp_path / "out" / "rows.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0] |= {"text": None, "errors": {"answer": "boom"}}
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert told(limit=2) == [
        "9 of 10 answers are there already; answering 1, 1 of them again, since they had failed"
    ]


def test_an_interrupted_run_has_the_rewards_that_need_no_model(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("w2s_chains.comparison.run._Run.judge_all", interrupt)

    def praise(prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        return [1.0] * len(answers)

    with pytest.raises(KeyboardInterrupt):
        compare(study, rewards=["length", praise], out=tmp_path / "out", limit=2, plots=False)
    lines = (tmp_path / "out" / "rows.jsonl").read_text().splitlines()
    rows = [Row.model_validate_json(line) for line in lines]
    assert len(rows) == 10
    for row in rows:
        assert row.rewards["length"] == len((row.text or "").split())
        assert set(row.rewards) == {"length", "repetition"}, "a function may hold a model"


def test_a_comparison_shows_table_and_answers(study: Path, tmp_path: Path, capsys) -> None:
    found = compare(study, out=tmp_path / "out", limit=2, plots=False)
    found.print()
    printed = capsys.readouterr().out
    assert printed.index("difference") < printed.index("words; neither more nor fewer is better")
    assert printed.index("is better") < printed.index("Answers to 2 of 2 prompts")
    assert (tmp_path / "out" / "summary.md").read_text() == found.markdown()
    assert found.markdown().startswith(found.summary.markdown())


def test_the_baseline_can_be_chosen(study: Path, tmp_path: Path) -> None:
    found = compare(study, out=tmp_path / "out", plots=False, baseline="eft")
    assert found.summary.lines[1].differences == {}
    assert set(found.summary.lines[0].differences) == {"length", "whole"}
    with pytest.raises(ConfigError, match="no config is called 'nope'"):
        compare(study, out=tmp_path / "out", baseline="nope")


def test_traces_of_the_first_prompts(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = compare(study, out=out, plots=False, limit=2, traces=1)
    names = list(dict.fromkeys(row.config for row in found.rows))
    assert (out / "traces" / "prompt-0.html") in found.files
    assert "[prompt-0](traces/prompt-0.html)" in (out / "summary.md").read_text()
    files = sorted((out / "traces").glob("*.json"))
    traces = [Trace.from_json(path.read_text()) for path in files]
    told = {trace.name: trace.answer.text for trace in traces if trace.answer}
    first = min(row.seed for row in found.rows)
    assert told == {
        row.config: row.text for row in found.rows if row.index == 0 and row.seed == first
    }
    assert set(told) == set(names)
    page = (out / "traces" / "prompt-0.html").read_text()
    assert all(f'"name":"{name}"' in page for name in names)
    # Goes on: what is there is not traced again, what is asked for now is.
    times = [path.stat().st_mtime_ns for path in files]
    again = compare(study, out=out, plots=False, limit=2, traces=2)
    assert [path.stat().st_mtime_ns for path in files] == times
    assert [path.name for path in again.files if path.suffix == ".html"] == [
        "prompt-0.html", "prompt-1.html",
    ]  # fmt: skip
    without = compare(study, out=tmp_path / "none", plots=False, limit=1)
    assert not (without.folder / "traces").exists()
    files[0].write_text("torn")
    with pytest.raises(ConfigError, match="not JSON.*delete it, and it is made anew"):
        compare(study, out=out, plots=False, limit=2, traces=2)
    with pytest.raises(ConfigError, match="traces is -1; it must be at least 0"):
        compare(study, out=out, plots=False, traces=-1)


def test_alpaca_eval_files(study: Path, tmp_path: Path) -> None:
    found = compare(study, out=tmp_path / "out", plots=False, alpaca_eval=True)
    files = sorted(path.name for path in (found.folder / "alpaca_eval").iterdir())
    assert files == ["base-seed0.json", "base-seed1.json", "beam-seed0.json", "eft-seed0.json",
                     "eft-seed1.json"]  # fmt: skip
    outputs = json.loads((found.folder / "alpaca_eval" / "beam-seed0.json").read_text())
    rows = [row for row in found.rows if row.config == "beam"]
    assert outputs == [
        {"instruction": row.prompt, "output": row.text, "generator": "beam"} for row in rows
    ]


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"prompts": []}, "no prompts"),
        ({"prompts": "nope.txt"}, "nope.txt"),
        ({"configs": {}}, "configs"),
        ({"rewards": ["length", "length"]}, "two rewards are called 'length'"),
        ({"rewards": [{"type": "length", "name": "guide_score"}]}, "guide_score"),
        ({"rewards": [{"type": "length", "name": "a/b"}]}, "name"),
        ({"rewards": [{"type": "length", "template": "x"}]}, "answer"),
        ({"rewards": ["vadr"]}, "did you mean 'vader'"),
        ({"seeds": []}, "seeds"),
        ({"foo": 1}, "unknown field"),
        ({"base": 3}, "base"),
        ({"configs": {"a": 3}}, "a config is"),
        ({"configs": {"a": {"generation": {"n": 2}}}}, "n=2"),
        ({"configs": {"a": {"guide": None, "strategy": {"type": "best_of_n"}}}}, "config 'a'"),
        ({"configs": {"a": {"guide": None, "strategy": {"type": "emulated_fine_tuning"}}}}, "'a'"),
        ({"configs": {"a": {"proposer": {"model": "./nope"}}}}, "config 'a': .*nope"),
    ],
)
def test_bad_studies_are_refused_before_anything_is_written(
    study: Path, tmp_path: Path, sections: dict, told: str
) -> None:
    with pytest.raises((ConfigError, OSError), match=told):
        compare(changed(study, **sections), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_steering_with_a_foreign_vocabulary_is_refused_early(
    study: Path, tmp_path: Path, tiny_folders: dict[str, Path]
) -> None:
    from tests.helpers import tiny

    folder = tmp_path / "foreign"
    tiny.gpt2(360, seed=2).save_pretrained(folder)
    tiny.byte_tokenizer(360, bos=True, name="other").save_pretrained(folder)
    guide = {"tuned": str(folder), "untuned": str(folder)}
    configs: dict[str, Any] = {
        "eft": {"guide": guide, "strategy": {"type": "emulated_fine_tuning"}}
    }
    with pytest.raises(ConfigError, match=r"config 'eft': .*vocabulary"):
        compare(changed(study, configs=configs), out=tmp_path / "out")
    configs["eft"]["strategy"] = {"type": "best_of_n", "n": 2}  # control: as text they will do
    compare(changed(study, configs=configs), out=tmp_path / "out", plots=False)


def test_rows_tell_the_divergence(study: Path, tmp_path: Path) -> None:
    found = compare(study, out=tmp_path / "out", plots=False)
    told = {
        name: [r.kl for r in found.rows if r.config == name] for name in ("base", "eft", "beam")
    }
    assert set(told["base"]) == {0.0}
    assert len(set(told["eft"])) == len(told["eft"])
    assert all(kl is not None and kl > 1 for kl in told["beam"])
    assert " KL " in (tmp_path / "out" / "summary.md").read_text()


def test_a_folder_of_the_last_release_goes_on(study: Path, tmp_path: Path) -> None:
    """It calls the guides ``guide``; what it holds is still the same config."""
    out = tmp_path / "out"
    first = compare(study, out=out, limit=1, plots=False)
    plan = out / "plan.yaml"
    plan.write_text(plan.read_text().replace("guides:", "guide:"))
    assert "guide:" in plan.read_text()
    again = compare(study, out=out, limit=1, plots=False)
    assert [row.text for row in again.rows] == [row.text for row in first.rows]
    assert "guides:" in plan.read_text()
    fewer = plan.read_text().replace("      commit_after: null\n", "")  # a field came since
    assert fewer != plan.read_text()
    plan.write_text(fewer)
    compare(study, out=out, limit=1, plots=False)
    assert "commit_after: null" in plan.read_text()
    plan.write_text(plan.read_text().replace("guides:", "quides:"))
    with pytest.raises(ConfigError, match="give it another name"):
        compare(study, out=out, limit=1, plots=False)  # control
