"""The merged model's card: what it says, that its numbers are the report's, and that no text becomes markup."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import UndefinedError
from markdown_it import MarkdownIt

from mergekit_optimer.cards import environment, escape_markdown, render_model_card
from mergekit_optimer.errors import OptimerError
from mergekit_optimer.files import write_text
from mergekit_optimer.plots import search_figure
from mergekit_optimer.report import ReportData, TrialFacts, build_report
from mergekit_optimer.report.numbers import (
    format_difference,
    format_duration,
    format_interval,
    format_number,
    format_score,
    format_weight,
)
from mergekit_optimer.resources import _folder, hub_cards_dir, recipes_dir

NASTY = [
    'x"]\n---\nlicense: mit',
    "<script>alert(1)</script>",
    "{{ 7*7 }} {% raw %} ${x}",
    "a|b || [link](http://e.com) ![i](x) `code` **bold** _em_ ~~s~~",
    "&lt;b&gt; \\| \u202egnp.exe",
]


def front_matter(card: str) -> dict[str, Any]:
    _, head, _ = card.split("---\n", 2)
    data: dict[str, Any] = yaml.safe_load(head)
    return data


def table_cells(card: str) -> list[str]:
    """All body cells of the card's tables, as a Markdown reader shows them."""
    tokens = MarkdownIt("commonmark").enable("table").parse(card.split("---\n", 2)[2])
    cells = [after.children or [] for token, after in pairwise(tokens) if token.type == "td_open"]
    return ["".join(part.content for part in cell) for cell in cells]


def strings_in(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set().union(*(strings_in(key) | strings_in(child) for key, child in value.items()), set())
    if isinstance(value, list | tuple):
        return set().union(*(strings_in(child) for child in value), set())
    # A place on the Hub is shown with seven digits of its commit.
    return {value, re.sub(r"@([0-9a-f]{7})[0-9a-f]{33}$", r"@\1", value)} if isinstance(value, str) else set()


def numbers_of(report: ReportData) -> set[str]:
    """Every number of report.json, written by the one place that rounds."""
    comparison, texts = report.comparison, set()
    for part in report.scores.values():
        texts |= {
            format_score(score) for tasks in part.values() for found in tasks.values() for score in found.values()
        }
    texts |= {format_score(score) for score in comparison.means.values()}
    for baseline in comparison.baselines.values():
        texts |= {format_interval(interval) for interval in (*baseline.tasks.values(), baseline.mean)}
    texts |= {
        format_difference(gap.difference, gap.stderr)
        for by_task in comparison.gaps.values()
        for gap in by_task.values()
    }
    for vector in report.vectors:
        texts.add(format_weight(vector.weight))
        numbers = (vector.n_tokens, vector.n_steps, vector.learning_rate, vector.norm, vector.relative_norm,
                   vector.applied_fraction)  # fmt: skip
        texts |= {format_number(number) for number in numbers}
        texts |= {format_number(end) for end in report.search.intervals[vector.name]}
    search = report.search
    texts |= {
        format_number(number) for number in (search.n_trials, search.n_collapsed, search.n_failed, search.best_value)
    }
    texts |= {format_number(number) for rung in search.rungs for number in (rung.n_samples, rung.top) if number}
    texts |= {str(search.best_trial), str(report.seed), *map(str, search.options.values())}
    texts |= {format_duration(seconds) for seconds in report.timings.values()}
    return {number for text in texts for number in numbers_in(text)}


def numbers_in(text: str) -> list[str]:
    return re.findall(r"[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?", text)


def examples() -> list[Path]:
    return sorted(path.parent for path in (hub_cards_dir() / "examples").glob("*/report.json"))


@pytest.mark.parametrize("folder", examples(), ids=lambda folder: folder.name)
def test_example_card_is_what_the_templates_make_of_its_report(folder: Path, request: pytest.FixtureRequest) -> None:
    report = ReportData.from_json(json.loads((folder / "report.json").read_text(encoding="utf-8")))
    card = render_model_card(report)
    if request.config.getoption("--write-cards"):
        write_text(folder / "README.md", card)
        if report.trials:
            search_figure(report, folder / "search.png")
    assert card == (folder / "README.md").read_text(encoding="utf-8"), (
        "The templates make another card; if that is meant: python -m pytest tests/test_cards.py --write-cards"
    )


def test_a_figure_that_an_example_shows_is_there() -> None:
    for folder in examples():
        shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (folder / "README.md").read_text(encoding="utf-8"))
        assert all((folder / name).is_file() for name in shown)


