"""Which options a dataset may pass to TRL's SFTConfig, read from the installed sources without importing them.

Importing trl takes many seconds and torch with it; ``validate`` must answer at once. The names are therefore read
from the class bodies. tests/test_upstream.py holds the result to ``dataclasses.fields(SFTConfig)``.
"""

from __future__ import annotations

import ast
import importlib.util
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

from mergekit_optimer.recipe.yaml_numbers import number_advice

_CLASSES = (
    ("trl", "trainer/sft_config.py", "SFTConfig"),
    ("trl", "trainer/base_config.py", "_BaseConfig"),
    ("transformers", "training_args.py", "TrainingArguments"),
)

# Set from the recipe or by ``train`` itself; a second place to set them would be a second truth.
OWNED = {
    "output_dir": "checkpoints lie in the run folder",
    "seed": "use the recipe's seed",
    "data_seed": "use the recipe's seed",
    "dataset_text_field": "use text_field",
    "trust_remote_code": "use base_model.trust_remote_code",
    "model_init_kwargs": "the base model is loaded in float32",
    "push_to_hub": "checkpoints are pushed by a command of their own",
    "hub_model_id": "checkpoints are pushed by a command of their own",
    "hub_token": "log in with `hf auth login`",
    "resume_from_checkpoint": "an interrupted run is resumed by itself",
    "save_only_model": "an interrupted run could not be resumed",
    "packing": "documents are always packed",
}

# TRL takes any number for these and dies of it, or trains on nothing.
_ABOVE_ZERO = {
    "max_length",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "logging_steps",
    "save_steps",
}


@cache
def sft_annotations() -> dict[str, str]:
    """Return the SFTConfig options and the text of their type annotations."""
    found: dict[str, str] = {}
    for package, file, class_name in _CLASSES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"{package} is not installed", name=package)
        tree = ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8"))
        body = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == class_name).body
        for node in body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.setdefault(node.target.id, ast.unparse(node.annotation))
    return {name: kind for name, kind in found.items() if not name.startswith("_") and "ClassVar" not in kind}


def check_sft_options(options: dict[str, Any]) -> None:
    """Raise ValueError with every problem of a set of SFTConfig options: unknown, owned by us, or of a wrong value."""
    known = sft_annotations()
    problems = []
    for name, value in sorted(options.items()):
        if name in OWNED:
            problems.append(f"{name} cannot be set here: {OWNED[name]}")
        elif name not in known:
            problems.append(f"{name} is not an option of TRL's SFTConfig")
        elif problem := _problem(name, value, set(re.findall(r"\w+", known[name])) - {"Optional", "Union"}):
            problems.append(problem)
    if problems:
        raise ValueError("; ".join(problems))


def _problem(name: str, value: Any, kinds: set[str]) -> str | None:
    """Say what is wrong with the value of one option, whose annotation names these types."""
    if isinstance(value, bool):
        if "bool" in kinds:
            return None
        return f"{name}: YAML reads yes, no, on and off as true or false; put the word in quotes"
    if isinstance(value, str) and kinds & {"int", "float"} and (advice := number_advice(value, "float" not in kinds)):
        return f"{name}: {advice}"
    if not kinds <= {"int", "float", "None"} or (value is None and "None" in kinds):
        return None
    if not isinstance(value, int | float):
        return f"{name} must be a {'number' if 'float' in kinds else 'whole number'}, not {value!r}"
    if isinstance(value, float) and "float" not in kinds:
        return f"{name} must be a whole number, not {value!r}"
    if not math.isfinite(value):
        return f"{name} must be a finite number, not {value!r}"
    if name in _ABOVE_ZERO and value <= 0:
        return f"{name} must be above 0, not {value!r}"
    if name == "learning_rate" and value < 0:
        return f"{name} must be 0 or more, not {value!r}"
    if name == "max_steps" and value <= 0 and value != -1:
        return f"{name} must be -1 or above 0, not {value!r}"
    return None
