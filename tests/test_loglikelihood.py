"""Log-likelihoods and their slopes: transformers' own loss, lighteval's own sums, packed rows that change nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import part_samples
import pytest
from part_samples import prepared

from mergekit_optimer.errors import TaskError
from mergekit_optimer.evaluate import Scorer, load_model
from mergekit_optimer.evaluate.plan import Budget, Limits, Request, budget_for, gradient_budget, plan
from mergekit_optimer.tasks import PreparedTask

Maker = Callable[..., Any]

# Fewer of them: each is also run one by one.
DOCUMENTS, QUESTIONS, STORIES = part_samples.DOCUMENTS[:8], part_samples.QUESTIONS[:6], part_samples.STORIES[:6]
GREETINGS = [{"question": f"{a} + 2 =", "answer": f"{a + 2}"} for a in range(5)]
SECTIONS: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "ja": ({"kind": "text", "max_tokens": 60}, DOCUMENTS),
    "math": ({"kind": "choice"}, QUESTIONS),
    "story": ({"kind": "choice"}, STORIES),
    "half": ({"kind": "choice", "make_choices": True, "max_tokens": 40, "metric": "acc"}, DOCUMENTS),
    "gen": ({"kind": "generate", "max_new_tokens": 4}, GREETINGS),
}
ARCHITECTURES = ["llama", "qwen3", "gemma3_text", "gpt2"]


@pytest.fixture(scope="module")
def tasks(task_recipe: Maker, base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[PreparedTask]:
    return prepared(task_recipe(**SECTIONS), base_dir, tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="module")
def model(base_dir: Path) -> Any:
    return load_model(base_dir, "cpu")


@pytest.fixture(scope="module")
def scorer(model: Any, base_dir: Path, tasks: list[PreparedTask]) -> Scorer:
    return Scorer(model, base_dir, tasks, device="cpu")


@pytest.fixture
def scorer_of(tasks: list[PreparedTask]) -> Maker:
    """A maker of scorers of some tasks: scorer_of(model, model_dir, "story")."""

    def make(model: Any, model_dir: Path, *names: str, **options: Any) -> Scorer:
        chosen = [task for task in tasks if task.name in names]
        return Scorer(model, model_dir, chosen, device="cpu", **options)

    return make


def assert_equals_lightevals_own(scorer: Scorer, relative: float = 1e-5) -> None:
    from lighteval.models.transformers.transformers_model import TransformersModel

    for task in scorer._tasks:
        mine = scorer._live.loglikelihood(task.docs)
        theirs = TransformersModel._loglikelihood_tokens(scorer._live, task.docs)
        assert [one.logprobs for one in mine] == [pytest.approx(other.logprobs, rel=relative) for other in theirs]


def n_packed(scorer: Scorer) -> int:
    scorer.score()
    plans = scorer._live._plans.values()
    return sum(len(batch.input_ids) for work in plans for batch in work.batches if batch.segments is not None)


def losses(model: Any, model_dir: Path, task: PreparedTask) -> list[float]:
    """Bits per byte of each sample from transformers' own loss over the text as one."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    found = []
    for sample in task.samples():
        ids = tokenizer(sample["context"] + sample["target"], return_tensors="pt")["input_ids"]
        n_given = ids.shape[1] - len(
            tokenizer(sample["context"] + sample["target"], add_special_tokens=False).input_ids
        )
        labels = ids.clone()
        labels[:, : n_given + sample["n_context_tokens"]] = -100
        with torch.no_grad():
            loss = float(model(input_ids=ids, labels=labels).loss)
        n_scored = int((labels != -100).sum())
        found.append(loss * n_scored / math.log(2) / len(sample["target"].encode()))
    return found


