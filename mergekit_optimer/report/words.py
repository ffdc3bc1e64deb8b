"""ReportData -> the sentences about it: the verdict, what the mean is, and the limits; no more than the numbers say."""

from __future__ import annotations

from mergekit_optimer.compare import BASE, WINNER
from mergekit_optimer.report.data import ReportData
from mergekit_optimer.report.links import is_pinned, is_repo
from mergekit_optimer.report.numbers import format_interval, format_number, format_score, format_weight
from mergekit_optimer.vectors import WELL_APPLIED


def verdict_sentence(report: ReportData) -> str:
    """Whether the winner beats the best baseline on the held-out set, with the numbers, and what else beats it."""
    comparison = report.comparison
    best = comparison.best_baseline
    numbers = (
        f"held-out mean {format_score(comparison.means[WINNER])} against {format_score(comparison.means[best])}, "
        f"difference {format_interval(comparison.baselines[best].mean)}"
    )
    ahead = [name for name in comparison.ranking if name != best and comparison.baselines[name].verdict == "worse"]
    also = f" The winner is clearly worse than {' and '.join(ahead)} too." if ahead else ""
    if comparison.verdict == "better":
        return f"The winner is better than the best baseline, {best}: {numbers}."
    if comparison.verdict == "worse":
        return f"The winner is worse than the best baseline, {best}: {numbers}. Prefer {best}.{also}"
    return (
        f"There is no clear difference between the winner and the best baseline, {best}: {numbers}. "
        f"On these samples the search is not shown to have gained anything over {best}.{also}"
    )


def mean_sentence(report: ReportData) -> str:
    """What the mean over tasks is, and how differences are signed."""
    comparison = report.comparison
    if comparison.mean_of == "scores":
        mean = "The mean is the plain mean over the tasks."
    else:
        mean = (
            f"The tasks' metrics differ, so the mean is of gains: each task's difference from {BASE} in units of "
            f"{BASE}'s own absolute value (of 1 where that is 0), so 0.05 is 5 % better than {BASE}."
        )
    percent = format_number(round(100 * comparison.level))
    return (
        f"{mean} Differences are positive where the winner is better; in brackets the {percent} % interval of a paired "
        f"bootstrap ({format_number(comparison.n_resamples)} resamples)."
    )


def limits(report: ReportData) -> list[str]:
    """What a reader must not take from the numbers, a sentence or two each."""
    search = report.search
    found = [
        f"The weights were selected on the dev set over {format_number(search.n_trials)} trials: the winner's dev "
        "scores are optimistic, and only the held-out scores speak for it.",
    ]
    for vector in report.vectors:
        low, high = search.intervals[vector.name]
        if vector.at_bound is not None:
            word, bound = ("lower", low) if vector.at_bound == "low" else ("upper", high)
            found.append(
                f"The weight of {vector.name} ({format_weight(vector.weight)}) lies at the {word} bound of its "
                f"interval ({format_number(bound)}): a better one may lie beyond."
            )
        if vector.applied_fraction < WELL_APPLIED:
            found.append(
                f"Rounding to {report.dtype} keeps {format_number(vector.applied_fraction)} of the vector "
                f"{vector.name}: the stored model is not quite the one that was searched."
            )
    if search.n_failed:
        found.append(f"{_trials(search.n_failed)} failed for lack of memory or a worker and told the search nothing.")
    if search.n_collapsed:
        found.append(f"{_trials(search.n_collapsed)} gave a collapsed model and counted with the metric's floor.")
    for model, tasks in sorted(report.comparison.collapsed.items()):
        found.append(f"{model} collapsed on {', '.join(tasks)} and stands there with the metric's floor.")
    found += _retention(report)
    found.append(
        "The intervals cover the choice of held-out samples only: not another training run, seed or search. They are "
        "not corrected for the number of comparisons, and the best baseline is picked by its held-out mean, which "
        "favours it."
    )
    dev_only = sorted(set(report.tasks["dev"]) - set(report.tasks["held_out"]))
    also = f" {' and '.join(dev_only)} had dev samples only." if dev_only else ""
    found.append(
        f"Only {', '.join(report.comparison.tasks)} were measured on held-out samples.{also} Other languages and "
        "abilities, instruction following, bias and safety were not."
    )
    local = local_parts(report)
    if local:
        be = "is" if len(local) == 1 else "are"
        found.append(
            f"{_capital(', '.join(local))} {be} not on the Hub: nobody else can make this merge again from its parts."
        )
    return found


def local_parts(report: ReportData) -> list[str]:
    """What the merge is made of and is in no repository, in words."""
    parts = [] if is_repo(report.base.repo) else ["the base model"]
    for vector in report.vectors:
        if not is_repo(vector.repo):
            parts.append(f"vector {vector.name}")
        elif vector.own_base is not None and not is_repo(vector.own_base_repo) and not vector.is_delta:
            parts.append(f"the base of vector {vector.name}")
    return parts


def can_be_made_from_the_hub(report: ReportData) -> bool:
    """Whether base model and vectors lie there themselves, at known commits, and the merge has a repository too."""
    return (
        is_repo(report.repo)
        and is_pinned(report.base.repo, report.base.revision)
        and all(vector.is_delta and is_pinned(vector.repo, vector.revision) for vector in report.vectors)
    )


def _retention(report: ReportData) -> list[str]:
    """What became of the abilities that were not searched for."""
    searched = set(report.search.objective_tasks)
    if not searched:
        return []
    outside = [task for task in report.comparison.tasks if task not in searched]
    if not outside:
        return [
            "Every held-out task is part of the objective: what the merge lost elsewhere, as on general text, was not "
            "measured."
        ]
    moved = report.comparison.baselines[BASE].tasks
    return [
        f"{task} lies outside the objective: there the winner differs from {BASE} by {format_interval(moved[task])}, "
        "positive being better."
        for task in outside
    ]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _trials(n: int) -> str:
    return "1 trial" if n == 1 else f"{format_number(n)} trials"
