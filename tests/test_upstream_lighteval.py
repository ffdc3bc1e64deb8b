"""Behaviours of lighteval 0.13 that ``evaluate`` works around or leans on; each failure says what to change."""

from __future__ import annotations

import importlib.util
import inspect
import random
from pathlib import Path
from typing import Any

import pytest

from mergekit_optimer.evaluate.lighteval_compat import BROKEN_TASK_MODULES, contained


@pytest.fixture(scope="module", autouse=True)
def _lighteval() -> None:
    with contained():
        import lighteval.models.transformers.transformers_model  # noqa: F401


def test_importing_its_model_class_turns_autograd_off() -> None:
    from lighteval.models.transformers import transformers_model

    lines = inspect.getsource(transformers_model).splitlines()
    assert "torch.set_grad_enabled(False)" in lines, "autograd survives the import now: contained() may leave it alone"


def test_wrapping_a_model_turns_autograd_off() -> None:
    from lighteval.models.transformers.transformers_model import TransformersModel

    source = inspect.getsource(TransformersModel.from_model)
    assert "set_grad_enabled(False)" in source, "from_model leaves autograd alone now: see contained()"
    assert "SampleCache(config)" in source, "the cache moved: see LiveModel.around, which drops it"


def test_without_a_cache_its_methods_run_the_model() -> None:
    from lighteval.utils.cache_management import cached

    class Model:
        _cache = None

        @cached("GENERATIVE")
        def greedy_until(self, docs: list[int]) -> list[int]:
            return [doc + 1 for doc in docs]

    assert Model().greedy_until([1, 2]) == [2, 3], "a cache of None is no longer no cache: see LiveModel.around"


def test_a_task_module_downloads_at_import() -> None:
    spec = importlib.util.find_spec("lighteval.tasks.tasks.tiny_benchmarks")
    assert spec is not None, "tiny_benchmarks is gone: drop it from BROKEN_TASK_MODULES"
    source = Path(str(spec.origin)).read_text(encoding="utf-8")
    assert "requests.get(" in source, "it downloads nothing now: drop it from BROKEN_TASK_MODULES"
    assert BROKEN_TASK_MODULES[0] == "tiny_benchmarks"


@pytest.mark.parametrize("name", BROKEN_TASK_MODULES[1:])
def test_a_task_module_needs_a_hub_function_that_is_gone(name: str) -> None:
    with pytest.raises(TypeError, match="model_name"):
        importlib.import_module(f"lighteval.tasks.tasks.{name}")


def test_its_stop_sequence_of_none_becomes_a_tuple_that_cannot_be_added_to_a_list() -> None:
    from lighteval.tasks.lighteval_task import LightevalTaskConfig

    config = LightevalTaskConfig(name="t", prompt_function=lambda *_: None, hf_repo="", hf_subset="", metrics=[])
    assert config.stop_sequence == (), "stop_sequence is a list now: _stock_task need not make it one"


def test_a_task_takes_rows_without_loading_and_shuffles_them_with_its_own_seed() -> None:
    from lighteval.tasks.lighteval_task import LightevalTask, LightevalTaskConfig
    from lighteval.tasks.requests import Doc

    def prompt(line: dict[str, Any], task_name: str) -> Doc:
        return Doc(task_name=task_name, query=line["q"], choices=[""], gold_index=0)

    config = LightevalTaskConfig(
        name="t", prompt_function=prompt, hf_repo="", hf_subset="", metrics=[], evaluation_splits=["test"]
    )
    task = LightevalTask(config)
    task.dataset = {"test": [{"q": str(number)} for number in range(20)]}
    docs = task.get_docs()
    assert [doc.id for doc in docs] == [doc.query for doc in docs], "ids are no longer lines: see _our_task"
    assert [doc.query for doc in docs] != sorted((doc.query for doc in docs), key=int), "drop the sorting of _our_task"


def test_its_pipeline_reseeds_the_global_random_state() -> None:
    from lighteval.pipeline import Pipeline

    state = random.getstate()
    Pipeline._init_random_seeds(object())
    changed = random.getstate() != state
    random.setstate(state)
    assert changed, "lighteval leaves random alone now: contained() may too"


def test_bits_per_byte_come_as_log_probability_and_bytes() -> None:
    from lighteval.metrics.sample_preparator import TargetPerplexityPreparator
    from lighteval.models.model_output import ModelResponse
    from lighteval.tasks.requests import Doc

    given = TargetPerplexityPreparator("bytes").prepare(
        doc=Doc(query="a", choices=["八時"], gold_index=0), model_response=ModelResponse(logprobs=[-3.0])
    )
    assert (float(given.logprobs), given.weights) == (-3.0, 6), "see sample_value in evaluate/lighteval_tasks.py"


def test_continuations_are_tokenised_apart_and_take_the_spaces_before_them() -> None:
    from lighteval.models.abstract_model import LightevalModel

    class Model:
        add_special_tokens = True

        class tokenizer:  # noqa: N801
            eos_token_id = None

        def tok_encode(self, text: str, add_special_tokens: bool) -> list[str]:
            return [("<s>" if add_special_tokens else "") + text]

    contexts, continuations = LightevalModel.tok_encode_pair(Model(), "a: ", ["b", "c"], pairwise=True)
    assert (contexts, continuations) == ([["<s>a:"], ["<s>a:"]], [[" b"], [" c"]]), (
        "see first_cut in tasks/boundaries.py"
    )


def test_custom_task_files_are_named_by_path() -> None:
    from lighteval.tasks.registry import Registry

    module = Registry.create_custom_tasks_module(Path(__file__))
    assert module.__name__ == "test_upstream_lighteval", "see _stock_task in evaluate/lighteval_tasks.py"
