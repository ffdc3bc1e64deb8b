"""Points on the way of a training: kept without touching the training, and what is read from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train import make_recipe, weights_hash

from mergekit_optimer.analysis import TrajectoryPoint, linearity_sentence, measure_trajectory, share_at
from mergekit_optimer.recipe import Recipe
from mergekit_optimer.train import TrajectoryStep, read_record, read_trajectory, train_dataset
from mergekit_optimer.train.trajectory import steps_to_keep
from mergekit_optimer.train.working_folder import WorkingFolder
from mergekit_optimer.vectors import TensorFolder, extract_vector
from mergekit_optimer.vectors.stream import write_tensors


def keeping(recipe: Recipe, n: int) -> Recipe:
    data = recipe.model_dump(mode="python") | {"folder": recipe.folder}
    data["train"] = data["train"] | {"keep_checkpoints": n}
    return Recipe.model_validate(data)


@pytest.fixture(scope="module")
def gpt2_dir(tiny_model: Callable[..., Path]) -> Path:
    """A base with dropout, so that any draw of ours would change the training, stored in bfloat16."""
    return tiny_model("gpt2-way", arch="gpt2", dtype="bfloat16")


@pytest.fixture(scope="module")
def plain(gpt2_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    train_dataset(make_recipe(folder), "long", gpt2_dir, folder / "out", device="cpu")
    return folder / "out"


@pytest.fixture(scope="module")
def kept(gpt2_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    train_dataset(keeping(make_recipe(folder), 4), "long", gpt2_dir, folder / "out", device="cpu")
    return folder / "out"


@pytest.mark.parametrize(
    ("n_steps", "n", "steps"),
    [(20, 4, [4, 8, 12, 16]), (128, 8, [14, 28, 43, 57, 71, 85, 100, 114]), (3, 8, [1, 2]), (1, 8, [])],
)
def test_kept_steps_divide_the_training_evenly_and_are_no_ends(n_steps: int, n: int, steps: list[int]) -> None:
    assert steps_to_keep(n_steps, n) == steps


def test_keeping_points_changes_no_bit_of_the_checkpoint(plain: Path, kept: Path) -> None:
    assert weights_hash(kept) == weights_hash(plain)
    without, with_points = read_record(plain), read_record(kept)
    assert with_points.loss_curve == without.loss_curve
    assert sorted(file.name for file in kept.iterdir()) == sorted(
        [*(file.name for file in plain.iterdir()), "trajectory"]
    )
    assert not (kept.parent / ".out.training").exists()


def test_a_recipe_without_the_key_has_the_hash_it_had(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    assert "keep_checkpoints" not in recipe.canonical()["train"]
    assert keeping(recipe, 4).canonical()["train"]["keep_checkpoints"] == 4


def test_points_are_bfloat16_deltas_with_their_steps_and_tokens(kept: Path) -> None:
    points = read_trajectory(kept)
    record = read_record(kept)
    assert [(point.step, point.n_steps) for point in points] == [(4, 20), (8, 20), (12, 20), (16, 20)]
    tokens = [point.n_tokens for point in points]
    assert tokens == sorted(tokens)
    assert 0 < tokens[0] < tokens[-1] < record.n_tokens_trained
    files = sorted(path.relative_to(kept / "trajectory").as_posix() for path in kept.glob("trajectory/*/*"))
    assert files[:2] == ["step-0000004/model.safetensors", "step-0000004/step.json"]
    assert len(files) == 8
    assert TensorFolder(points[0].folder).dtypes == ["bfloat16"]


def test_a_point_is_where_a_shorter_training_with_the_same_rate_ends(tmp_path: Path, base_dir: Path) -> None:
    constant = {"lr_scheduler_type": "constant", "warmup_steps": 0}
    longer = keeping(make_recipe(tmp_path / "longer", max_steps=8, **constant), 1)
    train_dataset(longer, "long", base_dir, tmp_path / "longer/out", device="cpu")
    shorter = make_recipe(tmp_path / "shorter", max_steps=4, **constant)
    train_dataset(shorter, "long", base_dir, tmp_path / "shorter/out", device="cpu")
    (point,) = read_trajectory(tmp_path / "longer/out")
    delta, end, base = (TensorFolder(folder) for folder in (point.folder, tmp_path / "shorter/out", base_dir))
    assert delta.names == base.names
    for name in base.names:
        torch.testing.assert_close(delta.get(name), (end.get(name) - base.get(name)).bfloat16(), rtol=0, atol=0)


def test_a_killed_training_that_keeps_points_ends_the_same(
    tmp_path: Path, gpt2_dir: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out = keeping(make_recipe(tmp_path), 4), tmp_path / "out"
    mark = WorkingFolder.mark_whole

    def stop_after_10(self: WorkingFolder, step: int, elapsed_s: float) -> None:
        mark(self, step, elapsed_s)
        if step == 10:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(WorkingFolder, "mark_whole", stop_after_10)
        with pytest.raises(KeyboardInterrupt):
            train_dataset(recipe, "long", gpt2_dir, out, device="cpu")
    train_dataset(recipe, "long", gpt2_dir, out, device="cpu")
    assert weights_hash(out) == weights_hash(kept)
    for mine, theirs in zip(read_trajectory(out), read_trajectory(kept), strict=True):
        assert (mine.step, mine.n_tokens) == (theirs.step, theirs.n_tokens)
        assert weights_hash(mine.folder) == weights_hash(theirs.folder)


def test_asking_for_points_trains_anew(plain: Path, gpt2_dir: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(plain, tmp_path / "out")
    recipe = make_recipe(tmp_path)
    train_dataset(keeping(recipe, 1), "long", gpt2_dir, tmp_path / "out", device="cpu", replace=True)
    assert [point.step for point in read_trajectory(tmp_path / "out")] == [10]


def way(folder: Path, **deltas: list[float]) -> Path:
    """A folder of tensors a and b."""
    folder.mkdir(parents=True)
    tensors = [(name, torch.tensor(values)) for name, values in sorted(deltas.items())]
    write_tensors(tensors, {name: tuple(tensor.shape) for name, tensor in tensors}, "float32", folder)
    return folder


def test_linearity_of_a_way_that_is_known(tmp_path: Path) -> None:
    # The end is (4, 0 | 0, 3), of length 5; the first point is half of it, the second is 3 long beside a step of 4 off.
    end = way(tmp_path / "end", a=[4.0, 0.0], b=[0.0, 3.0])
    steps = [
        TrajectoryStep(5, 20, 100, way(tmp_path / "first", a=[2.0, 0.0], b=[0.0, 1.5])),
        TrajectoryStep(10, 20, 200, way(tmp_path / "second", a=[2.4, 3.2], b=[-2.4, 1.8])),
    ]
    found = measure_trajectory("ja", steps, end, n_tokens=400, weight=0.8)
    first, second, last = found.points
    assert (first.step, first.share, first.tokens) == (5, 0.25, 100)
    assert (first.cosine, first.projection) == (pytest.approx(1.0), pytest.approx(0.5))
    assert first.residual == pytest.approx(0.0, abs=1e-12)
    assert (second.cosine, second.projection) == (pytest.approx(0.6), pytest.approx(0.6))
    assert second.residual == pytest.approx(0.64)
    assert last == TrajectoryPoint(20, 1.0, 400, 1.0, 1.0, 0.0)
    assert linearity_sentence({"ja": found}) == (
        "About half way (0.50 of the steps) the trainings had cosine 0.60 with the way to their ends and had gone 0.60 "
        "of it, with 0.64 of the square of their own way off that line."
    )
    assert found.meaning.half == pytest.approx(0.25)
    # 0.8 lies half way between 0.6 at share 0.5 and 1 at share 1.
    assert found.meaning.winner == pytest.approx(0.75)
    assert found.meaning.slope == pytest.approx((0.25 * 0.5 + 0.5 * 0.6 + 1) / (0.25**2 + 0.5**2 + 1))
    assert found.meaning.sentence == (
        "A weight of 0.5 for ja is its training after 25 % of its steps (5 of 20); at step 10 the way from the base "
        "has cosine 0.600 with the way to the end, and 64 % of its square lies off that line. The winner's +0.80 is "
        "reached after 75 % of the steps."
    )


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (-0.2, "The winner's -0.20 is a step back from the base, away from where this training went."),
        (0.0, "The winner's +0.00 leaves this training out."),
        (1.2, "The winner's +1.20 goes 20 % beyond the end of this training, along its line."),
    ],
)
def test_weights_that_no_time_of_training_has_are_said(tmp_path: Path, weight: float, words: str) -> None:
    end = way(tmp_path / "end", a=[1.0, 0.0])
    steps = [TrajectoryStep(1, 2, 10, way(tmp_path / "half", a=[0.5, 0.0]))]
    meaning = measure_trajectory("ja", steps, end, 20, weight).meaning
    assert meaning.sentence.endswith(words)
    assert meaning.winner == (0.0 if weight == 0 else None)


def test_a_training_that_has_not_moved_yet_is_no_division_by_zero(tmp_path: Path) -> None:
    end = way(tmp_path / "end", a=[1.0, 0.0])
    steps = [TrajectoryStep(1, 2, 10, way(tmp_path / "still", a=[0.0, 0.0]))]
    still = measure_trajectory("ja", steps, end, 20).points[0]
    assert (still.cosine, still.projection, still.residual) == (0.0, 0.0, 0.0)
    assert share_at([still], 0.5) is None


def test_a_trained_way_is_the_same_in_float64(kept: Path, gpt2_dir: Path, tmp_path: Path) -> None:
    extract_vector("long", kept, gpt2_dir, tmp_path / "dv", "base")
    found = measure_trajectory("long", read_trajectory(kept), tmp_path / "dv", 1)
    tau = torch.cat([tensor.double().reshape(-1) for _, tensor in TensorFolder(tmp_path / "dv").items()])
    for point, step in zip(found.points, read_trajectory(kept), strict=False):
        delta = torch.cat([tensor.double().reshape(-1) for _, tensor in TensorFolder(step.folder).items()])
        cosine = float(delta @ tau / delta.norm() / tau.norm())
        assert (point.cosine, point.projection) == (
            pytest.approx(cosine, abs=1e-12),
            pytest.approx(float(delta @ tau / (tau @ tau)), abs=1e-12),
        )
        assert point.residual == pytest.approx(1 - cosine**2, abs=1e-9)
    projections: list[Any] = [point.projection for point in found.points]
    assert projections == sorted(projections)
