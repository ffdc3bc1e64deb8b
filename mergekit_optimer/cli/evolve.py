"""``import-evolve``: a mergekit-evolve genome as a recipe."""

from __future__ import annotations

from pathlib import Path

import click

from mergekit_optimer.errors import RecipeError
from mergekit_optimer.evolve import import_genome
from mergekit_optimer.files import write_text


@click.command("import-evolve")
@click.argument("genome", metavar="GENOME", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Write the recipe there.  [default: stdout]")
@click.option(
    "--held-out", multiple=True, metavar="TASK", help="An lm-eval task for the held-out set (may be repeated)."
)
def import_evolve(genome: Path, out: Path | None, held_out: tuple[str, ...]) -> None:
    """Turn a genome of mergekit-evolve, which is deprecated, into a recipe.

    lm-eval tasks become lighteval tasks where there is one. What has no counterpart is listed on stderr and at the top
    of the recipe; what a genome does not have, as a held-out set, is listed as to be written.

    \b
    Example: mergekit-optimer import-evolve genome.yml --out recipe.yaml --held-out winogrande
    """
    if out is not None and out.exists():
        raise RecipeError(str(out), ["exists; name another file with --out"])
    made = import_genome(genome, (out.parent if out else Path()).resolve(), held_out)
    for sentence in made.unlike:
        click.echo(f"not the same: {sentence}", err=True)
    for problem in made.to_fill:
        click.echo(f"to be written: {problem}", err=True)
    if out is None:
        click.echo(made.text, nl=False)
    else:
        write_text(out, made.text)
        click.echo(out)
