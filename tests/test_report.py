"""What report.json holds, how numbers are written, and what the terminal says."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest

from mergekit_optimer.compare import Interval
from mergekit_optimer.errors import TaskError
from mergekit_optimer.report import (
    ReportData,
    bound_reached,
    build_report,
    render_table,
    tasks_of_both,
    verdict_sentence,
)
from mergekit_optimer.report.numbers import (
    format_difference,
    format_duration,
    format_interval,
    format_number,
    format_score,
    format_size,
    rounded_score,
)
from mergekit_optimer.report.words import limits, mean_sentence
from mergekit_optimer.scores import Score


def shown(report: ReportData, width: int = 160) -> str:
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(render_table(report))
    return out.getvalue()


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (Score(2.03412, 0.0213, 100), "2.034 ± 0.021"),
        (Score(2.03412, 0.0996, 100), "2.03 ± 0.10"),
        (Score(-0.00004, 0.013, 100), "0.000 ± 0.013"),
        (Score(1234.5, 123.4, 10), "1234 ± 123"),
        (Score(0.0, 0.0, 10), "0.0000 ± 0"),
        (Score(0.25, 3.1e-7, 10), "0.25000000 ± 0.00000031"),
    ],
)
def test_a_score_shows_its_error_with_two_significant_digits(score: Score, text: str) -> None:
    assert format_score(score) == text


def test_an_interval_end_that_is_not_zero_is_not_written_as_zero() -> None:
    assert format_interval(Interval(0.05, 0.0004, 0.0996)) == "+0.0500 (+0.0004 to +0.0996)"
    assert format_interval(Interval(0.0, 0.0, 0.0)) == "0.0000 (0.0000 to 0.0000)"
    assert format_interval(Interval(-0.012, -0.031, 0.007)) == "-0.0120 (-0.0310 to +0.0070)"


def test_durations_and_counts_read_easily() -> None:
    assert [format_duration(s) for s in (0.04, 119.9, 120, 3599.6, 7380)] == [
        "0.0 s", "119.9 s", "2 min 00 s", "1 h 00 min", "2 h 03 min",
    ]  # fmt: skip
    assert [format_number(x) for x in (1638400, 5e-4, None, 0.0312)] == ["1,638,400", "0.0005", "–", "0.0312"]
    assert format_difference(-0.012, 0.02) == "-0.012 ± 0.020"
    assert format_difference(0.012, 0.02) == "+0.012 ± 0.020"


def test_sizes_are_counted_as_the_hub_counts_them() -> None:
    sizes = [0, 999, 1000, 4_900_000, 999_949, 999_950, 2_540_000_000, 3_000_000_000_000_000]
    assert [format_size(size) for size in sizes] == [
        "0 B", "999 B", "1.0 kB", "4.9 MB", "999.9 kB", "1.0 MB", "2.5 GB", "3000.0 TB",
    ]  # fmt: skip


def test_a_rounded_score_is_the_number_that_the_table_shows() -> None:
    assert rounded_score(Score(2.03412, 0.0213, 100)) == 2.034
    assert rounded_score(Score(-0.25, 0.0, 100)) == -0.25


def test_a_weight_within_a_hundredth_of_an_end_is_at_the_bound() -> None:
    assert bound_reached(1.25, -0.5, 1.25) == "high"
    assert bound_reached(1.24, -0.5, 1.25) == "high"
    assert bound_reached(1.2, -0.5, 1.25) is None
    assert bound_reached(-0.5, -0.5, 1.25) == "low"


def test_report_survives_json_whole(report_inputs: dict[str, Any]) -> None:
    report = build_report(**report_inputs)
    text = json.dumps(report.to_json(), sort_keys=True, allow_nan=False)
    assert ReportData.from_json(json.loads(text)) == report


def test_report_json_holds_how_much_of_the_dev_gain_is_there_on_held_out(report_inputs: dict[str, Any]) -> None:
    report = build_report(**report_inputs)
    data = report.to_json()
    assert data["finished"] is True
    gains = data["relative_gains"]
    # Those that were scored on both sets; what was merged for the comparison only is not there.
    assert list(gains) == ["winner", *(name for name in report.comparison.ranking if name in report_inputs["dev"])]
    assert gains["base_model"] == {"dev": 0.0, "held_out": 0.0}
    for part in ("dev", "held_out"):
        winner, base = ({task: score.score.value for task, score in report_inputs[part][model].items()}
                        for model in ("winner", "base_model"))  # fmt: skip
        better = [(base["ja"] - winner["ja"]) / base["ja"], (base["code"] - winner["code"]) / base["code"],
                  (winner["choice_math"] - base["choice_math"]) / -base["choice_math"]]  # fmt: skip
        assert gains["winner"][part] == pytest.approx(sum(better) / 3, abs=1e-9)


def test_a_dev_task_that_is_not_held_out_is_not_part_of_the_gain(report_inputs: dict[str, Any]) -> None:
    for tasks in report_inputs["held_out"].values():
        del tasks["ja"]
    report = build_report(**report_inputs)
    assert tasks_of_both(report) == ["choice_math", "code"]
    assert set(report.relative_gains["winner"]) == {"dev", "held_out"}


def test_the_mixture_of_the_weights_is_compared_with_the_uniform_one(report_inputs: dict[str, Any]) -> None:
    assert build_report(**report_inputs).mixtures is None
    held_out = report_inputs["held_out"]
    both = held_out | {"data_mixture/optimised": held_out["sum"]}
    found = build_report(**report_inputs | {"held_out": both}).mixtures
    assert found is not None
    assert found.verdict == "worse"
    assert found.tasks["ja"].difference == pytest.approx(
        held_out["data_mixture"]["ja"].score.value - held_out["sum"]["ja"].score.value
    )


def test_a_report_of_before_trials_and_commits_were_kept_still_reads(report_inputs: dict[str, Any]) -> None:
    data = json.loads(json.dumps(build_report(**report_inputs).to_json()))
    del data["finished"], data["relative_gains"], data["mixtures"]
    del data["trials"], data["search"]["objective_tasks"], data["search"]["base_value"]
    for vector in data["vectors"]:
        for key in ("revision", "dataset_repo", "dataset_revision", "is_delta"):
            del vector[key]
    for tasks in data["tasks"].values():
        for facts in tasks.values():
            del facts["lighteval_task"]
    report = ReportData.from_json(data)
    assert report.trials == ()
    # What such a report does not know, it does not claim.
    assert "objective" not in " ".join(limits(report))


def test_same_inputs_give_the_same_report(report_inputs: dict[str, Any]) -> None:
    assert build_report(**report_inputs) == build_report(**report_inputs)


def test_vectors_stand_in_name_order_with_their_bounds(report_inputs: dict[str, Any]) -> None:
    report = build_report(**report_inputs)
    assert [(vector.name, vector.at_bound) for vector in report.vectors] == [
        ("code", "high"),
        ("ja", None),
        ("math", None),
    ]


def test_dev_scores_of_a_task_stand_on_the_prefix_that_all_models_have(report_inputs: dict[str, Any]) -> None:
    dev = report_inputs["dev"]
    dev["single/ja"] = {task: scores.head(40) for task, scores in dev["single/ja"].items()}
    report = build_report(**report_inputs)
    ns = {
        score.n for tasks in report.scores["dev"].values() for metrics in tasks.values() for score in metrics.values()
    }
    assert ns == {40}
    assert report.tasks["dev"]["ja"].n == 40
    assert report.scores["dev"]["winner"]["ja"]["bits_per_byte"] == dev["winner"]["ja"].head(40).score
    assert report.tasks["held_out"]["ja"].n == 200


def test_all_metrics_are_kept_and_the_primary_one_is_named(report_inputs: dict[str, Any]) -> None:
    report = build_report(**report_inputs)
    assert set(report.scores["held_out"]["winner"]["choice_math"]) == {"gold_ll", "acc"}
    assert report.tasks["held_out"]["choice_math"].metric == "gold_ll"
    assert report.tasks["held_out"]["choice_math"].higher_is_better
    assert not report.tasks["held_out"]["ja"].higher_is_better


def test_a_missing_dev_winner_is_a_sentence(report_inputs: dict[str, Any]) -> None:
    del report_inputs["dev"]["winner"]
    with pytest.raises(TaskError, match="dev scores lack the winner"):
        build_report(**report_inputs)


def test_a_winner_that_is_not_better_is_said_in_words(report_inputs: dict[str, Any]) -> None:
    held_out = report_inputs["held_out"]
    better = build_report(**report_inputs)
    assert verdict_sentence(better).startswith("The winner is better than the best baseline, data_mixture: ")
    equal = build_report(**report_inputs | {"held_out": held_out | {"winner": held_out["data_mixture"]}})
    assert verdict_sentence(equal).startswith(
        "There is no clear difference between the winner and the best baseline, data_mixture: "
    )
    worse = build_report(**report_inputs | {"held_out": held_out | {"winner": held_out["sum"]}})
    assert verdict_sentence(worse).startswith("The winner is worse than the best baseline, data_mixture: ")
    assert "Prefer data_mixture. The winner is clearly worse than ties and " in verdict_sentence(worse)


def test_mean_of_unlike_metrics_is_explained(report_inputs: dict[str, Any]) -> None:
    assert "units of base_model's own absolute value" in mean_sentence(build_report(**report_inputs))
    for part in ("dev", "held_out"):
        for tasks in report_inputs[part].values():
            del tasks["choice_math"]
    assert mean_sentence(build_report(**report_inputs)).startswith("The mean is the plain mean over the tasks.")


def test_limits_name_weights_at_a_bound_and_vectors_lost_to_rounding(report_inputs: dict[str, Any]) -> None:
    report_inputs["vectors"][0] = replace(report_inputs["vectors"][0], applied_fraction=0.52)
    said = " ".join(limits(build_report(**report_inputs)))
    assert "selected on the dev set over 60 trials" in said
    assert "weight of code (+1.2461) lies at the upper bound of its interval (1.25)" in said
    assert "Rounding to float32 keeps 0.52 of the vector math" in said
    assert "2 trials gave a collapsed model" in said


def with_objective(report_inputs: dict[str, Any], *tasks: str) -> dict[str, Any]:
    return report_inputs | {"search": replace(report_inputs["search"], objective_tasks=tasks)}


def test_limits_say_how_a_task_outside_the_objective_moved(report_inputs: dict[str, Any]) -> None:
    said = " ".join(limits(build_report(**with_objective(report_inputs, "choice_math", "code"))))
    assert "ja lies outside the objective: there the winner differs from base_model by +0.3010 (+0.2934 to " in said


def test_limits_say_where_nothing_outside_the_objective_was_measured(report_inputs: dict[str, Any]) -> None:
    said = " ".join(limits(build_report(**with_objective(report_inputs, "choice_math", "code", "ja"))))
    assert "Every held-out task is part of the objective" in said


def test_limits_name_tasks_without_held_out_samples(report_inputs: dict[str, Any]) -> None:
    for tasks in report_inputs["held_out"].values():
        del tasks["ja"]
    assert "ja had dev samples only." in " ".join(limits(build_report(**report_inputs)))


def test_limits_name_what_nobody_else_can_have(report_inputs: dict[str, Any]) -> None:
    said = "not on the Hub: nobody else can make this merge again from its parts."
    assert f"Vector code, vector ja, vector math are {said}" in limits(build_report(**report_inputs))
    vectors = [replace(vector, repo=f"org/{vector.name}") for vector in report_inputs["vectors"]]
    assert said not in " ".join(limits(build_report(**report_inputs | {"vectors": vectors})))
    vectors[0] = replace(vectors[0], own_base="mine")
    assert f"The base of vector math is {said}" in limits(build_report(**report_inputs | {"vectors": vectors}))
    vectors[0] = replace(vectors[0], is_delta=True)
    assert said not in " ".join(limits(build_report(**report_inputs | {"vectors": vectors})))


def test_terminal_shows_winner_first_then_baselines_by_mean_with_errors_and_n(report_inputs: dict[str, Any]) -> None:
    text = shown(build_report(**report_inputs))
    names = [line.split()[0] for line in text.splitlines() if "±" in line][:10]
    assert names == ["winner", "data_mixture", "ties", "uniform_average", "single/math", "dare_linear", "sum",
                     "single/code", "single/ja", "base_model"]  # fmt: skip
    assert "n=200" in text
    assert "-1.006 ± 0.022" in text
    assert "at the upper bound" in text
    assert "merged model: best/model" in text
    assert text.index("Held-out scores") < text.index("Merge weights") < text.index("Dev scores")


def test_terminal_takes_labels_as_text_and_not_as_markup(report_inputs: dict[str, Any]) -> None:
    report_inputs["vectors"][0] = replace(report_inputs["vectors"][0], label="[red]x[/red] [/]")
    assert "[red]x[/red] [/]" in shown(build_report(**report_inputs))


def test_terminal_marks_a_collapsed_baseline(report_inputs: dict[str, Any]) -> None:
    samples = report_inputs["held_out"]["sum"]["ja"].metrics["bits_per_byte"]
    report_inputs["held_out"]["sum"]["ja"].metrics["bits_per_byte"] = replace(
        samples, values=(float("inf"), *samples.values[1:])
    )
    text = shown(build_report(**report_inputs))
    assert "8.0000 ± 0" in text
    assert "(collapsed)" in text
