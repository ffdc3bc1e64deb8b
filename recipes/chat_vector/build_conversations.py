"""Write the conversations of this recipe: the demo's word problems, asked by a user and answered by an assistant.

    python build_conversations.py      # data/* as it is in the repository

The demo's split is kept: its templates of stories have one role each, so no story that is scored was learnt.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

DATA_DIR = Path(__file__).resolve().parent / "data"
DEMO_DIR = Path(__file__).resolve().parents[1] / "demo" / "data"


def read(name: str) -> Iterator[dict[str, Any]]:
    """The rows of one of the demo's files."""
    with lzma.open(DEMO_DIR / name, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def conversation(row: dict[str, Any]) -> dict[str, str]:
    """A word problem as a document: its steps, where it has any, and its answer are the assistant's turn."""
    question, *steps, last = row["text"].removeprefix("Question: ").split("\n")
    turn = " ".join([*steps, f"The answer is {last.removeprefix('Answer: ')}."])
    return {"id": row["id"], "text": f"User: {question}\nAssistant: {turn}"}


def write(name: str, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines, packed."""
    body = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    DATA_DIR.mkdir(exist_ok=True)
    (DATA_DIR / name).write_bytes(lzma.compress(body, preset=9 | lzma.PRESET_EXTREME))
    print(f"{name}: {len(body.splitlines()):,} rows, {len(body):,} bytes")


def main() -> None:
    for role in ("train", "dev", "held_out"):
        write(f"chat.{role}.jsonl.xz", map(conversation, read(f"math.{role}.jsonl.xz")))


if __name__ == "__main__":
    main()
