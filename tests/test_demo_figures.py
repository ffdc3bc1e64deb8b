"""The figures of the demo that the READMEs show: they are there, need nothing else, and say what the text says."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent
FIGURES = sorted((ROOT / "recipes/demo/figures").glob("*.svg"))
README = (ROOT / "README.md").read_text()


def said(name: str) -> str:
    """What a figure says to who cannot see it."""
    root = ElementTree.parse(ROOT / f"recipes/demo/figures/{name}.svg").getroot()
    return str(root.findtext("{http://www.w3.org/2000/svg}desc"))


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted(ROOT.glob("recipes/*/README.md"))], ids=str)
def test_every_file_that_a_readme_links_to_is_there(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text())
    local = [link.partition("#")[0] for link in links if "://" not in link and not link.startswith("#")]
    assert [link for link in local if not (path.parent / link).exists()] == []


def test_each_finding_has_a_command_and_a_figure_that_is_shown() -> None:
    section = README.partition("## What your vectors show")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and "recipes/demo/figures/" in line]
    findings = [row for row in rows if not row.startswith("| ![")]
    assert len(findings) == 4
    shown = set(re.findall(r"!\[[^]]+\]\(recipes/demo/figures/(\w+)\.svg\)", section))
    for row in findings:
        _, _, command, numbers, figure, _ = row.split(" | ".strip())
        assert "`" in command
        assert re.search(r"\d", numbers)
        assert re.findall(r"figures/(\w+)\.svg", figure)[0] in shown


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_a_shipped_figure_needs_nothing_else(path: Path) -> None:
    text = path.read_text()
    root = ElementTree.fromstring(text)
    assert root.get("role") == "img"
    assert said(path.stem)
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"href|url\(|<script|@import", text)
    assert path.stat().st_size < 32_000


def test_the_readme_says_what_the_figures_say() -> None:
    quoted = re.search(r"yes: (\S+) to (\S+) \|", README)
    assert quoted
    cosines = [float(number) for number in re.findall(r"(-?\d\.\d+) \(", said("cosines"))]
    assert [float(number) for number in quoted.groups()] == pytest.approx(cosines, abs=0.0055)
    difference, better, worse = (abs(float(x)) for x in re.findall(r"-\d\.\d+", said("mixture_scores"))[:3])
    assert f"is {difference:.4f} ({worse:.4f} to {better:.4f}) worse" in README
    weights = dict(re.findall(r"(\w+) ([+-]\d\.\d\d)", said("objectives").partition("; ")[0]))
    table = dict(re.findall(r"^      (\w+) +([+-]\d\.\d{4})   -0\.5 to 1\.25", README, re.M))
    assert weights == {name: f"{float(weight):+.2f}" for name, weight in table.items()}
