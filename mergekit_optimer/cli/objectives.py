"""The verb ``objectives``: finished studies over one pool in one table."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mergekit_optimer import pipeline
from mergekit_optimer.cli.options import device_option, json_option, resolve_device, show
from mergekit_optimer.files import read_json
from mergekit_optimer.report.numbers import format_score, format_weight
from mergekit_optimer.scores import Score


@click.command()
@click.argument("run_dirs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", "out_dir", type=click.Path(path_type=Path), metavar="RUN", help="Where to write it.  [default: first RUN]"
)
@device_option
@json_option
def objectives(run_dirs: tuple[Path, ...], out_dir: Path | None, device: str, as_json: bool) -> None:
    """Show several studies over one pool side by side: objective, weights, held-out scores.

    Each RUN is searched; `search --objective ... --from RUN` makes another one without training. A winner that has no
    held-out scores yet is scored first, from the recipe that made its run. Writes analysis/objectives.json and .csv.

    Example: mergekit-optimer objectives runs/demo runs/demo-for-ja
    """
    path = pipeline.compare_objectives(run_dirs, out_dir, partial(resolve_device, device))
    data = read_json(path)
    if as_json:
        show(data)
        return
    # A file or a pipe has no width; a table must not be cut for its sake.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(objectives_table(data))
    click.echo(path)


def objectives_table(data: dict[str, Any]) -> Table:
    """A row for each objective, the base model's scores last; the best of a task is bold."""
    vectors = sorted(data["rows"][0]["weights"])
    table = Table(title="Held-out scores by objective", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("run")
    table.add_column("objective")
    for vector in vectors:
        table.add_column(Text(f"w {vector}"), justify="right", no_wrap=True)
    for task, facts in data["tasks"].items():
        arrow = "↑" if facts["higher_is_better"] else "↓"
        table.add_column(Text(f"{task} {arrow}\n{facts['metric']}"), justify="right", no_wrap=True)
    best = {task: _best(data, task) for task in data["tasks"]}
    for row in data["rows"]:
        weights = (format_weight(row["weights"][vector]) for vector in vectors)
        scores = (_cell(row["held_out"][task], best[task]) for task in data["tasks"])
        table.add_row(Text(row["name"]), Text(row["objective"]), *weights, *scores)
    base = (_cell(data["base_model"][task], None) for task in data["tasks"])
    table.add_row("base_model", "", *("" for _ in vectors), *base)
    return table


def _best(data: dict[str, Any], task: str) -> float:
    values = [row["held_out"][task]["value"] for row in data["rows"]]
    return float(max(values) if data["tasks"][task]["higher_is_better"] else min(values))


def _cell(score: dict[str, Any], best: float | None) -> Text:
    return Text(format_score(Score(**score)), style="bold" if score["value"] == best else "")
