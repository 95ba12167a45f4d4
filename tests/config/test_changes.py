"""Changes from the command line are validated as if the file said them."""

from __future__ import annotations

from pathlib import Path

import pytest

from w2s_chains.config.files import load_config
from w2s_chains.errors import ConfigError

FILE = """\
proposer: gpt2
guide: {tuned: a, untuned: {model: b}}
scorer:
  type: mixture
  parts:
  - {weight: 1.0, scorer: log_ratio}
  - {weight: 0.5, scorer: loglikelihood}
strategy: {type: chunk_beam, width: 2}
generation: {max_tokens: 12, stop: [x, y]}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "w2s.yaml"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize(
    ("change", "old", "new"),
    [
        ("strategy.width=3", "width: 2", "width: 3"),
        ("strategy.chunk_tokens=null", "width: 2", "width: 2, chunk_tokens: null"),
        ("strategy=best_of_n", "{type: chunk_beam, width: 2}", "best_of_n"),
        ("strategy={type: best_of_n, n: 8}", "chunk_beam, width: 2", "best_of_n, n: 8"),
        ("proposer.dtype=float32", "gpt2", "{model: gpt2, dtype: float32}"),
        ("guides.untuned=c", "{model: b}", "c"),
        ("guide.tuned.device=cpu", "tuned: a,", "tuned: {model: a, device: cpu},"),
        ("guides.untuned.device=cpu", "{model: b}", "{model: b, device: cpu}"),
        ("scorer=log_ratio", FILE[FILE.index("scorer:") : FILE.index("strategy")],
         "scorer: log_ratio\n"),
        ("scorer.parts.1.weight=2", "0.5", "2"),
        ("scorer.parts.1.scorer.per_token=true", "scorer: loglikelihood",
         "scorer: {type: loglikelihood, per_token: true}"),
        ("generation.stop.1=a.b=c", "[x, y]", "[x, 'a.b=c']"),
        ("generation.stop=[z]", "[x, y]", "[z]"),
        ("type=chat", "proposer: gpt2", "type: chat\nproposer: gpt2"),
    ],
)  # fmt: skip
def test_a_change_is_the_edited_file(
    file: Path, tmp_path: Path, change: str, old: str, new: str
) -> None:
    edited = tmp_path / "edited.yaml"
    assert FILE.count(old) == 1
    edited.write_text(FILE.replace(old, new))
    changed = load_config(file, changes=[change])
    assert changed == load_config(edited)
    assert changed != load_config(file), "control"


def test_missing_sections_and_the_last_change_count(tmp_path: Path) -> None:
    file = tmp_path / "w2s.yaml"
    file.write_text("proposer: gpt2\nguides: {tuned: a, untuned: b}\n")
    found = load_config(file, changes=["strategy.width=3", "strategy.width=4", "generation.n=2"])
    whole = "strategy: {type: chunk_beam, width: 4}\ngeneration: {n: 2}\n"
    file.write_text(file.read_text() + whole)
    assert found == load_config(file)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("strategy.widht=3", "--set strategy.widht=3: strategy.widht: unknown field; did you mean "
         "'width'?"),
        ("stratgy.width=3", "--set stratgy.width=3: stratgy: unknown field; did you mean"),
        ("strategy.width=0", "--set strategy.width=0: strategy.width: Input should be"),
        ("strategy.width=two", "--set strategy.width=two: strategy.width: Input should be a valid"),
        ("strategy.type=best_of_n", "w2s.yaml:8 with --set strategy.type=best_of_n: strat"),
        ("guides.tuned={modl: x}", "--set guides.tuned={modl: x}: guide.tuned.modl: unknown"),
        ("generation.stop.2=z", "generation.stop is a list of 2, which has no item"),
        ("generation.max_tokens.x=1", "generation.max_tokens is 12, which has no fields"),
        ("generation.seed=010", "--set generation.seed=010: YAML takes '010' as a number"),
        ("strategy", "--set takes PATH=VALUE, such as strategy.width=2, and not 'strategy'"),
        ("=3", "--set takes PATH=VALUE"),
        ("strategy..width=3", "--set takes PATH=VALUE"),
    ],
)  # fmt: skip
def test_a_fault_names_the_option(file: Path, change: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(file, changes=["generation.top_p=0.9", change])
    assert told in str(error.value)
    assert all("--set " in line for line in str(error.value).splitlines())


def test_faults_of_the_file_keep_their_lines(file: Path) -> None:
    file.write_text(FILE.replace("max_tokens", "max_tokns"))
    with pytest.raises(ConfigError, match=r"w2s\.yaml:9: generation\.max_tokns: unknown") as error:
        load_config(file, changes=["strategy.width=0"])
    assert "\n--set strategy.width=0: strategy.width" in str(error.value)
