"""A score made in parts: bit for bit the score of one process, whatever the parts, and never without one of them."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from part_samples import SECTIONS, prepared

from mergekit_optimer.evaluate import PartScores, Scorer, load_model
from mergekit_optimer.evaluate.parts import share
from mergekit_optimer.scores import TaskScores
from mergekit_optimer.tasks import PreparedTask

Maker = Callable[..., Any]

RANGES = [(None, 0), (5, 0), (None, 4), (8, 3)]
# Batches of 2 texts to be written, and of 2 to 8 rows of tokens.
BATCH_TOKENS = 256


@pytest.fixture(scope="module")
def tasks(task_recipe: Maker, base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[PreparedTask]:
    return prepared(task_recipe(**SECTIONS), base_dir, tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="module")
def model(base_dir: Path) -> Any:
    return load_model(base_dir, "cpu")


@pytest.fixture(scope="module")
def scorer(model: Any, base_dir: Path, tasks: list[PreparedTask]) -> Scorer:
    return Scorer(model, base_dir, tasks, device="cpu", batch_tokens=BATCH_TOKENS)


@pytest.fixture
def in_parts(base_dir: Path) -> Maker:
    """Score in parts, each by a scorer and a model of its own as in another process, and join them in another's."""

    def score(tasks: list[PreparedTask], count: int, n_samples: int | None, start: int) -> dict[str, TaskScores]:
        parts = []
        for index in range(count):
            alone = Scorer(load_model(base_dir, "cpu"), base_dir, tasks, device="cpu", batch_tokens=BATCH_TOKENS)
            parts.append(pickle.loads(pickle.dumps(alone.score_part(n_samples, start, index, count))))
        joiner = Scorer(load_model(base_dir, "cpu"), base_dir, tasks, device="cpu", batch_tokens=BATCH_TOKENS)
        return joiner.join_parts(n_samples, start, parts)

    return score


def parts_of(scorer: Scorer, count: int, n_samples: int | None = None, start: int = 0) -> list[PartScores]:
    return [scorer.score_part(n_samples, start, index, count) for index in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 64])
@pytest.mark.parametrize(("n_samples", "start"), RANGES)
def test_parts_give_the_score_of_one_process_bit_for_bit(
    scorer: Scorer, n_samples: int | None, start: int, count: int
) -> None:
    parts = parts_of(scorer, count, n_samples, start)
    whole = scorer.score(n_samples, start)
    assert sorted(whole) == ["gen", "ja", "math", "story"]
    assert scorer.join_parts(n_samples, start, parts[::-1]) == whole
    # As many parts do something as there are batches for.
    n_batches = sum(len(costs) for costs in batch_costs(scorer, n_samples, start))
    assert sum(bool(part.requests or part.samples) for part in parts) == min(count, n_batches)
    assert n_batches < 64


def batch_costs(scorer: Scorer, n_samples: int | None, start: int) -> tuple[list[int], list[int]]:
    part = slice(start, n_samples)
    likely, written = scorer._docs("LOGPROBS", part), scorer._docs("GENERATIVE", part)
    return scorer._live.batch_costs(likely), scorer._live.written_costs(written)


@pytest.mark.parametrize("name", ["ja", "math", "story", "gen"])
def test_every_kind_of_task_can_be_scored_by_processes_of_their_own(
    tasks: list[PreparedTask], in_parts: Maker, model: Any, base_dir: Path, name: str
) -> None:
    chosen = [task for task in tasks if task.name == name]
    alone = Scorer(model, base_dir, chosen, device="cpu", batch_tokens=BATCH_TOKENS)
    assert in_parts(chosen, 2, None, 1) == alone.score(start=1)
    assert all(part.requests or part.samples for part in parts_of(alone, 2, None, 1))


def test_a_part_is_plain_data(scorer: Scorer) -> None:
    for part in parts_of(scorer, 2, 6):
        data = asdict(part)
        assert json.loads(json.dumps(data)) == data


