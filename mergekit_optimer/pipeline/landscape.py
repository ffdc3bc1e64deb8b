"""The objective around a finished study's winner, measured on a grid of weights: analysis/landscape.json and .csv."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mergekit_optimer.files import content_hash, read_json, write_csv, write_json
from mergekit_optimer.pipeline.job import Job
from mergekit_optimer.pipeline.stages import dev_tasks
from mergekit_optimer.pipeline.trial import MergeAndScorer
from mergekit_optimer.search import (
    Grid,
    TrialRecord,
    describe,
    duration,
    find_base,
    judge_point,
    make_grid,
    needs_base,
    sharpness,
)

log = logging.getLogger(__name__)


def measure_landscape(job: Job, named: Sequence[str], n_grid: int) -> Path:
    """Measure a slice for every vector around the winner, and the plane of two that are named.

    Each point is merged into the one live model and scored on the first rung's dev samples, unless a trial of the study
    or an earlier call has it. A call that was stopped goes on where it was.

    Returns:
        The path of landscape.json.

    Raises:
        SearchError: A vector is not in the study, or the grid shows nothing.
        RunFolderError: The study is not finished.
    """
    summary = read_json(job.run.winner_path)
    grid = make_grid(job.recipe.search, summary["winner"]["weights"], named, n_grid)
    landscape = _Landscape(job, summary, grid)
    landscape.measure()
    path = job.run.analysis_path("landscape")
    data = landscape.data()
    write_json(path, data)
    write_csv(path.with_suffix(".csv"), *landscape.table())
    return path


class _Landscape:
    """The points of a grid as far as they are known; each is kept as soon as it is."""

    def __init__(self, job: Job, summary: dict[str, Any], grid: Grid) -> None:
        self._job, self._grid, self._spec = job, grid, job.recipe.search
        records = [TrialRecord.from_json(read_json(job.run.trial_dir(n) / "scores.json")) for n in summary["trials"]]
        self._trials = [record for record in records if record.stopped is None and record.same_as is None]
        self._winner = next(record for record in records if record.number == summary["winner"]["number"])
        self._base = find_base(records) if needs_base(self._spec.objective) else None
        objective = self._spec.objective.model_dump(mode="json")
        self._identity = content_hash([summary["scored_with"], grid.winner, objective, self._n_samples])
        # Beside the numbers but not of them: what is measured, for the next call.
        self._kept_path = job.run.analysis_path("landscape").with_suffix("") / "points.json"
        self._known = self._read()

    @property
    def _n_samples(self) -> int:
        """Dev samples of each task that every point stands on: the first rung's, as every trial does."""
        return self._spec.rungs[0].n_samples

    def _read(self) -> dict[str, dict[str, Any]]:
        kept = read_json(self._kept_path) if self._kept_path.exists() else {}
        known = kept["points"] if kept.get("identity") == self._identity else []
        points = {_key(point["weights"]): point for point in known}
        for record in self._trials:
            judged = judge_point(self._spec, record.scores_at(self._n_samples), self._winner, self._base)
            fallen = {"collapsed": record.collapsed_by(self._n_samples)}
            points[_key(record.weights)] = {"weights": record.weights} | judged | fallen
        return points

    def measure(self) -> None:
        """Score what is not known, a line each."""
        missing = [point for point in self._grid.points() if _key(point) not in self._known]
        if not missing:
            log.info("landscape: all %d points are known", len(self._grid.points()))
            return
        log.info("landscape: %d points, %d to be scored", len(self._grid.points()), len(missing))
        scorer = MergeAndScorer(self._job, dev_tasks(self._job))
        scorer.load()
        started = time.monotonic()
        for number, weights in enumerate(missing, 1):
            scores = scorer.score_weights(weights, self._n_samples)
            point = {"weights": weights} | judge_point(self._spec, scores, self._winner, self._base)
            self._known[_key(weights)] = point
            write_json(self._kept_path, {"identity": self._identity, "points": list(self._known.values())})
            left_s = (time.monotonic() - started) / number * (len(missing) - number)
            shown = " ".join(f"{name}={weight:+.2f}" for name, weight in weights.items())
            log.info(
                "point %d/%d  dev %.4f  %+.4f ± %.4f to the winner  %s left  %s",
                number, len(missing), point["objective"], point["difference"], point["stderr"], duration(left_s), shown,
            )  # fmt: skip

    def _at(self, points: list[dict[str, float]], key: str) -> list[Any]:
        return [self._known[_key(point)][key] for point in points]

    def data(self) -> dict[str, Any]:
        """What landscape.json holds."""
        slices, sharp = {}, {}
        for vector, weights in self._grid.slices.items():
            points = self._grid.on_slice(vector)
            differences, errors = self._at(points, "difference"), self._at(points, "stderr")
            by_task = self._at(points, "tasks")
            slices[vector] = {
                "weights": weights,
                "objective": self._at(points, "objective"),
                "difference": differences,
                "stderr": errors,
                "tasks": {task: [one[task] for one in by_task] for task in by_task[0]},
            }
            sharp[vector] = sharpness(weights, differences, errors, self._grid.winner[vector])
        return {
            "slices": slices,
            "plane": self._plane(),
            "winner": self._grid.winner,
            "winner_number": self._winner.number,
            "sharpness": sharp,
            "trials": [
                {"number": r.number, "weights": r.weights, "objective": r.values[self._n_samples]} for r in self._trials
            ],
            "n_samples": self._n_samples,
            "objective_words": self._words(),
        }

    def _words(self) -> str:
        """What the numbers are of: of a Pareto front, which has several, the mean of its tasks."""
        tasks = self._spec.objective.pareto_tasks
        return f"mean of {', '.join(tasks)}" if tasks else describe(self._spec.objective)

    def _plane(self) -> dict[str, Any] | None:
        if self._grid.plane is None:
            return None
        (x, across), (y, up) = self._grid.plane
        rows = self._grid.on_plane()
        return {
            "x": x,
            "y": y,
            "weights_x": across,
            "weights_y": up,
            "objective": [self._at(row, "objective") for row in rows],
            "difference": [self._at(row, "difference") for row in rows],
            "stderr": [self._at(row, "stderr") for row in rows],
        }

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Header and rows of landscape.csv: the points of each slice, then those of the plane."""
        parts = [(vector, self._grid.on_slice(vector)) for vector in self._grid.slices]
        if self._grid.plane is not None:
            name = ",".join(vector for vector, _ in self._grid.plane)
            parts.append((name, [point for row in self._grid.on_plane() for point in row]))
        vectors, tasks = sorted(self._grid.winner), sorted(self._winner.scores)
        rows = []
        for name, points in parts:
            for point in points:
                known = self._known[_key(point)]
                numbers = [known[key] for key in ("objective", "difference", "stderr")]
                weights, values = [point[v] for v in vectors], [known["tasks"][task] for task in tasks]
                rows.append([name, *weights, *numbers, *values])
        header = [*(f"weight {vector}" for vector in vectors), "objective", "difference", "stderr", *tasks]
        return ["moved", *header], rows


def _key(weights: dict[str, float]) -> str:
    return content_hash(sorted(weights.items()))
