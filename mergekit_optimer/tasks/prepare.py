"""Recipe tasks -> prepared tasks: read the data, make the samples, fix their order, write them. No lighteval here."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

from mergekit_optimer import corpora
from mergekit_optimer.errors import DataError, TaskError
from mergekit_optimer.files import read_json
from mergekit_optimer.recipe import ChoiceTask, GenerateTask, LightevalTask, Recipe, TaskSpec, TextTask
from mergekit_optimer.tasks.prepared import PreparedTask, write_samples
from mergekit_optimer.tasks.samples import (
    Row,
    Setting,
    choice_samples,
    continuation_samples,
    generate_samples,
    text_of,
    text_samples,
)

# Below two samples a score has no standard error.
MIN_SAMPLES = 2


def prepare_tasks(
    specs: dict[str, TaskSpec], recipe: Recipe, tokenizer: Any, max_length: int, out_dir: Path
) -> list[PreparedTask]:
    """Write the samples of all tasks and return the tasks in name order.

    Each task's samples are shuffled once with the recipe's seed, so that the first n of them are the same n whatever
    else is asked for.

    Args:
        specs: The recipe's ``tasks`` or ``held_out``.
        recipe: Gives the seed and the folder that paths are relative to.
        tokenizer: The base model's fast tokenizer; documents are cut at its tokens.
        max_length: Tokens that the model takes.
        out_dir: Gets ``<task>/test.jsonl``.

    Raises:
        DataError: The data of a task are missing or malformed.
        TaskError: A task does not fit the model.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise TaskError("The base model's tokenizer gives no character offsets; convert it to a fast tokenizer.")
    return [
        _prepare(name, spec, recipe, Setting(name, tokenizer, max_length, recipe.seed), out_dir / name)
        for name, spec in sorted(specs.items())
    ]


def read_max_length(model_dir: Path) -> int:
    """Return the number of tokens a model takes, as its config.json says.

    Raises:
        TaskError: The config says nothing of it.
    """
    config = read_json(model_dir / "config.json")
    for section in (config.get("text_config") or {}, config):
        for key in ("max_position_embeddings", "n_positions", "n_ctx"):
            if isinstance(section.get(key), int):
                return int(section[key])
    raise TaskError(f"{model_dir / 'config.json'} has no max_position_embeddings, so no document can be cut to fit.")


def sample_texts(spec: TaskSpec, recipe: Recipe) -> list[str]:
    """Return the whole texts a task is made from, to find what dev and held-out tasks share.

    Nothing for a lighteval task, whose data are not the recipe's.
    """
    if isinstance(spec, LightevalTask):
        return []
    question = isinstance(spec, GenerateTask) or (isinstance(spec, ChoiceTask) and not spec.make_choices)
    field = spec.question_field if question and not isinstance(spec, TextTask) else spec.text_field
    rows = corpora.read_rows(spec, recipe)
    return [text_of(row, field, f"Row {number + 1} of {spec}") for number, row in enumerate(rows)]


def _prepare(name: str, spec: TaskSpec, recipe: Recipe, setting: Setting, folder: Path) -> PreparedTask:
    if isinstance(spec, LightevalTask):
        return _prepare_lighteval(name, spec, recipe)
    samples = _samples(spec, corpora.read_rows(spec, recipe), setting)
    if len(samples) < MIN_SAMPLES:
        raise DataError(
            f"Task '{name}' has {len(samples)} samples from {spec}; needs {MIN_SAMPLES} or more, for a standard error."
        )
    random.Random(recipe.seed).shuffle(samples)
    return write_samples(name, spec, samples, folder)


def _samples(spec: TextTask | ChoiceTask | GenerateTask, rows: list[Row], setting: Setting) -> list[Row]:
    if isinstance(spec, TextTask):
        return text_samples(rows, spec, setting)
    if isinstance(spec, GenerateTask):
        return generate_samples(rows, spec, setting)
    if spec.make_choices:
        return continuation_samples(rows, spec, setting)
    return choice_samples(rows, spec, setting)


def _prepare_lighteval(name: str, spec: LightevalTask, recipe: Recipe) -> PreparedTask:
    file = None if spec.file is None else recipe.resolve(spec.file)
    if file is not None and not file.is_file():
        raise DataError(f"Task '{name}' names the lighteval task file {file}, which is not there.")
    code = "" if file is None else file.read_text(encoding="utf-8")
    identity = json.dumps([spec.task, spec.metric, code])
    return PreparedTask(
        name=name,
        spec=spec,
        metrics=(spec.metric,),
        n_samples=None,
        folder=None,
        content_hash=hashlib.sha256(identity.encode()).hexdigest(),
        file=file,
    )
