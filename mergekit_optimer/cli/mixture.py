"""``mixture``: the data mixture that a winner's weights stand for, as shares of tokens and as a recipe."""

from __future__ import annotations

from typing import Any

import click

from mergekit_optimer import pipeline
from mergekit_optimer.cli.options import json_option, read_job, recipe_options, show


@click.command()
@recipe_options
@json_option
def mixture(as_json: bool, **options: Any) -> None:
    """Turn the winner's weights into a data mixture: shares of tokens, and a recipe that trains it.

    A dataset's share is max(weight, 0) x tokens of its single run, normalised; what is left out is listed with what
    that means. The recipe mixture.yaml trains the mixture on as many tokens as all single runs; to have it trained and
    compared beside the other baselines, as data_mixture/optimised, run the study with train.mixture.optimised=true.

    \b
    Examples:
      mergekit-optimer mixture recipe.yaml
      mergekit-optimer run recipe.yaml --set train.mixture.optimised=true
    """
    job = read_job(**options)
    with job.run.locked():
        found = pipeline.write_mixture(job)
    if as_json:
        show(found.to_json())
        return
    for name, weight in found.weights.items():
        left_out = found.left_out.get(name)
        end = f"left out: {left_out.meaning}" if left_out else f"share {found.shares[name]:.4f}"
        click.echo(f"{name}  weight {weight:+.4f}  {end}")
    click.echo(job.run.mixture_recipe_path)