def test_packed_and_plain_rows_are_both_there_to_be_shared(scorer: Scorer) -> None:
    batches = scorer._live._plan(scorer._docs("LOGPROBS", slice(None))).batches
    assert sum(batch.segments is not None for batch in batches) >= 2
    assert sum(batch.segments is None for batch in batches) >= 2


def test_a_text_is_written_in_the_batch_it_has_in_a_whole_score(scorer: Scorer, model: Any) -> None:
    def shapes(score: Callable[[], Any]) -> list[tuple[int, ...]]:
        seen: list[tuple[int, ...]] = []
        generate = model.generate

        def noted(**options: Any) -> Any:
            seen.append(tuple(options["input_ids"].shape))
            return generate(**options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model, "generate", noted)
            score()
        return sorted(seen)

    whole = shapes(scorer.score)
    assert len(set(whole)) == 4
    assert shapes(lambda: parts_of(scorer, 3)) == whole
    assert max(len(shapes(lambda part=part: scorer.score_part(None, 0, part, 3))) for part in range(3)) == 2


def test_a_part_runs_its_own_batches_only_and_joining_runs_none(scorer: Scorer, model: Any) -> None:
    n_rows: list[int] = []
    hook = model.model.register_forward_hook(
        lambda _module, _args, options, _out: n_rows.append(len(options["input_ids"])), with_kwargs=True
    )
    try:
        scorer.score()
        whole, n_rows[:] = sum(n_rows), []
        parts, ran = [], []
        for index in range(3):
            parts.append(scorer.score_part(None, 0, index, 3))
            ran.append(sum(n_rows))
            n_rows.clear()
        scorer.join_parts(None, 0, parts)
    finally:
        hook.remove()
    assert n_rows == []
    assert sum(ran) == whole
    assert max(ran) < whole / 2


def test_a_collapsed_model_is_not_finite_in_parts_either(base_dir: Path, tasks: list[PreparedTask]) -> None:
    import torch

    model = load_model(base_dir, "cpu")
    scorer = Scorer(model, base_dir, tasks, device="cpu", batch_tokens=BATCH_TOKENS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)
    scores = scorer.join_parts(None, 0, parts_of(scorer, 3))
    assert all(math.isnan(value) for task in scores.values() for value in task.metrics[task.primary].values)
    assert repr(scores) == repr(scorer.score())


USER_FILE = """
from lighteval.metrics.metrics import Metrics
from lighteval.tasks.lighteval_task import LightevalTaskConfig
from lighteval.tasks.requests import Doc

def prompt(line, task_name=None):
    return Doc(task_name=task_name, query=line["question"], choices=line["choices"], gold_index=line["answer"])

TASKS_TABLE = [
    LightevalTaskConfig(
        name="mine", prompt_function=prompt, hf_repo={folder!r}, hf_subset="default", hf_avail_splits=["test"],
        evaluation_splits=["test"], few_shots_split="test", few_shots_select="sequential",
        metrics=[Metrics.loglikelihood_acc, Metrics.exact_match], generation_size=5, stop_sequence=["\\n"],
    )
]
"""


