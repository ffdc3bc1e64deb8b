"""mergekit-evolve genomes as recipes: what is taken over, and that nothing is dropped in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from mergekit_optimer.cli import cli
from mergekit_optimer.errors import RecipeError
from mergekit_optimer.evolve import COUNTERPARTS, ImportedRecipe, import_genome
from mergekit_optimer.recipe import LightevalTask, Recipe, load_recipe

PLAIN: dict[str, Any] = {
    "genome": {
        "models": ["org/math-7b", "org/ja-7b@abc123"],
        "base_model": "org/base-7b",
        "merge_method": "task_arithmetic",
        "allow_negative_weights": True,
    },
    "tasks": [{"name": "gsm8k", "metric": "exact_match,none", "weight": 0.7}, {"name": "arc_easy", "weight": 0.3}],
    "limit": 200,
    "num_fewshot": 4,
    "apply_chat_template": False,
}


def with_changes(genome: dict[str, Any] | None = None, **rest: Any) -> dict[str, Any]:
    data = PLAIN | rest
    return data | {"genome": PLAIN["genome"] | (genome or {})}


def imported(folder: Path, data: Any, held_out: tuple[str, ...] = ()) -> ImportedRecipe:
    path = folder / "genome.yml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return import_genome(path, folder, held_out)


def loaded(folder: Path, made: ImportedRecipe) -> Recipe:
    assert made.to_fill == ()
    (folder / "recipe.yaml").write_text(made.text)
    return load_recipe(folder / "recipe.yaml")


def test_a_genome_becomes_a_recipe_that_loads(tmp_path: Path) -> None:
    made = imported(tmp_path, PLAIN, held_out=("winogrande",))
    assert made.unlike == ("tasks.gsm8k: exact_match becomes extractive_match, which is what lighteval has for gsm8k",)
    recipe = loaded(tmp_path, made)
    assert recipe.name == "genome"
    assert str(recipe.base_model) == "org/base-7b"
    assert {name: str(spec.checkpoint) for name, spec in recipe.pool.items()} == {
        "ja-7b": "org/ja-7b@abc123",
        "math-7b": "org/math-7b",
    }
    assert recipe.search.objective.task_weights == {"arc_easy": 0.3, "gsm8k": 0.7}
    assert [rung.n_samples for rung in recipe.search.rungs] == [200]
    assert (recipe.search.interval("ja-7b").low, recipe.search.interval("ja-7b").high) == (-0.5, 1.25)
    assert recipe.tasks == {
        "gsm8k": LightevalTask(kind="lighteval", task="gsm8k|4", metric="extractive_match"),
        "arc_easy": LightevalTask(kind="lighteval", task="arc:easy|4", metric="acc"),
    }
    assert recipe.held_out == {"winogrande": LightevalTask(kind="lighteval", task="winogrande|4", metric="acc")}


def test_weights_begin_at_zero_where_negative_ones_are_not_allowed(tmp_path: Path) -> None:
    made = imported(tmp_path, with_changes({"allow_negative_weights": False}), held_out=("sciq",))
    assert loaded(tmp_path, made).search.interval("ja-7b").low == 0.0
    assert any("absolute values" in sentence for sentence in made.unlike)


def test_equal_weights_are_a_mean(tmp_path: Path) -> None:
    made = imported(tmp_path, with_changes(tasks=["arc_easy", "piqa"]), held_out=("sciq",))
    assert loaded(tmp_path, made).search.objective.mean == ["arc_easy", "piqa"]


def test_everything_without_a_counterpart_is_named_in_the_list_and_in_the_yaml(tmp_path: Path) -> None:
    genome = {
        "merge_method": "dare_ties",
        "layer_granularity": 8,
        "filters": ["self_attn", "mlp"],
        "smooth": True,
        "normalize": True,
        "tokenizer_source": "union",
        "colour": "red",
    }
    tasks = [{"name": "gsm8k", "metric": "exact_match,strict-match"}, {"name": "spartqa_train", "weight": 2.0},
             {"name": "arc_easy", "metric": "f1,none"}]  # fmt: skip
    data = with_changes(genome, tasks=tasks, shuffle=True, random_init=True, apply_chat_template=True) | {"seed": 1}
    del data["limit"], data["num_fewshot"]
    made = imported(tmp_path, data)
    found = [sentence.partition(":")[0] for sentence in made.unlike]
    assert sorted(set(found)) == [
        "apply_chat_template", "fewshot_as_multiturn", "genome.colour", "genome.filters", "genome.layer_granularity",
        "genome.merge_method", "genome.normalize", "genome.smooth", "genome.tokenizer_source", "limit", "num_fewshot",
        "random_init", "seed", "shuffle", "tasks.arc_easy", "tasks.gsm8k", "tasks.spartqa_train",
    ]  # fmt: skip
    for sentence in made.unlike:
        assert f"#   {sentence}\n" in made.text
    text = " ".join(made.unlike)
    assert "the filter strict-match is not taken over" in text
    assert "spartqa_train: lighteval has no such task, so weight 2 of the objective is gone" in text
    assert "arc_easy: lighteval has no metric f1 of it" in text
    assert set(yaml.safe_load(made.text)["tasks"]) == {"gsm8k"}


def test_no_key_of_mergekits_schema_is_unknown_to_the_import() -> None:
    from mergekit.evo.config import EvolMergeConfiguration, TaskConfiguration
    from mergekit.evo.genome import METHOD_PARAM_MAPS, ModelGenomeDefinition

    hint = "mergekit-evolve has a new setting: take it over in evolve/convert.py, or name it in evolve/unlike.py"
    assert set(ModelGenomeDefinition.model_fields) == {
        "models", "merge_method", "base_model", "tokenizer_source", "layer_granularity", "normalize",
        "allow_negative_weights", "filters", "smooth",
    }, hint  # fmt: skip
    assert set(EvolMergeConfiguration.model_fields) == {
        "genome", "tasks", "limit", "num_fewshot", "shuffle", "random_init", "apply_chat_template",
        "fewshot_as_multiturn",
    }, hint  # fmt: skip
    assert set(TaskConfiguration.model_fields) == {"name", "weight", "metric"}, hint
    assert set(METHOD_PARAM_MAPS) == {"linear", "task_arithmetic", "ties", "dare_ties", "slerp"}, hint


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_what_a_genome_does_not_have_is_said_with_a_line_to_write(tmp_path: Path, method: str) -> None:
    data = with_changes({"merge_method": method}, tasks=["my_own_task"])
    del data["genome"]["base_model"]
    made = imported(tmp_path, data)
    assert made.to_fill == ("base_model: missing", "held_out: missing", "search.objective: missing", "tasks: missing")
    assert "#   base_model: {repo: owner/name}   # the model that all of these were trained from\n" in made.text
    assert "#   held_out: {name: {kind: text, path: held_out.jsonl}}   # samples that no trial sees\n" in made.text
    assert f"genome.merge_method: {method} " in " ".join(made.unlike)
    # As it stands it is YAML, and the same problems are told by every verb.
    (tmp_path / "recipe.yaml").write_text(made.text)
    with pytest.raises(RecipeError, match="has 4 problems"):
        load_recipe(tmp_path / "recipe.yaml")


def test_models_are_told_apart_and_the_base_is_no_vector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here/models/JA-7b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    models = ["org/base-7b", "org/ja-7b", "./models/JA-7b", "org/base-7b+org/lora-law", "org/other-7b+org/lora-x"]
    made = imported(tmp_path, with_changes({"models": models}), held_out=("sciq",))
    recipe = loaded(tmp_path, made)
    assert list(yaml.safe_load(made.text)["vectors"]) == ["ja-7b", "JA-7b-2", "lora-law"]
    assert str(recipe.pool["JA-7b-2"].checkpoint) == "here/models/JA-7b"
    assert str(recipe.pool["lora-law"].adapter) == "org/lora-law"
    text = " ".join(made.unlike)
    assert "org/base-7b is the base model, whose difference from itself is no vector" in text
    assert "org/other-7b+org/lora-x is an adapter over a model that is not the base" in text


def test_a_name_with_a_line_break_stays_in_its_comment(tmp_path: Path) -> None:
    tasks = ["arc_easy", "x\npublish: {private: false}"]
    made = imported(tmp_path, with_changes(tasks=tasks) | {"y\nseed": 7}, held_out=("sciq",))
    recipe = loaded(tmp_path, made)
    assert (recipe.seed, recipe.publish.private) == (0, True)
    assert "tasks.x publish: {private: false}: lighteval has no such task" in made.text


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("genome: [", "is not YAML"),
        ("models: []", "it has no section genome"),
        (with_changes({"merge_method": "model_stock"}), "genome: invalid merge method"),
        (with_changes({"base_model": None}), "genome: base_model is required for this method"),
        (with_changes({"models": ["a@b@c"]}), "multiple @"),
        ({"genome": PLAIN["genome"]}, "tasks: field required"),
        ({"genome": "x", "tasks": []}, "genome: "),
    ],
)
def test_a_wrong_genome_is_told_in_a_sentence(tmp_path: Path, data: Any, problem: str) -> None:
    with pytest.raises(RecipeError) as caught:
        imported(tmp_path, data)
    assert problem in str(caught.value)


def test_a_held_out_task_is_known_and_not_searched_on(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="arc_easy is searched on"):
        imported(tmp_path, PLAIN, held_out=("arc_easy",))
    with pytest.raises(RecipeError, match=r"no counterpart of the lm-eval task winogrand; did you mean winogrande\?"):
        imported(tmp_path, PLAIN, held_out=("winogrand",))


def test_the_verb_writes_the_recipe_and_lists_the_rest_on_stderr(tmp_path: Path) -> None:
    genome, out = tmp_path / "evo.yml", tmp_path / "recipe.yaml"
    genome.write_text(yaml.safe_dump(with_changes({"layer_granularity": 4})))
    shown = CliRunner().invoke(cli, ["import-evolve", str(genome)], catch_exceptions=False)
    assert yaml.safe_load(shown.stdout)["name"] == "evo"
    assert "not the same: genome.layer_granularity: 4 gives" in shown.stderr
    assert "to be written: held_out: missing" in shown.stderr
    words = ["import-evolve", str(genome), "--out", str(out), "--held-out", "sciq"]
    assert CliRunner().invoke(cli, words, catch_exceptions=False).stdout.strip() == str(out)
    assert load_recipe(out).held_out.keys() == {"sciq"}
    with pytest.raises(RecipeError, match="exists; name another file"):
        CliRunner().invoke(cli, words, catch_exceptions=False)


def test_every_counterpart_is_a_task_and_a_metric_of_the_installed_lighteval() -> None:
    from mergekit_optimer.evaluate.lighteval_compat import broken_task_modules_left_out, contained

    with contained(), broken_task_modules_left_out():
        from lighteval.metrics.utils.metric_utils import MetricGrouping
        from lighteval.tasks.registry import Registry

        known = {}
        for name, config in Registry(tasks=None)._task_registry.items():
            names: set[str] = set()
            for metric in (getattr(one, "value", one) for one in config.metrics):
                names |= set(metric.metric_name) if isinstance(metric, MetricGrouping) else {metric.metric_name}
            known[name] = names
    wrong = {
        task: found
        for task, found in COUNTERPARTS.items()
        if not set(found.metrics.values()) <= known.get(found.task, set())
    }
    assert wrong == {}, "lighteval's tasks have changed: mend the table in evolve/tasks.py"
