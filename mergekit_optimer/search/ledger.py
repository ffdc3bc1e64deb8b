"""The finished trials of one study: their files, and what the objective says of scores. Runs nothing.

Files first, journal second: a trial counts once the journal says so, and by then its scores are on disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergekit_optimer.errors import SearchError
from mergekit_optimer.files import read_json, write_json, write_text
from mergekit_optimer.recipe import SearchSection
from mergekit_optimer.runs import RunDir
from mergekit_optimer.scores import TaskScores
from mergekit_optimer.search.objective import Difference, Judgement, judge, needs_base, paired_difference
from mergekit_optimer.search.records import TrialRecord, head


class Ledger:
    """Reads each trial's file once; the study's one process is the only writer."""

    def __init__(self, run: RunDir, study: Any, spec: SearchSection) -> None:
        self._run, self._study, self._spec = run, study, spec
        self._known: dict[int, TrialRecord] = {}

    @property
    def first_rung(self) -> int:
        """Dev samples of each task that every trial is scored on, unless a race stops it."""
        return self._spec.rungs[0].n_samples

    def trial_dir(self, number: int) -> Path:
        return self._run.trial_dir(number)

    def write(self, record: TrialRecord) -> None:
        """Write a trial's scores.json; it joins the records when the journal holds it as complete."""
        write_json(self.trial_dir(record.number) / "scores.json", record.to_json())
        self._known[record.number] = record

    def copy_merge(self, number: int, copy: int) -> None:
        """Give a trial of the same weights the other's merge.yaml, where that has one."""
        there = self.trial_dir(number) / "merge.yaml"
        if there.exists():
            write_text(self.trial_dir(copy) / "merge.yaml", there.read_text(encoding="utf-8"))

    def records(self) -> list[TrialRecord]:
        """The finished trials in order."""
        return [self._record(trial.number) for trial in self.complete()]

    def complete(self) -> list[Any]:
        """The finished trials as the journal has them."""
        import optuna

        done: list[Any] = self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        return done

    def _record(self, number: int) -> TrialRecord:
        if number not in self._known:
            self._known[number] = TrialRecord.from_json(read_json(self.trial_dir(number) / "scores.json"))
        return self._known[number]

    def base(self) -> TrialRecord:
        """The trial at zero weights, which is the base model.

        Raises:
            SearchError: There is none.
        """
        return find_base(self.records())

    def base_scores(self, n_samples: int) -> dict[str, TaskScores] | None:
        """What the others' first n samples are measured against; None where nothing is measured against the base."""
        if not needs_base(self._spec.objective):
            return None
        return self.base().scores_at(n_samples)

    def judge(self, scores: Mapping[str, TaskScores], n_samples: int, weights: Mapping[str, float]) -> Judgement:
        """Judge a trial's scores on its first n samples, against the base on the same ones."""
        scores = head(scores, n_samples)
        is_base = not any(weights.values())
        return judge(self._spec.objective, scores, scores if is_base else self.base_scores(n_samples))

    def difference(self, scores: Mapping[str, TaskScores], other: TrialRecord) -> Difference:
        """Paired difference of the objective to another trial, on what both have of the first rung's samples."""
        n = self.first_rung
        return paired_difference(self._spec.objective, head(scores, n), head(other.scores, n), self.base_scores(n))

    def incumbent(self) -> TrialRecord | None:
        """The best kept trial with all of the first rung's samples, which a race compares with; None where none is."""
        return best_at(self.first_rung, self.records())

    def twin(self, weights: Mapping[str, float], whole: bool) -> TrialRecord | None:
        """The finished trial of these very weights; ``whole``: only one that no race stopped."""
        for record in self.records():
            if record.weights == weights and record.same_as is None and not (whole and record.stopped == "race"):
                return record
        return None


def find_base(records: list[TrialRecord]) -> TrialRecord:
    """The trial of all weights 0, scored whole.

    Raises:
        SearchError: There is none.
    """
    for record in records:
        if record.is_base and record.stopped is None and record.same_as is None:
            return record
    raise SearchError("The base model's trial failed, and the objective is measured against it; see the journal.")


def best_at(n_samples: int, records: list[TrialRecord]) -> TrialRecord | None:
    """The best of those kept at a rung; of equals the earlier. None where none was kept."""
    kept = [record for record in records if record.stopped is None and record.kept.get(n_samples)]
    return min(kept, key=lambda record: (-record.values[n_samples], record.number), default=None)
