"""Options that several verbs share, each declared once, and how they become a Job."""

from __future__ import annotations

import functools
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from mergekit_optimer.errors import OptimerError
from mergekit_optimer.files import named_here
from mergekit_optimer.pipeline import (
    TRIAL_TIMEOUT_S,
    Job,
    Means,
    check_source,
    is_same_study,
    pin_recipe,
    read_pins,
    visible_gpus,
)
from mergekit_optimer.recipe import load_recipe
from mergekit_optimer.report import ReportData, render_table
from mergekit_optimer.runs import RunDir, open_run, read_run
from mergekit_optimer.search import storage_label

Command = Callable[..., Any]

recipe_argument = click.argument("recipe_path", metavar="RECIPE", type=click.Path(path_type=Path))
overrides_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe key, as search.n_trials=20."
)
run_dir_option = click.option(
    "--run-dir", type=click.Path(path_type=Path), help="Where the run lies.  [default: runs/<name of the recipe>]"
)
device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where models run."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def means_options(command: Command) -> Command:
    """How many workers score, where, and where the study is kept; passed as ``means``."""

    @functools.wraps(command)
    def with_means(**options: Any) -> Any:
        names = {"n_workers", "gpus_per_worker", "in_flight", "ray", "storage", "timeout_s"}
        return command(means=Means(**{name: options.pop(name) for name in names}), **options)

    for option in (
        click.option("--trial-timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
                     help="Replace a worker that does not answer so long; also of one worker, which is then a process "
                     f"of its own.  [default: {TRIAL_TIMEOUT_S:g} where there are several]"),
        click.option("--storage", metavar="URL", help="Keep the study in postgresql://..., shared by many machines."),
        click.option("--ray", metavar="ADDRESS", help="Workers on an existing Ray cluster, as auto or host:port."),
        click.option("--in-flight", type=click.IntRange(min=1), metavar="N",
                     help="Weight vectors scored at once; further workers share them.  [default: workers, up to 8]"),
        click.option("--gpus-per-worker", type=click.IntRange(min=1), metavar="N", default=1, show_default=True,
                     help="For a model that one GPU has no room for."),
        click.option("--workers", "n_workers", type=click.IntRange(min=1), metavar="N", default=1, show_default=True,
                     help="Processes that score the search's trials: one per GPU, or on CPU cores."),
    ):  # fmt: skip
        with_means = option(with_means)
    return with_means


def recipe_options(command: Command) -> Command:
    """The options of every verb that works on a recipe's run."""
    for option in (device_option, run_dir_option, overrides_option, recipe_argument):
        command = option(command)
    return command


def open_job(
    recipe_path: Path,
    overrides: tuple[str, ...] = (),
    run_dir: Path | None = None,
    device: str = "auto",
    source_dir: Path | None = None,
) -> Job:
    """Read the recipe and open its run folder, made where it is not there.

    Args:
        source_dir: A finished run whose trials it will take over; what does not fit is refused before any folder is.
    """
    recipe = load_recipe(recipe_path, overrides)
    place, folder = resolve_device(device), run_dir or Path("runs") / recipe.name
    if source_dir is not None:
        check_source(recipe, source_dir, place)
    command = _command(recipe_path, overrides, source_dir)
    run = open_run(folder, recipe, command=command, device=place, overrides=overrides)
    return Job(pin_recipe(recipe, run, source_dir), run, place)


def read_job(
    recipe_path: Path, overrides: tuple[str, ...] = (), run_dir: Path | None = None, device: str = "auto"
) -> Job:
    """Read the recipe and enter a run folder that is there, whose recipe stays as it is."""
    recipe = load_recipe(recipe_path, overrides)
    run = read_run(run_dir or Path("runs") / recipe.name, recipe)
    return Job(read_pins(recipe, run), run, resolve_device(device))


def search_options(options: dict[str, Any], source_dir: Path | None) -> dict[str, Any]:
    """Turn --objective into an override and, with --from, choose a run folder that says what is searched for."""
    objective = options.pop("objective")
    if objective is not None:
        options["overrides"] = (*options["overrides"], f"search.objective={objective}")
    if source_dir is not None and options["run_dir"] is None:
        recipe = load_recipe(options["recipe_path"], options["overrides"])
        objective = recipe.search.objective
        tasks = "-".join((*(("pareto",) if objective.pareto else ()), *sorted(objective.task_weights)))
        options["run_dir"] = Path("runs") / f"{recipe.name}-for-{tasks}"
    return options