@pytest.mark.parametrize("folder", examples(), ids=lambda folder: folder.name)
def test_every_number_in_a_cards_tables_is_a_number_of_its_report(folder: Path) -> None:
    data = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    known, names = numbers_of(ReportData.from_json(data)), strings_in(data)
    cells = table_cells((folder / "README.md").read_text(encoding="utf-8"))
    assert len(cells) > 100
    invented = {
        number for cell in cells if cell not in names for number in numbers_in(cell) if number.lstrip("+") not in
        {text.lstrip("+") for text in known}
    }  # fmt: skip
    assert invented == set()


def test_a_changed_number_in_a_table_would_be_found(report_inputs: dict[str, Any]) -> None:
    assert "1.719" in numbers_of(build_report(**report_inputs))
    assert "1.718" not in numbers_of(build_report(**report_inputs))


def test_metadata_says_what_the_hub_needs(report_inputs: dict[str, Any]) -> None:
    report_inputs["vectors"][0] = replace(
        report_inputs["vectors"][0], repo="org/dv-math", own_base_repo="org/other", dataset_repo="org/math"
    )
    head = front_matter(render_model_card(build_report(**report_inputs)))
    del head["model-index"]
    assert head == {
        "base_model": ["example-org/base", "org/dv-math", "org/other"],
        "base_model_relation": "merge",
        "datasets": ["org/math"],
        "language": ["ja", "en"],
        "library_name": "transformers",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["mergekit", "merge", "mergekit-optimer"],
    }


def test_metadata_is_read_by_the_hubs_own_card_class(report_inputs: dict[str, Any]) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard(render_model_card(build_report(**report_inputs)))
    assert card.data.base_model == ["example-org/base"]
    assert card.data.license == "apache-2.0"


def test_held_out_scores_are_read_by_the_hub_as_results_of_each_task(report_inputs: dict[str, Any]) -> None:
    from huggingface_hub import ModelCard

    data = ModelCard(render_model_card(build_report(**report_inputs))).data
    assert data.model_name == "three-vectors"
    assert [(result.dataset_name, result.metric_type, result.metric_value) for result in data.eval_results or []] == [
        ("choice_math", "gold_ll", -1.006),
        ("code", "bits_per_byte", 1.81),
        ("ja", "bits_per_byte", 1.719),
    ]
    # As the table has it, so that the two never say different things.
    assert "| winner | -1.006 ± 0.022 | 1.810 ± 0.021 | 1.719 ± 0.022 |" in str(
        render_model_card(build_report(**report_inputs))
    )


def test_vectors_and_data_on_the_hub_are_links_to_their_commit(report_inputs: dict[str, Any]) -> None:
    report_inputs["vectors"][0] = replace(
        report_inputs["vectors"][0], repo="org/dv-math", revision="abc1234" + "0" * 33, own_base="other@1",
        dataset_repo="org/math", dataset_revision="1" * 40,
    )  # fmt: skip
    card = render_model_card(build_report(**report_inputs))
    commit = "abc1234" + "0" * 33
    assert f"| [org/dv-math@abc1234](https://huggingface.co/org/dv-math/tree/{commit}) over other@1 |" in card
    assert f"| [org/math@1111111](https://huggingface.co/datasets/org/math/tree/{'1' * 40}) |" in card
    assert "| checkpoint ja | ja.train.jsonl.xz |" in card


@pytest.mark.parametrize("revision", ["main", "1" * 39, "1" * 40 + ")", None])
@pytest.mark.parametrize("repo", ["org/dv", "../x", "a/b/c", "org/dv](http://e.com)"])
def test_only_a_repository_at_a_commit_becomes_a_link(
    report_inputs: dict[str, Any], repo: str, revision: str | None
) -> None:
    report_inputs["vectors"][0] = replace(report_inputs["vectors"][0], repo=repo, revision=revision)
    card = render_model_card(build_report(**report_inputs))
    assert "| checkpoint math |" in card
    assert "(http://e.com)" not in card


def on_the_hub(report_inputs: dict[str, Any]) -> dict[str, Any]:
    """The invented pool with every vector in a repository."""
    vectors = [replace(v, repo=f"org/dv-{v.name}", revision="1" * 40, is_delta=True) for v in report_inputs["vectors"]]
    return report_inputs | {"vectors": vectors}


