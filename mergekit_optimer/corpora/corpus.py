"""A text source of the recipe -> documents with a fingerprint, or rows; and whether two sets of texts overlap."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mergekit_optimer import hub
from mergekit_optimer.corpora.files import data_files, iter_rows
from mergekit_optimer.errors import DataError
from mergekit_optimer.recipe import Recipe, TextSource

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

# Arrow's string columns hold 2 GiB at most, so a large corpus lies in several chunks.
_CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Corpus:
    """Documents for training.

    Attributes:
        dataset: One row a document, with the single column ``text``; no row is blank.
        fingerprint: SHA-256 (hex) over the texts in order, each with its length.
        n_documents: Number of rows.
        size_bytes: UTF-8 bytes of all texts.
    """

    dataset: Dataset
    fingerprint: str
    n_documents: int
    size_bytes: int


def read_rows(source: TextSource, recipe: Recipe) -> list[dict[str, Any]]:
    """Return every row of a source in file order; a .txt file is one row {"text": ...}.

    Raises:
        DataError: The source is missing, empty, or cannot be read.
        HubError: The dataset repository cannot be had.
    """
    rows = [row for _, row in _rows(source, recipe)]
    if not rows:
        raise DataError(f"{source} is empty; it holds no row.")
    return rows


def read_corpus(source: TextSource, recipe: Recipe) -> Corpus:
    """Read the documents of a source; blank ones are left out, since each would train on an end-of-text alone.

    Raises:
        DataError: The source is missing, empty or cannot be read, or a row has no text under ``text_field``.
        HubError: The dataset repository cannot be had.
    """
    import pyarrow as pa
    from datasets import Dataset

    digest = hashlib.sha256()
    tables: list[pa.Table] = []
    chunk: list[str] = []
    n_documents = n_blank = size_bytes = chunk_bytes = 0

    def flush() -> None:
        tables.append(pa.table({"text": pa.array(chunk, pa.string())}))
        chunk.clear()

    for where, row in _rows(source, recipe):
        text = _text(row, source.text_field, where)
        if not text.strip():
            n_blank += 1
            continue
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{where}: character {error.start} of '{source.text_field}' is half of a surrogate pair, which is "
                "no text; write the character itself."
            ) from error
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
        chunk.append(text)
        n_documents += 1
        size_bytes += len(data)
        chunk_bytes += len(data)
        if chunk_bytes > _CHUNK_BYTES:
            flush()
            chunk_bytes = 0
    if n_documents == 0:
        raise DataError(f"{source} is empty; it holds no text.")
    if n_blank:
        log.info("%s: left out %d blank documents", source, n_blank)
    flush()
    return Corpus(Dataset(pa.concat_tables(tables)), digest.hexdigest(), n_documents, size_bytes)


def text_hashes(texts: Iterable[str]) -> set[str]:
    """Return the SHA-256 (hex) of each text with runs of white space made one space and the ends trimmed."""
    return {_text_hash(text) for text in texts}


def check_disjoint(seen: Mapping[str, Iterable[str]], held_out: Mapping[str, Iterable[str]]) -> None:
    """Refuse a held-out set that training or the search would have seen.

    Args:
        seen: Texts by what they are for, as "dev task 'ja'"; read once, in turn.
        held_out: Texts of each held-out task.

    Raises:
        DataError: A text stands on both sides; the message names both, the count and the first such text.
    """
    owner = {_text_hash(text): name for name in sorted(held_out) for text in held_out[name]}
    for what in sorted(seen):
        shared = [text for text in seen[what] if _text_hash(text) in owner]
        if shared:
            first = " ".join(shared[0].split())
            shown = first if len(first) <= 60 else first[:57] + "..."
            texts = "1 text" if len(shared) == 1 else f"{len(shared)} texts"
            raise DataError(
                f"Held-out task '{owner[_text_hash(shared[0])]}' shares {texts} with {what} (\"{shown}\"); "
                "take them out of one side, or the held-out score is not honest."
            )


def _rows(source: TextSource, recipe: Recipe) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, row) over all files of a source."""
    if source.path is not None and not recipe.resolve(source.path).exists():
        raise DataError(f"{recipe.resolve(source.path)} does not exist; paths are relative to the recipe.")
    for file in data_files(hub.locate(source, recipe, "dataset").path, source.split):
        yield from iter_rows(file)


def _text(row: dict[str, Any], field: str, where: str) -> str:
    if field not in row:
        there = ", ".join(sorted(row)) or "no field"
        raise DataError(f"{where} has no field '{field}' (it has {there}); set text_field to the one with the text.")
    text = row[field]
    if not isinstance(text, str):
        raise DataError(f"{where}: '{field}' is {type(text).__name__}, not text; set text_field to a field of text.")
    return text


def _text_hash(text: str) -> str:
    return hashlib.sha256(" ".join(text.split()).encode("utf-8", "surrogatepass")).hexdigest()