@pytest.mark.parametrize("arch", ["llama", "qwen3", "gemma3_text", "gpt2"])
def test_bits_per_byte_is_transformers_own_loss(tiny_model: Maker, tasks: list[PreparedTask], arch: str) -> None:
    model_dir = tiny_model(f"bpb_{arch}", arch=arch)
    model = load_model(model_dir, "cpu")
    task = next(task for task in tasks if task.name == "ja")
    (scores,) = Scorer(model, model_dir, [task], device="cpu").score().values()
    samples = scores.metrics["bits_per_byte"]
    assert samples.values == pytest.approx(losses(model, model_dir, task), abs=1e-5)
    assert samples.weights == tuple(len(sample["target"].encode()) for sample in task.samples())
    assert (samples.higher_is_better, samples.floor) == (False, 8.0)


def test_a_tokenizer_that_opens_with_bos_scores_the_same_bytes_after_it(
    tiny_model: Maker, task_recipe: Maker, tmp_path: Path
) -> None:
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    model_dir = tiny_model("bos")
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer.save_pretrained(model_dir)
    recipe = task_recipe(ja=SECTIONS["ja"], math=SECTIONS["math"])
    model, tasks = load_model(model_dir, "cpu"), prepared(recipe, model_dir, tmp_path)
    scorer = Scorer(model, model_dir, tasks, device="cpu")
    values = scorer.score()["ja"].metrics["bits_per_byte"].values
    assert values == pytest.approx(losses(model, model_dir, tasks[0]), abs=1e-5)
    first = scorer._live.requests(scorer._tasks[0].docs[0])[0]
    assert first.context[0] == 0
    assert first.context[1:] + first.continuation == tuple(
        tokenizer(
            scorer._tasks[0].docs[0].query + scorer._tasks[0].docs[0].choices[0], add_special_tokens=False
        ).input_ids
    )


def test_log_likelihoods_equal_lightevals_own(scorer: Scorer) -> None:
    from lighteval.models.transformers.transformers_model import TransformersModel

    for task in scorer._tasks:
        if task.category == "LOGPROBS":
            mine = scorer._live.loglikelihood(task.docs)
            theirs = TransformersModel._loglikelihood_tokens(scorer._live, task.docs)
            for one, other in zip(mine, theirs, strict=True):
                assert one.logprobs == pytest.approx(other.logprobs, rel=1e-5)


def test_greedy_matches_equal_lightevals_own(scorer: Scorer) -> None:
    from dataclasses import replace

    from lighteval.models.transformers.transformers_model import TransformersModel

    task = next(task for task in scorer._tasks if task.name == "gen")
    written = [response.text[0] for response in scorer._live.greedy_until(task.docs)]
    docs = [
        replace(doc, choices=["no", text], gold_index=1, specific=None)
        for doc, text in zip(task.docs, written, strict=True)
    ]
    mine = [response.argmax_logits_eq_gold for response in scorer._live.loglikelihood(docs)]
    theirs = TransformersModel._loglikelihood_tokens(scorer._live, docs)
    assert mine == [response.argmax_logits_eq_gold for response in theirs]
    assert [False, True] in mine


def test_a_bfloat16_model_is_summed_in_float32(base_dir: Path, tasks: list[PreparedTask]) -> None:
    import torch

    model = load_model(base_dir, "cpu", dtype=torch.bfloat16)
    scorer = Scorer(model, base_dir, [task for task in tasks if task.name == "ja"], device="cpu")
    doc = scorer._tasks[0].docs[0]
    (request,) = scorer._live.requests(doc)
    ids = torch.tensor([request.context + request.continuation])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0].float().log_softmax(-1)
    n = len(request.continuation)
    wanted = logits[-n - 1 : -1].gather(1, ids[0, -n:, None]).sum()
    (response,) = scorer._live.loglikelihood([doc])
    assert response.logprobs == pytest.approx([float(wanted)], rel=2e-3)


@pytest.mark.parametrize("batch_tokens", [1, 64, 100_000])
def test_scores_do_not_depend_on_the_batches(
    base_dir: Path, tasks: list[PreparedTask], model: Any, scorer: Scorer, batch_tokens: int
) -> None:
    mine = Scorer(model, base_dir, tasks, device="cpu", batch_tokens=batch_tokens).score()
    for name, scores in scorer.score().items():
        for metric, samples in scores.metrics.items():
            assert mine[name].metrics[metric].values == pytest.approx(samples.values, rel=1e-4)


