"""How much of the dev set's gain over the base model is there on the held-out set: a number a model and set.

The two sets differ in difficulty, so each task counts in units of the base model's own score on that set.
"""

from __future__ import annotations

from mergekit_optimer.compare import BASE, WINNER
from mergekit_optimer.report.data import Part, ReportData

_PARTS: tuple[Part, Part] = ("dev", "held_out")


def tasks_of_both(report: ReportData) -> list[str]:
    """The held-out tasks that are dev tasks too, in the same metric."""
    dev, held_out = report.tasks["dev"], report.tasks["held_out"]
    return [task for task in report.comparison.tasks if task in dev and dev[task].metric == held_out[task].metric]


def relative_gains(report: ReportData) -> dict[str, dict[Part, float]]:
    """Each model's mean gain over the base model on both sets; 0.05 is 5 % better, whatever the metric's direction.

    Returns:
        Model -> part -> gain, winner first and then as ranked, for the models that were scored on both sets; none
        where winner or base model were not, or no task is in both.
    """
    tasks = tasks_of_both(report)
    scored = [
        model
        for model in (WINNER, *report.comparison.ranking)
        if all(set(tasks) <= report.scores[part].get(model, {}).keys() for part in _PARTS)
    ]
    if not tasks or not {WINNER, BASE} <= set(scored):
        return {}
    return {model: {part: _gain(report, part, model, tasks) for part in _PARTS} for model in scored}


def _gain(report: ReportData, part: Part, model: str, tasks: list[str]) -> float:
    total = 0.0
    for task in tasks:
        facts, scores = report.tasks[part][task], report.scores[part]
        mine, base = (scores[one][task][facts.metric].value for one in (model, BASE))
        sign = 1.0 if facts.higher_is_better else -1.0
        total += sign * (mine - base) / (abs(base) or 1.0)
    return total / len(tasks)