def test_the_command_that_makes_the_merge_stands_there_where_every_part_is_on_the_hub(
    report_inputs: dict[str, Any],
) -> None:
    command = "```bash\nmergekit-optimer merge example-org/three-vectors ./merged\n```"
    assert command in render_model_card(build_report(**on_the_hub(report_inputs)))
    assert command not in render_model_card(build_report(**report_inputs))
    # A checkpoint is there, its vector is not.
    unmade = [replace(vector, is_delta=False) for vector in on_the_hub(report_inputs)["vectors"]]
    branch = replace(report_inputs["base"], revision=None)
    for change in ({"repo": None}, {"base": branch}, {"vectors": unmade}):
        assert "./merged" not in render_model_card(build_report(**on_the_hub(report_inputs) | change))


def test_the_search_is_shown_where_its_trials_are_known(report_inputs: dict[str, Any]) -> None:
    assert "search.png" not in render_model_card(build_report(**report_inputs))
    report_inputs["trials"] = [TrialFacts(0, 0.1, "warm_start")]
    assert "](search.png)\n" in render_model_card(build_report(**report_inputs))


def test_local_models_are_never_listed_as_base_models(report_inputs: dict[str, Any]) -> None:
    report_inputs["base"] = replace(report_inputs["base"], repo=None, label="base")
    report_inputs["vectors"][0] = replace(report_inputs["vectors"][0], repo="/home/me/pools/math")
    head = front_matter(render_model_card(build_report(**report_inputs)))
    assert "base_model" not in head
    assert "base_model_relation" not in head


def test_language_no_stays_norwegian_and_a_license_stays_one_key(report_inputs: dict[str, Any]) -> None:
    report_inputs |= {"language": ["no"], "license": "other\n---\nlibrary_name: evil"}
    head = front_matter(render_model_card(build_report(**report_inputs)))
    assert head["language"] == ["no"]
    assert head["library_name"] == "transformers"


@pytest.mark.parametrize("text", NASTY)
def test_text_from_a_recipe_or_pool_stays_text(report_inputs: dict[str, Any], text: str) -> None:
    clean = render_model_card(build_report(**report_inputs))
    vectors = [replace(vector, dataset=text, label=text, own_base=text) for vector in report_inputs["vectors"]]
    report_inputs |= {
        "vectors": vectors,
        "name": text,
        "base": replace(report_inputs["base"], label=text),
        "search": replace(report_inputs["search"], objective=text),
        "device": text,
        "license": text,
        "repo": text,
        "portable_yaml": None,
        "portable_reason": text,
    }
    card = render_model_card(build_report(**report_inputs))
    assert set(front_matter(card)) == set(front_matter(clean))
    html = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(card.split("---\n", 2)[2])
    html = re.sub(" +", " ", html)
    visible = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    escaped = visible.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    # Title, base label, one dataset a vector, the objective: each shown as written.
    assert html.count(f">{escaped}<") >= 1 + len(vectors) + 1
    outside_code = re.sub(r"<pre>.*?</pre>", "", html, flags=re.S)
    for markup in ("<script", "<img", "<del>", "<b>", 'href="http://e.com'):
        assert markup not in outside_code
    assert re.search(r"(?<![\d.,])49(?![\d.,])", html) is None
    rows = [line for line in card.splitlines() if line.startswith("| ja ") and "searched" not in line]
    assert any(len(re.findall(r"(?<!\\)\|", row)) == 12 for row in rows)


def test_local_paths_and_tokens_do_not_reach_the_card(report_inputs: dict[str, Any]) -> None:
    token = "hf_" + "a1B2" * 8
    report_inputs |= {
        "yaml": 'models:\n  - model: /home/me/runs/demo/checkpoints/ja\nbase_model: "/data/base"\n',
        "portable_yaml": "base_model: file:///mnt/x/base\nother: [~/models/y,/opt/z]\n",
        "command": f"HF_TOKEN={token} mergekit-optimer run /home/me/recipe.yaml --run-dir=/scratch/run",
        "vectors": [replace(v, label=f"/home/me/my models/{v.name}") for v in report_inputs["vectors"]],
    }
    card = render_model_card(build_report(**report_inputs))
    assert token not in card
    for place in ("/home", "/data", "/mnt", "/opt", "/scratch", "~/", "file:"):
        assert place not in card
    assert "  - model: ja\n" in card
    assert 'base_model: "base"' in card
    assert "--run-dir=run" in card
    assert "https://arxiv.org/abs/2603.28858" in card


