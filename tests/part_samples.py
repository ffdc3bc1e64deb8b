"""Tasks of every kind, with samples of unlike lengths, as a scorer takes them. Asserts nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conftest import TEXT

from mergekit_optimer.tasks import PreparedTask, prepare_tasks

DOCUMENTS = [{"text": f"{TEXT[number % len(TEXT)]} ({number})"} for number in range(12)]
QUESTIONS = [
    {"question": f"Question: {a} + {b} = ?\nAnswer:", "choices": [str(a + b + c) for c in range(3)], "answer": 0}
    for a in range(4)
    for b in range(2)
]
# Long contexts and choices of several tokens: worth a packed row.
STORIES = [
    {
        "question": f"{TEXT[number % 3]} {number} What comes next?",
        "choices": ["the moon sat", "apples have Tom", f"looked at {number} add the mat", "on"],
        "answer": number % 4,
    }
    for number in range(9)
]
# Of unlike lengths, so that a batch of its own would be padded otherwise.
PROMPTS = [{"question": (f"{a} + 2 = " * (1 + a % 4)).strip(), "answer": f"{a + 2}"} for a in range(7)]
SECTIONS: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "ja": ({"kind": "text", "max_tokens": 60}, DOCUMENTS),
    "math": ({"kind": "choice"}, QUESTIONS),
    "story": ({"kind": "choice"}, STORIES),
    "gen": ({"kind": "generate", "max_new_tokens": 4}, PROMPTS),
}


def prepared(recipe: Any, model_dir: Path, out_dir: Path) -> list[PreparedTask]:
    from transformers import AutoTokenizer

    return prepare_tasks(recipe.tasks, recipe, AutoTokenizer.from_pretrained(model_dir), 128, out_dir)