@pytest.fixture
def users_task(
    tasks: list[PreparedTask], task_recipe: Maker, base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Maker:
    """A maker of the prepared task of a user's own lighteval file, over the samples of "story", by its metric."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    folder = next(task for task in tasks if task.name == "story").folder

    def make(metric: str, task: str = "mine|1", folder: Path = folder) -> list[PreparedTask]:
        spec = {"kind": "lighteval", "file": "my_tasks.py", "task": task, "metric": metric}
        recipe = task_recipe(mine=(spec, []))
        (recipe.folder / "my_tasks.py").write_text(USER_FILE.format(folder=str(folder)))
        return prepared(recipe, base_dir, recipe.folder / "out")

    return make


@pytest.mark.parametrize("metric", ["acc", "em"])
def test_a_lighteval_task_of_the_users_can_be_scored_in_parts(
    users_task: Maker, in_parts: Maker, model: Any, base_dir: Path, metric: str
) -> None:
    mine = users_task(metric)
    scorer = Scorer(model, base_dir, mine, device="cpu", batch_tokens=BATCH_TOKENS)
    assert in_parts(mine, 2, 8, 1) == scorer.score(8, start=1)
    assert all(part.requests or part.samples for part in parts_of(scorer, 2, 8, 1))


def test_whether_greedy_decoding_writes_a_choice_is_told_with_its_part(
    scorer: Scorer, users_task: Maker, model: Any, base_dir: Path, tmp_path: Path
) -> None:
    docs = scorer._docs("GENERATIVE", slice(None))
    _, answers = scorer._live.write(docs)
    rows = [
        {"question": doc.query, "choices": ["no", answer["text"][0]], "answer": number % 2}
        for number, (doc, answer) in enumerate(zip(docs, answers, strict=True))
    ]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mine = users_task("acc", "mine|0", tmp_path)
    asked = Scorer(model, base_dir, mine, device="cpu", batch_tokens=64)
    parts = parts_of(asked, 3)
    greedy = dict(pair for part in parts for pair in zip(part.requests, part.greedy, strict=True))
    # The second choice of each question is what the model writes.
    assert greedy == {number: number % 2 == 1 for number in range(2 * len(docs))}
    assert asked.join_parts(None, 0, parts) == asked.score()


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ([0, 2], "a score needs each of its parts once; there are: 0 of 3, 2 of 3"),
        ([0, 1, 1], "there are: 0 of 3, 1 of 3, 1 of 3"),
        ([0, 1, 2, 2], "there are: 0 of 3, 1 of 3, 2 of 3, 2 of 3"),
        ([], "there are: none"),
    ],
    ids=["missing", "doubled", "one_too_many", "none"],
)
def test_a_missing_or_doubled_part_is_refused(scorer: Scorer, chosen: list[int], words: str) -> None:
    parts = parts_of(scorer, 3)
    with pytest.raises(ValueError, match=words):
        scorer.join_parts(None, 0, [parts[index] for index in chosen])


def test_a_part_of_another_division_or_of_other_samples_is_refused(scorer: Scorer) -> None:
    halves, thirds = parts_of(scorer, 2, 6), parts_of(scorer, 3, 6)
    with pytest.raises(ValueError, match="there are: 0 of 2, 1 of 3"):
        scorer.join_parts(6, 0, [halves[0], thirds[1]])
    with pytest.raises(ValueError, match="part 1 is of samples 2 to 6, not of 0 to 6"):
        scorer.join_parts(6, 0, [halves[0], scorer.score_part(6, 2, 1, 2)])
    with pytest.raises(ValueError, match="part 1 is of samples 0 to 5, not of 0 to 6"):
        scorer.join_parts(6, 0, [halves[0], scorer.score_part(5, 0, 1, 2)])


def test_parts_made_of_other_batches_are_refused(
    scorer: Scorer, model: Any, base_dir: Path, tasks: list[PreparedTask]
) -> None:
    other = Scorer(model, base_dir, tasks, device="cpu", batch_tokens=64)
    with pytest.raises(ValueError, match="they were not made of the same batches"):
        scorer.join_parts(None, 0, [scorer.score_part(None, 0, 0, 2), other.score_part(None, 0, 1, 2)])
    first, second = parts_of(scorer, 2)
    with pytest.raises(ValueError, match="they were not made of the same batches"):
        scorer.join_parts(None, 0, [first, replace(second, samples=second.samples[1:], answers=second.answers[1:])])


@pytest.mark.parametrize(("index", "count"), [(2, 2), (-1, 2), (0, 0)])
def test_a_part_that_there_is_not_is_refused(scorer: Scorer, index: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"there is no part {index} of {count}"):
        scorer.score_part(None, 0, index, count)


def test_batches_are_shared_by_cost_each_to_one_part() -> None:
    costs = [9, 1, 5, 5, 1, 1, 2]
    assert [share(costs, index, 2) for index in range(2)] == [[0, 4, 6], [1, 2, 3, 5]]
    assert [share(costs, index, 3) for index in range(3)] == [[0], [2, 5, 6], [1, 3, 4]]
    assert [share([1, 1], index, 4) for index in range(4)] == [[0], [1], [], []]
    assert share(costs, 0, 1) == [0, 1, 2, 3, 4, 5, 6]