def test_letters_of_one_question_share_a_row(base_dir: Path, task_recipe: Maker, model: Any, tmp_path: Path) -> None:
    rows = [{"question": f"問{n}は", "choices": ["A", "B", "C", "D"], "answer": n} for n in range(3)]
    tasks = prepared(task_recipe(mcf=({"kind": "choice"}, rows)), base_dir, tmp_path)
    scorer = Scorer(model, base_dir, tasks, device="cpu")
    scorer.score()
    (plan,) = scorer._live._plans.values()
    assert sum(batch.input_ids.shape[0] for batch in plan.batches) == 3
    assert sum(len(batch.targets) for batch in plan.batches) == 12


def test_a_long_context_loses_its_start_as_in_lighteval(
    base_dir: Path, task_recipe: Maker, model: Any, tmp_path: Path
) -> None:
    from lighteval.models.transformers.transformers_model import TransformersModel

    rows = [{"question": "x y z " * 60 + "=", "choices": ["4", "5 6 7"], "answer": 0}, QUESTIONS[0]]
    scorer = Scorer(
        model, base_dir, prepared(task_recipe(q=({"kind": "choice"}, rows)), base_dir, tmp_path), device="cpu"
    )
    docs = scorer._tasks[0].docs
    mine, theirs = scorer._live.loglikelihood(docs), TransformersModel._loglikelihood_tokens(scorer._live, docs)
    assert [one.logprobs for one in mine] == [pytest.approx(other.logprobs, rel=1e-5) for other in theirs]


def test_a_packed_row_holds_the_context_once_and_tells_its_choices_apart() -> None:
    import torch

    question = [Request((1, 2, 3, 4, 5, 6), choice) for choice in ((7, 8, 9), (7,), (10, 11), (7, 8, 12))]
    work = plan([question], Budget(99, 99), Limits(20, 20, packs=True), torch.device("cpu"))
    (batch,) = work.batches
    assert batch.segments is not None
    assert batch.position_ids is not None
    # The last tokens 9, 11 and 12 are never an input; choices that begin alike share their tokens.
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 10]]
    assert batch.segments.tolist() == [[0, 0, 0, 0, 0, 0, 1, 1, 2]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 6]]
    assert batch.predicting.tolist() == [5, 6, 7, 8]
    assert batch.sources is not None
    wanted = sorted(zip(batch.requests.tolist(), batch.sources.tolist(), batch.targets.tolist(), strict=True))
    assert wanted == [
        (0, 0, 7),
        (0, 1, 8),
        (0, 2, 9),
        (1, 0, 7),
        (2, 0, 10),
        (2, 3, 11),
        (3, 0, 7),
        (3, 1, 8),
        (3, 2, 12),
    ]


@pytest.mark.parametrize(
    ("question", "limits"),
    [
        ([Request((1,), (2, 3, 4)), Request((1,), (5, 6, 7))], Limits(20, 20, packs=True)),
        ([Request((1, 2, 3, 4), (5,)), Request((1, 2, 3, 4), (6,))], Limits(20, 20, packs=True)),
        ([Request((1, 2, 3, 4), (5, 6)), Request((1, 2, 3, 5), (6, 7))], Limits(20, 20, packs=True)),
        ([Request((1, 2, 3, 4), (5, 6)), Request((1, 2, 3, 4), (6, 7))], Limits(5, 5, packs=True)),
        ([Request((1, 2, 3, 4), (5, 6)), Request((1, 2, 3, 4), (6, 7))], Limits(20, 5, packs=True)),
        ([Request((1, 2, 3, 4), (5, 6)), Request((1, 2, 3, 4), (6, 7))], Limits(20, 20, packs=False)),
    ],
    ids=["little_to_save", "one_row_anyway", "contexts_differ", "too_long", "beyond_the_window", "model_does_not"],
)
def test_choices_have_rows_of_their_own_where_that_is_better_or_needed(question: list[Request], limits: Limits) -> None:
    import torch

    work = plan([question], Budget(99, 99), limits, torch.device("cpu"))
    assert all(batch.segments is None for batch in work.batches)


