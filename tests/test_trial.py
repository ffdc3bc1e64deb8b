"""A trial's merge and score: by one process or several, merged once, and again where a GPU's memory ran out."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from part_samples import SECTIONS

from mergekit_optimer.errors import InfrastructureError
from mergekit_optimer.machine import memory_named
from mergekit_optimer.pipeline import Job, MergeAndScorer, make_vectors
from mergekit_optimer.pipeline.stages import dev_tasks
from mergekit_optimer.runs import open_run
from mergekit_optimer.scores import TaskScores

Maker = Callable[..., Any]


@pytest.fixture(scope="module")
def job(base_dir: Path, tiny_model: Maker, task_recipe: Maker, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A study over two checkpoints that are there, with its vectors made."""
    recipe = task_recipe(ja=SECTIONS["ja"], gen=SECTIONS["gen"])
    data = recipe.model_dump(mode="json", exclude_unset=True) | {
        "base_model": {"path": str(base_dir)},
        "vectors": {
            name: {"checkpoint": {"path": str(tiny_model(name, seed=seed))}} for seed, name in enumerate("ab", 1)
        },
        "folder": recipe.folder,
    }
    recipe = type(recipe).model_validate(data)
    made = Job(recipe, open_run(tmp_path_factory.mktemp("parts") / "run", recipe), "cpu")
    make_vectors(made)
    return made


WEIGHTS = {"a": 0.5, "b": -0.25}


def test_a_weight_vector_is_scored_by_two_processes_as_by_one(job: Job, tmp_path: Path) -> None:
    tasks = dev_tasks(job)
    first, second = MergeAndScorer(job, tasks), MergeAndScorer(job, tasks)
    parts = [
        pickle.loads(pickle.dumps(one.score_part(WEIGHTS, tmp_path / str(index), 1, 6, index, 2)))
        for index, one in enumerate((first, second))
    ]
    joined = first.join_parts(1, 6, parts)
    whole = MergeAndScorer(job, tasks)(WEIGHTS, tmp_path / "whole", 1, 6)
    assert joined.scores == whole.scores
    assert joined.scores != first(dict.fromkeys(WEIGHTS, 0.0), tmp_path / "base", 1, 6).scores
    assert (tmp_path / "0" / "merge.yaml").read_text() == (tmp_path / "whole" / "merge.yaml").read_text()
    assert not (tmp_path / "1").exists()
    assert joined.merge_s == max(part.merge_s for part in parts)
    assert joined.score_s >= max(part.score_s for part in parts)


def test_a_part_of_weights_that_are_held_is_not_merged_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = MergeAndScorer(job, dev_tasks(job))
    scorer.score_part(WEIGHTS, None, 0, 2, 0, 2)
    merged: list[Any] = []
    monkeypatch.setattr(scorer._resident, "merge", merged.append)
    scorer.score_part(WEIGHTS, None, 2, 4, 0, 2)
    assert merged == []
    scorer.score_part(WEIGHTS | {"a": 0.75}, None, 2, 4, 0, 2)
    assert merged == [WEIGHTS | {"a": 0.75}]


def test_parts_of_two_weight_vectors_are_not_joined(job: Job) -> None:
    scorer = MergeAndScorer(job, dev_tasks(job))
    parts = [scorer.score_part(WEIGHTS | {"a": 0.25 * index}, None, 0, 4, index, 2) for index in range(2)]
    with pytest.raises(ValueError, match="the parts of a score must be of the same weights"):
        scorer.join_parts(0, 4, parts)
    with pytest.raises(ValueError, match="there are: none"):
        scorer.join_parts(0, 4, [])


def test_the_base_scored_in_parts_is_the_unit_of_gains(job: Job) -> None:
    scorer = MergeAndScorer(job, dev_tasks(job))
    zero = dict.fromkeys(WEIGHTS, 0.0)
    joined = scorer.join_parts(0, 4, [scorer.score_part(zero, None, 0, 4, index, 2) for index in range(2)])
    assert scorer._base == joined.scores


def test_where_a_gpu_has_no_memory_to_score_the_copies_beside_the_model_go(
    job: Job, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    scorer = MergeAndScorer(job, dev_tasks(job))
    expected = scorer(WEIGHTS, None, 0, 4).scores
    scorer(dict.fromkeys(WEIGHTS, 0.0), None, 0, 4)
    score, kept = scorer._scorer.score, scorer._resident
    kept._sources.hold(kept._tensors, {torch.device("cpu"): 1 << 30})

    def crowded(stop: int, start: int) -> dict[str, TaskScores]:
        if kept.kept_bytes:
            with memory_named("scoring"):
                raise torch.OutOfMemoryError("CUDA out of memory")
        return score(stop, start)

    monkeypatch.setattr(scorer._scorer, "score", crowded)
    assert scorer(WEIGHTS, None, 0, 4).scores == expected
    assert "base and vectors are sent to it for each trial" in caplog.text
    assert kept.kept_bytes == 0
    # The next merge is sent anew, and right.
    assert scorer(dict.fromkeys(WEIGHTS, 0.0), None, 0, 4).scores != expected
    assert scorer(WEIGHTS, None, 0, 4).scores == expected
    monkeypatch.setattr(kept, "let_go", lambda: False)
    kept._sources.hold(kept._tensors, {torch.device("cpu"): 1 << 30})
    with pytest.raises(InfrastructureError, match="Memory ran out while scoring"):
        scorer(WEIGHTS, None, 0, 4)


def test_slopes_are_taken_anew_where_memory_ran_out_after_a_batch(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    recipe = job.recipe.model_copy(update={"tasks": {"ja": job.recipe.tasks["ja"]}})
    alone = replace(job, recipe=recipe)
    scorer = MergeAndScorer(alone, dev_tasks(alone))
    expected = scorer.slopes(WEIGHTS, 4)
    backward, kept = scorer._scorer.backward, scorer._resident
    kept._sources.hold(kept._tensors, {torch.device("cpu"): 1 << 30})

    def crowded(shares: Any, n_samples: int) -> float:
        value = backward(shares, n_samples)
        if kept.kept_bytes:
            with memory_named("scoring"):
                raise torch.OutOfMemoryError("CUDA out of memory")
        return value

    monkeypatch.setattr(scorer._scorer, "backward", crowded)
    assert scorer.slopes(WEIGHTS, 4) == expected
    assert kept.kept_bytes == 0
