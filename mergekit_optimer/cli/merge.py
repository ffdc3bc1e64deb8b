"""``merge``: any mergekit YAML with every mergekit-yaml option, or a recipe's pool at given weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import yaml

from mergekit_optimer import pipeline
from mergekit_optimer.cli.options import read_job
from mergekit_optimer.errors import MergeError
from mergekit_optimer.files import TEMPORARY, new_folder, write_text
from mergekit_optimer.merge import check_merged, merge_yaml, mergekit_named, portable_yaml
from mergekit_optimer.method import METHOD, check_parameters, register
from mergekit_optimer.pipeline import CARD, MERGE_CONFIG

# mergekit's own name for what ours calls MERGE_CONFIG.
_MERGEKITS_CONFIG = "mergekit_config.yml"


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("config", metavar="YAML", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--weight", "pairs", multiple=True, metavar="NAME=W", help="With a recipe: weight of a vector.")
@click.option("--portable", type=click.Path(path_type=Path), help="With a recipe: also write the plain mergekit YAML.")
@click.option("--run-dir", type=click.Path(path_type=Path), help="With a recipe: where its run lies.")
@click.argument("mergekit_options", nargs=-1, type=click.UNPROCESSED)
def merge(
    config: Path,
    out: Path,
    pairs: tuple[str, ...],
    portable: Path | None,
    run_dir: Path | None,
    mergekit_options: tuple[str, ...],
) -> None:
    """Merge a mergekit YAML (our method included, all options of mergekit-yaml accepted) or a recipe's vectors.

    In place of a YAML, the repository of a published merge can be given: it is merged again from its parts, which are
    pulled and checked. So are the repositories that a YAML names, as owner/name@revision.

    \b
    Examples: mergekit-optimer merge merge.yaml ./merged --cuda --low-cpu-memory
              mergekit-optimer merge org/merged ./merged
              mergekit-optimer merge recipe.yaml ./merged --weight ja=0.6 --weight math=-0.2 --portable plain.yaml
    """
    if out.exists():
        raise MergeError(f"{out} exists; an older shard in it could be read for a new one. Name another folder.")
    config = _local_config(config)
    settings = _read(config)
    if "merge_method" in settings:
        if pairs or portable or run_dir:
            raise click.UsageError("--weight, --portable and --run-dir go with a recipe, not with a mergekit YAML.")
        _merge_mergekit(config, settings, out, [*mergekit_options])
    elif mergekit_options:
        raise click.UsageError(f"{mergekit_options[0]} is an option of mergekit-yaml; it goes with a mergekit YAML.")
    else:
        _merge_recipe(config, out, pairs, portable, run_dir)
    click.echo(out)


def _local_config(config: Path) -> Path:
    """The configuration's file; that of a repository is pulled."""
    name = str(config)
    if not pipeline.is_reference(name):
        return config
    path = pipeline.pull_file(name, MERGE_CONFIG)
    if path is None:
        raise MergeError(f"{name} has no {MERGE_CONFIG}: it does not say what it was merged from.")
    return path


def _read(config: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MergeError(f"{config} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise MergeError(f"{config} is neither a mergekit YAML nor a recipe.")
    return settings


def _merge_mergekit(config: Path, settings: dict[str, Any], out: Path, options: list[str]) -> None:
    """Hand over to mergekit-yaml, with our method registered and its keys checked; OUT appears whole or not at all."""
    check_parameters(settings)
    _check_folders(settings)
    local = pipeline.with_local_models(settings)
    register()
    from mergekit.scripts.run_yaml import main as mergekit_yaml

    with new_folder(out) as work, mergekit_named(f"merging into {out.name}"):
        # mergekit's card takes its title from the folder's name.
        made = work / out.name
        source = config if local == settings else work / f"{TEMPORARY}{MERGE_CONFIG}"
        if source != config:
            write_text(source, yaml.safe_dump(local, sort_keys=False, allow_unicode=True))
        mergekit_yaml.main([str(source), str(made), *options], standalone_mode=False)
        if source != config:
            # mergekit keeps what it was given, with folders of this machine's cache: as its configuration, in its card.
            source.unlink()
            for name in (_MERGEKITS_CONFIG, CARD):
                (made / name).unlink(missing_ok=True)
            write_text(made / MERGE_CONFIG, config.read_text(encoding="utf-8"))
        base = Path(str(local.get("base_model")))
        if settings["merge_method"] == METHOD and base.is_dir():
            check_merged(made, base)
        for file in list(made.iterdir()):
            file.rename(work / file.name)
        made.rmdir()


def _check_folders(settings: Any) -> None:
    """Refuse a folder that is not there: mergekit would take its path for a repository's name."""
    if isinstance(settings, dict):
        for key, value in settings.items():
            is_path = key in ("model", "base_model") and isinstance(value, str) and value.startswith((".", "/"))
            if is_path and not Path(value).exists():
                raise MergeError(f"{value} does not exist; the configuration names it as a model.")
            _check_folders(value)
    elif isinstance(settings, list):
        for value in settings:
            _check_folders(value)


def _merge_recipe(config: Path, out: Path, pairs: tuple[str, ...], portable: Path | None, run_dir: Path | None) -> None:
    if not pairs:
        raise click.UsageError("A recipe is merged at given weights, as --weight ja=0.6; `search` finds them.")
    if portable is not None and portable.exists():
        raise MergeError(f"{portable} exists; name another file.")
    job = read_job(config, run_dir=run_dir, device="cpu")
    weights = dict.fromkeys(job.pool.names, 0.0) | dict(_weight(pair) for pair in pairs)
    base = str(job.base.path)
    pipeline.merge_model(job, merge_yaml(base, job.ingredients, weights, job.dtype), out)
    if portable is not None:
        write_text(portable, portable_yaml(base, job.ingredients, weights, job.dtype))


def _weight(pair: str) -> tuple[str, float]:
    name, _, number = pair.partition("=")
    try:
        return name, float(number)
    except ValueError as error:
        raise click.UsageError(f"--weight {pair}: wants NAME=NUMBER, as ja=0.6") from error
