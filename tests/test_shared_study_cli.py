"""A study in PostgreSQL from the command line: one story with a real model, and what is refused in a sentence."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from conftest import write_micro_recipe
from postgres import PASSWORD, Server

from mergekit_optimer.cli import cli
from mergekit_optimer.errors import SearchError
from mergekit_optimer.files import read_json
from mergekit_optimer.recipe import load_recipe
from mergekit_optimer.runs import RunDir, open_run
from mergekit_optimer.search import Database, storage_label

pytest_plugins = ["postgres_fixtures"]


def call(*words: Any) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def refusal(*words: Any) -> str:
    """The sentence with which a search is refused."""
    result = call("search", *words, "--device", "cpu")
    assert isinstance(result.exception, SearchError), result.output
    shown = result.output + "".join(traceback.format_exception(result.exception))
    assert PASSWORD not in shown
    assert "\n" not in str(result.exception)
    return str(result.exception)


# Refused before anything is read: there is no such recipe.
@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (f"postgresql://study:{PASSWORD}@host:notaport/db", "--storage is no URL; give postgresql://user@host"),
        (f"study:{PASSWORD}@host/db", "--storage is no URL; give postgresql://user@host"),
        (f"mysql://study:{PASSWORD}@host/db", "--storage mysql:// is not known; give postgresql://"),
        ("sqlite:///study.db", "--storage sqlite:// is not known; give postgresql://"),
        (f"redis://:{PASSWORD}@host", "--storage redis:// is not known; give postgresql://"),
        (f"postgresql+psycopg2://study:{PASSWORD}@host/db", "--storage postgresql+psycopg2:// is not known"),
        (f"postgresql://study:p@{PASSWORD}@host/db", "has an @ too many; write one in a password as %40"),
        (f"postgresql://study:{PASSWORD}@127.0.0.1:1/db", "postgresql://study:***@127.0.0.1:1/db cannot be used: "),
        (f"postgresql://study@127.0.0.1:1/db?password={PASSWORD}", "postgresql://study@127.0.0.1:1/db cannot be used"),
    ],
)  # fmt: skip
def test_a_url_of_no_use_is_refused_without_its_password(
    url: str, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert sentence in refusal("nowhere.yaml", "--storage", url)
    assert PASSWORD not in caplog.text


def test_a_server_that_lets_nobody_in_is_refused_in_its_words(server: Server) -> None:
    wrong = "postgresql://study:***@127.0.0.1:{}/{} cannot be used: connection failed: connection to server at"
    said = refusal("nowhere.yaml", "--storage", server.url(password=PASSWORD + "x"))
    assert said.startswith(wrong.format(server.port, "postgres"))
    assert 'failed: FATAL:  password authentication failed for user "study". Mend that' in said
    said = refusal("nowhere.yaml", "--storage", server.url("nobody-made-it"))
    assert 'failed: FATAL:  database "nobody-made-it" does not exist. Mend that' in said


def test_a_missing_driver_is_named_with_its_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    said = refusal("nowhere.yaml", "--storage", "postgresql://host/db")
    assert said == "PostgreSQL's driver is not installed: pip install 'mergekit-optimer[postgres]'."


def test_a_label_holds_no_password_wherever_it_stands() -> None:
    url = f"postgresql://study:{PASSWORD}@host/db?sslmode=require&sslpassword={PASSWORD}&password={PASSWORD}"
    assert storage_label(url) == "postgresql://study:***@host/db?sslmode=require"


def test_a_database_of_another_optuna_is_refused(server: Server, url: str, place: Callable[..., Database]) -> None:
    place().storage()
    server.ask("UPDATE alembic_version SET version_num = 'v99.0.0.a'", url)
    with pytest.raises(
        SearchError, match=r"\*\*\*@.* was made by another version of Optuna: .* use another database"
    ) as refused:
        place().storage()
    assert "\n" not in str(refused.value)


def test_any_password_and_a_schema_of_ones_own_are_heeded(server: Server, url: str) -> None:
    name = url.rpartition("/")[2]
    server.ask("CREATE ROLE odd LOGIN PASSWORD 'p@ss{word}:/%?#'; CREATE SCHEMA theirs AUTHORIZATION odd", url)
    password = "p%40ss%7Bword%7D%3A%2F%25%3F%23"
    odd = f"postgresql://odd:{password}@127.0.0.1:{server.port}/{name}?options=-csearch_path%3Dtheirs"
    database = Database(odd, "study")
    try:
        database.storage()
    finally:
        database.close()
    schemas = server.ask("SELECT DISTINCT schemaname::text FROM pg_tables WHERE tablename = 'trials'", url)
    assert schemas == [("theirs",)]


def test_rights_that_are_missing_are_named(server: Server, url: str) -> None:
    server.ask("CREATE ROLE guest LOGIN PASSWORD 'guest'")
    database = Database(url.replace(f"study:{PASSWORD}", "guest:guest"), "study")
    try:
        with pytest.raises(SearchError, match=r"guest:.* cannot be used: permission denied for schema public\. Mend"):
            database.storage()
    finally:
        database.close()


def test_a_study_moves_into_a_database_where_others_help(
    tmp_path: Path, base_dir: Path, tiny_model: Callable[..., Path], url: str
) -> None:
    path = write_micro_recipe(tmp_path / "study", base_dir)
    recipe = yaml.safe_load(path.read_text())
    del recipe["train"]
    recipe["vectors"] = {name: {"checkpoint": {"path": str(tiny_model(name, seed=7))}} for name in ("ja", "math")}
    path.write_text(yaml.safe_dump(recipe))
    run, said = RunDir(tmp_path / "run"), []

    def search(n_trials: int, *words: Any) -> dict[str, bytes]:
        """Search with the command line; return what the trials' folders hold."""
        options = ("--run-dir", run.root, "--device", "cpu", "--set", f"search.n_trials={n_trials}")
        result = call("search", path, *words, *options)
        said.append(result.output)
        assert result.exit_code == 0, result.output
        return {str(file.relative_to(run.root)): file.read_bytes() for file in run.root.glob("trials/*/*")}

    alone = search(3)
    here = ("--run-dir", run.root)
    assert "has a study of its own, in study.journal. Take its trials along" in refusal(path, "--storage", url, *here)
    moved = search(5, "--storage", url, "--from", run.root)
    assert {name: moved[name] for name in alone} == alone
    assert {name.split("/")[1] for name in moved} == {f"{number:04d}" for number in range(5)}
    assert "give it as --storage again" in refusal(path, *here)

    winner = run.winner_path.read_bytes()
    # As if another process were at it.
    open_run(run.root, load_recipe(path, ("search.n_trials=7",)), command="search", device="cpu", overrides=())
    with run.locked():
        assert search(7, "--storage", url) == moved
    assert "this one helps with its study" in said[-1]
    assert run.winner_path.read_bytes() == winner
    whole = search(7, "--storage", url)
    assert "trials/0006/merge.yaml" in whole
    assert {name: whole[name] for name in alone if "merge" in name} == {n: alone[n] for n in alone if "merge" in n}
    assert read_json(run.winner_path)["n_run"] == 7

    (tmp_path / "study/data/ja.dev.jsonl").write_text('{"text": "another"}\n' * 8)
    assert "(dev samples)" in refusal(path, "--storage", url, *here)
    assert PASSWORD not in "".join(said)
    written = [file for file in run.root.rglob("*") if file.is_file() and PASSWORD.encode() in file.read_bytes()]
    assert written == []
