"""A study in PostgreSQL: what its drivers do with each other, and what it outlives. No model; the server is real."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import shared_bowl
from bowl import OPTIMUM, VECTORS, Bowl, recipe, trail
from bowl import make as make_alone
from postgres import PASSWORD, Server
from shared_bowl import Driver, asked, make, wait_until, warm_starts

from mergekit_optimer.errors import InfrastructureError, SearchError
from mergekit_optimer.runs import RunDir
from mergekit_optimer.search import Database, InProcess, Progress, Search
from mergekit_optimer.search.places import open_study

pytest_plugins = ["postgres_fixtures"]

RUNGS = [{"n_samples": 20}, {"n_samples": 60, "top": 3}]
WARM_STARTS = [
    f"warm_start/{name}" for name in ("half", "single/code", "single/ja", "single/math", "uniform_average", "zero")
]
SEARCH: dict[str, Any] = {"n_trials": 10, "rungs": RUNGS}


def states(server: Server, url: str) -> Counter[str]:
    return Counter(row[0] for row in server.ask("SELECT state::text FROM trials", url))


def scores(run_dir: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in sorted(run_dir.glob("trials/*/scores.json"))}


def test_two_drivers_bring_one_study_to_its_end(tmp_path: Path, server: Server, url: str) -> None:
    one, other = (Driver(name, url, tmp_path, meets=True, search=SEARCH) for name in ("one", "other"))
    assert shared_bowl.run(one, other) == [0, 0]
    assert one.outcome == other.outcome
    assert (one.outcome["n_trials"], one.outcome["warm_starts"]) == (10, WARM_STARTS)
    assert scores(one.run_dir) == scores(other.run_dir)
    assert states(server, url) == {"COMPLETE": 10}
    calls = asked(tmp_path)
    assert {call["driver"] for call in calls} == {"one", "other"}
    whole = [str(call["weights"]) for call in calls if call["start"] == 0]
    assert len(whole) == len(set(whole)) == 10
    climbed = [str(call["weights"]) for call in calls if call["start"] == 20]
    assert len(climbed) == len(set(climbed)) == 3


def test_what_a_killed_driver_had_is_tried_again(tmp_path: Path, server: Server, url: str) -> None:
    moments = ("asked", "heard", "scoring", "telling")
    doomed = [Driver(moment, url, tmp_path, dies=moment, search=SEARCH) for moment in moments]
    assert shared_bowl.run(*doomed) == [-9] * 4
    survivor = Driver("survivor", url, tmp_path, search=SEARCH)
    assert shared_bowl.run(survivor) == [0]
    ended = states(server, url)
    assert ended.keys() == {"COMPLETE", "FAIL"}
    assert (ended["COMPLETE"], ended["FAIL"] >= 4, survivor.outcome["n_failed"]) == (10, True, 0)
    assert survivor.outcome["warm_starts"] == WARM_STARTS
    by_survivor = [call for call in asked(tmp_path) if call["driver"] == "survivor" and call["stop"] == 20]
    assert len(by_survivor) == 10


def test_a_climb_that_a_driver_did_not_live_to_end_is_ended_by_another(
    tmp_path: Path, server: Server, url: str, place: Callable[..., Database]
) -> None:
    search = SEARCH | {"n_trials": 6}
    for moment in ("climbing", "sharing"):
        assert shared_bowl.run(Driver(moment, url, tmp_path, dies=moment, search=search)) == [-9]
    survivor = make(tmp_path / "survivor", Bowl(), place(), **search).run()
    alone = make_alone(tmp_path / "alone", Bowl(), **search).run()
    assert (survivor.winner.weights, survivor.winner.scores) == (alone.winner.weights, alone.winner.scores)
    assert states(server, url) == {"COMPLETE": 6}


def test_a_clock_that_jumps_gives_no_trial_away(tmp_path: Path, server: Server, url: str) -> None:
    one, other = (
        Driver(name, url, tmp_path, meets=True, lasts_s=3.0, jumps=name == "one", search={"n_trials": 4})
        for name in ("one", "other")
    )
    assert shared_bowl.run(one, other) == [0, 0]
    assert states(server, url) == {"COMPLETE": 4}
    assert len(asked(tmp_path)) == 4


def test_studies_begun_at_the_same_moment_make_the_tables_once(place: Callable[..., Database]) -> None:
    places, together = [place(study=f"study {number}") for number in range(4)], threading.Barrier(4)

    def begin(one: Database) -> list[Any]:
        together.wait(30)
        return list(open_study(one, one._study, "identity").trials)

    with ThreadPoolExecutor(4) as drivers:
        assert list(drivers.map(begin, places)) == [[]] * 4


def stop_for_a_moment(server: Server) -> None:
    server.stop()
    threading.Timer(0.3, server.start).start()


def test_a_study_waits_for_its_server_and_goes_on(
    tmp_path: Path, server: Server, url: str, place: Callable[..., Database], caplog: pytest.LogCaptureFixture
) -> None:
    def spoil(call: int, _weights: Mapping[str, float]) -> None:
        # In a trial, and in a climb.
        if call in (3, 12):
            stop_for_a_moment(server)

    def watch(progress: Progress) -> None:
        # Between trials and climb.
        if progress.n_done == 10:
            stop_for_a_moment(server)

    result = make(tmp_path / "run", Bowl(spoil), place(), watch=watch, **SEARCH).run()
    alone = make_alone(tmp_path / "alone", Bowl(), **SEARCH).run()
    assert trail(result.trials) == trail(alone.trials)
    assert result.winner.scores == alone.winner.scores
    assert states(server, url) == {"COMPLETE": 10}
    label = url.replace(PASSWORD, "***")
    assert caplog.messages.count(f"{label} does not answer; next try in 0.05 s") >= 3
    assert PASSWORD not in caplog.text


def test_a_claim_is_one_drivers_until_it_or_the_server_ends(server: Server, place: Callable[..., Database]) -> None:
    one, other = place(), place()
    assert one.claim("rung")
    assert not other.claim("rung")
    one.release("rung")
    assert other.claim("rung")
    stop_for_a_moment(server)
    assert one.claim("rung")
    other.release("rung")
    assert not other.claim("rung")
    one.close()
    wait_until(lambda: other.claim("rung"))


def test_signs_of_life_go_on_when_the_server_is_back(
    tmp_path: Path, server: Server, url: str, place: Callable[..., Database]
) -> None:
    def spoil(call: int, _weights: Mapping[str, float]) -> None:
        if call == 2:
            server.stop()
            server.start()
            query = "SELECT max(heartbeat) > pg_postmaster_start_time() AT TIME ZONE 'utc' FROM trial_heartbeats"
            wait_until(lambda: server.ask(query, url) == [(True,)])

    make(tmp_path, Bowl(spoil), place(), n_trials=2).run()


def test_a_server_that_stays_away_ends_in_a_sentence_and_the_study_goes_on_later(
    tmp_path: Path, server: Server, url: str, place: Callable[..., Database]
) -> None:
    def spoil(call: int, _weights: Mapping[str, float]) -> None:
        if call == 3:
            server.stop()

    with pytest.raises(SearchError) as refused:
        make(tmp_path / "run", Bowl(spoil), place(waits_s=(0.01, 0.02)), **SEARCH).run()
    server.start()
    assert str(refused.value) == (
        f'{url.replace(PASSWORD, "***")} cannot be used: connection failed: connection to server at "127.0.0.1", port '
        f"{server.port} failed: Connection refused. Mend that (a password belongs into ~/.pgpass or PGPASSWORD), then "
        "run the same command again: it goes on."
    )
    bowl = Bowl()
    result = make(tmp_path / "run", bowl, place(), **SEARCH).run()
    assert states(server, url).keys() <= {"COMPLETE", "FAIL"}
    assert warm_starts(result) == WARM_STARTS
    # Two were told before; three climb.
    assert (len(result.trials), len(bowl.asked)) == (10, 11)


def cut_connections(server: Server, url: str) -> None:
    query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    server.ask(query + " AND pid <> pg_backend_pid()", url)


def test_connections_that_are_cut_at_any_moment_lose_no_trial(
    tmp_path: Path, server: Server, url: str, place: Callable[..., Database]
) -> None:
    ended, moments = threading.Event(), random.Random(7)

    def cut() -> None:
        for _ in range(12):
            if ended.wait(moments.uniform(0.02, 0.3)):
                return
            cut_connections(server, url)

    cutter = threading.Thread(target=cut)
    cutter.start()
    try:
        result = make(tmp_path, Bowl(), place(), **SEARCH).run()
    finally:
        ended.set()
        cutter.join()
    assert states(server, url).keys() <= {"COMPLETE", "FAIL"}
    assert (len(result.trials), result.n_failed) == (10, 0)
    assert warm_starts(result) == WARM_STARTS
    assert len([record for record in result.trials if 60 in record.values]) == 3


def test_after_an_outage_the_others_have_time_to_be_heard_of(
    tmp_path: Path, server: Server, url: str, place: Callable[..., Database]
) -> None:
    import optuna

    one, other = place(), place()
    search = make(tmp_path, Bowl(), one, n_trials=2)
    with one.turn():
        one.begin(search._study.ask())
    one.close()
    joined = make(tmp_path, Bowl(), other, n_trials=2)._study
    server.ask("UPDATE trial_heartbeats SET heartbeat = heartbeat - interval '1 hour'", url)
    server.stop()
    server.start()

    def sweep() -> list[optuna.trial.TrialState]:
        with other.turn():
            other.sweep(joined, at_start=True)
        return [trial.state for trial in joined.get_trials()]

    assert other.patiently(sweep) == [optuna.trial.TrialState.RUNNING]
    wait_until(lambda: other.patiently(sweep) == [optuna.trial.TrialState.FAIL])


@pytest.mark.parametrize("fails", [False, True])
def test_a_driver_whose_trial_was_given_away_goes_on(
    tmp_path: Path, server: Server, url: str, place: Callable[..., Database], fails: bool
) -> None:
    def spoil(call: int, _weights: Mapping[str, float]) -> None:
        if call == 3:
            server.ask("UPDATE trials SET state = 'FAIL' WHERE state = 'RUNNING'", url)
            if fails:
                raise InfrastructureError("The GPU is gone.")

    result = make(tmp_path / "run", Bowl(spoil), place(), n_trials=8).run()
    assert states(server, url) == {"COMPLETE": 8, "FAIL": 1}
    assert trail(result.trials) == trail(make_alone(tmp_path / "alone", Bowl(), n_trials=8).run().trials)


def test_who_loses_the_turn_while_deciding_decides_again(
    tmp_path: Path, server: Server, url: str, place: Callable[..., Database]
) -> None:
    cuts = iter([True])

    def slopes(weights: Mapping[str, float], n_samples: int) -> tuple[float, dict[str, float]]:  # noqa: ARG001
        if next(cuts, False):
            cut_connections(server, url)
        away = {name: OPTIMUM[name] - weights[name] for name in VECTORS}
        return -sum(d**2 for d in away.values()), {name: 2 * d for name, d in away.items()}

    section = recipe(n_trials=4, warm_starts=["zero", "gradient"])
    result = Search(section, RunDir(tmp_path), VECTORS, "identity", InProcess(Bowl()), slopes, place=place()).run()
    # What was asked for without the turn is tried again, by whoever has it.
    assert states(server, url) == {"COMPLETE": 4, "FAIL": 1}
    sources = [source for source in warm_starts(result) if "gradient" in source]
    assert len(sources) == len(set(sources)) >= 1
