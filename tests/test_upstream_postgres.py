"""Behaviour of Optuna over PostgreSQL that the code leans on. A failure says what to change."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from postgres import Server

from mergekit_optimer.search import Database

pytest_plugins = ["postgres_fixtures"]
# Signs of life are meant for Optuna's own loop, and ending what has none is new: that they work is tested here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Heartbeat of storage"),
    pytest.mark.filterwarnings("ignore:.*fail_stale_trials is experimental"),
]


@pytest.fixture
def study(place: Callable[..., Database]) -> Any:
    """A study whose stale trials are those of two seconds ago."""
    import optuna

    return optuna.create_study(storage=place().storage(), study_name="upstream", direction="maximize")


def ask(study: Any) -> Any:
    import optuna

    return study.ask({"w": optuna.distributions.FloatDistribution(0.0, 1.0)})


def fail_stale(study: Any) -> list[str]:
    import optuna

    optuna.storages.fail_stale_trials(study)
    return [trial.state.name for trial in study.get_trials()]


def test_signs_of_life_can_be_sent_for_a_trial_that_was_asked_for(study: Any, server: Server, url: str) -> None:
    trial = ask(study)
    heartbeats = "SELECT trial_id, heartbeat FROM trial_heartbeats"
    assert server.ask(heartbeats, url) == []
    study._storage.record_heartbeat(trial._trial_id)
    [(trial_id, first)] = server.ask(heartbeats, url)
    study._storage.record_heartbeat(trial._trial_id)
    [(_, second)] = server.ask(heartbeats, url)
    assert trial_id == trial._trial_id
    assert second > first, "a second sign of life no longer counts: send them otherwise in Database.begin and _beat"
    study.tell(trial, 1.0)
    study._storage.record_heartbeat(trial._trial_id)


def test_a_trial_ends_once_its_last_sign_of_life_is_too_old_by_the_servers_clock(
    study: Any, server: Server, url: str
) -> None:
    study._storage.record_heartbeat(ask(study)._trial_id)
    assert fail_stale(study) == ["RUNNING"]
    server.ask("UPDATE trial_heartbeats SET heartbeat = heartbeat - interval '3 seconds'", url)
    assert fail_stale(study) == ["FAIL"], "stale trials no longer fail: end them in Database.sweep"


def test_a_trial_without_any_sign_of_life_does_not_end(study: Any) -> None:
    ask(study)
    assert fail_stale(study) == ["RUNNING"], "it ends by itself: Database.sweep need not look for it"


def test_a_finished_trial_takes_no_attributes(study: Any) -> None:
    import optuna

    trial = ask(study)
    study.tell(trial, 1.0)
    # Once it does, Ledger.share_longer can write to the trial itself.
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        trial.set_user_attr("record", "longer")


def test_a_failed_trial_cannot_be_told_of_and_says_so_by_these_errors(study: Any) -> None:
    import optuna

    trial = ask(study)
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    with pytest.raises(ValueError, match="Cannot tell a FAIL trial"):
        study.tell(trial, 1.0)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        trial.set_constraint("en", 1.0)


def test_long_attributes_come_back_as_they_were(study: Any) -> None:
    import optuna

    text = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789+/", k=100_000))
    trial = ask(study)
    trial.set_user_attr("record", text)
    study.set_user_attr("record/0", text)
    study.tell(trial, 1.0)
    (again,) = optuna.load_study(study_name="upstream", storage=study._storage._backend).get_trials()
    kept = (again.user_attrs["record"], study.user_attrs["record/0"])
    assert kept == (text, text), "attributes are cut: the scores must be kept in pieces (ledger.packed)"


def test_weights_come_back_to_the_last_bit(study: Any) -> None:
    trial = ask(study)
    drawn = trial.params["w"]
    study.tell(trial, drawn)
    (again,) = study.get_trials()
    assert (again.params["w"], again.value) == (drawn, drawn), "move_trials compares weights: allow for rounding"