def test_batches_are_bounded_by_tokens_and_by_logits() -> None:
    import torch

    texts = [[Request((1,), tuple(range(2, 10 + n)))] for n in range(6)]
    limits = Limits(99, 99, packs=True)
    for budget in (Budget(30, 999), Budget(999, 30)):
        work = plan(texts, budget, limits, torch.device("cpu"))
        assert sum(len(batch.input_ids) for batch in work.batches) == 6
        assert all(min(batch.input_ids.numel(), len(batch.predicting)) <= 30 for batch in work.batches)
        assert len(work.batches) == 3
    assert len(plan(texts, Budget(1, 1), limits, torch.device("cpu")).batches) == 6


def test_a_large_model_gets_fewer_tokens_at_once_when_activations_are_kept() -> None:
    budget = budget_for("cuda", 262_144)
    small = gradient_budget(budget, "cuda", 262_144, hidden_size=512, n_layers=8, itemsize=4)
    large = gradient_budget(budget, "cuda", 262_144, hidden_size=5376, n_layers=62, itemsize=2)
    assert budget.tokens >= small.tokens > large.tokens >= 64
    assert large.tokens * 24 * 5376 * 62 * 2 <= 8 * 2**30
    assert small.targets == budget.targets // 2


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_packed_rows_give_the_log_likelihoods_of_rows_of_their_own(
    tiny_model: Maker, scorer_of: Maker, arch: str, attention: str
) -> None:
    model_dir = tiny_model(f"packed_{arch}_{attention}", arch=arch)
    model: Any = load_model(model_dir, "cpu")
    model.set_attn_implementation(attention)
    scorer = scorer_of(model, model_dir, "story", "math")
    assert n_packed(scorer) >= len(STORIES)
    assert_equals_lightevals_own(scorer)


def test_documents_are_never_packed(scorer: Scorer) -> None:
    questions = [scorer._live.requests(doc) for task in scorer._tasks if task.name == "ja" for doc in task.docs]
    work = plan(questions, Budget(999, 999), replace(scorer._live._limits, packs=True), scorer._live._forward.device)
    assert [batch.segments for batch in work.batches] == [None]


def test_a_bfloat16_model_packs_and_stays_within_its_rounding(tiny_model: Maker, scorer_of: Maker) -> None:
    model_dir = tiny_model("packed_bf16", dtype="bfloat16")
    scorer = scorer_of(load_model(model_dir, "cpu"), model_dir, "story")
    assert n_packed(scorer) == len(STORIES)
    packed = scorer.score()["story"].metrics["gold_ll"].values
    scorer._live._limits, scorer._live._plans = replace(scorer._live._limits, packs=False), {}
    assert packed == pytest.approx(scorer.score()["story"].metrics["gold_ll"].values, rel=1e-2)


def refuses_masks(options: dict[str, Any]) -> None:
    if getattr(options.get("attention_mask"), "ndim", 2) == 4:
        raise ValueError("only masks of two dimensions")


def ignores_masks(options: dict[str, Any]) -> None:
    options["attention_mask"] = None


def ignores_position_ids(options: dict[str, Any]) -> None:
    options["position_ids"] = None


@pytest.mark.parametrize("change", [refuses_masks, ignores_masks, ignores_position_ids])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_that_cannot_tell_choices_apart_gets_rows_of_their_own(
    tiny_model: Maker, scorer_of: Maker, monkeypatch: pytest.MonkeyPatch, change: Callable[..., None], dtype: str
) -> None:
    model_dir = tiny_model(f"{change.__name__}_{dtype}", dtype=dtype)
    model: Any = load_model(model_dir, "cpu")
    inner = model.model.forward

    def forward(*args: Any, **options: Any) -> Any:
        change(options)
        return inner(*args, **options)

    monkeypatch.setattr(model.model, "forward", forward)
    scorer = scorer_of(model, model_dir, "story")
    assert n_packed(scorer) == 0
    if dtype == "float32":
        assert_equals_lightevals_own(scorer)


