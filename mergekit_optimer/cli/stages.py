"""The verbs that work on a recipe's run: one command per stage, and ``run`` for all of them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from mergekit_optimer import pipeline
from mergekit_optimer.cli.analysis import show_attribution
from mergekit_optimer.cli.live import watched
from mergekit_optimer.cli.options import (
    dashboard_command,
    device_option,
    json_option,
    launch_command,
    means_options,
    open_job,
    overrides_option,
    read_job,
    recipe_argument,
    recipe_options,
    resolve_device,
    run_dir_option,
    search_options,
    show,
    show_report,
    show_unfinished,
    show_winner,
    source_of_move,
)
from mergekit_optimer.cli.sending import asker, send_options
from mergekit_optimer.errors import DataError
from mergekit_optimer.recipe import DATA_MIXTURE, load_recipe
from mergekit_optimer.runs import RunDir, enter_run
from mergekit_optimer.search import check_slice
from mergekit_optimer.train import started_processes

# Weights of each vector on a slice.
_N_GRID = 7


@click.command()
@recipe_options
@means_options
@json_option
def run(as_json: bool, means: pipeline.Means, **options: Any) -> None:
    """Do everything: train, extract, search, compare, report, card. Stopped and started again, it goes on.

    \b
    Examples:
      mergekit-optimer run recipes/demo/recipe.yaml
      mergekit-optimer run recipe.yaml --workers 8
    """
    if started_processes().n > 1:
        raise click.UsageError("run is one process; start `mergekit-optimer train` with torchrun, then run.")
    pipeline.check_means(means, resolve_device(options["device"]))
    job = open_job(**options)
    with job.run.locked():
        report = pipeline.run_all(job, watched, means)
    show_report(report, job.run, as_json)


@click.command()
@recipe_argument
@overrides_option
@click.option("--data/--no-data", default=True, help="Also read base, data and samples.")
def validate(recipe_path: Path, overrides: tuple[str, ...], data: bool) -> None:
    """Check a recipe, and the base, data and samples that it names, without running anything.

    Example: mergekit-optimer validate recipe.yaml --set search.n_trials=20
    """
    recipe = load_recipe(recipe_path, overrides)
    if data:
        pipeline.check_inputs(pipeline.Job(recipe, RunDir(Path("runs") / recipe.name), "cpu"))
    click.echo(f"{recipe_path}: no problems; recipe hash {recipe.hash[:12]}")


@click.command()
@recipe_options
@click.option("--dataset", "datasets", multiple=True, metavar="NAME", help="Only this dataset (may be repeated).")
@click.option("--mixture", is_flag=True, help="Only the data mixture, at the pool's total number of tokens.")
@click.option(
    "--push",
    "pushed",
    type=click.Choice(["checkpoints", "vectors"]),
    is_flag=False,
    flag_value="checkpoints",
    help="Then push each checkpoint to publish.checkpoints, or the pool's vectors only to publish.vectors.",
)
@send_options
def train(
    datasets: tuple[str, ...],
    mixture: bool,
    pushed: str | None,
    dry_run: bool,
    public: bool,
    yes: bool,
    **options: Any,
) -> None:
    """Train one CPT checkpoint per dataset with TRL, or their mixture.

    One training may be of several processes, as torchrun and accelerate launch start them. Trainings of different
    datasets may run at the same time in one run folder.

    \b
    Examples:
      mergekit-optimer train recipe.yaml --dataset ja
      mergekit-optimer train recipe.yaml --push=vectors
      torchrun --standalone --nproc-per-node 8 --no-python mergekit-optimer train recipe.yaml
    """
    if pushed is None and (dry_run or public or yes):
        raise click.UsageError("--dry-run, --public and --yes go with --push.")
    processes = started_processes()
    with processes.as_one():
        if processes.is_first:
            job = open_job(**options)
            _check_training(job, datasets, pushed)
            if processes.n == 1 and (launch := launch_command(job.device)) is not None:
                click.echo(f"one GPU trains; all of this machine: {launch}", err=True)
        processes.share(None)
        if not processes.is_first:
            job = read_job(**options)
        # The vectors are those of the whole pool, which nothing else may be changing.
        parts = [] if pushed == "vectors" else [*datasets, *([DATA_MIXTURE] if mixture else [])]
        with job.run.locked(parts) if processes.is_first else nullcontext():
            if mixture:
                pipeline.train_pool(job, list(datasets), True, processes)
            else:
                pipeline.train_pool(job, list(datasets) or None, False if datasets else None, processes)
            processes.leave()
            if pushed is not None and processes.is_first:
                private, accept = pipeline.is_private(job.recipe, public), asker(dry_run, yes)
                with job.run.pushing():
                    for place in pipeline.push_trained(job, pushed, list(datasets), mixture, private, accept):
                        click.echo(place)


def _check_training(job: pipeline.Job, datasets: tuple[str, ...], pushed: str | None) -> None:
    known = sorted(job.recipe.train.datasets) if job.recipe.train else []
    unknown = sorted(set(datasets) - set(known))
    if not known:
        raise DataError("The recipe has no train section: its vectors come from elsewhere, nothing is to be trained.")
    if unknown:
        raise DataError(f"The recipe trains {', '.join(known)}, not {', '.join(unknown)}.")
    if pushed is not None:
        pipeline.check_push(job, pushed)


@click.command()
@recipe_options
@click.option(
    "--objective", metavar="YAML", help="Another objective, as '{mean: [ja]}'.  [same as --set search.objective=]"
)
@click.option(
    "--from", "source_dir", type=click.Path(path_type=Path), metavar="RUN", help="Take pool and trials of it."
)
@click.option("--rank-only", is_flag=True, help="With --from: rank its trials by the objective, score nothing.")
@click.option("--slice", "sliced", metavar="VECTOR[,VECTOR]", help="Then measure the objective around the winner.")
@click.option("--grid", "n_grid", type=int, help=f"With --slice: weights of each vector; {_N_GRID} else.")
@means_options
@json_option
def search(
    as_json: bool,
    source_dir: Path | None,
    rank_only: bool,
    sliced: str | None,
    n_grid: int | None,
    means: pipeline.Means,
    **options: Any,
) -> None:
    """Search the merge weights on the dev set and merge the winner. Again, it goes on where it was.

    With --from, the trials of a finished run are ranked by this objective first, which costs nothing, and the search
    goes on from them for search.n_trials more, in runs/<name>-for-<tasks> unless --run-dir says otherwise.

    With --slice, each weight is moved over its interval and the two named ones together, the others left at the
    winner's, into analysis/landscape.json and .csv. What a trial has scored is not scored again.

    With --storage, the study is in a database: the same command on other machines joins it, and --from takes along
    what a run of the same recipe has in its folder, finished or not.

    \b
    Examples:
      mergekit-optimer search recipe.yaml --set search.n_trials=60
      mergekit-optimer search recipe.yaml --objective '{mean: [ja]}' --from runs/demo --set search.n_trials=20
      mergekit-optimer search recipe.yaml --slice ja,math
      mergekit-optimer search recipe.yaml --workers 8
      mergekit-optimer search recipe.yaml --ray auto --workers 64
      mergekit-optimer search recipe.yaml --storage postgresql://user@host/database
    """
    if n_grid is not None and sliced is None:
        raise click.UsageError("--grid goes with --slice.")
    pipeline.check_means(means, resolve_device(options["device"]))
    moved = source_of_move(means, source_dir, options)
    source_dir = None if moved is not None else source_dir
    job = open_job(**search_options(options, source_dir), source_dir=source_dir)
    named = [name.strip() for name in sliced.split(",")] if sliced is not None else []
    n_points = _N_GRID if n_grid is None else n_grid
    if named:
        check_slice(list(job.recipe.pool), named, n_points)
    with pipeline.held(job.run, means) as is_ours, watched() as watch:
        if not is_ours:
            click.echo(f"{job.run.root} is another process'; this one helps with its study", err=True)
            pipeline.help_search(job, watch, means)
            return
        if source_dir is not None:
            pipeline.adopt_run(job, source_dir)
        if moved is not None:
            pipeline.move_study(job, moved, means)
        summary = pipeline.search_weights(job, rank_only, watch, means)
        pipeline.merge_winner(job)
        if named:
            summary["landscape"] = str(pipeline.measure_landscape(job, named, n_points))
    show(summary) if as_json else show_winner(summary, job.run.model_dir)
    click.echo(f"all trials: {dashboard_command(job.run.journal_path, means.storage)}", err=True)


@click.command()
@recipe_options
@click.option("--attribution", is_flag=True, help="Also score the winner without each vector: what each one brings.")
@json_option
def compare(as_json: bool, attribution: bool, **options: Any) -> None:
    """Score the winner and every baseline on the held-out set, then write report and card.

    \b
    Examples:
      mergekit-optimer compare recipe.yaml
      mergekit-optimer compare recipe.yaml --attribution
    """
    job = read_job(**options)
    with job.run.locked():
        pipeline.compare_held_out(job)
        attributed = pipeline.attribute_winner(job) if attribution else None
        report = pipeline.write_report(job)
        pipeline.write_card(job)
    show_report(report, job.run, as_json)
    if attributed is not None and not as_json:
        show_attribution(attributed)


@click.command()
@click.argument("source", metavar="RUN|RECIPE", type=click.Path(path_type=Path))
@overrides_option
@run_dir_option
@device_option
@json_option
def report(source: Path, as_json: bool, **options: Any) -> None:
    """Write report/index.html, a page to look at, and report.json from what the run holds, and show it as a table.

    Given a run's folder, nothing but the folder is read. Of a run that is not finished the page shows what is there
    and names the commands that make the rest.

    \b
    Examples:
      mergekit-optimer report runs/demo
      mergekit-optimer report recipe.yaml --json
    """
    if source.is_dir():
        if options["overrides"] or options["run_dir"]:
            raise click.UsageError("--set and --run-dir go with a RECIPE; a RUN has both.")
        run = enter_run(source)
        found = pipeline.read_report(run)
        pipeline.write_page(run)
    else:
        job = read_job(source, **options)
        run = job.run
        found = pipeline.write_report(job) if pipeline.is_compared(run) else None
        if found is None:
            pipeline.write_page(run)
    if found is None:
        show_unfinished(run, pipeline.missing_parts(run), as_json)
    else:
        show_report(found, run, as_json)


@click.command()
@recipe_options
def card(**options: Any) -> None:
    """Write report.json from what the run holds, and the merged model's card from it.

    Example: mergekit-optimer card recipe.yaml --set publish.license=apache-2.0
    """
    job = read_job(**options)
    pipeline.write_report(job)
    click.echo(pipeline.write_card(job))


@click.command()
@recipe_argument
@overrides_option
@click.argument("model_dir", type=click.Path(path_type=Path))
@device_option
@click.option("--held-out", is_flag=True, help="Score on the held-out tasks instead of the dev tasks.")
@json_option
def evaluate(
    recipe_path: Path, overrides: tuple[str, ...], model_dir: Path, device: str, held_out: bool, as_json: bool
) -> None:
    """Score any model folder on the recipe's tasks.

    Example: mergekit-optimer evaluate recipe.yaml runs/demo/best/model
    """
    recipe = load_recipe(recipe_path, overrides)
    scores = pipeline.score_model(recipe, model_dir, held_out, resolve_device(device))
    if as_json:
        show({task: one.to_json() for task, one in scores.items()})
        return
    for task, one in scores.items():
        click.echo(f"{task}  {one.primary}  {one.score.value:.4f} ± {one.score.stderr:.4f}  n {one.score.n}")


@click.command()
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--repo", metavar="OWNER/NAME", help="Where to.  [default: the recipe's publish.repo]")
@send_options
def publish(run_dir: Path, repo: str | None, dry_run: bool, public: bool, yes: bool) -> None:
    """Push a finished run's merged model with its card, figure and merge configurations. Again, it sends what changed.

    Example: mergekit-optimer publish runs/demo --repo org/merged --dry-run
    """
    run = enter_run(run_dir)
    with run.locked():
        for place in pipeline.push_model(run, repo, public, asker(dry_run, yes)):
            click.echo(place)
