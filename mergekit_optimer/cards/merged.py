"""ReportData -> the card of the merged model, and its scores as files that the Hub's leaderboards read."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from mergekit_optimer.cards.environment import render
from mergekit_optimer.cards.metadata import PROJECT_TAG, metadata_yaml
from mergekit_optimer.cards.text import public
from mergekit_optimer.compare import WINNER
from mergekit_optimer.report import ReportData, TaskFacts, primary_score, tables, words
from mergekit_optimer.report.numbers import rounded_score

TAGS = ("mergekit", "merge", PROJECT_TAG)

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class _Benchmark(NamedTuple):
    dataset: str
    task: str


# Stock lighteval task -> what the benchmark's own eval.yaml calls it; the Hub shows no others.
# Source: https://huggingface.co/docs/hub/eval-results, and the eval.yaml of each dataset.
_BENCHMARKS = {
    "gsm8k": _Benchmark("openai/gsm8k", "gsm8k"),
    "mmlu_pro": _Benchmark("TIGER-Lab/MMLU-Pro", "mmlu_pro"),
    "gpqa:diamond": _Benchmark("Idavidrein/gpqa", "diamond"),
    "hle": _Benchmark("cais/hle", "hle"),
}


def render_model_card(report: ReportData) -> str:
    """Return README.md of the merged model: metadata, then what, how, how well, and what not.

    The same report gives the same card, byte for byte. Where the report holds trials, the card shows ``search.png``
    beside it (see ``plots``).

    Raises:
        jinja2.UndefinedError: A template names a variable that it is not given.
    """
    shown = public(report)
    drawn = {
        "held_out": tables.held_out_table(shown),
        "differences": tables.difference_table(shown),
        "other_metrics": tables.other_metrics_table(shown),
        "dev": tables.dev_table(shown),
        "gaps": tables.gap_table(shown),
        "weights": tables.weights_table(shown),
        "search": tables.search_table(shown),
        "timings": tables.timings_table(shown),
    }
    return render(
        "merged_model.md.jinja",
        _metadata(report, shown),
        report=shown,
        tables=drawn,
        verdict=words.verdict_sentence(shown),
        mean_words=words.mean_sentence(shown),
        limits=words.limits(shown),
        can_be_made_from_the_hub=words.can_be_made_from_the_hub(report),
    )


def eval_results_files(report: ReportData) -> dict[str, str]:
    """Return the files by which the Hub shows held-out scores on a benchmark's leaderboard: path in the repo -> text.

    Only stock lighteval tasks of benchmarks that the Hub lists are there; the rest stand in the card's metadata.
    """
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    from huggingface_hub.constants import EVAL_RESULTS_FOLDER

    files, shown = {}, public(report)
    for task, facts in sorted(shown.tasks["held_out"].items()):
        benchmark, score = _benchmark(facts), primary_score(shown, "held_out", WINNER, task)
        # Leaderboards count accuracies, in percent; another metric would stand there as a false one.
        if benchmark is None or not 0 <= score.value <= 1 or not _FILE_NAME.fullmatch(task):
            continue
        entry = EvalResultEntry(
            dataset_id=benchmark.dataset,
            task_id=benchmark.task,
            value=round(100 * rounded_score(score), 6),
            notes=f"{facts.lighteval_task} with lighteval, {facts.metric}, on {score.n} samples of it that the "
            f"selection of this model did not see; standard error {100 * score.stderr:.2g}",
        )
        text = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True, width=1000)
        files[f"{EVAL_RESULTS_FOLDER}/{task}.yaml"] = text
    return files


def base_models(report: ReportData) -> list[str]:
    """Hub repositories that the merge is made of, the base model first, each once."""
    repos = [report.base.repo]
    for vector in report.vectors:
        repos += [vector.repo, vector.own_base_repo]
    return [repo for repo in dict.fromkeys(repos) if repo is not None]


def _metadata(report: ReportData, shown: ReportData) -> str:
    return metadata_yaml(
        # From the report as it is: a path without its folders could pass for a repository.
        base_models=base_models(report),
        datasets=[vector.dataset_repo for vector in report.vectors],
        tags=TAGS,
        library="transformers",
        license=shown.license,
        language=shown.language,
        relation="merge",
        pipeline_tag="text-generation",
        model_name=(shown.repo or shown.name).rpartition("/")[2],
        eval_results=_eval_results(shown),
    )


def _eval_results(report: ReportData) -> list[Any]:
    """The winner's held-out scores for the model-index: our own tasks, and benchmarks that the Hub does not list."""
    from huggingface_hub import EvalResult

    found = []
    for task, facts in sorted(report.tasks["held_out"].items()):
        if _benchmark(facts) is not None:
            continue
        score = primary_score(report, "held_out", WINNER, task)
        better = "higher" if facts.higher_is_better else "lower"
        found.append(
            EvalResult(
                task_type="text-generation",
                # No dataset on the Hub: a type that is no repository's name leads nowhere.
                dataset_type="held-out",
                dataset_name=task,
                # Results of one type, split and config are taken for results on the same data.
                dataset_config=task,
                metric_type=facts.metric,
                metric_name=f"{facts.metric} ({better} is better, n={score.n})",
                metric_value=rounded_score(score),
            )
        )
    return found


def _benchmark(facts: TaskFacts) -> _Benchmark | None:
    if facts.lighteval_task is None:
        return None
    return _BENCHMARKS.get(facts.lighteval_task.removeprefix("lighteval|").partition("|")[0])
