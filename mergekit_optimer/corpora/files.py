"""Files and folders of text -> rows, one at a time, with where each row stands. Knows no recipe and no Hub."""

from __future__ import annotations

import gzip
import io
import json
import logging
import lzma
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from mergekit_optimer.errors import DataError

log = logging.getLogger(__name__)

FORMATS = (".txt", ".jsonl", ".json", ".parquet")
COMPRESSIONS = (".xz", ".gz")
# JSON files that libraries put beside data; they hold no rows.
_NOT_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
# The words by which file and folder names tell a split, as on the Hub.
_SPLIT_WORDS = {
    "train": {"train", "training"},
    "validation": {"validation", "valid", "val", "dev"},
    "test": {"test", "testing"},
}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def data_files(path: Path, split: str) -> list[Path]:
    """Return the files of a source in a fixed order: the path itself, or a folder's files of one split.

    Where names tell splits (``train.jsonl``, ``ja.dev.jsonl.xz``, ``test/0.parquet``), files of the others are left
    out; files that name no split are taken only if no file names the wanted one.

    Raises:
        DataError: The path is no known format, or the folder holds no file of the split.
    """
    if not path.is_dir():
        if _format(path) is None:
            raise DataError(f"{path} is of no known format; give {_known()}.")
        return [path]
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file()
        and _format(file) is not None
        and file.name not in _NOT_DATA
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not files:
        raise DataError(f"{path} holds no data file; put {_known()} there.")
    words = _SPLIT_WORDS.get(split, {split.lower()})
    others = set().union(*_SPLIT_WORDS.values()) - words
    named = [file for file in files if _words(file, path) & words]
    unnamed = [file for file in files if not _words(file, path) & others]
    chosen = named or unnamed
    if not chosen or (split not in _SPLIT_WORDS and not named):
        found = ", ".join(str(file.relative_to(path)) for file in files[:4])
        raise DataError(f"{path} has no files of split '{split}' (found {found}); set split to one that is there.")
    if len(chosen) < len(files):
        log.info("%s: %d of %d files are of split '%s'", path.name, len(chosen), len(files), split)
    return chosen


def iter_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, row) of one file; ``where`` names file and line for a message.

    Raises:
        DataError: The file is not UTF-8, not JSON, not Parquet, cut short, or cannot be read.
    """
    kind = _format(file)
    try:
        with _open(file) as stream:
            if kind == ".txt":
                yield str(file), {"text": _decode(stream.read(), file, 0)}
            elif kind == ".parquet":
                yield from _parquet_rows(stream, file)
            else:
                yield from _json_rows(stream, file)
    except EOFError as error:
        raise DataError(f"{file} is cut short: its compressed data has no end; fetch or write it again.") from error
    except (lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{file} is damaged or not compressed as its name says ({error}).") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}.") from error


def _json_rows(stream: IO[bytes], file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    offset = 0
    for number, line in enumerate(stream, 1):
        text = _decode(line, file, offset)
        offset += len(line)
        if not text.strip():
            continue
        where = f"{file} line {number}"
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{where} is not JSON ({error.msg} at column {error.colno}).") from error
        if not isinstance(row, dict):
            raise DataError(f"{where} holds a JSON {type(row).__name__}; write one object per line.")
        yield where, row


def _parquet_rows(stream: IO[bytes], file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Parquet needs to seek, which a compressed stream cannot do well.
    source = stream if file.suffix == ".parquet" else io.BytesIO(stream.read())
    number = 0
    try:
        for batch in pq.ParquetFile(source).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{file} row {number}", row
    except UnicodeDecodeError as error:
        # Arrow takes any bytes for text; they are decoded a batch at a time.
        raise DataError(f"{file} holds text that is not UTF-8 after row {number}; convert it to UTF-8.") from error
    except pa.ArrowException as error:
        raise DataError(f"{file} is not a whole Parquet file ({str(error).splitlines()[0]}).") from error


def _open(file: Path) -> IO[bytes]:
    if file.suffix == ".xz":
        return lzma.open(file)
    if file.suffix == ".gz":
        return cast(IO[bytes], gzip.open(file))
    return file.open("rb")


def _decode(data: bytes, file: Path, offset: int) -> str:
    """Decode UTF-8 that starts at a byte of the (uncompressed) file."""
    if offset == 0:
        data = data.removeprefix(_BYTE_ORDER_MARK)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text: byte {offset + error.start}; convert it to UTF-8.") from error


def _format(file: Path) -> str | None:
    """Return the format's suffix below a compression's, None where unknown."""
    inner = Path(file.stem) if file.suffix in COMPRESSIONS else file
    return inner.suffix if inner.suffix in FORMATS else None


def _words(file: Path, folder: Path) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", str(file.relative_to(folder)).lower()))


def _known() -> str:
    return f"{', '.join(FORMATS)}, each also with {' or '.join(COMPRESSIONS)}"
