"""Where the cosines of the token embeddings come from: print the share of tokens that neither dataset holds.

    python unseen_tokens.py runs/smollm2-135m

For each pair of vectors: the cosine of their embedding rows, and how much of the inner product lies in the rows of
tokens that stand in no document of either dataset. All documents count, also those that a short training never saw.
"""

from __future__ import annotations

import argparse
import itertools
import json
import lzma
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoTokenizer

FOLDER = Path(__file__).resolve().parent
EMBEDDINGS = "model.embed_tokens.weight"


def tokens_of(dataset: str, tokenizer: Any) -> torch.Tensor:
    """Whether each token of the vocabulary stands in a dataset's documents."""
    with lzma.open(FOLDER / "data" / f"{dataset}.train.jsonl.xz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    seen = torch.zeros(len(tokenizer), dtype=torch.bool)
    for ids in tokenizer(texts)["input_ids"]:
        seen[ids] = True
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run folder of this recipe, with its vectors")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "base")
    names = sorted(folder.name for folder in (args.run / "vectors").iterdir())
    rows, seen = {}, {}
    for name in names:
        with safe_open(args.run / "vectors" / name / "model.safetensors", framework="pt") as file:
            rows[name] = file.get_tensor(EMBEDDINGS).double()
        seen[name] = tokens_of(name, tokenizer)
        print(f"{name}: {int(seen[name].sum()):,} of {len(seen[name]):,} tokens")
    for one, other in itertools.combinations(names, 2):
        products = (rows[one] * rows[other]).sum(1)
        cosine = float(products.sum() / (rows[one].norm() * rows[other].norm()))
        unseen = ~(seen[one] | seen[other])
        share = float(products[: len(unseen)][unseen].sum() / products.sum())
        print(
            f"{one}, {other}: cosine {cosine:.2f}, {100 * share:.1f} % of it from {int(unseen.sum()):,} unseen tokens"
        )


if __name__ == "__main__":
    main()
