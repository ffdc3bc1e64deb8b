"""A Pareto search: several tasks maximised each by itself, the front, and the point of it that wins."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from bowl import OPTIMUM, VECTORS, Bowl, make, recipe, trail

from mergekit_optimer.recipe import Recipe
from mergekit_optimer.search import TrialRecord, describe, pareto_data
from mergekit_optimer.search.pareto import front_of, nearest_first

PARETO: dict[str, Any] = {"objective": {"pareto": ["dev", "en"]}, "sampler": {"name": "tpe"}}


def opposed(weights: Mapping[str, float], sample: int, task: str = "dev") -> float:
    """Bits per byte: two bowls whose optima lie apart, so that every point between them is on the front."""
    shift = 0.0 if task == "dev" else -0.6
    distance = math.fsum((weights[name] - OPTIMUM[name] - shift) ** 2 for name in VECTORS)
    return 2.0 + distance + 0.1 * math.sin(sample)


def test_the_front_holds_what_no_other_beats_on_every_axis() -> None:
    points = [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (0.4, 0.4), (0.5, 0.5), (1.0, -1.0)]
    assert front_of(points) == [0, 1, 2, 4]


def test_the_nearest_to_the_ideal_comes_first_in_units_of_each_axis() -> None:
    points = [(1.0, 0.0), (0.0, 100.0), (0.7, 70.0), (0.6, 60.0)]
    assert nearest_first(points, units=(1.0, 100.0)) == [2, 0, 1, 3]
    # In equal units the second axis is all that counts.
    assert nearest_first(points, units=(1.0, 1.0))[0] == 1


def test_a_pareto_search_ends_with_a_front_and_its_middle_as_winner(tmp_path: Path) -> None:
    search = make(tmp_path, Bowl(bits=opposed), n_trials=40, **PARETO)
    result = search.run()
    data = pareto_data(recipe(**PARETO).search, result.trials, result.winner.number)
    numbers = [row["number"] for row in data["front"]]
    assert result.winner.number in numbers
    assert len(numbers) >= 3
    assert data["directions"] == {"dev": "min", "en": "min"}
    assert (data["n_samples"], len(data["trials"]), data["winner"]) == (20, 40, result.winner.number)
    won = next(row for row in data["front"] if row["number"] == result.winner.number)
    for task in ("dev", "en"):
        values = [row["values"][task] for row in data["front"]]
        # Neither task is given up for the other.
        assert won["values"][task] < (min(values) + max(values)) / 2
    for row in data["trials"]:
        beaten = [
            other
            for other in data["trials"]
            if all(other["values"][t] <= row["values"][t] for t in ("dev", "en")) and other["values"] != row["values"]
        ]
        assert (row["number"] in numbers) == (not beaten)


def test_an_interrupted_pareto_search_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", Bowl(bits=opposed), n_trials=16, **PARETO).run()
    for n in (3, 9, 16):
        parts = make(tmp_path / "parts", Bowl(bits=opposed), n_trials=n, **PARETO).run()
    assert trail(parts.trials) == trail(whole.trials)
    assert parts.winner == whole.winner


def test_the_front_climbs_the_rungs(tmp_path: Path) -> None:
    rungs = [{"n_samples": 20}, {"n_samples": 40, "top": 2}]
    bowl = Bowl(bits=opposed)
    result = make(tmp_path, bowl, n_trials=14, rungs=rungs, **PARETO).run()
    climbed = [record for record in result.trials if 40 in record.values]
    assert len(climbed) == 2
    assert result.winner.number in {record.number for record in climbed}
    front = {row["number"] for row in pareto_data(recipe(**PARETO).search, result.trials, 0)["front"]}
    assert {record.number for record in climbed} <= front


def test_what_keep_rejects_is_on_no_front(tmp_path: Path) -> None:
    objective = {"pareto": ["dev", "en"], "gain_over_base": True, "keep": {"en": 0.02}}
    search: dict[str, Any] = PARETO | {"objective": objective}
    result = make(tmp_path, Bowl(bits=opposed), n_trials=14, **search).run()
    rejected = {record.number for record in result.trials if not record.is_kept}
    data = pareto_data(recipe(**search).search, result.trials, result.winner.number)
    assert rejected
    assert not rejected & {row["number"] for row in data["front"]}
    assert {row["number"] for row in data["trials"] if not row["kept"]} == rejected


def test_a_finished_studys_trials_make_a_front_for_free(tmp_path: Path) -> None:
    done: list[TrialRecord] = make(tmp_path / "a", Bowl(bits=opposed), n_trials=10).run().trials
    bowl = Bowl(bits=opposed)
    search = make(tmp_path / "b", bowl, n_trials=4, **PARETO)
    search.adopt(done, "a")
    assert search.run(rank_only=True).winner.origin is not None
    assert bowl.asked == []
    assert len(search.run().trials) == 14


@pytest.mark.parametrize("name", ["tpe", "gp", "random", "qmc"])
def test_every_sampler_of_several_values_runs(tmp_path: Path, name: str) -> None:
    result = make(tmp_path, Bowl(bits=opposed), n_trials=8, **(PARETO | {"sampler": {"name": name}})).run()
    assert len(result.trials) == 8


@pytest.mark.parametrize(
    ("search", "sentence"),
    [
        ({"objective": {"pareto": ["dev"]}}, r"has dev only; name a second one, or write mean: \[dev\]"),
        ({"objective": {"pareto": ["dev", "dev"]}}, "has dev only"),
        ({"objective": {"pareto": ["dev", "en"], "mean": ["dev"]}}, "give one of mean, weighted, pareto"),
        ({"race": True, "rungs": [{"n_samples": 300}]}, "write race: false"),
        ({"until_flat": True}, "write until_flat: false"),
        ({"sampler": {"name": "tpe", "assist": "quadratic"}}, "assist: none"),
        ({"sampler": "cmaes"}, "cmaes follows one number"),
    ],
)
def test_what_does_not_go_with_a_front_is_refused(search: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        recipe(**(PARETO | search))


def test_a_recipe_without_pareto_is_the_recipe_it_was_before_there_was_one() -> None:
    plain: Recipe = recipe()
    assert "pareto" not in plain.canonical()["search"]["objective"]
    assert Recipe.model_validate(recipe(**PARETO).canonical()).search.objective.pareto == ["dev", "en"]


def test_a_front_is_said_in_words_and_in_the_trials_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="mergekit_optimer")
    assert describe(recipe(**PARETO).search.objective) == "Pareto front of dev, en (winner: nearest to the ideal point)"
    make(tmp_path, Bowl(bits=opposed), n_trials=3, **PARETO).run()
    assert any("front of " in message and "best" not in message for message in caplog.messages)
