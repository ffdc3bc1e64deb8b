"""Corpora: every format gives the same documents, and what is wrong with a file is said with its name and place."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from mergekit_optimer.corpora import check_disjoint, read_corpus, read_rows, text_hashes
from mergekit_optimer.errors import DataError
from mergekit_optimer.recipe import Recipe, TextSource

TEXTS = ["one\ntwo", "私は学生です。", "end"]


def recipe_in(folder: Path) -> Recipe:
    task = {"kind": "text", "path": "dev.jsonl"}
    return Recipe.model_validate(
        {
            "name": "test",
            "base_model": {"path": "base"},
            "train": {"datasets": {"a": {"path": "a.jsonl"}}},
            "search": {"objective": {"mean": ["a"]}},
            "tasks": {"a": task},
            "held_out": {"a": task},
            "folder": folder,
        }
    )


def read(folder: Path, name: str, **options: Any) -> list[str]:
    return list(read_corpus(TextSource(path=name, **options), recipe_in(folder)).dataset["text"])


def write_lines(path: Path, texts: list[str] = TEXTS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jsonl(texts))
    return path


def jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": i, "text": t}, ensure_ascii=False) + "\n" for i, t in enumerate(texts)).encode()


def parquet(path: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": [0, 1, 2], "text": TEXTS}), path)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.xz", "a.jsonl.gz", "a.parquet", "a.parquet.gz", "txt"])
def test_every_format_gives_the_same_documents_and_fingerprint(tmp_path: Path, name: str) -> None:
    write = {".xz": lzma.compress, ".gz": gzip.compress}
    if name == "txt":
        (tmp_path / "txt").mkdir()
        for number, text in enumerate(TEXTS):
            (tmp_path / "txt" / f"{number}.txt").write_text(text)
    elif ".parquet" in name:
        data = parquet(tmp_path / "plain").read_bytes()
        (tmp_path / name).write_bytes(write.get(Path(name).suffix, bytes)(data))
    else:
        (tmp_path / name).write_bytes(write.get(Path(name).suffix, bytes)(jsonl(TEXTS)))
    corpus = read_corpus(TextSource(path=name), recipe_in(tmp_path))
    assert list(corpus.dataset["text"]) == TEXTS
    assert corpus.dataset.column_names == ["text"]
    assert (corpus.n_documents, corpus.size_bytes) == (3, 31)
    assert corpus.fingerprint == "3140d515189a89ebcbe33edd85ad979560637439f38e5076bfbdb2bb4ce6007c"


def test_the_fingerprint_tells_order_and_document_borders(tmp_path: Path) -> None:
    prints = set()
    for number, texts in enumerate([["ab", "c"], ["a", "bc"], ["c", "ab"], ["abc"]]):
        write_lines(tmp_path / f"{number}.jsonl", texts)
        prints.add(read_corpus(TextSource(path=f"{number}.jsonl"), recipe_in(tmp_path)).fingerprint)
    assert len(prints) == 4


def test_a_folder_is_read_in_sorted_order_without_hidden_files_and_metadata(tmp_path: Path) -> None:
    write_lines(tmp_path / "d" / "b.jsonl", ["2"])
    write_lines(tmp_path / "d" / "a" / "z.jsonl", ["1"])
    write_lines(tmp_path / "d" / ".cache" / "x.jsonl", ["no"])
    (tmp_path / "d" / "dataset_infos.json").write_text("{\n}")
    (tmp_path / "d" / "README.md").write_text("no")
    assert read(tmp_path, "d") == ["1", "2"]


def test_a_folder_gives_only_the_files_of_the_split(tmp_path: Path) -> None:
    write_lines(tmp_path / "d" / "train-00000-of-00001.jsonl", ["train"])
    write_lines(tmp_path / "d" / "ja.dev.jsonl", ["dev"])
    write_lines(tmp_path / "d" / "test" / "0.jsonl", ["test"])
    assert read(tmp_path, "d") == ["train"]
    assert read(tmp_path, "d", split="validation") == ["dev"]
    assert read(tmp_path, "d", split="test") == ["test"]
    with pytest.raises(DataError, match=r"no files of split 'extra' \(found ja.dev.jsonl"):
        read(tmp_path, "d", split="extra")


def test_files_that_name_no_split_are_the_training_split(tmp_path: Path) -> None:
    write_lines(tmp_path / "d" / "latest.jsonl", ["a"])
    write_lines(tmp_path / "d" / "test.jsonl", ["b"])
    assert read(tmp_path, "d") == ["a"]


def test_a_hub_dataset_is_read_from_its_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mergekit_optimer import hub

    write_lines(tmp_path / "snapshot" / "data" / "train.jsonl")
    monkeypatch.setattr(hub, "locate", lambda *_: hub.Located(tmp_path / "snapshot", "org/d", "1" * 40))
    corpus = read_corpus(TextSource(repo="org/d"), recipe_in(tmp_path))
    assert list(corpus.dataset["text"]) == TEXTS


def test_blank_documents_and_a_byte_order_mark_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + jsonl(["a", " \n", ""]) + b"\n\n")
    assert read(tmp_path, "a.jsonl") == ["a"]


def test_rows_keep_all_their_fields(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "1+1", "choices": ["2", "3"], "answer": 0}\n')
    rows = read_rows(TextSource(path="a.jsonl"), recipe_in(tmp_path))
    assert rows == [{"question": "1+1", "choices": ["2", "3"], "answer": 0}]


WRONG: list[tuple[str, bytes, str]] = [
    ("a.jsonl", b"", "a.jsonl is empty"),
    ("a.jsonl", jsonl([" "]), "a.jsonl is empty"),
    ("a.jsonl", b'{"body": "x", "id": 1}\n', r"line 1 has no field 'text' \(it has body, id\); set text_field"),
    ("a.jsonl", jsonl(["x"]) + b'{"text": 3}\n', "line 2: 'text' is int, not text"),
    ("a.jsonl", jsonl(["x"]) + b'{"text": "\xff"}\n', "a.jsonl is not UTF-8 text: byte 33"),
    ("a.txt", b"abc\xff", "a.txt is not UTF-8 text: byte 3"),
    ("a.jsonl", jsonl(["x"]) + b'{"text": \n', "line 2 is not JSON"),
    ("a.json", b'[{"text": "x"}]', "line 1 holds a JSON list; write one object per line"),
    ("a.jsonl", b'{"text": "\\ud83d"}\n', "line 1: character 0 of 'text' is half of a surrogate pair"),
    ("a.jsonl.xz", lzma.compress(jsonl(TEXTS * 50))[:-20], "a.jsonl.xz is cut short"),
    ("a.jsonl.gz", gzip.compress(jsonl(TEXTS * 50))[:-20], "a.jsonl.gz is cut short"),
    ("a.jsonl.xz", jsonl(TEXTS), "a.jsonl.xz is damaged or not compressed as its name says"),
    ("a.parquet", b"PAR1 and no more", "a.parquet is not a whole Parquet file"),
    ("a.csv", b"text\nx\n", "a.csv is of no known format; give .txt, .jsonl"),
]


def test_a_parquet_file_whose_text_is_not_utf8_is_named(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sound = pa.array(["good"] * 3, pa.string())
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\3\0\0\0"), pa.py_buffer(b"ab\xff")])
    pq.write_table(pa.table({"text": pa.chunked_array([sound, broken])}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet holds text that is not UTF-8 after row 0; convert it") as caught:
        read(tmp_path, "a.parquet")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "data", "message"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_file_is_one_sentence_with_its_name_and_place(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, name)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_an_empty_folder_are_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl does not exist; paths are relative to the recipe"):
        read(tmp_path, "gone.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no data file"):
        read(tmp_path, "empty")


def test_texts_that_differ_in_white_space_hash_alike() -> None:
    assert text_hashes([" a  b\n", "a b"]) == text_hashes(["a b"])
    assert len(text_hashes(["a b", "ab"])) == 2


def test_a_text_in_dev_and_held_out_is_named_with_both_tasks() -> None:
    check_disjoint({"dev task 'ja'": ["a"]}, {"ja": ["b"]})
    with pytest.raises(DataError, match=r"'math' shares 1 text with dev task 'ja' \(\"shared text\"\)"):
        check_disjoint({"dev task 'ja'": ["x", "shared  text"]}, {"en": ["y"], "math": ["shared text\n", "z"]})
    with pytest.raises(DataError, match=r"xxx\.\.\.\""):
        check_disjoint({"ja": ["x" * 100]}, {"ja": ["x" * 100]})
