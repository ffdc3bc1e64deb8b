"""The verbs that work on a recipe's run: one command per stage, and ``run`` for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mergekit_optimer import pipeline
from mergekit_optimer.cli.options import (
    device_option,
    json_option,
    open_job,
    overrides_option,
    read_job,
    recipe_argument,
    recipe_options,
    resolve_device,
    search_options,
    show,
    show_report,
    show_winner,
)
from mergekit_optimer.cli.sending import asker, send_options
from mergekit_optimer.errors import DataError
from mergekit_optimer.recipe import load_recipe
from mergekit_optimer.runs import RunDir, enter_run


@click.command()
@recipe_options
@json_option
def run(as_json: bool, **options: Any) -> None:
    """Do everything: train, extract, search, compare, report, card. Stopped and started again, it goes on.

    Example: mergekit-optimer run recipes/demo/recipe.yaml
    """
    job = open_job(**options)
    with job.run.locked():
        report = pipeline.run_all(job)
    show_report(report, job.run.root, as_json)


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

    \b
    Examples:
      mergekit-optimer train recipe.yaml --dataset ja
      mergekit-optimer train recipe.yaml --push=vectors
    """
    if pushed is None and (dry_run or public or yes):
        raise click.UsageError("--dry-run, --public and --yes go with --push.")
    job = open_job(**options)
    known = job.recipe.train.datasets if job.recipe.train else {}
    unknown = sorted(set(datasets) - set(known))
    if not known:
        raise DataError("The recipe has no train section: its vectors come from elsewhere, nothing is to be trained.")
    if unknown:
        raise DataError(f"The recipe trains {', '.join(sorted(known))}, not {', '.join(unknown)}.")
    with job.run.locked():
        if mixture:
            pipeline.train_pool(job, list(datasets), mixture=True)
        else:
            pipeline.train_pool(job, list(datasets) or None, mixture=False if datasets else None)
        if pushed is not None:
            private, accept = pipeline.is_private(job.recipe, public), asker(dry_run, yes)
            for place in pipeline.push_trained(job, pushed, list(datasets), mixture, private, accept):
                click.echo(place)


@click.command()
@recipe_options
@click.option(
    "--objective", metavar="YAML", help="Another objective, as '{mean: [ja]}'.  [same as --set search.objective=]"
)
@click.option(
    "--from", "source_dir", type=click.Path(path_type=Path), metavar="RUN", help="Take pool and trials of it."
)
@click.option("--rank-only", is_flag=True, help="With --from: rank its trials by the objective, score nothing.")
@json_option
def search(as_json: bool, source_dir: Path | None, rank_only: bool, **options: Any) -> None:
    """Search the merge weights on the dev set and merge the winner. Again, it goes on where it was.

    With --from, the trials of a finished run are ranked by this objective first, which costs nothing, and the search
    goes on from them for search.n_trials more, in runs/<name>-for-<tasks> unless --run-dir says otherwise.

    \b
    Examples:
      mergekit-optimer search recipe.yaml --set search.n_trials=60
      mergekit-optimer search recipe.yaml --objective '{mean: [ja]}' --from runs/demo --set search.n_trials=20
    """
    job = open_job(**search_options(options, source_dir), source_dir=source_dir)
    with job.run.locked():
        if source_dir is not None:
            pipeline.adopt_run(job, source_dir)
        summary = pipeline.search_weights(job, rank_only)
        pipeline.merge_winner(job)
    show(summary) if as_json else show_winner(summary, job.run.model_dir)


@click.command()
@recipe_options
@json_option
def compare(as_json: bool, **options: Any) -> None:
    """Score the winner and every baseline on the held-out set, then write report and card.

    Example: mergekit-optimer compare recipe.yaml
    """
    job = read_job(**options)
    with job.run.locked():
        pipeline.compare_held_out(job)
        report = pipeline.write_report(job)
        pipeline.write_card(job)
    show_report(report, job.run.root, as_json)


@click.command()
@recipe_options
@json_option
def report(as_json: bool, **options: Any) -> None:
    """Write report.json from what the run holds, and show it as a table.

    Example: mergekit-optimer report recipe.yaml --json
    """
    job = read_job(**options)
    show_report(pipeline.write_report(job), job.run.root, as_json)


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
