"""The page: every figure has a name and its numbers, nothing is fetched, no name becomes markup, gaps are named."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from page_data import VECTORS, analyses, page_data, trials

from mergekit_optimer.errors import RunFolderError
from mergekit_optimer.page import ANALYSES, Analyses, page_gaps, read_analyses, render_page
from mergekit_optimer.page.scales import Scale, short, tick_text
from mergekit_optimer.report import build_report

FIGURES = {
    "differences", "dev_held_out", "search_trials", "weights", "top_trials", "pareto", "cosines", "norms",
    "cosines_by_layer", "trajectory", "trajectory_projection", "landscape", "landscape_plane", "attribution",
    "importances", "objectives", "mixture", "cost",
}  # fmt: skip


class Elements(HTMLParser):
    """Every element of a page with its attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def table(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def test_a_page_of_everything_has_each_figure_with_a_name_and_a_table(report_inputs: dict[str, Any]) -> None:
    page = render_page(page_data(report_inputs))
    assert set(page.csvs) == FIGURES
    elements = Elements(page.html)
    images = [one for one in elements.all("svg") if one.get("role") == "img"]
    ids = {attributes["id"] for _, attributes in elements.found if "id" in attributes}
    assert len(images) == len(FIGURES)
    for image in images:
        assert {image["aria-labelledby"], image["aria-describedby"]} <= ids
    links = {one["href"] for one in elements.all("a")}
    assert {f"figures/{name}.csv" for name in FIGURES} <= links
    for text in page.csvs.values():
        header, *rows = table(text)
        assert rows
        assert all(len(row) == len(header) for row in rows)


def test_ids_are_said_once_and_every_section_is_linked(report_inputs: dict[str, Any]) -> None:
    elements = Elements(render_page(page_data(report_inputs)).html)
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {one["href"] for one in elements.all("a")}
    assert {f"#{one['id']}" for one in elements.all("section")} <= links | {"#missing"}


def test_nothing_is_fetched_and_only_the_pages_own_script_runs(report_inputs: dict[str, Any]) -> None:
    html = render_page(page_data(report_inputs)).html
    elements = Elements(html)
    assert [one["href"] for one in elements.all("link")] == ["data:,"]
    assert all("src" not in attributes for _, attributes in elements.found)
    assert elements.all("script") == [{}]
    assert "url(" not in html
    assert "@import" not in html
    (policy,) = (one["content"] for one in elements.all("meta") if one.get("http-equiv"))
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy


def test_the_same_data_give_the_same_page(report_inputs: dict[str, Any]) -> None:
    assert render_page(page_data(report_inputs)) == render_page(page_data(report_inputs))


def test_names_stay_text_wherever_they_stand(report_inputs: dict[str, Any]) -> None:
    hostile = "<script>alert(1)</script>", "\"'><img src=x onerror=alert(2)>", "a&lt;b\u202egnp"
    names = dict(zip(VECTORS, hostile, strict=True))
    vectors = [replace(v, label=hostile[1], dataset=hostile[0]) for v in report_inputs["vectors"]]
    data = page_data(
        report_inputs, name=hostile[0], objective=hostile[1], note=hostile[1], trials=trials(hostile),
        weights={names[v]: 0.5 for v in VECTORS}, analyses=read_analyses(analyses(hostile)),
        report=build_report(**report_inputs | {"vectors": vectors, "name": hostile[0], "command": hostile[1]}),
        commands={"landscape": hostile[1]},
    )  # fmt: skip
    html = render_page(data).html
    elements = Elements(html)
    assert len(elements.all("script")) == 1
    assert not elements.all("img")
    assert not any(key.startswith("on") for _, attributes in elements.found for key in attributes)
    assert "<script>alert(1)</script>" in elements.text
    assert "\u202e" not in "".join(line for line in html.splitlines() if "<svg" in line)


def test_the_search_figure_draws_the_best_of_the_trials_that_could_win(report_inputs: dict[str, Any]) -> None:
    header, *rows = table(render_page(page_data(report_inputs)).csvs["search_trials"])
    best = [row[header.index("best_so_far")] for row in rows]
    assert best[:4] == ["0.0", "0.05", "0.060000000000000005", "0.07"]
    assert best[16:] == ["0.14400000000000002"] * 4


def test_tables_hold_unrounded_numbers(report_inputs: dict[str, Any]) -> None:
    csvs = render_page(page_data(report_inputs)).csvs
    assert table(csvs["weights"]) == [["vector", "weight"], ["code", "1.2461"], ["ja", "0.8231"], ["math", "0.5512"]]
    assert ["mlp", "code", "1.0", "-0.1", "0.2"] in table(csvs["cosines"])
    assert ["60 mixtures", "30000000.0", "6000.0", "240000000000000.0"] in table(csvs["cost"])


def test_a_cost_that_is_a_multiple_is_said_as_one(report_inputs: dict[str, Any]) -> None:
    text = Elements(render_page(page_data(report_inputs)).html).text
    assert "would take 40.0 times the time" in text
    assert "reports 15 to 35 times" in text


def test_whether_a_mixture_of_the_weights_is_better_is_only_said_where_it_was_trained(
    report_inputs: dict[str, Any],
) -> None:
    data = page_data(report_inputs)
    assert "is not measured in this run" in Elements(render_page(data).html).text
    held_out = report_inputs["held_out"]
    held_out["data_mixture/optimised"] = held_out["data_mixture"]
    both = replace(data, report=build_report(**report_inputs))
    text = Elements(render_page(both).html).text
    assert "is not measured in this run" not in text
    assert "on these shares (data_mixture/optimised)" in text


def test_an_empty_run_has_a_page(report_inputs: dict[str, Any]) -> None:
    data = page_data(
        report_inputs, report=None, trials=(), winner=None, weights={}, base_value=None, analyses=Analyses(), stages={},
        commands={"search": "mergekit-optimer run recipe.yaml"},
    )  # fmt: skip
    page = render_page(data)
    assert page.csvs == {}
    assert "not finished: 0 trials are scored, and there is no winner yet" in page.html
    assert "mergekit-optimer run recipe.yaml" in page.html


def test_a_search_that_was_stopped_shows_its_trials(report_inputs: dict[str, Any]) -> None:
    data = page_data(report_inputs, report=None, winner=None, weights={}, analyses=Analyses(), trials=trials()[:7])
    page = render_page(data)
    assert set(page.csvs) == {"search_trials", "top_trials"}
    assert "7 trials are scored" in page.html


def test_a_study_of_which_every_trial_collapsed_has_a_page(report_inputs: dict[str, Any]) -> None:
    data = page_data(report_inputs, report=None, winner=None, weights={}, analyses=Analyses(), trials=trials()[-1:])
    assert "1 trial is scored" in render_page(data).html


def test_a_pool_of_one_vector_has_no_cosines_and_says_so(report_inputs: dict[str, Any]) -> None:
    one = {"ja": {"norm": 1.0, "relative_norm": 0.1, "applied_fraction": 1.0, "norms": {}}}
    geometry = {"vectors": one, "cosines": {"total": {"ja": {"ja": 1.0}}}, "cosines_by_layer": {}}
    page = render_page(page_data(report_inputs, analyses=read_analyses({"geometry": geometry})))
    assert "cosines" not in page.csvs
    assert "norms" in page.csvs
    assert "has one vector" in page.html


def test_what_is_missing_is_named_with_its_command(report_inputs: dict[str, Any]) -> None:
    data = page_data(report_inputs, analyses=Analyses())
    assert [(gap.title, gap.command) for gap in page_gaps(data)] == [
        ("The objective around the winner", "mergekit-optimer search recipe.yaml --slice code,ja")
    ]
    assert "--slice code,ja" in render_page(data).html
    assert page_gaps(page_data(report_inputs)) == []


@pytest.mark.parametrize("name", ANALYSES)
def test_a_damaged_analysis_is_named(name: str) -> None:
    with pytest.raises(RunFolderError, match=rf"analysis/{name}\.json is damaged .*delete it"):
        read_analyses({name: {"vectors": "none", "cosines": 1}})


def test_ticks_are_round_and_within_the_scale() -> None:
    assert Scale(-0.07, 1.3, 0, 100).ticks() == [0.0, 0.5, 1.0]
    assert Scale(2.003, 2.041, 0, 100).ticks() == [2.01, 2.02, 2.03, 2.04]
    assert Scale(5, 5, 0, 100).ticks() == [5]
    assert [tick_text(tick, [0.0, 0.025, 0.05]) for tick in (0.0, 0.025, 0.05)] == ["0", "0.025", "0.050"]
    assert tick_text(20_000, [0, 20_000]) == "20k"
    assert [short(x) for x in (950, 1234, 6.74e12)] == ["950", "1.23k", "6.74T"]
