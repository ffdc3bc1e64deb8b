"""The recipe: every problem in one message, with its dotted path and what to write instead."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from mergekit_optimer.errors import RecipeError, RunFolderError
from mergekit_optimer.files import new_folder, read_json, write_json, write_text
from mergekit_optimer.recipe import Recipe, load_recipe
from mergekit_optimer.runs import RunDir, open_run

GOOD: dict[str, Any] = {
    "name": "demo",
    "base_model": {"path": "base"},
    "train": {
        "defaults": {"max_length": 256, "learning_rate": 1.0e-3},
        "datasets": {"ja": {"path": "ja.jsonl", "learning_rate": 5.0e-4}, "math": {"repo": "org/math"}},
    },
    "search": {"objective": {"mean": ["ja"]}},
    "tasks": {"ja": {"kind": "text", "path": "dev.jsonl"}},
    "held_out": {"ja": {"kind": "text", "path": "held_out.jsonl"}},
}


def problems(tmp_path: Path, change: dict[str, Any] | str, *overrides: str) -> list[str]:
    """Load a recipe that must be wrong; returns its problems."""
    path = tmp_path / "recipe.yaml"
    if isinstance(change, str):
        path.write_text(change)
    else:
        path.write_text(yaml.safe_dump(merged(GOOD, change)))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return caught.value.problems


def merged(data: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    out = copy.deepcopy(data)
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = merged(out[key], value)
        else:
            out[key] = value
    return out


def load(tmp_path: Path, change: dict[str, Any] | None = None, *overrides: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(merged(GOOD, change or {})))
    return load_recipe(path, overrides)


def test_omitted_vectors_mean_one_per_dataset(tmp_path: Path) -> None:
    assert {name: spec.dataset for name, spec in load(tmp_path).pool.items()} == {"ja": "ja", "math": "math"}


def test_the_defaults_are_the_papers_rungs(tmp_path: Path) -> None:
    rungs = load(tmp_path).search.rungs
    assert [(rung.n_samples, rung.top) for rung in rungs] == [(100, None), (300, 3)]


def test_a_race_has_one_rung_of_all_its_samples_unless_rungs_are_given(tmp_path: Path) -> None:
    assert [rung.n_samples for rung in load(tmp_path, {"search": {"race": True}}).search.rungs] == [300]
    given = load(tmp_path, {"search": {"race": True, "rungs": [{"n_samples": 150}]}})
    assert [rung.n_samples for rung in given.search.rungs] == [150]


def test_tpe_is_assisted_unless_told_otherwise_and_no_other_sampler_is(tmp_path: Path) -> None:
    def assist(**sampler: str) -> str:
        return load(tmp_path, {"search": {"sampler": sampler}}).search.sampler.assist

    assert load(tmp_path).search.sampler.assist == "quadratic"
    assert [assist(name="tpe"), assist(name="tpe", assist="none")] == ["quadratic", "none"]
    assert load(tmp_path, {"search": {"sampler": "gp"}}).search.sampler.name == "gp"
    assert {assist(name=name) for name in ("gp", "cmaes", "random", "qmc")} == {"none"}


def test_warm_start_gradient_is_short_for_adding_it_to_the_warm_starts(tmp_path: Path) -> None:
    starts = load(tmp_path, {"search": {"warm_start": "gradient"}}).search.warm_starts
    assert starts == ["zero", "uniform_average", "half", "singles", "gradient"]
    added = {"search": {"warm_start": "gradient", "warm_starts": ["zero"]}}
    assert load(tmp_path, added).search.warm_starts == ["zero", "gradient"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"serch": {}}, "serch: unknown key; did you mean search?"),
        ({"tasks": {"ja": {"text_feld": "x"}}}, "tasks.ja.text_feld: unknown key; did you mean text_field?"),
        ({"search": {"n_trials": 0}}, "search.n_trials: input should be greater than 0 (found 0)"),
        ({"search": {"weights": {"low": 1.0, "high": 0.5}}}, "search.weights: low (1.0) must be below high (0.5)"),
        (
            {"search": {"weights": {"ja": {"low": 0.0, "high": 1.0}}}},
            "intervals for ['ja'], vectors are ['ja', 'math']",
        ),
        ({"search": {"objective": {"mean": ["zh"]}}}, "search.objective: zh not in tasks (ja)"),
        ({"search": {"sampler": "bayes"}}, "search.sampler.name: input should be 'tpe', 'gp', 'cmaes'"),
        ({"search": {"warm_start": "gradient", "warm_starts": None}}, "warm_starts: input should be a valid list"),
        ({"search": {"sampler": {"name": "bayes"}}}, "input should be 'tpe', 'gp', 'cmaes', 'random' or 'qmc'"),
        ({"search": {"sampler": {"name": "gp", "assist": "quadratic"}}}, "assist: quadratic belongs to tpe, not to gp"),
        ({"search": {"race": True, "rungs": [{"n_samples": 100}]}}, "write rungs: [{n_samples: 300}]"),
        ({"search": {"warm_start": "zero"}}, "write warm_start: gradient"),
        (
            {"tasks": {"ja": {"kind": "choice", "metric": "acc"}}, "search": {"warm_start": "gradient"}},
            "give one of them metric: gold_ll (kind: choice), or add a task of kind: text (ja: acc)",
        ),
        ({"search": {"rungs": [{"n_samples": 9}, {"n_samples": 5, "top": 1}]}}, "n_samples must grow"),
        ({"search": {"weights": {"low": "1e-5", "high": 1.0}}}, "'1e-5' is text in YAML; write 1.0e-05 as a number"),
        ({"search": {"n_trials": "1e2"}}, "search.n_trials: '1e2' is text in YAML; write 100 as a number"),
        ({"search": {"n_trials": "20"}}, "search.n_trials: '20' is text in YAML; write 20 as a number"),
        ({"train": {"defaults": {"learning_rate": "1e-3"}}}, "learning_rate: '1e-3' is text in YAML; write 0.001"),
        ({"train": {"defaults": {"save_strategy": False}}}, "YAML reads yes, no, on and off as true or false"),
        ({"train": {"defaults": {"lerning_rate": 1.0}}}, "lerning_rate is not an option of TRL's SFTConfig"),
        ({"train": {"defaults": {"hub_token": "hf_x"}}}, "hub_token cannot be set here"),
        ({"publish": {"language": [False]}}, "publish.language.0: YAML reads yes, no, on and off"),
        ({"base_model": {"repo": "org/base"}}, "base_model: give either path or repo"),
        ({"base_model": {"revision": "abc"}}, "revision belongs to repo"),
        ({"vectors": {"it": {}}}, "vectors.it: give exactly one of dataset, checkpoint, adapter, delta"),
        (
            {"vectors": {"it": {"adapter": {"path": "lora"}, "delta": {"path": "dv"}}}},
            "vectors.it: give exactly one of dataset, checkpoint, adapter, delta",
        ),
        (
            {"vectors": {"it": {"delta": {"path": "dv"}, "base": {"path": "b"}}}},
            "vectors.it: base belongs to checkpoint or adapter",
        ),
        (
            {"vectors": {"it": {"adapter": {"path": "lora", "trust_remote_code": True}}}},
            "vectors.it: an adapter ships no code; trust_remote_code belongs to its base",
        ),
        (
            {"vectors": {"it": {"checkpoint": {"repo": "org/it", "trust_remote_code": True}}}},
            "checkpoint: trust_remote_code runs code of that repository: pin it with revision: <commit sha>",
        ),
        (
            {"vectors": {"it": {"checkpoint": {"repo": "o/it", "revision": "main", "trust_remote_code": True}}}},
            "pin it with revision: <commit sha>",
        ),
        ({"vectors": {"it": {"delta": {"path": "dv", "allow_pickle": True}}}}, "delta.allow_pickle: unknown key"),
        ({"vectors": {"it": {"dataset": "zh"}}}, "vectors.it: dataset 'zh' is not in train.datasets"),
        ({"vectors": {"../../etc": {"dataset": "ja"}}}, "string should match pattern"),
        ({"name": "../other"}, "name: string should match pattern"),
        ({"train": {"mixture": {"shares": {"zh": 1.0}}}}, "mixture.shares names unknown datasets: zh"),
        (
            {"train": {"datasets": {"data_mixture": {"path": "x.jsonl"}}}},
            "data_mixture is the name of the baseline trained on the mixed data; give the dataset another name",
        ),
        ({"publish": {"repo": "/home/me/model"}}, "'/home/me/model' is no repository; write owner/name"),
        ({"publish": {"repo": "../model"}}, "'../model' is no repository"),
        ({"publish": {"repo": "model"}}, "'model' is no repository"),
        ({"publish": {"repo": "me/a b"}}, "'me/a b' is no repository"),
        ({"publish": {"pool": "pool"}}, "publish.pool: 'pool' is no repository"),
        ({"publish": {"vectors": "org"}}, "publish.vectors: 'org' begins no repository; write owner/ or owner/prefix-"),
        ({"publish": {"vectors": "../dv-"}}, "'../dv-' begins no repository"),
        ({"publish": {"checkpoints": "a/b/c-"}}, "'a/b/c-' begins no repository"),
        (
            {"publish": {"checkpoints": "org/m-", "vectors": "org/M-"}},
            "publish: vector ja and checkpoint ja would be one repository, org/m-ja",
        ),
        (
            {"publish": {"vectors": "org/", "pool": "org/ja"}},
            "publish: pool and vector ja would be one repository, org/ja",
        ),
        ({"tasks": {"ja": {"kind": "txt"}}}, "tasks.ja: "),
        ({"seed": -1}, "seed: "),
    ],
)
def test_a_problem_is_named_with_its_place(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    found = problems(tmp_path, change)
    assert any(problem in line for line in found), found


GAIN = {"mean": ["ja"], "gain_over_base": True}
KEEP = {"mean": ["ja"], "keep": {"ja": 0.1}}
AGAINST_BASE = "excludes 0, but the objective measures trials against the base model"
PER_VECTOR = {"ja": {"low": 0.1, "high": 1.0}, "math": {"low": -1.0, "high": 1.0}}


@pytest.mark.parametrize(
    ("weights", "objective", "problem"),
    [
        ({"low": 0.1, "high": 1.0}, GAIN, f"search.weights: the interval {AGAINST_BASE}"),
        ({"low": -1.0, "high": -0.1}, KEEP, f"search.weights: the interval {AGAINST_BASE}"),
        (PER_VECTOR, GAIN, f"search.weights: the interval of 'ja' {AGAINST_BASE}"),
    ],
)
def test_weights_that_exclude_the_base_cannot_be_measured_against_it(
    tmp_path: Path, weights: dict[str, Any], objective: dict[str, Any], problem: str
) -> None:
    (found,) = problems(tmp_path, {"search": {"weights": weights, "objective": objective}})
    assert problem in found
    assert found.count("excludes 0") == 1
    load(tmp_path, {"search": {"weights": weights}})
    load(tmp_path, {"search": {"weights": {"low": 0.0, "high": 1.0}, "objective": objective}})


@pytest.mark.parametrize("text", ["1e-5", "1e5", "1.5e3", "2E-07", "1e22"])
def test_the_number_advised_for_a_text_is_a_number_in_yaml(tmp_path: Path, text: str) -> None:
    for change in (
        {"train": {"defaults": {"learning_rate": text}}},
        {"search": {"weights": {"low": -2.0, "high": text}}},
    ):
        (found,) = problems(tmp_path, change)
        advised = yaml.safe_load(found.partition("write ")[2].partition(" as ")[0])
        assert isinstance(advised, float)
        assert advised == float(text)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"max_length": "abc"}, "max_length must be a whole number, not 'abc'"),
        ({"max_length": 0}, "max_length must be above 0, not 0"),
        ({"max_length": 25.5}, "max_length must be a whole number, not 25.5"),
        ({"per_device_train_batch_size": "four"}, "per_device_train_batch_size must be a whole number, not 'four'"),
        ({"per_device_train_batch_size": None}, "per_device_train_batch_size must be a whole number, not None"),
        ({"gradient_accumulation_steps": -1}, "gradient_accumulation_steps must be above 0, not -1"),
        ({"num_train_epochs": 0}, "num_train_epochs must be above 0, not 0"),
        ({"logging_steps": 0.0}, "logging_steps must be above 0, not 0.0"),
        ({"save_steps": []}, "save_steps must be a number, not []"),
        ({"learning_rate": -1.0e-3}, "learning_rate must be 0 or more, not -0.001"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number, not nan"),
        ({"max_steps": 0}, "max_steps must be -1 or above 0, not 0"),
        ({"max_steps": -2}, "max_steps must be -1 or above 0, not -2"),
        ({"max_length": True}, "max_length: YAML reads yes, no, on and off as true or false"),
        ({"max_length": "256"}, "max_length: '256' is text in YAML; write 256 as a number"),
    ],
)
def test_a_training_option_that_is_no_sensible_number_is_named(
    tmp_path: Path, options: dict[str, Any], problem: str
) -> None:
    for change in ({"defaults": options}, {"datasets": {"ja": options}}):
        (found,) = problems(tmp_path, {"train": change})
        assert problem in found


def test_training_options_that_are_numbers_are_taken(tmp_path: Path) -> None:
    taken = {
        "max_length": None, "max_steps": -1, "learning_rate": 0, "num_train_epochs": 0.5, "save_steps": 0.1,
        "pad_to_multiple_of": 8, "neftune_noise_alpha": None, "optim": "adamw_torch", "bf16": True,
    }  # fmt: skip
    recipe = load(tmp_path, {"train": {"defaults": taken}})
    assert recipe.train is not None
    assert recipe.train.defaults == taken | {"max_length": None}


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, {"serch": {}, "search": {"n_trials": 0}, "seed": "x", "held_out": None})
    assert [line.partition(":")[0] for line in found] == ["held_out", "search.n_trials", "seed", "serch"]


def test_a_missing_key_is_said(tmp_path: Path) -> None:
    assert "base_model: missing" in problems(tmp_path, "name: x\n")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: [", "is not YAML"),
        ("- a\n", "is not a mapping"),
        ("name: a\nname: b\n", "the key 'name' stands twice"),
        ("name: !!python/object/apply:os.system ['true']\n", "is not YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    assert any(problem in line for line in problems(tmp_path, text))


def test_a_missing_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read: No such file"):
        load_recipe(tmp_path / "none.yaml")


def test_a_recipe_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes("name: ä".encode("latin-1"))
    with pytest.raises(RecipeError, match="is not UTF-8 text: byte 6"):
        load_recipe(tmp_path / "recipe.yaml")


def test_an_override_goes_before_the_recipe(tmp_path: Path) -> None:
    recipe = load(tmp_path, None, "search.n_trials=20", "train.datasets.ja.learning_rate=2.0e-4", "publish.repo=a/b")
    assert recipe.search.n_trials == 20
    assert recipe.train is not None
    assert recipe.train.datasets["ja"].sft_options == {"learning_rate": 2.0e-4}
    assert recipe.publish.repo == "a/b"


@pytest.mark.parametrize("override", ["search.n_trials", "=3", "name.x=3", "search.n_trials=["])
def test_an_override_that_makes_no_sense_is_refused(tmp_path: Path, override: str) -> None:
    assert problems(tmp_path, {}, override)


def test_the_hash_knows_content_not_place_or_writing(tmp_path: Path) -> None:
    first = load(tmp_path)
    (tmp_path / "sub").mkdir()
    text = "# a comment\n" + yaml.safe_dump(dict(reversed(list(GOOD.items()))), sort_keys=False)
    (tmp_path / "sub/other.yaml").write_text(text)
    assert load_recipe(tmp_path / "sub/other.yaml").hash == first.hash
    assert load(tmp_path, {"seed": 1}).hash != first.hash


def test_paths_are_relative_to_the_recipe(tmp_path: Path) -> None:
    assert load(tmp_path).resolve("data/x") == tmp_path / "data/x"


def test_where_the_parts_of_a_study_are_published_is_said_by_the_recipe(tmp_path: Path) -> None:
    publish = {"repo": "org/merged", "pool": "org/pool", "vectors": "org/dv-", "checkpoints": "org/cpt-"}
    recipe = load(tmp_path, {"publish": publish})
    assert recipe.publish.repositories(recipe.pool) == {
        "merged model": "org/merged",
        "pool": "org/pool",
        "vector ja": "org/dv-ja",
        "checkpoint ja": "org/cpt-ja",
        "vector math": "org/dv-math",
        "checkpoint math": "org/cpt-math",
    }


def test_code_of_a_folder_or_of_a_pinned_repository_may_be_trusted(tmp_path: Path) -> None:
    load(tmp_path, {"base_model": {"trust_remote_code": True}})
    pinned = {"path": None, "repo": "org/base", "revision": "0a" * 20, "trust_remote_code": True}
    assert load(tmp_path, {"base_model": pinned}).base_model.trust_remote_code


def test_an_adapter_may_have_a_base_of_its_own(tmp_path: Path) -> None:
    pool = {"it": {"adapter": {"repo": "org/lora", "allow_pickle": True}, "base": {"repo": "org/other"}}}
    spec = load(tmp_path, {"vectors": pool}).pool["it"]
    assert spec.adapter is not None
    assert spec.adapter.allow_pickle
    assert str(spec.base) == "org/other"


def test_a_recipe_without_new_keys_is_the_recipe_it_was(tmp_path: Path) -> None:
    canonical = load(tmp_path).canonical()
    assert canonical["base_model"] == {"path": "base", "repo": None, "revision": None, "trust_remote_code": False}
    unpickled = load(tmp_path, {"base_model": {"allow_pickle": True}})
    assert unpickled.canonical()["base_model"]["allow_pickle"] is True
    assert unpickled.hash != load(tmp_path).hash


def test_where_things_are_published_may_be_set_after_a_run(tmp_path: Path) -> None:
    open_run(tmp_path / "run", load(tmp_path))
    open_run(tmp_path / "run", load(tmp_path, {"publish": {"vectors": "org/dv-", "pool": "org/pool"}}))


def test_a_run_folder_of_another_recipe_is_refused_and_the_change_named(tmp_path: Path) -> None:
    open_run(tmp_path / "run", load(tmp_path))
    with pytest.raises(RunFolderError, match=r"seed \(0 -> 7\)"):
        open_run(tmp_path / "run", load(tmp_path, {"seed": 7}))
    open_run(tmp_path / "run", load(tmp_path, {"search": {"n_trials": 200}}))
    assert read_json(tmp_path / "run/manifest.json")["recipe"]["search"]["n_trials"] == 200


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    recipe = load(tmp_path)
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunFolderError, match="is no run folder"):
        open_run(tmp_path, recipe)


def test_two_drivers_cannot_hold_one_run(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", load(tmp_path))
    with run.locked(), pytest.raises(RunFolderError, match="in use by another process"), run.locked():
        pass
    (run.root / "vectors").mkdir()
    (run.root / "vectors/.tmp-ja.x").mkdir()
    with run.locked():
        assert not list(run.root.rglob(".tmp-*"))


def test_files_and_folders_are_whole_or_not_there(tmp_path: Path) -> None:
    write_text(tmp_path / "a/b.txt", "one")
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "a/b.txt", float("nan"))
    assert (tmp_path / "a/b.txt").read_text() == "one"

    def half_written() -> None:
        with new_folder(tmp_path / "model") as work:
            (work / "half").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half_written()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_only_run_folder_names_are_used(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.trial_dir(7) == tmp_path / "trials/0007"
