"""The figure of the search: what its numbers are, that it is the same each time, and that no trial is left out."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mergekit_optimer.plots import search_curve, search_figure
from mergekit_optimer.report import ReportData, TrialFacts, build_report

TRIALS = [
    TrialFacts(0, 0.0, "warm_start"),
    TrialFacts(1, 0.07, "warm_start"),
    TrialFacts(2, 0.05, "surrogate"),
    TrialFacts(3, 0.19, "surrogate", "stopped"),
    TrialFacts(4, 0.18, "sampler", "rejected"),
    TrialFacts(5, -4.0, "sampler", "collapsed"),
    TrialFacts(6, 0.12, "adopted"),
]


@pytest.fixture
def report(report_inputs: dict[str, Any]) -> ReportData:
    """A report with a trial of each kind and of each fate."""
    search = replace(report_inputs["search"], best_trial=6, base_value=0.0)
    return build_report(**report_inputs | {"search": search, "trials": TRIALS})


def test_best_so_far_counts_only_trials_that_could_have_won(report: ReportData) -> None:
    assert search_curve(report).best_so_far == (0.0, 0.07, 0.07, 0.07, 0.07, 0.07, 0.12)


def test_best_so_far_begins_with_the_first_trial_that_could_have_won(report: ReportData) -> None:
    assert search_curve(replace(report, trials=report.trials[3:])).best_so_far == (None, None, None, 0.12)


def test_the_csv_beside_the_figure_holds_every_trial(report: ReportData, tmp_path: Path) -> None:
    figure = search_figure(report, tmp_path / "figures" / "search.png")
    assert figure.read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "figures" / "search.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["trial", "objective", "best_so_far", "kind", "state"],
        ["0", "0.0", "0.0", "warm_start", "scored"],
        ["1", "0.07", "0.07", "warm_start", "scored"],
        ["2", "0.05", "0.07", "surrogate", "scored"],
        ["3", "0.19", "0.07", "surrogate", "stopped"],
        ["4", "0.18", "0.07", "sampler", "rejected"],
        ["5", "-4.0", "0.07", "sampler", "collapsed"],
        ["6", "0.12", "0.12", "adopted", "scored"],
    ]


def test_the_figure_is_the_same_whatever_the_user_has_set(report: ReportData, tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("backend: TkAgg\nfigure.facecolor: red\nlines.linewidth: 9\n")
    (tmp_path / "report.json").write_text(json.dumps(report.to_json()))
    code = (
        "import json; from pathlib import Path; from mergekit_optimer.plots import search_figure;"
        "from mergekit_optimer.report import ReportData;"
        "search_figure(ReportData.from_json(json.loads(Path('report.json').read_text())), Path('there.png'))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "DISPLAY"}
    environment |= {"MATPLOTLIBRC": str(tmp_path), "MPLCONFIGDIR": str(tmp_path / "config")}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    here = search_figure(report, tmp_path / "here.png")
    assert (tmp_path / "there.png").read_bytes() == here.read_bytes()


def test_a_figure_holds_no_date_and_no_name_of_a_program(report: ReportData, tmp_path: Path) -> None:
    chunks = search_figure(report, tmp_path / "search.png").read_bytes()
    assert b"tEXt" not in chunks
    assert b"tIME" not in chunks


@pytest.mark.parametrize(
    "trials",
    [[], TRIALS[:1], [TrialFacts(0, -4.0, "sampler", "collapsed")], [TrialFacts(0, 0.1, "warm_start", "rejected")]],
    ids=["none", "one", "collapsed", "rejected"],
)
def test_a_search_of_which_there_is_little_to_see_has_a_figure_too(
    report: ReportData, tmp_path: Path, trials: list[TrialFacts]
) -> None:
    bare = replace(report, trials=tuple(trials), search=replace(report.search, base_value=None))
    assert search_figure(bare, tmp_path / "search.png").stat().st_size > 1000
