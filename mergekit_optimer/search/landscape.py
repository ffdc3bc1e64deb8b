"""The objective around a winner: which weight vectors to look at, and what their scores say of it. Runs nothing.

A slice moves one weight over its search interval and leaves the others at the winner's; a plane moves two. Every point
is compared with the winner sample by sample on the first rung, which all trials took: so its error is that of the
difference, which is far smaller than that of either score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from mergekit_optimer.errors import SearchError
from mergekit_optimer.recipe import SearchSection
from mergekit_optimer.scores import TaskScores, collapsed, floored
from mergekit_optimer.search.objective import judge, needs_base, paired_difference
from mergekit_optimer.search.records import TrialRecord, head

Weights = dict[str, float]

MIN_GRID = 3


@dataclass(frozen=True)
class Grid:
    """Where to look.

    Attributes:
        winner: Weights of the winner.
        slices: Vector -> its weights in order, the winner's among them.
        plane: Two vectors with their weights in order; None where only slices are wanted.
    """

    winner: Weights
    slices: dict[str, list[float]]
    plane: tuple[tuple[str, list[float]], tuple[str, list[float]]] | None

    def on_slice(self, vector: str) -> list[Weights]:
        """The weight vectors of a slice, in order."""
        return [self.winner | {vector: weight} for weight in self.slices[vector]]

    def on_plane(self) -> list[list[Weights]]:
        """The weight vectors of the plane, a row for each weight of the second vector; none without a plane."""
        if self.plane is None:
            return []
        (x, across), (y, up) = self.plane
        return [[self.winner | {x: a, y: b} for a in across] for b in up]

    def points(self) -> list[Weights]:
        """Every weight vector of slices and plane once, the slices first."""
        found = [point for vector in self.slices for point in self.on_slice(vector)]
        found += [point for row in self.on_plane() for point in row]
        return [point for i, point in enumerate(found) if point not in found[:i]]


def check_slice(vectors: Sequence[str], named: Sequence[str], n_grid: int) -> None:
    """Check what a slice is asked of, before anything is measured.

    Raises:
        SearchError: A vector is not in the study, there are not one or two, or the grid is too coarse.
    """
    unknown = sorted(set(named) - set(vectors))
    if unknown:
        raise SearchError(f"The study has no vector {' nor '.join(unknown)}; --slice takes {', '.join(vectors)}.")
    if len(named) not in (1, 2) or len(set(named)) != len(named):
        raise SearchError(
            f"--slice takes one vector, or two different ones as {','.join(vectors[:2])}; found {','.join(named)}."
        )
    if n_grid < MIN_GRID:
        raise SearchError(f"A grid of {n_grid} shows no shape; give --grid {MIN_GRID} or more.")


def make_grid(spec: SearchSection, winner: Mapping[str, float], named: Sequence[str], n_grid: int) -> Grid:
    """Lay a grid over the search intervals around a winner: a slice for every vector, a plane for two that are named.

    Args:
        named: One vector of the study, or two.
        n_grid: Weights of each vector; a slice also has the winner's own.

    Raises:
        SearchError: As ``check_slice``.
    """
    check_slice(sorted(winner), named, n_grid)

    def line(vector: str) -> list[float]:
        interval = spec.interval(vector)
        # Rounded: linspace gives 0.29999999999999993, and a weight is to be read.
        return [round(float(w), 10) for w in np.linspace(interval.low, interval.high, n_grid)]

    slices = {vector: sorted({*line(vector), winner[vector]}) for vector in sorted(winner)}
    plane = ((named[0], line(named[0])), (named[1], line(named[1]))) if len(named) == 2 else None
    return Grid(dict(winner), slices, plane)


def judge_point(
    spec: SearchSection, scores: Mapping[str, TaskScores], winner: TrialRecord, base: TrialRecord | None
) -> dict[str, Any]:
    """Say what a point's scores mean: its objective, its difference to the winner with the error, and its tasks.

    Args:
        scores: On the first rung's samples; of a model that collapsed they count with the floor.
        base: The base model's trial, where the objective is measured against it.
    """
    n = spec.rungs[0].n_samples
    mine, reference = head(floored(dict(scores)), n), None
    if needs_base(spec.objective):
        assert base is not None
        reference = base.scores_at(n)
    difference = paired_difference(spec.objective, mine, winner.scores_at(n), reference)
    return {
        "objective": judge(spec.objective, mine, reference).value,
        "difference": difference.value,
        "stderr": difference.stderr,
        "collapsed": collapsed(dict(scores)),
        "tasks": {task: one.score.value for task, one in sorted(mine.items())},
    }


def sharpness(
    weights: Sequence[float], differences: Sequence[float], errors: Sequence[float], winner: float
) -> dict[str, float | None]:
    """The interval around the winner's weight in which a slice loses less than one standard error.

    Between two weights of the slice the loss in standard errors is taken to grow linearly: near a maximum a loss grows
    with the square of the distance and its error with the distance, so that their ratio does.

    Args:
        weights: In order, the winner's among them.
        differences: Objective of each minus the winner's; ``errors``: the standard errors of these.

    Returns:
        "low" and "high"; None where that end lies beyond the slice.
    """
    losses = [_in_errors(-difference, error) for difference, error in zip(differences, errors, strict=True)]
    at = list(weights).index(winner)
    below = list(zip(weights[at::-1], losses[at::-1], strict=True))
    above = list(zip(weights[at:], losses[at:], strict=True))
    return {"low": _crossing(below), "high": _crossing(above)}


def _in_errors(loss: float, error: float) -> float:
    if error > 0:
        return loss / error
    return math.inf if loss > 0 else 0.0


def _crossing(outward: list[tuple[float, float]]) -> float | None:
    """Where the loss reaches one standard error, going outward from the winner; None where it does not."""
    for (near, before), (far, after) in pairwise(outward):
        if after >= 1:
            share = 0.0 if math.isinf(after) else (1 - before) / (after - before)
            return near + share * (far - near)
    return None
