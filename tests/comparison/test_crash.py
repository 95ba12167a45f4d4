"""A comparison that is killed, or runs out of disk, goes on where it stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from w2s_chains.comparison.rows import JsonLines, Row, write_file
from w2s_chains.errors import ConfigError, W2SError


@dataclass
class Crashes:
    folder: Path
    seen: list[tuple[str, list[str]]]
    full: int
    told: str


@pytest.fixture(scope="module")
def crashes(tmp_path_factory: pytest.TempPathFactory, tiny_folders: dict[str, Path]) -> Crashes:
    folder = tmp_path_factory.mktemp("crashes")
    values = {
        "prompts": [f"prompt number {i}" for i in range(12)],
        "rewards": ["length"],
        "base": {
            "proposer": {"model": str(tiny_folders["proposer"])},
            "guide": {name: str(tiny_folders[name]) for name in ("tuned", "untuned")},
            "generation": {"max_tokens": 24},
        },
        "configs": {
            "base": {"strategy": {"type": "sampling"}},
            "beam": {"strategy": {"type": "chunk_beam", "chunk_tokens": 4}},
            "best": {"strategy": {"type": "best_of_n", "n": 8}},
        },
    }
    study = folder / "study.yaml"
    study.write_text(yaml.safe_dump(values, sort_keys=False))
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("killed.py"), study, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = "\n".join(line for line in done.stderr.splitlines() if line.startswith("told: "))
    return Crashes(folder, told=told, **json.loads(done.stdout))


def files(folder: Path) -> dict[str, bytes]:
    """Everything a comparison leaves, the time it took aside."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    rows = [json.loads(line) for line in found["rows.jsonl"].splitlines()]
    found["rows.jsonl"] = repr([{**row, "seconds": 0} for row in rows]).encode()
    for name, separator in (("summary.md", " | "), ("summary.csv", ",")):
        lines = found[name].decode().splitlines()
        place = lines[0].split(separator).index("seconds")
        table = [line.split(separator) for line in lines]
        found[name] = repr([own[:place] + own[place + 1 :] for own in table]).encode()
    return found


def test_ten_kills_leave_the_files_of_an_undisturbed_run(crashes: Crashes) -> None:
    undisturbed = files(crashes.folder / "undisturbed")
    assert len(undisturbed) == 7
    assert len(crashes.seen) == 10
    for name in {name for name, _ in crashes.seen}:
        assert files(crashes.folder / name) == undisturbed


def test_no_finished_row_is_lost_or_computed_again(crashes: Crashes) -> None:
    finished = 0
    for name, lines in crashes.seen:
        rows = [json.loads(line) for line in (crashes.folder / name / "rows.jsonl").open()]
        final = {(row["config"], row["index"]): row for row in rows}
        for row in map(json.loads, lines[:-1]):
            kept = final[row["config"], row["index"]]
            assert (row["text"], row["seconds"]) == (kept["text"], kept["seconds"])
            finished += 1
    assert finished > 0, "control: some rows were finished when a kill came"


def test_a_full_disk_is_told_and_loses_nothing(crashes: Crashes) -> None:
    assert crashes.full == 3
    assert "cannot write" in crashes.told
    assert "File too large" in crashes.told
    assert "goes on from there" in crashes.told
    assert files(crashes.folder / "full") == files(crashes.folder / "undisturbed")


def rows(*indices: int) -> list[Row]:
    return [Row(config="a", seed=0, index=i, prompt="p", text="t") for i in indices]


def test_an_unfinished_line_is_cut_off(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "rows.jsonl", Row)
    file.append(rows(0, 1))
    whole = file.path.read_bytes()
    for cut in (1, 10, len(whole) // 2 - 1):
        file.path.write_bytes(whole + whole[:cut])
        assert file.read() == rows(0, 1)
        file.append(rows(2))
        assert file.read() == rows(0, 1, 2)
        file.path.write_bytes(whole)


def test_a_damaged_line_is_refused_with_its_number(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "rows.jsonl", Row)
    file.append(rows(0))
    with file.path.open("a") as raw:
        raw.write('{"config": "a"}\n')
    with pytest.raises(ConfigError, match=r"rows.jsonl:2: not a row"):
        file.read()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "summary.md"
    write_file(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(W2SError, match=r"summary\.md.*No space left"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["summary.md"]
    file = JsonLines(tmp_path / "rows.jsonl", Row)
    with pytest.raises(W2SError, match="No space left"):
        file.append(rows(0))
    assert file.read() == []
