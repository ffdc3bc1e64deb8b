"""Read a mergekit-evolve genome by mergekit's own schema; keys that it would pass over in silence are told."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mergekit_optimer.errors import RecipeError


@dataclass(frozen=True)
class Genome:
    """A genome as mergekit reads it.

    Attributes:
        config: mergekit's EvolMergeConfiguration.
        unknown: Dotted keys of the file that mergekit-evolve does not have, sorted.
    """

    config: Any
    unknown: tuple[str, ...]


def read_genome(path: Path) -> Genome:
    """Read a genome file.

    Raises:
        RecipeError: It cannot be read, or mergekit-evolve would refuse it; the message lists all problems.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(str(path), [f"cannot be read: {error.strerror}"]) from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(str(path), [f"is not YAML: {' '.join(str(error).split())}"]) from error
    if not isinstance(data, dict) or "genome" not in data:
        raise RecipeError(str(path), ["is no mergekit-evolve genome: it has no section genome"])
    with warnings.catch_warnings():
        # mergekit-evolve is deprecated, and says so where it is imported.
        warnings.simplefilter("ignore", DeprecationWarning)
        from mergekit.evo.config import EvolMergeConfiguration, TaskConfiguration
        from mergekit.evo.genome import ModelGenomeDefinition
    try:
        config = EvolMergeConfiguration.model_validate(data)
    except ValidationError as error:
        raise RecipeError(str(path), [_sentence(problem) for problem in error.errors()]) from error
    except (RuntimeError, TypeError, AttributeError) as error:
        # A malformed model reference is refused by mergekit outside of pydantic.
        raise RecipeError(str(path), [str(error)]) from error
    unknown = [key for key in data if key not in EvolMergeConfiguration.model_fields]
    unknown += [f"genome.{key}" for key in data["genome"] if key not in ModelGenomeDefinition.model_fields]
    for task in data["tasks"]:
        if isinstance(task, dict):
            unknown += [f"tasks.{task['name']}.{key}" for key in task if key not in TaskConfiguration.model_fields]
    return Genome(config, tuple(sorted(map(str, unknown))))


def _sentence(problem: Any) -> str:
    message = str(problem["msg"]).removeprefix("Assertion failed, ").removeprefix("Value error, ")
    return f"{'.'.join(map(str, problem['loc'])) or 'genome'}: {message[0].lower()}{message[1:]}"