def test_a_recurrent_model_gets_rows_of_their_own(tiny_model: Maker, scorer_of: Maker) -> None:
    model_dir = tiny_model("mamba", arch="mamba", state_size=4)
    scorer = scorer_of(load_model(model_dir, "cpu"), model_dir, "story")
    assert n_packed(scorer) == 0
    assert_equals_lightevals_own(scorer, relative=1e-4)


def test_questions_longer_than_a_sliding_window_get_rows_of_their_own(tiny_model: Maker, scorer_of: Maker) -> None:
    model_dir = tiny_model("window", arch="gemma3_text", sliding_window=8)
    scorer = scorer_of(load_model(model_dir, "cpu"), model_dir, "story")
    assert scorer._live._limits.window == 8
    assert n_packed(scorer) == 0
    assert_equals_lightevals_own(scorer)


def test_a_model_that_is_not_finite_when_the_scorer_is_made_is_not_judged_by_it(
    base_dir: Path, scorer_of: Maker
) -> None:
    import torch

    model = load_model(base_dir, "cpu")
    before = [parameter.clone() for parameter in model.parameters()]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)
    scorer = scorer_of(model, base_dir, "story", "ja")
    with torch.no_grad():
        for parameter, values in zip(model.parameters(), before, strict=True):
            parameter.copy_(values)
    assert_equals_lightevals_own(scorer)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_output_layer_sees_the_wanted_positions_only(tiny_model: Maker, scorer_of: Maker, arch: str) -> None:
    options = {"final_logit_softcapping": 0.5} if arch == "gemma3_text" else {}
    model_dir = tiny_model(f"wanted_{arch}", arch=arch, **options)
    model: Any = load_model(model_dir, "cpu")
    scorer = scorer_of(model, model_dir, "ja", "math", "story")
    seen: list[int] = []
    hook = model.get_output_embeddings().register_forward_hook(lambda _module, args, _out: seen.append(args[0].numel()))
    scorer.score()
    hook.remove()
    (work,) = scorer._live._plans.values()
    hidden = model.get_output_embeddings().weight.shape[1]
    assert sum(seen) == hidden * sum(len(batch.predicting) for batch in work.batches)
    assert_equals_lightevals_own(scorer)


@pytest.mark.parametrize("keeps", [True, False])
def test_a_model_without_an_output_layer_to_be_found_gives_the_same_numbers(
    base_dir: Path, scorer_of: Maker, monkeypatch: pytest.MonkeyPatch, keeps: bool
) -> None:
    model: Any = load_model(base_dir, "cpu")
    monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    scorer = scorer_of(model, base_dir, "ja", "story")
    if not keeps:
        scorer._live._forward.options -= {"logits_to_keep"}
    assert not scorer._live._forward.picks
    assert_equals_lightevals_own(scorer)


def test_forward_only_runs_the_forward_passes_of_a_score(model: Any, scorer: Scorer) -> None:
    shapes: list[tuple[int, ...]] = []
    hook = model.model.register_forward_hook(
        lambda _module, _args, options, _out: shapes.append(tuple((options.get("input_ids")).shape)), with_kwargs=True
    )
    scorer.score()
    scored, shapes[:] = list(shapes), []
    scorer.forward_only()
    hook.remove()
    assert shapes == scored
    assert len(shapes) > 1


SHARES = {"ja": 0.7, "story": 0.2, "math": -0.4}


def value_of(scorer: Scorer, *part: int | None) -> float:
    scores = scorer.score(part[0] if part else None, start=part[1] or 0 if part[1:] else 0)
    signs = {"ja": -1.0, "story": 1.0, "math": 1.0}
    return sum(share * signs[name] * scores[name].score.value for name, share in SHARES.items())


