"""``tune`` on tiny models: real searches, real files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from w2s_chains import W2SLLM, ConfigError
from w2s_chains.config.files import load_config
from w2s_chains.tuning import Tuning, tune

PROMPTS = [f"film {number} was" for number in range(24)]


def config_of(tiny_folders: dict[str, Path]) -> dict[str, Any]:
    return {
        "proposer": {"model": str(tiny_folders["proposer"])},
        "guides": {name: str(tiny_folders[name]) for name in ("tuned", "untuned")},
        "generation": {"max_tokens": 4},
    }


@pytest.fixture
def config(tiny_folders: dict[str, Path]) -> dict[str, Any]:
    return config_of(tiny_folders)


@pytest.fixture(scope="module")
def tuned(
    tiny_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tuning, Path]:
    """One whole tuning, with the folder of its files."""
    out = tmp_path_factory.mktemp("tuned")
    values = {**config_of(tiny_folders), "generation": {"max_tokens": 8}}
    return run(values, out, max_repetition=1.0), out


def run(config: dict[str, Any], out: Path, **options: Any) -> Tuning:
    return tune(config, PROMPTS, out=out, **{"max_loglikelihood_loss": 9.0, **options})


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def test_it_writes_a_config_that_gains(tuned: tuple[Tuning, Path]) -> None:
    found, out = tuned
    assert found.objective == "log_ratio"
    assert found.gains[found.recommended].low > 0
    assert {s.name for s in found.tried} > {"sampling", "token search 8", "emulated fine-tuning 1"}
    assert not found.left_out
    assert {s.name for s in found.confirmed} >= {"sampling", found.recommended}
    assert len(found.confirmed) == 4
    written = out / "recommended.yaml"
    again = load_config(written)
    assert (again.strategy, again.scoring) == (found.config.strategy, found.config.scoring)
    assert again.generation.model_dump() == found.config.generation.model_dump()
    assert found.verdict.split()[0] in written.read_text().splitlines()[0]
    assert isinstance(W2SLLM.from_config(written).invoke("film 3 was"), str)
    report = (out / "tuning.md").read_text()
    assert found.verdict in report
    assert all(f"| {s.name} | {s.prompts} |" in report for s in (*found.tried, *found.confirmed))
    assert (out / "front.png").stat().st_size > 10_000


def test_what_confirms_has_chosen_nothing(tuned: tuple[Tuning, Path]) -> None:
    found, out = tuned
    chose = {row["prompt"] for row in rows(out / "selection")}
    confirmed = {row["prompt"] for row in rows(out / "confirmation")}
    assert len(confirmed) == 8
    assert not chose & confirmed
    assert chose | confirmed == set(PROMPTS)
    last = max(s.prompts for s in found.tried)
    assert last == 16
    assert sum(s.prompts == last for s in found.tried) < len(found.tried) / 2


def test_it_goes_on_where_it_stopped(config: dict[str, Any], tmp_path: Path) -> None:
    calls: list[int] = []

    def words(prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        calls.append(len(answers))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return [float(len(answer)) for answer in answers]

    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path, rewards=[words], plots=False)
    before = {(row["config"], row["index"]): row["seconds"] for row in rows(tmp_path / "selection")}
    assert before
    run(config, tmp_path, rewards=[words], plots=False)
    after = {(row["config"], row["index"]): row["seconds"] for row in rows(tmp_path / "selection")}
    assert len(after) > len(before)
    assert {key: after[key] for key in before} == before, "no answer is made anew"


def test_strategies_of_ones_own_and_a_reward(config: dict[str, Any], tmp_path: Path) -> None:
    found = run(
        config, tmp_path, rewards=["length"], strategies=[{"type": "best_of_n", "n": 2}],
        plots=False, seed=3,
    )  # fmt: skip
    assert {s.name for s in found.tried} == {"sampling", "best_of_n n=2"}
    assert found.objective == "length"
    if found.recommended == "sampling":
        assert found.verdict.startswith("No candidate has more length")
    assert yaml.safe_load((tmp_path / "recommended.yaml").read_text())["strategy"]["type"] in (
        "sampling",
        "best_of_n",
    )


def test_brakes_hold_a_candidate_back(config: dict[str, Any], tmp_path: Path) -> None:
    found = run(config, tmp_path, max_loglikelihood_loss=0.0, max_repetition=0.0, plots=False)
    braked = [s for s in found.confirmed if s.brakes]
    assert braked
    assert found.recommended not in {s.name for s in braked}


def test_what_a_config_cannot_do_is_left_out_and_said(
    config: dict[str, Any], tmp_path: Path
) -> None:
    config["scorer"] = {"type": "loglikelihood"}
    del config["guides"]
    found = run(config, tmp_path, plots=False)
    assert found.objective == "guide_score"
    steered = [name for name in found.left_out if "fine-tuning" in name or "steering" in name]
    assert len(steered) == 3
    assert not any("fluent" in s.name for s in found.tried)
    assert steered[0] in (tmp_path / "tuning.md").read_text()


def test_the_clock_ends_it(config: dict[str, Any], tmp_path: Path) -> None:
    found = run(config, tmp_path, minutes=1e-6, plots=False)
    assert [s.prompts for s in found.tried] == [4] * len(found.tried)
    assert len(found.tried) == 5, "one group and plain sampling"
    assert all("no time left" in why for why in found.left_out.values())
    assert {s.prompts for s in found.confirmed} == {8}, "what is said is confirmed nevertheless"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"minutes": 0}, "minutes is 0; it must be more than 0"),
        ({"minutes": float("nan")}, "minutes is nan"),
        ({"max_repetition": -0.1}, "max_repetition is -0.1; it must be at least 0"),
        ({"rewards": ["nope"]}, "unknown reward type 'nope'"),
        ({"strategies": [{"type": "nope"}]}, "unknown strategy type 'nope'"),
        ({"strategies": [{"type": "best_of_n", "n": 0}]}, "n"),
    ],
)
def test_bad_options_are_refused_before_work(
    config: dict[str, Any], tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        run(config, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_bad_prompts_and_configs_are_refused(config: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"12 different prompts.*at least 24"):
        tune(config, [*PROMPTS[:12], *PROMPTS[:12]], out=out)
    with pytest.raises(ConfigError, match="cannot read prompts"):
        tune(config, tmp_path / "nope.txt", out=out)
    with pytest.raises(ConfigError, match="has no scorer"):
        tune({"proposer": config["proposer"]}, PROMPTS, out=out)
    assert not out.exists()
