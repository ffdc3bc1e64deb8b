"""The finished trials of one study: their files, and what the objective says of scores. Runs nothing.

Files first, study second: a trial counts once the study says so, and by then its scores are on disk. Of a study that
several drivers share the scores are in its database too, and the files of others' trials are made from there.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mergekit_optimer.errors import SearchError
from mergekit_optimer.files import read_json, write_json
from mergekit_optimer.recipe import Objective, SearchSection
from mergekit_optimer.runs import RunDir
from mergekit_optimer.scores import TaskScores
from mergekit_optimer.search.objective import Difference, Judgement, judge, needs_base, paired_difference
from mergekit_optimer.search.places import StudyPlace
from mergekit_optimer.search.records import TrialRecord, head

Result = TypeVar("Result")

# Writes what a trial's folder holds besides its scores: folder, weights.
WriteTrial = Callable[[Path, dict[str, float]], None]

_RECORD = "record"


class Ledger:
    """Reads each trial once; the study's drivers are the only writers."""

    def __init__(
        self,
        run: RunDir,
        study: Any,
        spec: SearchSection,
        place: StudyPlace | None = None,
        write_trial: WriteTrial | None = None,
    ) -> None:
        """Keep the trials of a study in a run folder.

        Args:
            place: Where the study is kept; None: nobody else is at it.
            write_trial: Writes what a trial's folder holds besides its scores.
        """
        self._run, self._study, self._spec = run, study, spec
        self._place, self._write_trial = place, write_trial
        self._known: dict[int, TrialRecord] = {}

    @property
    def _is_shared(self) -> bool:
        return self._place is not None and self._place.is_shared

    def _patiently(self, work: Callable[[], Result]) -> Result:
        return work() if self._place is None else self._place.patiently(work)

    @property
    def first_rung(self) -> int:
        """Dev samples of each task that every trial is scored on, unless a race stops it."""
        return self._spec.rungs[0].n_samples

    @property
    def objective(self) -> Objective:
        return self._spec.objective

    def trial_dir(self, number: int) -> Path:
        return self._run.trial_dir(number)

    def write_merge(self, number: int, weights: Mapping[str, float]) -> None:
        """Write what a trial's folder holds besides its scores: the merge it stands for."""
        if self._write_trial is not None:
            self._write_trial(self.trial_dir(number), dict(weights))

    def write(self, record: TrialRecord) -> None:
        """Write a trial's scores.json; it joins the records when the study holds it as complete."""
        write_json(self.trial_dir(record.number) / "scores.json", record.to_json())
        self._known[record.number] = record

    def shared_attributes(self, record: TrialRecord) -> dict[str, str]:
        """The trial's attributes by which the drivers that share the study get its scores."""
        return {_RECORD: packed(record)} if self._is_shared else {}

    def share_longer(self, record: TrialRecord) -> None:
        """Give what a finished trial scored on a higher rung to them: a finished trial takes no attributes."""
        if self._is_shared:
            self._patiently(lambda: self._study.set_user_attr(f"{_RECORD}/{record.number}", packed(record)))

    def refresh(self) -> None:
        """Take in what other drivers scored on higher rungs."""
        if not self._is_shared:
            return
        for key, text in self._patiently(lambda: self._study.user_attrs).items():
            if key.startswith(f"{_RECORD}/"):
                record, known = unpacked(text), self._known.get(int(key.partition("/")[2]))
                if known is not None and known.values.keys() < record.values.keys():
                    self.write(record)

    def records(self) -> list[TrialRecord]:
        """The finished trials in order."""
        return [record for _, record in self.finished()]

    def finished(self) -> list[tuple[Any, TrialRecord]]:
        """The finished trials in order, as the study has them and with their records."""
        return [(trial, self.read(trial)) for trial in self.complete()]

    def complete(self) -> list[Any]:
        """The finished trials as the study has them."""
        import optuna

        states = (optuna.trial.TrialState.COMPLETE,)
        done: list[Any] = self._patiently(lambda: self._study.get_trials(deepcopy=False, states=states))
        return done

    def record(self, number: int) -> TrialRecord:
        """A finished trial that was among the records."""
        return self._known[number]

    def read(self, trial: Any) -> TrialRecord:
        """The record of a finished trial.

        Raises:
            RunFolderError: Its file is not there.
        """
        number = trial.number
        if number not in self._known:
            if _RECORD in trial.user_attrs:
                # Whoever scored it: the file may be of a trial that its driver did not live to end.
                self.write_merge(number, trial.params)
                self.write(unpacked(trial.user_attrs[_RECORD]))
            else:
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


def packed(record: TrialRecord) -> str:
    """A record as text for a database: two fifths of its JSON."""
    return base64.b64encode(zlib.compress(json.dumps(record.to_json(), sort_keys=True).encode())).decode("ascii")


def unpacked(text: str) -> TrialRecord:
    """What ``packed`` packed."""
    return TrialRecord.from_json(json.loads(zlib.decompress(base64.b64decode(text))))