@pytest.mark.parametrize("part", [(None, 0), (4, 0), (6, 2)])
def test_the_value_of_backward_is_that_of_score(scorer: Scorer, model: Any, part: tuple[int | None, int]) -> None:
    found = scorer.backward(SHARES, part[0], start=part[1])
    model.zero_grad()
    assert found == pytest.approx(value_of(scorer, *part), rel=1e-5)


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
@pytest.mark.parametrize("tied", [True, False])
def test_backward_gives_the_gradient_of_score(tiny_model: Maker, scorer_of: Maker, arch: str, tied: bool) -> None:
    import torch

    model_dir = tiny_model(f"slope_{arch}_{tied}", arch=arch, tied=tied)
    model: Any = load_model(model_dir, "cpu", dtype=torch.float64)
    scorer = scorer_of(model, model_dir, "ja", "math", "story")
    scorer.backward(SHARES, None)
    generator = torch.Generator().manual_seed(1)
    parameters = list(model.named_parameters())
    for name, parameter in [*parameters[::6], *parameters[-2:]]:
        # Norms round to float32 inside: a step must be larger than that.
        step = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 1e-3
        with torch.no_grad():
            parameter += step
            above = value_of(scorer)
            parameter -= 2 * step
            below = value_of(scorer)
            parameter += step
        slope = float((parameter.grad * step).sum())
        assert slope == pytest.approx((above - below) / 2, rel=5e-3, abs=1e-8), name


def test_the_gradient_is_added_batch_by_batch_and_does_not_depend_on_the_batches(
    base_dir: Path, scorer_of: Maker
) -> None:
    import torch

    model: Any = load_model(base_dir, "cpu").train()
    weight = model.model.layers[0].mlp.up_proj.weight
    calls: list[int] = []
    weight.register_post_accumulate_grad_hook(lambda _weight: calls.append(1))
    whole = scorer_of(model, base_dir, "ja", "math", "story").backward(SHARES, None)
    gradient, weight.grad = weight.grad.clone(), None
    n_calls = len(calls)
    parts = scorer_of(model, base_dir, "ja", "math", "story", batch_tokens=64).backward(SHARES, None)
    assert parts == pytest.approx(whole, rel=1e-5)
    assert torch.allclose(gradient, weight.grad, rtol=1e-4, atol=1e-7)
    assert len(calls) - n_calls > n_calls
    assert torch.is_grad_enabled()
    assert model.training


def test_a_bfloat16_model_has_a_gradient(tiny_model: Maker, scorer_of: Maker) -> None:
    import torch

    model_dir = tiny_model("slope_bf16", dtype="bfloat16")
    gradients = []
    for dtype in (torch.bfloat16, torch.float32):
        model: Any = load_model(model_dir, "cpu", dtype=dtype)
        scorer_of(model, model_dir, "ja", "math", "story").backward(SHARES, None)
        gradients.append(model.model.layers[1].self_attn.q_proj.weight.grad.double().flatten())
    assert torch.cosine_similarity(*gradients, dim=0) > 0.98


def test_a_collapsed_model_has_no_value(base_dir: Path, scorer_of: Maker) -> None:
    import torch

    model = load_model(base_dir, "cpu")
    scorer = scorer_of(model, base_dir, "ja", "math", "story")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)
    assert math.isnan(scorer.backward(SHARES, None))


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ({"ja": 1.0, "half": 1.0}, "Task 'half' is measured by acc, which has no gradient; use a task of kind: text"),
        ({"gen": 1.0}, "Task 'gen' is measured by exact_match, which has no gradient"),
        ({"fr": 1.0}, "There is no task 'fr', only gen, half, ja, math, story."),
    ],
)
def test_a_task_without_a_gradient_is_named(scorer: Scorer, shares: dict[str, float], words: str) -> None:
    with pytest.raises(TaskError) as caught:
        scorer.backward(shares, None)
    assert words in str(caught.value)
