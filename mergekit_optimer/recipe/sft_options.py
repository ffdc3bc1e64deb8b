"""Which options a dataset may pass to TRL's SFTConfig, read from the installed sources without importing them.

Importing trl takes many seconds and torch with it; ``validate`` must answer at once. The names are therefore read
from the class bodies. tests/test_upstream.py holds the result to ``dataclasses.fields(SFTConfig)``.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

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

_NUMBER = re.compile(r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")


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
    """Raise ValueError with every problem of a set of SFTConfig options: unknown, owned by us, or of a wrong type."""
    known = sft_annotations()
    problems = []
    for name, value in sorted(options.items()):
        if name in OWNED:
            problems.append(f"{name} cannot be set here: {OWNED[name]}")
        elif name not in known:
            problems.append(f"{name} is not an option of TRL's SFTConfig")
        else:
            numeric = any(word in known[name] for word in ("int", "float"))
            if numeric and isinstance(value, str) and _NUMBER.match(value):
                problems.append(f"{name}: '{value}' is text in YAML; write {float(value)!r} as a number with a dot")
            elif isinstance(value, bool) and "bool" not in known[name]:
                problems.append(f"{name}: YAML reads yes, no, on and off as true or false; put the word in quotes")
    if problems:
        raise ValueError("; ".join(problems))
