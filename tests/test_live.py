"""What a person sees of a running study: a live table on a terminal, lines elsewhere, its journal in a browser."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from bowl import Bowl, make, recipe
from rich.console import Console

from mergekit_optimer.cli.live import LiveTrials, watched
from mergekit_optimer.cli.options import dashboard_command
from mergekit_optimer.runs import RunDir
from mergekit_optimer.search import InProcess, Progress, Search


def study(tmp_path: Path, watch: Any, **search: Any) -> Search:
    run = RunDir(tmp_path / "run")
    return Search(recipe(**search), run, ["code", "ja", "math"], "identity", InProcess(Bowl()), watch=watch)


def drawn(trials: LiveTrials, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(trials.table())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_shows_trials_scores_best_rate_and_time_left(tmp_path: Path) -> None:
    trials, seen = LiveTrials(), []

    def watch(progress: Progress) -> None:
        seen.append(progress)
        trials.add(progress)

    study(tmp_path, watch, n_trials=12).run()
    assert [progress.n_done for progress in seen] == list(range(1, 13))
    text = drawn(trials)
    best = seen[-1]
    assert f"trial 12 of 12   best {best.best_value:.4f} (#{best.best_number})" in text
    assert "s a trial" in text
    assert "0 s left" in text
    assert "dev" in text
    assert "en" in text
    assert "#11" in text
    assert f"#{best.best_number} " in text
    # The last ones only, and the best.
    assert text.count("#") <= 1 + 1 + 8


def test_a_front_has_no_best_row(tmp_path: Path) -> None:
    trials = LiveTrials()
    objective = {"pareto": ["dev", "en"]}
    study(tmp_path, trials.add, n_trials=10, objective=objective, sampler={"name": "tpe"}).run()
    assert "front of " in drawn(trials)
    assert "best" not in drawn(trials)


def test_a_narrow_terminal_shows_it_too(tmp_path: Path) -> None:
    trials = LiveTrials()
    study(tmp_path, trials.add, n_trials=2).run()
    assert all(len(line) <= 60 for line in drawn(trials, width=60).splitlines())


def test_on_a_terminal_the_table_is_drawn_and_the_log_goes_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    handler = logging.StreamHandler(stderr)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    monkeypatch.setattr(logging.getLogger("mergekit_optimer"), "level", logging.INFO)
    console = Console(file=stderr, width=120, force_terminal=True)
    rungs = [{"n_samples": 20}, {"n_samples": 40, "top": 1}]
    with watched(console) as watch:
        assert watch is not None
        study(tmp_path, watch, n_trials=3, rungs=rungs).run()
    text = stderr.getvalue()
    assert "trial 3 of 3" in text
    assert "rung of 40 samples" in text
    assert "trial 3/3" not in text
    # Afterwards the log is as it was.
    assert handler.stream is stderr


def test_where_stderr_is_no_terminal_nothing_is_drawn() -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    with watched(console) as watch:
        assert watch is None


def test_the_journal_opens_in_optunas_own_storage(tmp_path: Path) -> None:
    from optuna import load_study
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    make(tmp_path, Bowl(), n_trials=4).run()
    path = tmp_path / "run/study.journal"
    assert shlex.split(dashboard_command(path)) == ["optuna-dashboard", str(path)]
    before = path.read_bytes()
    loaded = load_study(study_name="study", storage=JournalStorage(JournalFileBackend(str(path))))
    assert len(loaded.trials) == 4
    assert set(loaded.best_trial.params) == {"code", "ja", "math"}
    assert path.read_bytes() == before


@pytest.mark.skipif(
    importlib.util.find_spec("optuna_dashboard") is None, reason="optuna-dashboard (extra: dashboard) is not installed"
)
@pytest.mark.parametrize("pareto", [False, True])
def test_the_journal_opens_in_optuna_dashboard(tmp_path: Path, pareto: bool) -> None:
    from optuna_dashboard import wsgi
    from optuna_dashboard._storage_url import get_storage

    front: dict[str, Any] = {"objective": {"pareto": ["dev", "en"]}, "sampler": {"name": "tpe"}} if pareto else {}
    make(tmp_path, Bowl(), n_trials=4, **front).run()
    # As its command line does with the path.
    app = wsgi(get_storage(str(tmp_path / "run/study.journal")))
    environment = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/api/studies/0",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.url_scheme": "http",
    }
    data = json.loads(b"".join(app(environment, lambda *_: None)))
    assert data["name"] == "study"
    assert len(data["trials"]) == 4
    assert len(data["directions"]) == (2 if pareto else 1)
    assert data.get("objective_names") == (["dev", "en"] if pareto else None)