def test_yaml_with_backticks_stays_in_its_code_block(report_inputs: dict[str, Any]) -> None:
    report_inputs["yaml"] = "a: 1\n```\n# out\n  - b:\t2\n"
    card = render_model_card(build_report(**report_inputs))
    assert "````yaml\na: 1\n```\n# out\n  - b: 2\n````" in card


def test_undefined_variable_fails(tmp_path: Path) -> None:
    (tmp_path / "card.jinja").write_text("{{ report.nmae }}")
    with pytest.raises(UndefinedError, match="nmae"):
        environment(tmp_path).get_template("card.jinja").render(report={"name": "x"})


def test_a_value_without_a_filter_is_no_html(tmp_path: Path) -> None:
    (tmp_path / "card.jinja").write_text("{{ name }}")
    assert environment(tmp_path).get_template("card.jinja").render(name="<b>") == "&lt;b&gt;"


def test_names_with_underscores_stay_readable_in_the_source() -> None:
    assert escape_markdown("data_mixture single/ja bits_per_byte") == "data_mixture single/ja bits_per_byte"
    assert escape_markdown("_em_ a|b") == r"\_em\_ a&#124;b"


def test_the_verdict_of_a_winner_that_is_not_better_stands_on_the_card(report_inputs: dict[str, Any]) -> None:
    held_out = report_inputs["held_out"]
    card = render_model_card(build_report(**report_inputs | {"held_out": held_out | {"winner": held_out["ties"]}}))
    assert "**The winner is worse than the best baseline, data_mixture:" in card


def test_baseline_methods_are_cited_only_where_they_were_run(report_inputs: dict[str, Any]) -> None:
    assert "2306.01708" in render_model_card(build_report(**report_inputs))
    for name in ("ties", "dare_linear"):
        del report_inputs["held_out"][name]
    card = render_model_card(build_report(**report_inputs))
    assert "2306.01708" not in card
    assert "2311.03099" not in card
    for paper in ("2603.28858", "2212.04089", "2403.13257", "1907.10902"):
        assert paper in card


def test_a_missing_portable_configuration_says_why(report_inputs: dict[str, Any]) -> None:
    report_inputs |= {"portable_yaml": None, "portable_reason": "the vector 'ja' is a stored delta."}
    card = render_model_card(build_report(**report_inputs))
    assert "There is no configuration of this merge for plain mergekit: the vector 'ja' is a stored delta." in card


def test_code_on_the_card_is_python_and_names_the_repository(report_inputs: dict[str, Any]) -> None:
    card = render_model_card(build_report(**report_inputs))
    code = re.search(r"```python\n(.*?)```", card, re.S)
    assert code is not None
    compile(code[1], "card", "exec")
    assert 'model_id = "example-org/three-vectors"' in code[1]


def test_templates_and_recipes_are_found_in_a_checkout_and_inside_an_installed_package(tmp_path: Path) -> None:
    assert (hub_cards_dir() / "merged_model.md.jinja").is_file()
    assert recipes_dir().is_dir()
    installed = tmp_path / "site-packages" / "mergekit_optimer"
    (installed / "hub_cards").mkdir(parents=True)
    assert _folder("hub_cards", installed) == installed / "hub_cards"


def test_a_neighbours_folder_in_site_packages_is_not_taken_for_ours(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    with pytest.raises(OptimerError, match="lacks its recipes folder"):
        _folder("recipes", tmp_path / "mergekit_optimer")


def test_a_card_needs_no_torch() -> None:
    code = (
        "import json, sys; from pathlib import Path; from mergekit_optimer.cards import render_model_card;"
        "from mergekit_optimer.report import ReportData;"
        "render_model_card(ReportData.from_json(json.loads(Path(sys.argv[1]).read_text())));"
        "assert not {'torch', 'transformers', 'mergekit'} & set(sys.modules)"
    )
    report = hub_cards_dir() / "examples" / "three_vectors" / "report.json"
    subprocess.run([sys.executable, "-c", code, str(report)], check=True, cwd=hub_cards_dir().parent)
