"""The page: every figure has a name and its numbers, nothing is fetched, no name becomes markup, gaps are named."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest
from page_data import VECTORS, analyses, page_data, trials

from mergekit_optimer.errors import RunFolderError
from mergekit_optimer.page import ANALYSES, Analyses, page_gaps, read_analyses, render_page
from mergekit_optimer.page.scales import Scale, short, tick_text
from mergekit_optimer.report import TrialFacts, build_report

FIGURES = {
    "differences", "dev_held_out", "search_trials", "weights", "top_trials", "pareto", "cosines", "norms",
    "cosines_by_layer", "trajectory", "trajectory_projection", "landscape", "landscape_plane", "attribution",
    "importances", "objectives", "mixture", "mixture_scores", "cost",
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


class Drawn:
    """A figure as the page holds it: its elements by class, and where they stand."""

    def __init__(self, html: str, figure: str) -> None:
        found = re.search(rf'<figure id="figure-{figure}".*?(<svg.*?</svg>)', html, re.S)
        assert found, f"no figure {figure}"
        self._root = ElementTree.fromstring(found[1])

    def all(self, tag: str, class_: str) -> list[dict[str, str]]:
        """The elements of a kind whose class is this one, in the order in which they are drawn."""
        found = self._root.iter(f"{{http://www.w3.org/2000/svg}}{tag}")
        return [one.attrib for one in found if one.get("class") == class_]

    def texts(self, class_: str) -> list[str]:
        return [one.text or "" for one in self._root.iter() if one.get("class") == class_]

    def corners(self, tag: str, class_: str) -> list[tuple[float, float]]:
        """The corners of the one polygon or line of this class."""
        (one,) = self.all(tag, class_)
        x, y = zip(*(pair.split(",") for pair in one["points"].split()), strict=True)
        return list(zip(map(float, x), map(float, y), strict=True))


def with_average(value: float) -> tuple[TrialFacts, ...]:
    """The trials with one that is the uniform average and has this objective."""
    average = replace(trials()[4], value=value, kind="warm_start", baseline="uniform_average")
    return (*trials()[:4], average, *trials()[5:])


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
    assert {f"figures/{name}.{suffix}" for name in FIGURES for suffix in ("csv", "svg")} <= links
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


def test_the_best_so_far_is_drawn_with_its_band(report_inputs: dict[str, Any]) -> None:
    drawn = Drawn(render_page(page_data(report_inputs)).html, "search_trials")
    line, band = drawn.corners("polyline", "stroke s0"), drawn.corners("polygon", "band s0")
    # Up along the steps and back below them; the base has no error to itself, every later trial has one.
    upper, lower = band[: len(band) // 2], band[len(band) // 2 :][::-1]
    assert [x for x, _ in upper] == [x for x, _ in lower] == [x for x, _ in line]
    heights = [low - high for (_, high), (_, low) in zip(upper, lower, strict=True)]
    assert heights[0] == 0
    per_unit = (line[0][1] - line[2][1]) / 0.05
    assert heights[2:] == pytest.approx([2 * 0.01 * per_unit] * len(heights[2:]), abs=0.05)


def test_each_trial_is_drawn_by_what_became_of_it(report_inputs: dict[str, Any]) -> None:
    drawn = Drawn(render_page(page_data(report_inputs)).html, "search_trials")
    # One of each is the legend's.
    counts = {class_: len(drawn.all(tag, f"dot {class_}")) for tag, class_ in
              (("circle", "s0"), ("path", "s1"), ("path", "s6"), ("path", "muted"), ("circle", "won"))}  # fmt: skip
    assert counts == {"s0": 13 + 1, "s1": 4 + 1, "s6": 1 + 1, "muted": 2 + 2, "won": 1 + 1}


def test_the_baselines_among_the_trials_are_lines_with_their_names(report_inputs: dict[str, Any]) -> None:
    data = page_data(report_inputs, trials=with_average(0.11))
    drawn = Drawn(render_page(data).html, "search_trials")
    heights = {}
    for class_ in ("muted", "s2", "s3"):
        (line,) = drawn.all("line", f"stroke dash thin {class_}")
        assert line["y1"] == line["y2"]
        assert float(line["x2"]) - float(line["x1"]) > 300
        heights[class_] = float(line["y1"])
        assert len(drawn.all("line", f"stroke {class_} dash")) == 1
    # The base at 0, the best single vector at 0.07, the average at 0.11.
    assert (heights["muted"] - heights["s3"]) / (heights["muted"] - heights["s2"]) == pytest.approx(
        0.11 / 0.07, abs=0.01
    )
    assert drawn.texts("key")[-3:] == ["base_model", "single/math", "uniform_average"]


def test_a_baseline_that_was_no_trial_has_no_line(report_inputs: dict[str, Any]) -> None:
    data = page_data(report_inputs, trials=trials()[4:], base_value=None)
    drawn = Drawn(render_page(data).html, "search_trials")
    assert not any(drawn.all("line", f"stroke dash thin {class_}") for class_ in ("muted", "s2", "s3"))
    assert not {"base_model", "single/math", "uniform_average"} & set(drawn.texts("key"))


def test_each_slice_is_drawn_with_its_error_band(report_inputs: dict[str, Any]) -> None:
    drawn = Drawn(render_page(page_data(report_inputs)).html, "landscape")
    for class_, name in zip(("s0", "s1", "s2"), VECTORS, strict=True):
        line, band = drawn.corners("polyline", f"stroke {class_}"), drawn.corners("polygon", f"band {class_}")
        upper, lower = band[:4], band[4:][::-1]
        per_unit = (line[0][1] - line[1][1]) / 0.05
        heights = [low - high for (_, high), (_, low) in zip(upper, lower, strict=True)]
        # The winner's own point has no error to itself.
        assert heights == pytest.approx([2 * error * per_unit for error in (0.01, 0.01, 0.0, 0.01)], abs=0.05)
        assert name in drawn.texts("key")


def test_the_trials_stand_on_the_plane_at_their_weights(report_inputs: dict[str, Any]) -> None:
    drawn = Drawn(render_page(page_data(report_inputs)).html, "landscape_plane")
    # Cells of 0.5 around -0.5 to 1.0 and -0.5 to 0.5: what lies beyond has no place.
    wanted = [(t.weights["code"], t.weights["ja"]) for t in trials() if t.weights["ja"] <= 0.75]
    assert len(wanted) > 10
    # The last of each is the legend's.
    *spots, _ = drawn.all("circle", "dot ink")
    assert len(spots) == len(wanted)
    cells = drawn.all("rect", "cell more")
    left, bottom = float(cells[0]["x"]), float(cells[0]["y"]) + float(cells[0]["height"])
    width, height = float(cells[0]["width"]) / 0.5, float(cells[0]["height"]) / 0.5
    for spot, (x, y) in zip(spots, wanted, strict=True):
        assert float(spot["cx"]) == pytest.approx(left + (x + 0.75) * width, abs=0.05)
        assert float(spot["cy"]) == pytest.approx(bottom - (y + 0.75) * height, abs=0.05)
    # The winner's weights lie beyond these cells too: only the legend has its star.
    assert len(drawn.all("path", "dot won")) == 1


def test_the_winner_stands_on_its_plane(report_inputs: dict[str, Any]) -> None:
    data = analyses()
    data["landscape"]["winner"] = {"code": 0.5, "ja": 0.25, "math": 0.1}
    page = render_page(page_data(report_inputs, analyses=read_analyses(data)))
    assert len(Drawn(page.html, "landscape_plane").all("path", "dot won")) == 2


def test_a_figure_is_a_file_of_its_own(report_inputs: dict[str, Any]) -> None:
    page = render_page(page_data(report_inputs))
    assert set(page.svgs) == FIGURES
    for name, text in page.svgs.items():
        root = ElementTree.fromstring(text)
        tags = [one.tag.rpartition("}")[2] for one in root.iter()]
        assert tags[:5] == ["svg", "title", "desc", "style", "rect"]
        assert "prefers-color-scheme: dark" in text
        assert "href" not in text
        assert "url(" not in text
        # The same drawing as on the page.
        inside = re.search(rf'<figure id="figure-{name}".*?(<svg.*?</svg>)', page.html, re.S)
        assert inside
        assert [one.tag for one in ElementTree.fromstring(inside[1]).iter()] == [
            one.tag for one in root.iter() if not one.tag.endswith("style") and one.get("width") != "100%"
        ]


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
    text = Elements(render_page(data).html).text
    assert "is not measured in this run" not in text
    assert "on these shares (data_mixture/optimised)" in text
    without = render_page(replace(data, report=build_report(**report_inputs)))
    assert "is not measured in this run" in Elements(without.html).text
    assert "mixture_scores" not in without.csvs


def test_the_two_mixtures_are_compared_sample_by_sample(report_inputs: dict[str, Any]) -> None:
    page = render_page(page_data(report_inputs))
    rows = {row[0]: [float(cell) for cell in row[1:]] for row in table(page.csvs["mixture_scores"])[1:]}
    assert list(rows) == ["choice_math", "code", "ja", "mean"]
    # The shares of the weights lose 0.03 everywhere; the samples' own difficulty is in both.
    for name in ("choice_math", "code", "ja"):
        difference, low, high = rows[name]
        assert difference == pytest.approx(-0.03, abs=0.02)
        assert low < difference < high
        assert high - low < 0.06
    drawn = Drawn(page.html, "mixture_scores")
    # Four marks and the legend's.
    assert len(drawn.all("circle", "dot bad")) == 4 + 1
    assert "positive being better: worse." in Elements(page.html).text


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
