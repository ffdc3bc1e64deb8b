"""The Pareto front of a study: the trials that no other beats on every task, and which of them wins. Runs nothing.

The winner is the front's point nearest to the ideal point, which has the best value of each task: each task's distance
is counted in the range that the first rung's front spans on it, so that neither unit nor direction of a metric matters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mergekit_optimer.recipe import SearchSection
from mergekit_optimer.search.objective import oriented
from mergekit_optimer.search.records import TrialRecord

Point = tuple[float, ...]


def front_of(points: Sequence[Sequence[float]]) -> list[int]:
    """Return the places of the points that no other dominates, more being better on each axis; equal ones all stay.

    Source: Pareto dominance as in Deb et al. 2002 (NSGA-II), section III.
    """
    return [i for i, point in enumerate(points) if not any(_dominates(other, point) for other in points)]


def nearest_first(points: Sequence[Sequence[float]], units: Sequence[float]) -> list[int]:
    """Return the places of the points: those of the front by their distance to the ideal point, then the others by it.

    Args:
        units: Of each axis, what a distance of 1 on it is.

    Source: compromise programming, Zeleny 1973, with the Euclidean distance.
    """
    ideal = [max(axis) for axis in zip(*points, strict=True)]
    on_front = set(front_of(points))

    def distance(i: int) -> float:
        return math.hypot(*((best - x) / unit for best, x, unit in zip(ideal, points[i], units, strict=True)))

    return sorted(range(len(points)), key=lambda i: (i not in on_front, distance(i), i))


def best_first(
    spec: SearchSection, contenders: list[TrialRecord], n_samples: int, field: list[TrialRecord]
) -> list[TrialRecord]:
    """Sort trials by how near to the ideal they are on the first n samples of each task, the front before the rest.

    Args:
        contenders: Kept trials, all of which have these samples; the earlier of equals comes first.
        field: All trials kept on the first rung, whose front sets the units.
    """
    tasks, first = spec.objective.pareto_tasks, spec.rungs[0].n_samples
    ordered = sorted(contenders, key=lambda record: record.number)
    points = [task_values(record, tasks, n_samples) for record in ordered]
    places = nearest_first(points, _ranges([task_values(record, tasks, first) for record in field]))
    return [ordered[i] for i in places]


def task_values(record: TrialRecord, tasks: Sequence[str], n_samples: int) -> Point:
    """A trial's value of each task on its first n samples, with the sign that makes more better."""
    scores = record.scores_at(n_samples)
    return tuple(oriented(scores[task]) for task in tasks)


def pareto_data(spec: SearchSection, records: list[TrialRecord], winner: int) -> dict[str, Any]:
    """Return what pareto.json holds: every trial scored whole on the first rung, and the front among the kept ones.

    Args:
        records: The finished trials.
        winner: Number of the trial that won; on the last rung, so it need not be the nearest on the first.
    """
    tasks, first = spec.objective.pareto_tasks, spec.rungs[0].n_samples
    whole = [record for record in records if record.stopped is None and record.same_as is None]
    kept = [record for record in whole if record.kept[first]]
    on_front = {kept[i].number for i in front_of([task_values(record, tasks, first) for record in kept])}
    rows = [
        {
            "number": record.number,
            "weights": record.weights,
            "values": {task: record.scores_at(first)[task].score.value for task in tasks},
            "kept": record.kept[first],
        }
        for record in whole
    ]
    scores = whole[0].scores if whole else {}
    metrics = {task: scores[task].metrics[scores[task].primary] for task in tasks if task in scores}
    return {
        "tasks": tasks,
        "directions": {task: "max" if metric.higher_is_better else "min" for task, metric in metrics.items()},
        "metrics": {task: scores[task].primary for task in metrics},
        "front": [row for row in rows if row["number"] in on_front],
        "trials": rows,
        "winner": winner,
        "n_samples": first,
    }


def _ranges(points: list[Point]) -> list[float]:
    """What the front of these spans on each axis; 1 where it is a point, which sets nobody apart."""
    front = [points[i] for i in front_of(points)]
    return [max(axis) - min(axis) or 1.0 for axis in zip(*front, strict=True)]


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(x >= y for x, y in zip(one, other, strict=True)) and any(x > y for x, y in zip(one, other, strict=True))
