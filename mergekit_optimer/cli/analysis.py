"""What the analyses say, on the terminal; and ``cost``, the verb that counts what pool and search took."""

from __future__ import annotations

from typing import Any

import click

from mergekit_optimer import pipeline
from mergekit_optimer.analysis import Attribution, Geometry, Trajectory, linearity_sentence
from mergekit_optimer.cli.options import json_option, read_job, recipe_options, show


@click.command()
@recipe_options
@json_option
def cost(as_json: bool, **options: Any) -> None:
    """Count tokens, seconds and FLOPs of pool and search, against searching data mixtures by training each.

    Example: mergekit-optimer cost recipe.yaml
    """
    job = read_job(**options)
    with job.run.locked():
        counted = pipeline.count_cost(job)
    if as_json:
        show(counted.to_json())
        return
    for row in counted.rows():
        shown = f"{row['tokens']:>15,} tokens  {row['seconds']:>11,.1f} s  {row['flops']:>9.3g} FLOPs"
        click.echo(f"{row['part']:<24}{shown}")
    click.echo(f"{counted.sentence}\n{counted.formula}\nN = {counted.parameters:,}")
    click.echo(job.run.analysis_path("cost"))


def show_attribution(found: Attribution) -> None:
    """Print what each vector brings, and the study's importances beside it under their own name."""
    click.echo("What each vector brings: held-out mean of the winner less the winner without it, 95 % interval")
    for name, one in found.vectors.items():
        mean = one.mean
        share = "" if found.importances is None else f"  importance {found.importances[name]:.2f}"
        click.echo(
            f"  {name:<12} weight {one.weight:+.4f}  {mean.difference:+.5f} ({mean.low:+.5f} to {mean.high:+.5f})  "
            f"{mean.word}{share}"
        )
    click.echo(f"Importances are another thing: {found.importances_method}.")


def show_geometry(geometry: Geometry, trajectories: dict[str, Trajectory]) -> None:
    """Print norms, cosines and what a weight means in training time."""
    for name, row in geometry.vectors.items():
        kinds = "  ".join(f"{kind} {norm:.4g}" for kind, norm in row.norms.items())
        click.echo(f"{name}  norm {row.norm:.4g}  {row.relative_norm:.3g} of the base's  ({kinds})")
    for kind, cosines in geometry.cosines.items():
        click.echo(f"cosines, {kind}:")
        for name, others in cosines.items():
            click.echo(f"  {name:<12}" + "  ".join(f"{other} {value:+z.3f}" for other, value in others.items()))
    click.echo(geometry.sentence)
    if trajectories:
        click.echo(linearity_sentence(trajectories))
    for one in trajectories.values():
        click.echo(one.meaning.sentence)
