"""A study that goes on elsewhere: from a run folder's journal into PostgreSQL, and what is refused on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from bowl import Bowl, recipe
from bowl import make as make_alone
from postgres import PASSWORD, Server
from shared_bowl import make

from mergekit_optimer.errors import InfrastructureError, RunFolderError, SearchError
from mergekit_optimer.files import read_json
from mergekit_optimer.pipeline.means import Means
from mergekit_optimer.pipeline.searching import keep_in_one_place
from mergekit_optimer.runs import RunDir
from mergekit_optimer.search import Database, move_trials, wait_until_whole

pytest_plugins = ["postgres_fixtures"]

Places = Callable[..., Database]
RUNGS = [{"n_samples": 20}, {"n_samples": 60, "top": 3}]


def move(run_dir: Path, place: Database, **section: Any) -> int:
    return move_trials(recipe(rungs=RUNGS, **section), RunDir(run_dir), place, "identity")


def search(tmp_path: Path, place: Database, bowl: Bowl, n_trials: int) -> Any:
    return make(tmp_path / "elsewhere", bowl, place, n_trials=n_trials, rungs=RUNGS)


def files(run_dir: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in run_dir.glob("trials/*/scores.json")}


def test_a_finished_study_goes_on_with_its_trials_and_rungs(tmp_path: Path, place: Places) -> None:
    make_alone(tmp_path, Bowl(), n_trials=8, rungs=RUNGS).run()
    assert move(tmp_path / "run", place()) == 8
    bowl = Bowl()
    assert search(tmp_path, place(), bowl, 8).run().winner.n_samples == 60
    assert bowl.asked == []
    assert files(tmp_path / "elsewhere") == files(tmp_path / "run")
    longer = search(tmp_path, place(), bowl, 12).run()
    assert len([stop for _, _, stop in bowl.asked if stop == 20]) == 4
    whole = make_alone(tmp_path / "whole", Bowl(), n_trials=12, rungs=RUNGS).run()
    assert [(r.weights, r.values[20]) for r in longer.trials] == [(r.weights, r.values[20]) for r in whole.trials]


def test_an_interrupted_study_goes_on_as_if_it_had_not_been(tmp_path: Path, place: Places) -> None:
    def spoil(call: int, weights: Mapping[str, float]) -> None:
        if weights == dict.fromkeys(weights, 0.5):
            raise InfrastructureError("The GPU is gone.")
        if call in (1, 8):
            raise KeyboardInterrupt

    bowl = Bowl(spoil)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            make_alone(tmp_path, bowl, n_trials=12, rungs=RUNGS).run()
    move(tmp_path / "run", place())
    result = search(tmp_path, place(), Bowl(), 12).run()
    assert len(result.trials) == 12
    # What was given up in a session of the journal gets another chance.
    assert dict.fromkeys(result.winner.weights, 0.5) in [record.weights for record in result.trials]
    assert result.n_failed == 0


def test_a_move_that_was_interrupted_is_gone_on_with_and_not_searched_on(tmp_path: Path, place: Places) -> None:
    make_alone(tmp_path, Bowl(), n_trials=8, rungs=RUNGS).run()
    waiting = search(tmp_path, place(), Bowl(), 9)
    scores = tmp_path / "run/trials/0005/scores.json"
    scores.rename(tmp_path / "away")
    with pytest.raises(RunFolderError):
        move(tmp_path / "run", place())
    for driver in (waiting, search(tmp_path, place(), Bowl(), 9)):
        with pytest.raises(SearchError, match=r"Not all trials have come into .* run the command with --from again"):
            driver.run()
    with pytest.raises(SearchError, match="Nobody has begun the study"):
        wait_until_whole(place(), "study", lambda: True)
    (tmp_path / "away").rename(scores)
    assert move(tmp_path / "run", place()) == 3
    assert move(tmp_path / "run", place()) == 0
    wait_until_whole(place(), "study", lambda: True)
    bowl = Bowl()
    assert len(waiting.run().trials) == 9
    assert len(search(tmp_path, place(), bowl, 9).run().trials) == 9
    assert bowl.asked == []


def test_a_run_folder_is_told_of_the_move_before_the_first_trial_comes_in(
    tmp_path: Path, place: Places, server: Server, url: str
) -> None:
    make_alone(tmp_path, Bowl(), n_trials=2, rungs=RUNGS).run()
    seen = []

    def note() -> None:
        seen.append(server.ask("SELECT count(*) FROM trials", url)[0][0])
        seen.append(server.ask("SELECT value_json FROM study_user_attributes WHERE key = 'moving'", url)[0][0])

    move_trials(recipe(rungs=RUNGS), RunDir(tmp_path / "run"), place(), "identity", note)
    assert seen == [0, "true"]


def test_a_study_with_trials_of_its_own_takes_in_no_others(tmp_path: Path, place: Places) -> None:
    make_alone(tmp_path, Bowl(), n_trials=3, rungs=RUNGS).run()
    search(tmp_path, place(), Bowl(), 3).run()
    with pytest.raises(SearchError, match="trials of its own, not those of"):
        move(tmp_path / "run", place())


def test_a_journal_that_went_on_after_the_move_is_refused(tmp_path: Path, place: Places) -> None:
    make_alone(tmp_path, Bowl(), n_trials=3, rungs=RUNGS).run()
    assert move(tmp_path / "run", place()) == 3
    make_alone(tmp_path, Bowl(), n_trials=4, rungs=RUNGS).run()
    with pytest.raises(SearchError, match="trials of its own, not those of"):
        move(tmp_path / "run", place())


def test_a_run_without_a_study_has_nothing_to_take_along(tmp_path: Path, place: Places) -> None:
    with pytest.raises(SearchError, match="has no study in its folder to take along; leave --from out"):
        move(tmp_path / "run", place())


def test_a_stranger_is_refused_and_told_what_differs(tmp_path: Path, place: Places) -> None:
    parts = dict.fromkeys(("base model", "vector pool", "dev samples", "search section", "seed"), "a")
    make(tmp_path, Bowl(), place(), "theirs", parts=parts, n_trials=1)
    for part in parts:
        with pytest.raises(
            SearchError, match=rf"belongs to a study of other .* \({part}\)\. .* the recipe another name"
        ):
            make(tmp_path, Bowl(), place(), "ours", parts=parts | {part: "b"}, n_trials=1)


def test_a_study_stays_in_one_place(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    url = f"postgresql://study:{PASSWORD}@host/studies"
    keep_in_one_place(run, Means(storage=url))
    assert read_json(run.storage_path) == {"storage": "postgresql://study:***@host/studies"}
    keep_in_one_place(run, Means(storage="postgresql://somebody@host:5432/studies"))
    with pytest.raises(SearchError, match=r"is kept in postgresql://study:\*\*\*@host/studies; give it as --storage"):
        keep_in_one_place(run, Means())
    with pytest.raises(SearchError, match="is kept in postgresql"):
        keep_in_one_place(run, Means(storage="postgresql://study@host/others"))


def test_a_study_in_a_run_folder_is_not_left_behind(tmp_path: Path) -> None:
    make_alone(tmp_path, Bowl(), n_trials=1).run()
    run = RunDir(tmp_path / "run")
    with pytest.raises(
        SearchError, match=r"has a study of its own, in study\.journal\. Take its trials along with --from"
    ):
        keep_in_one_place(run, Means(storage="postgresql://host/studies"))
    assert not run.storage_path.exists()
    keep_in_one_place(run, Means())
