"""recipe.yaml and ``--set`` overrides -> Recipe, with every problem in one message. Opens no file but the recipe."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from mergekit_optimer.errors import RecipeError
from mergekit_optimer.recipe.models import Recipe
from mergekit_optimer.recipe.yaml_numbers import number_advice


class _UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader, which takes the last of two equal keys, made to refuse them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply overrides of the form ``search.n_trials=20`` (the value is YAML).

    Raises:
        RecipeError: The file cannot be read, or is wrong; the message lists all problems with their dotted paths.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except OSError as error:
        raise RecipeError(str(path), [f"cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise RecipeError(str(path), [f"is not UTF-8 text: byte {error.start}"]) from error
    except yaml.YAMLError as error:
        raise RecipeError(str(path), [f"is not YAML: {' '.join(str(error).split())}"]) from error
    if not isinstance(data, dict):
        raise RecipeError(str(path), ["is not a mapping of keys to values"])
    for override in overrides:
        _apply(data, override)
    data["folder"] = path.resolve().parent
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError(str(path), [_sentence(problem) for problem in error.errors()]) from error


def _apply(data: dict[str, Any], override: str) -> None:
    """Set one dotted key in the raw recipe."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise RecipeError(f"--set {override}", ["wants key=value, for example search.n_trials=20"])
    *parents, last = key.split(".")
    node = data
    for name in parents:
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            raise RecipeError(f"--set {override}", [f"{name} is not a section of the recipe"])
    try:
        node[last] = yaml.load(text, Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override}", ["the value is not YAML"]) from error


def _sentence(problem: Any) -> str:
    """Turn one pydantic error into "dotted.path: what is wrong"."""
    names = [str(part) for part in problem["loc"] if part not in ("interval", "per_vector", "[key]")]
    where = ".".join(_without_task_kind(names)) or "recipe"
    kind, value = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(names[-1], _keys_at(names[:-1]), n=1)
        return f"{where}: unknown key" + (f"; did you mean {near[0]}?" if near else "")
    if kind == "missing":
        return f"{where}: missing"
    wants_number = kind in ("int_type", "float_type")
    if wants_number and isinstance(value, str) and (advice := number_advice(value, whole=kind == "int_type")):
        return f"{where}: {advice}"
    if isinstance(value, bool) and kind != "bool_type":
        return f"{where}: YAML reads yes, no, on and off as true or false; put the word in quotes"
    message = str(problem["msg"]).removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    shown = f" (found {value!r})" if isinstance(value, str | int | float) and kind != "value_error" else ""
    return f"{where}: {message}{shown}"


def _without_task_kind(names: list[str]) -> list[str]:
    """Drop the discriminator that pydantic puts after tasks.<name> (kinds are no keys of the recipe)."""
    kinds = ("text", "choice", "generate", "lighteval")
    if len(names) > 2 and names[0] in ("tasks", "held_out") and names[2] in kinds:
        return [*names[:2], *names[3:]]
    return names


def _keys_at(names: list[str]) -> list[str]:
    """Return the known keys of the section that a dotted path leads to, for "did you mean"."""
    kinds: list[Any] = [Recipe]
    for name in names:
        deeper: list[Any] = []
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                field = kind.model_fields.get(name)
                deeper += _models_in(field.annotation) if field else [kind]
        kinds = deeper or kinds
    return [key for kind in kinds for key in kind.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the section classes that stand anywhere in a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]
