"""The scorer: transformers' own loss, lighteval's own numbers, and never an earlier model's score."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TEXT

from mergekit_optimer.errors import InfrastructureError, TaskError
from mergekit_optimer.evaluate import Scorer, load_model
from mergekit_optimer.scores import collapsed, floored
from mergekit_optimer.tasks import PreparedTask, prepare_tasks

Maker = Callable[..., Any]

DOCUMENTS = [{"text": f"{TEXT[number % len(TEXT)]} ({number})"} for number in range(12)]
QUESTIONS = [
    {"question": f"Question: {a} + {b} = ?\nAnswer:", "choices": [str(a + b + c) for c in range(3)], "answer": 0}
    for a in range(4)
    for b in range(3)
]
PROMPTS = [{"question": f"{a} + 2 =", "answer": f"{a + 2}"} for a in range(5)]
SECTIONS: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "ja": ({"kind": "text", "max_tokens": 60}, DOCUMENTS),
    "math": ({"kind": "choice"}, QUESTIONS),
    "half": ({"kind": "choice", "make_choices": True, "max_tokens": 40, "metric": "acc"}, DOCUMENTS),
    "gen": ({"kind": "generate", "max_new_tokens": 4}, PROMPTS),
}


@pytest.fixture(scope="module")
def tasks(task_recipe: Maker, base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[PreparedTask]:
    return prepared(task_recipe(**SECTIONS), base_dir, tmp_path_factory.mktemp("samples"))


def prepared(recipe: Any, model_dir: Path, out_dir: Path) -> list[PreparedTask]:
    from transformers import AutoTokenizer

    return prepare_tasks(recipe.tasks, recipe, AutoTokenizer.from_pretrained(model_dir), 128, out_dir)


@pytest.fixture(scope="module")
def model(base_dir: Path) -> Any:
    return load_model(base_dir, "cpu")


@pytest.fixture(scope="module")
def scorer(model: Any, base_dir: Path, tasks: list[PreparedTask]) -> Scorer:
    return Scorer(model, base_dir, tasks, device="cpu")


@contextmanager
def weights_changed(model: Any, change: Callable[[Any], Any]) -> Iterator[None]:
    """Change all weights in place, then put them back."""
    import torch

    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(change(parameter))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                tensor.copy_(before[name])


def test_metrics_of_a_choice_follow_from_its_log_likelihoods(scorer: Scorer) -> None:
    task = next(task for task in scorer._tasks if task.name == "math")
    scores = scorer.score()["math"]
    assert (scores.primary, sorted(scores.metrics)) == ("gold_ll", ["acc", "acc_norm", "gold_ll", "gold_p"])
    for i, response in enumerate(scorer._live.loglikelihood(task.docs)):
        logprobs, choices, gold = response.logprobs, task.docs[i].choices, task.docs[i].gold_index
        shares = [math.exp(logprob) for logprob in logprobs]
        norms = [logprob / len(choice.lstrip()) for logprob, choice in zip(logprobs, choices, strict=True)]
        found = {name: samples.values[i] for name, samples in scores.metrics.items()}
        assert found["gold_ll"] == pytest.approx(logprobs[gold] / len(choices[gold].encode()))
        assert found["gold_p"] == pytest.approx(shares[gold] / sum(shares))
        assert found["acc"] == float(max(logprobs) == logprobs[gold])
        assert found["acc_norm"] == float(max(norms) == norms[gold])


def test_a_model_changed_in_place_gets_its_own_score_and_the_first_one_back(model: Any, scorer: Scorer) -> None:
    before = scorer.score()
    with weights_changed(model, lambda parameter: parameter * 1.5):
        changed = scorer.score()
    assert scorer.score() == before
    for name in ("ja", "math"):
        assert changed[name].score.value != before[name].score.value


def test_prefixes_nest_and_parts_add_up(scorer: Scorer) -> None:
    whole, head, tail = scorer.score(), scorer.score(4), scorer.score(10, start=4)
    assert scorer.n_samples == {"gen": 5, "half": 12, "ja": 12, "math": 12}
    for name, scores in whole.items():
        for metric, samples in scores.metrics.items():
            parts = head[name].metrics[metric].values + tail[name].metrics[metric].values
            assert parts == pytest.approx(samples.values[:10], rel=1e-5)
    assert "gen" not in scorer.score(10, start=5)


def test_samples_stand_in_the_order_of_their_file(scorer: Scorer, tasks: list[PreparedTask]) -> None:
    lines = next(task for task in tasks if task.name == "math").samples()
    docs = next(task for task in scorer._tasks if task.name == "math").docs
    assert [doc.query for doc in docs] == [line["question"] for line in lines]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_collapsed_model_is_marked_on_every_task_and_gets_the_floors(model: Any, scorer: Scorer, bad: float) -> None:
    with weights_changed(model, lambda parameter: parameter * bad):
        scores = scorer.score()
    assert collapsed(scores) == ["gen", "half", "ja", "math"]
    finite = floored(scores)
    assert finite["ja"].score.value == 8.0
    assert finite["math"].score.value == pytest.approx(-8 * math.log(2))
    assert (finite["half"].score.value, finite["gen"].score.value) == (0.0, 0.0)


def test_generation_is_greedy_and_stops(scorer: Scorer, model: Any, base_dir: Path) -> None:
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_dir)
    task = next(task for task in scorer._tasks if task.name == "gen")
    for doc, response in zip(task.docs, scorer._live.greedy_until(task.docs), strict=True):
        ids = tokenizer(doc.query, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
        wanted = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).split("\n")[0]
        assert response.text == [wanted]


def test_exact_match_counts_what_the_model_writes(
    scorer: Scorer, model: Any, base_dir: Path, task_recipe: Maker, tmp_path: Path
) -> None:
    task = next(task for task in scorer._tasks if task.name == "gen")
    written = [response.text[0].strip() for response in scorer._live.greedy_until(task.docs)]
    rows = [{"question": doc.query, "answer": ["no", text]} for doc, text in zip(task.docs, written, strict=True)]
    rows[0]["answer"] = "no"
    assert all(written)
    recipe = task_recipe(gen=({"kind": "generate", "max_new_tokens": 4}, rows))
    scores = Scorer(model, base_dir, prepared(recipe, base_dir, tmp_path), device="cpu").score()
    assert sorted(scores["gen"].metrics["exact_match"].values) == [0.0, 1.0, 1.0, 1.0, 1.0]


def test_scoring_leaves_autograd_random_states_and_training_mode_alone(
    base_dir: Path, tasks: list[PreparedTask]
) -> None:
    import torch

    model = load_model(base_dir, "cpu").train()
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    Scorer(model, base_dir, tasks, device="cpu").score(3)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    assert torch.is_grad_enabled()
    assert model.training
    model(input_ids=torch.tensor([[1, 2]]), labels=torch.tensor([[1, 2]])).loss.backward()


def test_nothing_is_written(
    base_dir: Path, tasks: list[PreparedTask], model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    import datasets

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.chdir(tmp_path)
    files = sorted(base_dir.rglob("*"))
    Scorer(model, base_dir, tasks, device="cpu").score(3)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["tmp"]
    assert sorted(base_dir.rglob("*")) == files


USER_FILE = """
import numpy as np
from lighteval.metrics.metrics import Metrics
from lighteval.metrics.metrics_sample import SampleLevelComputation
from lighteval.metrics.utils.metric_utils import SampleLevelMetric
from lighteval.tasks.lighteval_task import LightevalTaskConfig
from lighteval.tasks.requests import Doc, SamplingMethod

