"""The cards of a vector, a checkpoint and a pool: what they say, and that nobody's text becomes markup or metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from pydantic import TypeAdapter

from mergekit_optimer.cards import (
    CheckpointCard,
    PoolCard,
    PoolRow,
    VectorCard,
    eval_results_files,
    render_checkpoint_card,
    render_pool_card,
    render_vector_card,
    without_secrets,
)
from mergekit_optimer.files import write_text
from mergekit_optimer.report import build_report
from mergekit_optimer.resources import hub_cards_dir
from mergekit_optimer.scores import MetricSamples, TaskScores

KINDS: dict[str, tuple[type[Any], Callable[[Any], str]]] = {
    "vector": (VectorCard, render_vector_card),
    "checkpoint": (CheckpointCard, render_checkpoint_card),
    "pool": (PoolCard, render_pool_card),
}
NASTY = [
    'x"]\n---\nlicense: mit',
    "<script>alert(1)</script>",
    "{{ 7*7 }} {% raw %} ${x}",
    "a|b || [link](http://e.com) ![i](x) `code` **bold** _em_ ~~s~~",
    "</code> --> \u202egnp.exe",
]


def example(kind: str) -> Any:
    data = json.loads((hub_cards_dir() / "examples" / kind / "facts.json").read_text(encoding="utf-8"))
    return TypeAdapter(KINDS[kind][0]).validate_python(data)


def front_matter(card: str) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(card.split("---\n", 2)[1])
    return data


def code_blocks(card: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", card, re.S)


@pytest.mark.parametrize("kind", KINDS)
def test_example_card_is_what_the_templates_make_of_its_facts(kind: str, request: pytest.FixtureRequest) -> None:
    place = hub_cards_dir() / "examples" / kind / "README.md"
    card = KINDS[kind][1](example(kind))
    if request.config.getoption("--write-cards"):
        write_text(place, card)
    assert card == place.read_text(encoding="utf-8"), (
        "The templates make another card; if that is meant: python -m pytest tests/test_cards_hub.py --write-cards"
    )


def test_metadata_of_a_vector_names_base_and_data_and_offers_no_generation() -> None:
    assert front_matter(render_vector_card(example("vector"))) == {
        "base_model": ["example-org/base"],
        "datasets": ["example-org/ja-web"],
        "language": ["ja"],
        "library_name": "mergekit",
        "license": "apache-2.0",
        "tags": ["mergekit-optimer", "distribution-vector", "task-vector"],
    }


def test_metadata_of_a_checkpoint_says_that_it_is_a_finetune_of_its_base() -> None:
    head = front_matter(render_checkpoint_card(example("checkpoint")))
    assert (head["base_model"], head["base_model_relation"]) == (["example-org/base"], "finetune")
    assert head["tags"] == ["mergekit-optimer", "continual-pre-training", "trl"]
    local = replace(example("checkpoint"), base_repo=None, base_revision=None, dataset_repo=None)
    head = front_matter(render_checkpoint_card(local))
    assert not {"base_model", "base_model_relation", "datasets"} & set(head)


@pytest.mark.parametrize("kind", KINDS)
def test_metadata_is_read_by_the_hubs_own_card_class(kind: str) -> None:
    from huggingface_hub import ModelCard

    data = ModelCard(KINDS[kind][1](example(kind))).data
    assert (data.license, data.base_model) == ("apache-2.0", ["example-org/base"])


def test_a_vector_card_warns_that_it_is_no_model() -> None:
    card = render_vector_card(example("vector"))
    assert "**Made to be merged, not served: loaded as a model it produces noise.**" in card
    assert "AutoModel" not in card


def test_the_snippets_of_a_vector_card_are_a_recipe_and_a_configuration_for_mergekit() -> None:
    recipe, merge = (yaml.safe_load(block) for block in code_blocks(render_vector_card(example("vector")), "yaml"))
    assert recipe == {"vectors": {"ja": {"delta": {"repo": "example-org/dv-ja", "revision": "<commit sha>"}}}}
    assert merge == {
        "merge_method": "distribution_arithmetic",
        "base_model": "example-org/base@" + "0a" * 20,
        "models": [{"model": "example-org/dv-ja@<commit sha>", "parameters": {"weight": 0.5, "kind": "delta"}}],
    }


def test_the_recipe_of_a_pool_card_names_every_vector_at_its_commit() -> None:
    card = render_pool_card(example("pool"))
    (block,) = code_blocks(card, "yaml")
    assert yaml.safe_load(block) == {
        "base_model": {"repo": "example-org/base", "revision": "0a" * 20},
        "vectors": {
            "code": {"delta": {"repo": "example-org/dv-code", "revision": "1c" * 20}},
            "ja": {"delta": {"repo": "example-org/dv-ja", "revision": "2d" * 20}},
            "math": {"delta": {"repo": "example-org/dv-math", "revision": "3e" * 20}},
        },
    }
    assert code_blocks(card, "bash") == ["mergekit-optimer vectors pull example-org/dv-pool\n"]
    assert f"| math | [example-org/dv-math@3e3e3e3](https://huggingface.co/example-org/dv-math/tree/{'3e' * 20}) | – | – |" in card  # fmt: skip  # noqa: E501


def test_a_recipe_from_a_card_is_a_recipe(tmp_path: Path) -> None:
    from mergekit_optimer.recipe import load_recipe

    (block,) = code_blocks(render_pool_card(example("pool")), "yaml")
    rest = (
        "name: x\nsearch: {objective: {mean: [a]}}\ntasks: &t {a: {kind: text, path: a.jsonl}}\n"
        "held_out: {a: {kind: text, path: b.jsonl}}\n"
    )
    (tmp_path / "recipe.yaml").write_text(block + rest.replace("&t ", ""))
    assert sorted(load_recipe(tmp_path / "recipe.yaml").pool) == ["code", "ja", "math"]


def test_code_on_a_checkpoints_card_is_python_and_names_the_repository() -> None:
    (code,) = code_blocks(render_checkpoint_card(example("checkpoint")), "python")
    compile(code, "card", "exec")
    assert 'model_id = "example-org/cpt-ja"' in code


def test_what_is_not_known_is_not_said() -> None:
    bare = VectorCard(repo="org/dv", name="it", base_label="base", base_fingerprint="ab" * 32)
    card = render_vector_card(bare)
    assert "None" not in card
    assert "license" not in front_matter(card)
    for fact in ("| data |", "| tokens |", "| steps |", "| learning rate |", "| norm |", "| applied |",
                 "| stored in |", "Versions:"):  # fmt: skip
        assert fact not in card
    assert "What continual pre-training changed in base:" in card
    assert "Its base model is not on the Hub" in card


def test_a_vector_that_is_lost_to_rounding_says_so() -> None:
    said = "keeps 0.52 of it at weight 1"
    assert said in render_vector_card(replace(example("vector"), applied_fraction=0.52))
    assert "of it at weight 1" not in render_vector_card(example("vector"))


def test_a_vector_made_elsewhere_says_from_what() -> None:
    source = "org/lora@" + "7b" * 20
    assert f"| made from | {source} |" in render_vector_card(replace(example("vector"), source=source))


def test_the_mixture_is_no_run_on_one_dataset() -> None:
    card = render_checkpoint_card(replace(example("checkpoint"), name="data_mixture", vector_repo=None))
    assert "one CPT run on one dataset" not in card
    assert "the baseline that merges of its distribution vectors are compared with" in card


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("kind", KINDS)
def test_text_from_a_recipe_or_a_pool_stays_text(kind: str, text: str) -> None:
    render, clean = KINDS[kind][1], example(kind)
    changes: dict[str, Any] = {"name": text, "base_label": text, "base_revision": None, "license": text,
                               "language": (text,), "versions": {text: text}, "base_fingerprint": text, "repo": text}  # fmt: skip  # noqa: E501
    if kind == "pool":
        changes["rows"] = tuple(PoolRow(text, text, text, text, 1.5) for _ in clean.rows)
    else:
        changes |= {"dataset": text, "dataset_revision": None, "dtype": text}
        changes |= {"source": text, "pool_repo": text} if kind == "vector" else {"vector_repo": text}
    card = render(replace(clean, **changes))
    head = front_matter(card)
    assert set(head) == set(front_matter(render(clean)))
    assert head["base_model"] == ["example-org/base"]
    html = re.sub(" +", " ", MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(card.split("---\n", 2)[2]))  # fmt: skip  # noqa: E501
    visible = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    escaped = visible.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    assert html.count(escaped) >= 4
    outside_code = re.sub(r"<pre>.*?</pre>", "", html, flags=re.S)
    for markup in ("<script", "<img", "<del>", "<b>", 'href="http://e.com', "<hr"):
        assert markup not in outside_code
    assert re.search(r"(?<![\d.,])49(?![\d.,])", html) is None


@pytest.mark.parametrize("kind", KINDS)
def test_local_paths_and_tokens_do_not_reach_a_card(kind: str) -> None:
    token = "hf_" + "a1B2" * 8
    changes: dict[str, Any] = {"base_label": "/home/me/base", "base_revision": None, "versions": {"torch": token}}
    if kind != "pool":
        changes |= {"dataset": "~/data/ja.jsonl", "dataset_revision": None}
    card = KINDS[kind][1](replace(example(kind), **changes))
    for secret in (token, "/home", "~/"):
        assert secret not in card


def test_records_can_be_rid_of_paths_and_tokens_whole() -> None:
    record = {"options": {"output_dir": "/scratch/me/out", "note": "hf_" + "x" * 20}, "loss_curve": [(1, 2.5)]}
    assert without_secrets(record) == {"options": {"output_dir": "out", "note": "[token removed]"},
                                       "loss_curve": [[1, 2.5]]}  # fmt: skip


@pytest.fixture
def gsm8k_inputs(report_inputs: dict[str, Any]) -> dict[str, Any]:
    """Report inputs whose task code is lighteval's gsm8k, with the winner right in 3 of 4 samples."""
    for part in ("dev", "held_out"):
        for model, tasks in report_inputs[part].items():
            n = len(tasks["code"].metrics["bits_per_byte"].values)
            right = (1.0, 1.0, 1.0, 0.0) if model == "winner" else (1.0, 0.0, 0.0, 0.0)
            samples = MetricSamples(right * (n // 4), (1.0,) * n, True, 0.0)
            tasks["code"] = TaskScores({"extractive_match": samples}, "extractive_match")
    return report_inputs | {"lighteval_tasks": {"code": "gsm8k|4"}}


def test_a_benchmark_of_the_hub_gets_a_file_that_the_hub_reads(gsm8k_inputs: dict[str, Any]) -> None:
    from huggingface_hub import parse_eval_result_entries

    files = eval_results_files(build_report(**gsm8k_inputs))
    assert list(files) == [".eval_results/code.yaml"]
    (entry,) = parse_eval_result_entries(yaml.safe_load(files[".eval_results/code.yaml"]))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("openai/gsm8k", "gsm8k", 75.0)
    assert entry.notes is not None
    assert "gsm8k|4 with lighteval, extractive_match, on 200 samples" in entry.notes


def test_a_result_stands_either_on_a_leaderboard_or_in_the_metadata(gsm8k_inputs: dict[str, Any]) -> None:
    from huggingface_hub import ModelCard

    from mergekit_optimer.cards import render_model_card

    def tasks(inputs: dict[str, Any]) -> list[str]:
        results = ModelCard(render_model_card(build_report(**inputs))).data.eval_results or []
        return [result.dataset_name for result in results]

    assert tasks(gsm8k_inputs) == ["choice_math", "ja"]
    # A user's own task of the same name is no benchmark.
    assert tasks(gsm8k_inputs | {"lighteval_tasks": {}}) == ["choice_math", "code", "ja"]
    assert eval_results_files(build_report(**gsm8k_inputs | {"lighteval_tasks": {}})) == {}


@pytest.mark.parametrize("task", ["mgsm:ja|4", "gpqa:mc|0", "gsm8k_x|0"])
def test_a_task_that_is_no_benchmark_of_the_hub_gets_no_file(gsm8k_inputs: dict[str, Any], task: str) -> None:
    assert eval_results_files(build_report(**gsm8k_inputs | {"lighteval_tasks": {"code": task}})) == {}