def source_of_move(means: Means, source_dir: Path | None, options: dict[str, Any]) -> Path | None:
    """The run of --from, where --storage is to go on with its very study; None where it is another search's."""
    if means.storage is None or source_dir is None or options["objective"] is not None:
        return None
    recipe = load_recipe(options["recipe_path"], options["overrides"])
    return source_dir if is_same_study(recipe, source_dir) else None


def resolve_device(device: str) -> str:
    """Turn ``auto`` into cuda where there is a GPU, else cpu.

    Raises:
        OptimerError: cuda was asked for and there is none.
    """
    if device == "cpu":
        return device
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise OptimerError("No CUDA device is usable here; use --device cpu, or install a CUDA build of torch.")
    return "cpu"


def launch_command(device: str, words: Sequence[str] | None = None) -> str | None:
    """The command that trains on all GPUs of this machine; None where there is one at most.

    Args:
        words: The command line that was given; None: this process'.
    """
    n_gpus = len(visible_gpus()) if device.startswith("cuda") else 0
    if n_gpus < 2:
        return None
    launch = ["accelerate", "launch", "--multi_gpu", "--num_processes", str(n_gpus), "--no_python", "mergekit-optimer"]
    return shlex.join([*launch, *(sys.argv[1:] if words is None else words)])


def show(data: Any) -> None:
    """Print data as JSON to stdout."""
    click.echo(json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False))


def show_winner(summary: dict[str, Any], model_dir: Path) -> None:
    """Print a search's winner: what was free, what was run, the weights, and where the model lies."""
    winner = summary["winner"]
    if summary["n_adopted"]:
        seconds = summary["merge_s"] + summary["score_s"]
        click.echo(
            f"ranked anew for free: {summary['n_adopted']} trials; run: {summary['n_run']} trials, {seconds:.1f} s"
        )
    weights = "  ".join(f"{name} {weight:+.4f}" for name, weight in winner["weights"].items())
    click.echo(f"trial #{winner['number']}  dev {winner['value']:.4f}  {weights}\n{model_dir}")
    if "landscape" in summary:
        click.echo(summary["landscape"])


def dashboard_command(journal_path: Path, storage: str | None = None) -> str:
    """The command that shows a study in a browser; optuna-dashboard is the extra [dashboard].

    Args:
        storage: The study's database, where it is kept in one.
    """
    return shlex.join(["optuna-dashboard", str(journal_path) if storage is None else storage_label(storage)])


def show_report(report: ReportData, run: RunDir, as_json: bool) -> None:
    """Print a report as a table, or as report.json holds it, and where its page lies."""
    if as_json:
        show(report.to_json())
        return
    # A file or a pipe has no width; a table must not be cut for its sake.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    console.print(render_table(report, console.width))
    click.echo(f"The run lies in {run.root}")
    click.echo(f"To look at: {run.page_path}")


def show_unfinished(run: RunDir, missing: dict[str, str], as_json: bool) -> None:
    """Say what a run lacks, with the commands that make it, and print where its page lies."""
    if as_json:
        show({"finished": False, "missing": missing, "page": str(run.page_path)})
        return
    click.echo("The run is not finished, or has gone on since it was compared. What it lacks:", err=True)
    for what, command in missing.items():
        # A second command, which wants the first, under it.
        lines = command.replace("\n", "\n" + " " * (len(what) + 4))
        click.echo(f"  {what}: {lines}", err=True)
    click.echo(f"To look at: {run.page_path}")


def _command(recipe_path: Path, overrides: tuple[str, ...], source_dir: Path | None) -> str:
    """The command that makes the run again, without a path of this machine."""
    words = ["mergekit-optimer", "run", _shown(recipe_path)]
    if source_dir is not None:
        words = ["mergekit-optimer", "search", _shown(recipe_path), "--from", _shown(source_dir)]
    for override in overrides:
        key, _, value = override.partition("=")
        words += ["--set", f"{key}={Path(value).name if value.startswith('/') else value}"]
    return shlex.join(words)


def _shown(path: Path) -> str:
    return named_here(path) or path.resolve().name
