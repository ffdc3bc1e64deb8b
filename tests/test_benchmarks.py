"""The benchmark's table and file, from made figures: what is reached, what is not, what could not be measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from benchmarks.figures import Figure, read, render, update, write

FIGURES = [
    Figure("merge: share of copy_ speed", 0.41234, at_least=0.40, detail="0.1 s for 3 GB"),
    Figure("times faster than the naive loop", 7.5, at_least=10),
    Figure("whole trial: times its forward passes", 1.25, at_most=1.25),
    Figure("memory: share of what is allowed", 1.01, at_most=1.0),
    Figure("for information", 3.0),
    Figure("race", None, at_least=2, detail="no pool"),
]


def test_a_bound_is_kept_at_its_very_value_and_broken_beyond_it() -> None:
    assert [figure.reached for figure in FIGURES] == [True, False, True, False, None, False]


def test_the_table_says_value_bound_and_whether_it_is_reached() -> None:
    lines = render(FIGURES).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        "merge: share of copy_ speed",
        "0.412",
        ">= 0.4",
        "yes",
    ]
    assert [cell.strip() for cell in lines[5].split("|")[2:-1]] == ["1.01", "<= 1", "no"]
    assert [cell.strip() for cell in lines[6].split("|")[2:-1]] == ["3", "", ""]
    assert [cell.strip() for cell in lines[7].split("|")[2:-1]] == ["-", ">= 2", "no"]
    assert len({len(line) for line in lines[:8]}) == 1
    assert lines[9:] == ["merge: share of copy_ speed: 0.1 s for 3 GB", "race: no pool"]


def test_the_file_lists_name_value_bound_and_reached_and_is_read_back(tmp_path: Path) -> None:
    write(FIGURES, tmp_path / "bench.json")
    data = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert data[1] == {
        "name": "times faster than the naive loop",
        "value": 7.5,
        "at_least": 10,
        "detail": "",
        "reached": False,
    }
    assert data[4]["reached"] is None
    assert data[5]["value"] is None
    assert read(tmp_path / "bench.json") == FIGURES


def test_a_value_that_is_no_number_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        write([Figure("broken", float("nan"))], tmp_path / "bench.json")


def test_rows_measured_again_take_the_place_of_the_old() -> None:
    again = Figure("race", 2.5, at_least=2)
    new = Figure("new", 1.0)
    figures = update(FIGURES, [new, again])
    assert figures == [*FIGURES[:5], again, new]


def test_the_readme_quotes_the_figures_that_were_kept() -> None:
    root = Path(__file__).resolve().parent
    readme = (root.parent / "README.md").read_text(encoding="utf-8")
    for figure in read(root / "benchmarks" / "bench.json"):
        if figure.reached is not None:
            value, bound = render([figure]).splitlines()[2].split("|")[2:4]
            line = next((line for line in readme.splitlines() if figure.name in line), "")
            cells = [cell.strip() for cell in line.split("|")[1:-1]]
            assert cells[1:] == [value.strip(), bound.strip(), "yes" if figure.reached else "**no**"], figure.name


def test_the_readme_quotes_what_a_gpu_measured() -> None:
    root = Path(__file__).resolve().parent
    readme = " ".join((root.parent / "README.md").read_text(encoding="utf-8").split())
    said = readme.split("On one GPU, an H200", 1)[1].split("A race saves", 1)[0]
    kept, sent, plain, _, disk, scores, slopes = read(root / "benchmarks" / "bench-cuda.json")
    for figure, number in (
        (kept, "0.067 s"),
        (sent, "0.95 s"),
        (plain, "4.76 s"),
        (disk, "10.96 s"),
        (scores, "0.255 s"),
    ):
        digits = len(number.split(".")[1]) - 2
        measured = [f"{float(word):.{digits}f} s" for word in re.findall(r"(\d+\.\d+) s\b", figure.detail)]
        assert number in measured
        assert number in said
    assert f"{kept.value:.2f} of the speed" in said
    assert f"{scores.value:.2f} times its forward passes" in said
    assert f"{slopes.value:.1f} times a score" in said
