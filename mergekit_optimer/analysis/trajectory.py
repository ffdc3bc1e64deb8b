"""How straight a training went: its kept points against the line from the base to the checkpoint.

Reported for OptiMer (arXiv 2603.28858): trajectories of continual pre-training are nearly linear, so that a merge
weight between 0 and 1 stands for a training that was ended earlier.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mergekit_optimer.train import TrajectoryStep
from mergekit_optimer.vectors import TensorFolder

# Elements that are held in float64 at a time.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class TrajectoryPoint:
    """One checkpoint theta_t seen from the base theta_0 towards the end theta_T.

    Attributes:
        step: Optimiser steps done; ``share`` of all steps; ``tokens`` trained on.
        cosine: Of theta_t - theta_0 with theta_T - theta_0; 0 where it has not moved yet.
        projection: Length of theta_t - theta_0 along the line, over that of theta_T - theta_0: the merge weight that
            comes nearest to theta_t.
        residual: Share of |theta_t - theta_0|^2 off the line.
    """

    step: int
    share: float
    tokens: int
    cosine: float
    projection: float
    residual: float


@dataclass(frozen=True)
class Meaning:
    """What a merge weight means in training time.

    Attributes:
        slope: Least-squares slope of the projection over the share of training, through the base.
        half: Share of the steps after which the projection passes 0.5.
        winner: The same for the winner's weight; None without a winner, or where no time of training has that weight.
        winner_weight: The winner's weight, where there is one.
    """

    slope: float
    half: float | None
    winner: float | None
    winner_weight: float | None
    sentence: str


@dataclass(frozen=True)
class Trajectory:
    """One vector's training; the last point is the checkpoint itself."""

    points: list[TrajectoryPoint]
    meaning: Meaning


def measure_trajectory(
    name: str, steps: Sequence[TrajectoryStep], vector_dir: Path, n_tokens: int, weight: float | None = None
) -> Trajectory:
    """Project the kept points of a training on the line to its end, tensor by tensor.

    Args:
        steps: At least one kept point, in order.
        vector_dir: Folder of the vector, theta_T - theta_0.
        n_tokens: Tokens of the whole training.
        weight: The winner's weight of this vector.
    """
    tau = TensorFolder(vector_dir)
    points = [_point(step, tau) for step in steps]
    end = TrajectoryPoint(steps[-1].n_steps, 1.0, n_tokens, cosine=1.0, projection=1.0, residual=0.0)
    points.append(end)
    return Trajectory(points, _meaning(name, points, weight))


def share_at(points: Sequence[TrajectoryPoint], weight: float) -> float | None:
    """The share of training at which the projection first passes a weight, between points on a straight line."""
    if weight == 0:
        return 0.0
    before_share = before = 0.0
    for point in points:
        if before < weight <= point.projection:
            return before_share + (point.share - before_share) * (weight - before) / (point.projection - before)
        before_share, before = point.share, point.projection
    return None


def linearity_sentence(trajectories: Mapping[str, Trajectory]) -> str:
    """How straight the trainings of a pool went, seen at the kept point nearest to their middle."""
    middles = [_middle(one.points) for one in trajectories.values()]
    return (
        f"About half way ({_span([point.share for point in middles])} of the steps) the trainings had cosine "
        f"{_span([point.cosine for point in middles])} with the way to their ends and had gone "
        f"{_span([point.projection for point in middles])} of it, with {_span([point.residual for point in middles])} "
        "of the square of their own way off that line."
    )


def to_json(trajectories: Mapping[str, Trajectory]) -> dict[str, Any]:
    """What trajectory.json holds."""
    return {
        "vectors": {name: {"points": [asdict(point) for point in one.points]} for name, one in trajectories.items()},
        "meaning": {name: asdict(one.meaning) for name, one in trajectories.items()},
        "sentence": linearity_sentence(trajectories),
    }


def rows(trajectories: Mapping[str, Trajectory]) -> list[dict[str, Any]]:
    """One row a point."""
    return [{"vector": name} | asdict(point) for name, one in trajectories.items() for point in one.points]


def _point(step: TrajectoryStep, tau: TensorFolder) -> TrajectoryPoint:
    delta = TensorFolder(step.folder)
    along = square = whole = 0.0
    for name in delta.names:
        ours, theirs = delta.get(name).reshape(-1).split(_BLOCK), tau.get(name).reshape(-1).split(_BLOCK)
        for block, other in zip(ours, theirs, strict=True):
            x, y = block.double(), other.double()
            along, square, whole = along + float(x @ y), square + float(x @ x), whole + float(y @ y)
    cosine = along / math.sqrt(square * whole) if square and whole else 0.0
    return TrajectoryPoint(
        step=step.step,
        share=step.step / step.n_steps,
        tokens=step.n_tokens,
        cosine=cosine,
        projection=along / whole if whole else 0.0,
        residual=max(0.0, 1.0 - cosine**2) if square else 0.0,
    )


def _meaning(name: str, points: Sequence[TrajectoryPoint], weight: float | None) -> Meaning:
    slope = math.fsum(p.share * p.projection for p in points) / math.fsum(p.share**2 for p in points)
    half = share_at(points, 0.5)
    winner = None if weight is None else share_at(points, weight)
    n_steps = points[-1].step
    middle = _middle(points)
    parts = []
    if half is not None:
        parts.append(
            f"A weight of 0.5 for {name} is its training after {_percent(half)} of its steps "
            f"({round(half * n_steps)} of {n_steps})"
        )
    parts.append(
        f"at step {middle.step} the way from the base has cosine {middle.cosine:.3f} with the way to the end, and "
        f"{_percent(middle.residual)} of its square lies off that line"
    )
    sentence = "; ".join(parts)
    sentence = sentence[0].upper() + sentence[1:] + "."
    if weight is not None:
        sentence += f" The winner's {weight:+.2f} {_time_of(weight, winner)}."
    return Meaning(slope, half, winner, weight, sentence)


def _time_of(weight: float, share: float | None) -> str:
    if weight < 0:
        return "is a step back from the base, away from where this training went"
    if weight == 0:
        return "leaves this training out"
    if share is None:
        return f"goes {_percent(weight - 1)} beyond the end of this training, along its line"
    return f"is reached after {_percent(share)} of the steps"


def _middle(points: Sequence[TrajectoryPoint]) -> TrajectoryPoint:
    return min(points, key=lambda point: abs(point.share - 0.5))


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
