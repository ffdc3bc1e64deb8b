"""What a trial left behind: weights, scores, objective and cost, as trials/NNNN/scores.json holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from mergekit_optimer.scores import MetricSamples, TaskScores

# The source of a trial that opens the study starts with this; its warm start's name follows.
WARM_START = "warm_start/"


def is_warm_start(source: str) -> bool:
    """Whether a trial's source is a warm start: a baseline, which no race stops."""
    return source.startswith(WARM_START)


@dataclass(frozen=True)
class Measured:
    """What one merge-and-score gave: scores of the asked samples and the seconds it took."""

    scores: dict[str, TaskScores]
    merge_s: float
    score_s: float


class MergeAndScore(Protocol):
    """Merge at these weights and score dev samples start..stop of every task; writes merge.yaml into trial_dir."""

    def __call__(self, weights: Mapping[str, float], trial_dir: Path, start: int, stop: int) -> Measured: ...


@dataclass(frozen=True)
class TrialRecord:
    """One finished trial, as trials/NNNN/scores.json holds it.

    Attributes:
        source: "warm_start/<name>", "adopted" (stopped in another study, scored anew), "surrogate" or "sampler".
        n_samples: Dev samples per task scored so far: the size of the last rung reached, less where ``stopped``.
        values: Objective by rung size. Of a stopped trial: what it would have been, estimated from what was scored.
        kept: By rung size, whether the model neither collapsed nor lost more than ``keep`` allows; a stopped trial is
            not kept.
        collapsed: Tasks on which the merged model collapsed, on any rung.
        merge_s: Seconds of this study spent on it; ``score_s`` alike.
        stopped: Why it was not scored on the whole first rung; None where it was.
        same_as: The earlier trial of the very same weights whose scores these are; None where it was scored itself.
        origin: "<run>#<number>" of the trial of another study whose scores these are.
        collapsed_at: Task -> size of the rung on which it collapsed, where that was not the first; there the samples
            of that rung alone hold the floor.
    """

    number: int
    weights: dict[str, float]
    source: str
    n_samples: int
    values: dict[int, float]
    kept: dict[int, bool]
    collapsed: list[str]
    merge_s: float
    score_s: float
    scores: dict[str, TaskScores]
    stopped: Literal["race", "collapsed"] | None = None
    same_as: int | None = None
    origin: str | None = None
    collapsed_at: dict[str, int] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """Objective at the last rung reached."""
        return self.values[max(self.values)]

    @property
    def is_kept(self) -> bool:
        """Whether it was kept at the last rung reached."""
        return self.kept[max(self.kept)]

    @property
    def is_base(self) -> bool:
        """Whether it is the base model itself."""
        return not any(self.weights.values())

    @property
    def is_warm_start(self) -> bool:
        return is_warm_start(self.source)

    def collapsed_by(self, n_samples: int) -> list[str]:
        """The tasks on which it had collapsed by the rung of n samples."""
        return [task for task in self.collapsed if self.collapsed_at.get(task, 0) <= n_samples]

    def scores_at(self, n_samples: int) -> dict[str, TaskScores]:
        """What it is judged by on the rung of n samples: a task that had collapsed by then is at its floor."""
        scores, fallen = head(self.scores, n_samples), self.collapsed_by(n_samples)
        return {name: _at_floor(task) if name in fallen else task for name, task in scores.items()}

    def at_first(self, n_samples: int) -> TrialRecord:
        """The record as it was on the first rung, of n samples, before it climbed."""
        return replace(
            self,
            n_samples=min(n_samples, self.n_samples),
            values={n_samples: self.values[n_samples]},
            kept={n_samples: self.kept[n_samples]},
            collapsed=self.collapsed_by(n_samples),
            collapsed_at={},
            scores=self.scores_at(n_samples),
        )

    def to_json(self) -> dict[str, Any]:
        data = {key: value for key, value in vars(self).items() if key not in ("scores", "values", "kept")}
        data["values"] = {str(n): value for n, value in self.values.items()}
        data["kept"] = {str(n): kept for n, kept in self.kept.items()}
        data["tasks"] = {name: task.to_json() for name, task in self.scores.items()}
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TrialRecord:
        fields = {key: value for key, value in data.items() if key not in ("tasks", "values", "kept")}
        values = {int(n): float(value) for n, value in data["values"].items()}
        kept = {int(n): bool(one) for n, one in data["kept"].items()}
        scores = {name: TaskScores.from_json(task) for name, task in data["tasks"].items()}
        return cls(**fields, values=values, kept=kept, scores=scores)


@dataclass(frozen=True)
class SearchResult:
    """A finished study.

    Attributes:
        trials: The finished trials in order, those taken over from another study among them.
        n_failed: Weight vectors given up after failing again and again.
        stopped_flat: Whether it ended before ``n_trials`` because the best no longer rose.
        gradient: Cost of the gradient warm start (n_evaluations, sample_cost); None where there was none.
        gradient_s: Seconds it took.
        started: Begin of the first trial, ISO 8601 in UTC; ``finished``: end of the last.
    """

    winner: TrialRecord
    trials: list[TrialRecord]
    n_failed: int
    stopped_flat: bool
    gradient: dict[str, float] | None
    gradient_s: float
    started: str
    finished: str

    def to_json(self) -> dict[str, Any]:
        """The summary that the later stages read; scores stay in the trials' files.

        ``n_run`` and ``n_stopped`` count what this study scored; not what another had, nor a copy of an earlier trial.
        """
        run = [trial for trial in self.trials if trial.origin is None and trial.same_as is None]
        return {
            "winner": {"number": self.winner.number, "weights": self.winner.weights, "value": self.winner.value},
            "trials": [trial.number for trial in self.trials],
            "n_adopted": sum(trial.origin is not None for trial in self.trials),
            "n_run": len(run),
            "n_collapsed": sum(bool(trial.collapsed) for trial in self.trials),
            "n_failed": self.n_failed,
            "n_stopped": sum(trial.stopped is not None for trial in run),
            "n_same": sum(trial.same_as is not None for trial in self.trials),
            "stopped_flat": self.stopped_flat,
            "gradient": self.gradient,
            "gradient_s": self.gradient_s,
            "merge_s": sum(trial.merge_s for trial in self.trials),
            "score_s": sum(trial.score_s for trial in self.trials),
            "started": self.started,
            "finished": self.finished,
        }


def head(scores: Mapping[str, TaskScores], n_samples: int) -> dict[str, TaskScores]:
    """The first n samples of every task."""
    return {name: task.head(n_samples) for name, task in scores.items()}


def _at_floor(task: TaskScores) -> TaskScores:
    metrics = {name: replace(s, values=(s.floor,) * len(s.values)) for name, s in task.metrics.items()}
    return TaskScores(metrics, task.primary)


def append_samples(task: TaskScores, more: TaskScores | None) -> TaskScores:
    """Join the samples of two parts of one task."""
    if more is None:
        return task
    joined = {
        name: MetricSamples(
            s.values + more.metrics[name].values,
            s.weights + more.metrics[name].weights,
            s.higher_is_better,
            s.floor,
        )
        for name, s in task.metrics.items()
    }
    return TaskScores(joined, task.primary)


def append_scores(scores: Mapping[str, TaskScores], more: Mapping[str, TaskScores]) -> dict[str, TaskScores]:
    """Join two parts of every task; a task that ended before the second part stays as it is."""
    return {name: append_samples(task, more.get(name)) for name, task in scores.items()}
