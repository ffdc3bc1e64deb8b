"""``vectors``: extract, show, pull and push distribution vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import yaml

from mergekit_optimer import pipeline
from mergekit_optimer.analysis import pool_geometry
from mergekit_optimer.cli.analysis import show_geometry
from mergekit_optimer.cli.options import (
    device_option,
    json_option,
    open_job,
    overrides_option,
    read_job,
    recipe_options,
    run_dir_option,
    show,
)
from mergekit_optimer.cli.sending import asker, send_options
from mergekit_optimer.vectors import extract_vector, pool_table

_folder = click.Path(path_type=Path, exists=True, file_okay=False)


@click.group()
def vectors() -> None:
    """Distribution vectors: what training on one dataset adds to the base."""


@vectors.command()
@recipe_options
def extract(**options: Any) -> None:
    """Subtract the base from every checkpoint of the recipe's pool.

    Example: mergekit-optimer vectors extract recipe.yaml
    """
    job = open_job(**options)
    with job.run.locked():
        pipeline.make_vectors(job)
    for name in job.recipe.pool:
        click.echo(job.vector(name).path)


@vectors.command()
@click.argument("checkpoint", type=_folder)
@click.argument("base", type=_folder)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--name", help="Name of the vector.  [default: the checkpoint's folder]")
@click.option("--base-label", help="What the base is called, as repo@sha.  [default: the base's folder]")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
def subtract(checkpoint: Path, base: Path, out: Path, name: str | None, base_label: str | None, dtype: str) -> None:
    """Subtract a base model from any checkpoint, both local folders, into a new vector folder.

    Example: mergekit-optimer vectors subtract ./cpt-ja ./base ./dv-ja --dtype bfloat16
    """
    vector = extract_vector(name or checkpoint.name, checkpoint, base, out, base_label or base.name, dtype)
    click.echo(f"{out}  norm {vector.norm:.4g}  {vector.relative_norm:.3g} of the base's")


@vectors.command()
@click.argument("pool", metavar="POOL|RECIPE")
@overrides_option
@run_dir_option
@device_option
def pull(pool: str, **options: Any) -> None:
    """Fetch a vector pool from the Hub into the cache, every file checked, and print the recipe's lines that name it.

    POOL is the repository of a pool's manifest, as owner/name or owner/name@revision, or a collection of vectors, as
    collections/owner/title-id.

    Of a RECIPE base and vectors are fetched, and vectors made of the checkpoints and adapters that it names, in its
    run folder: each repository stays at the commit that it is at now. What is to be trained is left out.

    \b
    Examples:
      mergekit-optimer vectors pull org/my-pool > recipe.yaml
      mergekit-optimer vectors pull recipe.yaml
    """
    if Path(pool).is_file() or pool.endswith((".yaml", ".yml")):
        job = open_job(Path(pool), **options)
        with job.run.locked():
            places = pipeline.pull_recipe(job)
        click.echo("\n".join(f"{name}  {place.label}  {place.path}" for name, place in places.items()))
        return
    if options["overrides"] or options["run_dir"]:
        raise click.UsageError("--set and --run-dir go with a RECIPE; a POOL has neither.")
    click.echo(yaml.safe_dump(pipeline.pull_pool(pool).to_recipe(), sort_keys=False, allow_unicode=True), nl=False)


@vectors.command()
@recipe_options
@click.argument("prefix", required=False)
@click.option("--pool", metavar="REPO", help="Repository of the pool's manifest.  [default: PREFIXpool]")
@send_options
def push(prefix: str | None, pool: str | None, dry_run: bool, public: bool, yes: bool, **options: Any) -> None:
    """Push the vectors, one repository each, and the manifest that makes them a pool. Again, it sends what changed.

    PREFIX is what a vector's name is appended to; without it, the recipe's publish.vectors is.

    Example: mergekit-optimer vectors push recipe.yaml org/dv- --dry-run
    """
    job = read_job(**options)
    with job.run.locked():
        private = pipeline.is_private(job.recipe, public)
        sent = pipeline.push_pool(job, prefix, pool, private, asker(dry_run, yes))
    for place in sent:
        click.echo(place)


@vectors.command("show")
@recipe_options
@click.option("--figures", is_flag=True, help="Also write numbers (JSON, CSV) and figures into the run.")
@json_option
def show_pool(as_json: bool, figures: bool, **options: Any) -> None:
    """Show the pool's norms and pairwise cosines, in total and by module kind.

    With --figures these, by layer too, and how straight the trainings went whose way was kept (train.keep_checkpoints)
    are written into analysis/ and report/figures/.

    \b
    Examples:
      mergekit-optimer vectors show recipe.yaml --json
      mergekit-optimer vectors show recipe.yaml --figures
    """
    job = read_job(**options)
    if not figures:
        if as_json:
            show(pool_table(job.pool))
        else:
            show_geometry(pool_geometry(job.pool, job.dtype), {})
        return
    with job.run.locked():
        geometry, trajectories = pipeline.measure_vectors(job)
        files = pipeline.draw_vectors(job, geometry, trajectories)
    if as_json:
        show(pool_table(job.pool) | {"files": [str(file) for file in files]})
        return
    show_geometry(geometry, trajectories)
    click.echo("\n".join(str(file) for file in files))