class GoldLogLikelihood(SampleLevelComputation):
    def compute(self, doc, model_response, **_):
        return float(model_response.logprobs[doc.gold_index])

def prompt(line, task_name=None):
    return Doc(task_name=task_name, query=line["question"], choices=line["choices"], gold_index=line["answer"])

TASKS_TABLE = [
    LightevalTaskConfig(
        name=name, prompt_function=prompt, hf_repo={folder!r}, hf_subset="default", hf_avail_splits=["test"],
        evaluation_splits=["test"], few_shots_split="test", few_shots_select="sequential", metrics=metrics,
    )
    for name, metrics in (
        ("mine", [Metrics.loglikelihood_acc, Metrics.exact_match]),
        ("pair:a", [Metrics.loglikelihood_acc]),
        ("pair:b", [Metrics.loglikelihood_acc]),
        ("broken", [Metrics.target_perplexity]),
        ("corpus", [Metrics.loglikelihood_f1]),
        ("negative", [SampleLevelMetric("gold", True, SamplingMethod.LOGPROBS, GoldLogLikelihood(), np.mean)]),
    )
]
"""


@pytest.fixture(scope="module")
def user_task(
    tasks: list[PreparedTask], task_recipe: Maker, model: Any, base_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Scorer]]:
    """A maker of scorers of one task of the user's own lighteval file, over the samples of "math"."""
    import datasets

    folder = next(task for task in tasks if task.name == "math").folder
    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))

    def make(code: str = USER_FILE.format(folder=str(folder)), **spec: Any) -> Scorer:
        recipe = task_recipe(mine=({"kind": "lighteval", "file": "my_tasks.py"} | spec, []))
        (recipe.folder / "my_tasks.py").write_text(code)
        return Scorer(model, base_dir, prepared(recipe, base_dir, recipe.folder / "out"), device="cpu")

    yield make
    patch.undo()


