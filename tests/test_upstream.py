"""Behaviour of mergekit, Optuna, safetensors and SFTConfig that the code leans on. A failure says what to change.

TRL and datasets: test_upstream_trl.py. lighteval: test_upstream_lighteval.py.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch


def test_sft_options_are_read_from_the_sources_as_the_class_has_them() -> None:
    from trl import SFTConfig

    from mergekit_optimer.recipe.sft_options import sft_annotations

    expected = {field.name for field in dataclasses.fields(SFTConfig) if not field.name.startswith("_")}
    assert set(sft_annotations()) == expected, "SFTConfig's classes moved: correct _CLASSES in recipe/sft_options.py"


def test_mergekit_takes_a_method_by_register_and_refuses_a_second_of_its_name() -> None:
    from mergekit.merge_methods import get
    from mergekit.merge_methods import register as register_method

    from mergekit_optimer.method import METHOD, register

    register()
    register()
    with pytest.raises(ValueError, match="already registered"):
        register_method(get(METHOD))


def test_mergekit_promotes_a_bf16_base_and_a_float32_delta_to_float32() -> None:
    from mergekit.merge_methods import merge_tensors

    from mergekit_optimer.method import METHOD, register

    register()
    base = torch.ones(4, dtype=torch.bfloat16)
    delta = torch.full((4,), 1e-3)
    merged = merge_tensors(
        [base, delta], METHOD, ids=["base", "delta"], base_index=0,
        parameters={"weight": {"delta": 1.0}, "kind": {"delta": "delta"}},
    )  # fmt: skip
    assert torch.equal(merged, torch.full((4,), 1.001)), "inputs are no longer promoted: set dtype in merge_yaml"


def test_mergekit_still_ignores_unknown_keys() -> None:
    from mergekit.config import MergeConfiguration

    data = {"merge_method": "linear", "models": [{"model": "a", "parameters": {"weight": 1}}], "out_dtpe": "float32"}
    assert MergeConfiguration.model_validate(data), "mergekit refuses unknown keys: check_parameters can go"


def test_mergekits_loader_cache_is_a_class_attribute_that_can_be_cleared() -> None:
    from mergekit.io.tasks import LoaderCache

    assert isinstance(LoaderCache().loaders, dict), "clear the cache another way in merge_to_folder"
    assert LoaderCache().loaders is LoaderCache().loaders


def test_safetensors_tensors_of_one_file_are_views_not_copies(base_dir: Path) -> None:
    from safetensors import safe_open

    with safe_open(str(base_dir / "model.safetensors"), framework="pt") as file:
        first, second = (file.get_tensor("model.embed_tokens.weight") for _ in range(2))
    assert torch.equal(first, second), "reading a tensor twice differs: TensorFolder must hold its file open"


def test_safetensors_refuses_a_truncated_file(base_dir: Path, tmp_path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    content = (base_dir / "model.safetensors").read_bytes()
    (tmp_path / "torn.safetensors").write_bytes(content[:-10])
    with pytest.raises(SafetensorError):
        safe_open(str(tmp_path / "torn.safetensors"), framework="pt")


@pytest.fixture
def study(tmp_path: Path) -> Any:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal")))
    return optuna.create_study(storage=storage, study_name="s", direction="maximize")


def space() -> dict[str, Any]:
    import optuna

    return {"a": optuna.distributions.FloatDistribution(-1.0, 1.0)}


def test_optuna_keeps_an_enqueued_trials_weights_and_attributes(study: Any) -> None:
    study.enqueue_trial({"a": 0.25}, user_attrs={"source": "warm_start/x"})
    trial = study.ask(space())
    assert trial.params == {"a": 0.25}
    assert trial.user_attrs["source"] == "warm_start/x"


def test_optuna_leaves_a_dead_process_trial_running_until_it_is_told(study: Any) -> None:
    import optuna

    number = study.ask(space()).number
    assert study.trials[number].state == optuna.trial.TrialState.RUNNING
    trial = optuna.trial.Trial(study, study.trials[number]._trial_id)
    trial.set_user_attr("reason", "x")
    study.tell(number, state=optuna.trial.TrialState.FAIL)
    assert study.trials[number].user_attrs == {"reason": "x"}


def test_optuna_cannot_load_a_journal_with_a_torn_line_in_it(study: Any, tmp_path: Path) -> None:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    study.ask(space())
    with (tmp_path / "journal").open("ab") as file:
        file.write(b'{"op_code": 5, "wor')

    def write_on_and_load() -> None:
        study.ask(space())
        study.ask(space())
        JournalStorage(JournalFileBackend(str(tmp_path / "journal")))

    with pytest.raises((json.JSONDecodeError, KeyError)):
        write_on_and_load()
    from mergekit_optimer.search.journal import repair_journal

    repair_journal(tmp_path / "journal")
    JournalStorage(JournalFileBackend(str(tmp_path / "journal")))


def test_tpe_proposals_depend_on_seed_and_finished_trials_only() -> None:
    """A failed trial in between must not change the next proposal: that is what resume leans on."""
    import optuna

    from mergekit_optimer.recipe import SamplerSpec
    from mergekit_optimer.search import make_sampler

    def proposals(interrupt: bool) -> list[float]:
        own = optuna.create_study(direction="maximize")
        found = []
        for n_done in range(14):
            own.sampler = make_sampler(SamplerSpec(), 3, n_done)
            if interrupt and n_done == 12:
                own.tell(own.ask(space()), state=optuna.trial.TrialState.FAIL)
                own.sampler = make_sampler(SamplerSpec(), 3, n_done)
            trial = own.ask(space())
            found.append(trial.params["a"])
            own.tell(trial, -((trial.params["a"] - 0.3) ** 2))
        return found

    assert proposals(interrupt=False) == proposals(interrupt=True)


def test_optuna_takes_constraints_by_name() -> None:
    import optuna

    own = optuna.create_study(direction="maximize")
    trial = own.ask(space())
    trial.set_constraint("en", 0.5)
    own.tell(trial, 1.0)
    assert own.trials[0].constraints == {"en": 0.5}


def test_optuna_adds_a_finished_trial_under_the_next_number(study: Any) -> None:
    import optuna

    study.tell(study.ask(space()), 0.0)
    added = optuna.trial.create_trial(
        value=1.0,
        params={"a": 0.25},
        distributions=space(),
        constraints={"en": 0.5},
        user_attrs={"origin": "run#3"},
    )
    study.add_trial(added)
    trial = study.trials[1]
    found = (trial.number, trial.state.name, trial.value, trial.params, trial.constraints, trial.user_attrs)
    expected = (1, "COMPLETE", 1.0, {"a": 0.25}, {"en": 0.5}, {"origin": "run#3"})
    assert found == expected, "search/adopt.py writes a trial's files under the number that add_trial will give it"