def test_a_users_task_file_gives_the_same_accuracy_as_our_task(user_task: Maker, scorer: Scorer) -> None:
    mine = user_task(task="mine|0", metric="acc").score()["mine"]
    assert (mine.primary, mine.metrics["acc"].higher_is_better, mine.metrics["acc"].floor) == ("acc", True, 0.0)
    assert mine.score.value == scorer.score()["math"].metrics["acc"].score().value
    assert mine.score.n == 12


def test_a_metric_of_negative_values_is_no_collapse_and_its_floor_lies_below_them(user_task: Maker, model: Any) -> None:
    scorer = user_task(task="negative|0", metric="gold")
    scores = scorer.score()
    assert scores["mine"].score.value < 0
    assert collapsed(scores) == []
    assert floored(scores) == scores
    with weights_changed(model, lambda parameter: parameter * math.nan):
        worst = floored(scorer.score())["mine"].score.value
    assert math.isfinite(worst)
    assert worst < scores["mine"].score.value


def test_a_users_task_can_have_few_shots_and_generate(user_task: Maker) -> None:
    scorer = user_task(task="mine|2", metric="acc")
    docs = scorer._tasks[0].docs
    assert all(len(doc.fewshot_samples) == 2 for doc in docs)
    assert scorer.score(4)["mine"].score.n == 4
    assert user_task(task="mine", metric="em").score(2)["mine"].score.n == 2


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"task": "nobody|0", "metric": "acc"}, "lighteval does not know 'nobody|0'"),
        ({"task": "mine|0", "metric": "bleu"}, "'mine|0' has no metric 'bleu', only acc, em."),
        ({"task": "pair|0", "metric": "acc"}, "'pair|0' stands for 2 tasks (pair:a|0, pair:b|0 ...); name one."),
        ({"task": "mine|0", "metric": "acc", "higher_is_better": False}, "set higher_is_better: true"),
        ({"task": "mine|0", "metric": "acc", "code": "1 / 0"}, "cannot be loaded: ZeroDivisionError: division by zero"),
        ({"task": "mine,broken", "metric": "acc"}, "name one"),
    ],
)
def test_a_lighteval_task_that_cannot_be_scored_is_named(user_task: Maker, spec: dict[str, Any], words: str) -> None:
    with pytest.raises(TaskError) as caught:
        user_task(**spec)
    assert str(caught.value).startswith("Task 'mine': ")
    assert words in str(caught.value)


def test_a_metric_without_a_number_per_sample_is_named(user_task: Maker) -> None:
    with pytest.raises(TaskError, match="metric 'loglikelihood_f1' gives no number per sample"):
        user_task(task="corpus|0", metric="loglikelihood_f1").score()


def test_an_empty_question_is_begun_with_a_special_token(user_task: Maker, tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"question": "", "choices": ["a", "b"], "answer": 0}\n' * 2)
    scorer = user_task(code=USER_FILE.format(folder=str(tmp_path)), task="mine|0", metric="acc")
    assert scorer._live.requests(scorer._tasks[0].docs[0])[0].context == (0,)
    assert scorer.score()["mine"].score.n == 2


def test_running_out_of_memory_is_the_machines_fault(
    scorer: Scorer, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def out_of_memory(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model.model, "forward", out_of_memory)
    with pytest.raises(InfrastructureError, match="Memory ran out while scoring"):
        scorer.score()


def test_a_model_too_large_for_the_memory_is_the_machines_fault(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    def no_memory(*_: Any, **__: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", no_memory)
    with pytest.raises(InfrastructureError, match="Memory ran out while loading base"):
        load_model(base_dir, "cpu")


def test_a_model_keeps_its_stored_dtype(tiny_model: Maker) -> None:
    import torch

    assert load_model(tiny_model("bf16", dtype="bfloat16"), "cpu").dtype == torch.bfloat16


def test_a_folder_without_a_whole_model_is_named(base_dir: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    with pytest.raises(TaskError, match="cannot be loaded as a causal language model"):
        load_model(tmp_path, "cpu")
    broken = shutil.copytree(base_dir, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TaskError, match=r"lacks the weights model\.norm\.weight"):
        load_model(broken, "cpu")


def test_a_scorer_refuses_a_model_that_is_elsewhere(model: Any, base_dir: Path, tasks: list[PreparedTask]) -> None:
    with pytest.raises(ValueError, match="the model is on cpu, not on cuda"):
        Scorer(model, base_dir, tasks, device="cuda")
