"""Pulling from a Hub that works: pinned, checked, cached, and only what is wanted. Faults: test_hub_faults.py."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from loopback_client import Client, running_client
from loopback_hub import LoopbackHub
from loopback_repos import BASE, BEN, WEIGHTS, Repo, Trouble

from mergekit_optimer.errors import HubError
from mergekit_optimer.hub import Located, locate
from mergekit_optimer.recipe import ModelSource, Recipe

pytest_plugins = ["loopback_fixtures"]


def asked(hub: LoopbackHub) -> list[str]:
    """Requests since the last look, without the query."""
    requests = [f"{seen.method} {seen.path.partition('?')[0]}" for seen in hub.state.requests]
    hub.state.requests.clear()
    return requests


def test_a_branch_is_resolved_to_its_commit(hub: LoopbackHub, base: Repo, client: Client, tmp_path: Path) -> None:
    answer = client.call(do="pull", repo="org/base", revision="main", home=tmp_path)
    assert answer["label"] == f"org/base@{base.head}"
    assert Path(answer["path"], "model.safetensors").read_bytes() == WEIGHTS
    assert asked(hub) == [
        "GET /api/models/org/base/revision/main",
        f"GET /api/models/org/base/tree/{base.head}",
        f"GET /org/base/resolve/{base.head}/config.json",
        f"GET /org/base/resolve/{base.head}/model.safetensors",
        f"GET /lfs/{hashlib.sha256(WEIGHTS).hexdigest()}",
        f"GET /org/base/resolve/{base.head}/tokenizer.json",
    ]


def test_no_revision_is_the_branch_main(base: Repo, client: Client, tmp_path: Path) -> None:
    assert client.call(do="pull", repo="org/base", home=tmp_path)["label"] == f"org/base@{base.head}"


def test_a_pinned_commit_stays_when_the_branch_moves(base: Repo, client: Client, tmp_path: Path) -> None:
    first = base.head
    base.commit({"config.json": b"{}  \n"})
    answer = client.call(do="pull", repo="org/base", revision=first, home=tmp_path)
    assert answer["label"] == f"org/base@{first}"
    assert Path(answer["path"], "config.json").read_bytes() == b"{}\n"


def test_a_moved_branch_is_followed_and_said(base: Repo, client: Client, tmp_path: Path) -> None:
    first = base.head
    client.call(do="pull", repo="org/base", home=tmp_path)
    second = base.commit({"config.json": b"{ }"})
    answer = client.call(do="pull", repo="org/base", home=tmp_path)
    assert answer["label"] == f"org/base@{second}"
    line = f"org/base has moved from {first} to {second}; set revision to a commit to stay at it"
    assert f"WARNING mergekit_optimer.hub.pull: {line}" in answer["log"]


def test_a_tag_and_another_branch_are_resolved(base: Repo, client: Client, tmp_path: Path) -> None:
    base.tags["v1"] = base.head
    base.branches["exp/two"] = base.head
    second = base.commit({"config.json": b"{ }"}, branch="exp/two")
    answers = [client.call(do="pull", repo="org/base", revision=name, home=tmp_path) for name in ("v1", "exp/two")]
    assert [answer["label"] for answer in answers] == [f"org/base@{base.head}", f"org/base@{second}"]


def test_a_commit_that_is_cached_asks_for_nothing_and_says_so(
    hub: LoopbackHub, base: Repo, client: Client, tmp_path: Path
) -> None:
    client.call(do="pull", repo="org/base", revision=base.head, home=tmp_path)
    asked(hub)
    answer = client.call(do="pull", repo="org/base", revision=base.head, home=tmp_path)
    assert answer["label"] == f"org/base@{base.head}"
    assert asked(hub) == []
    lines = [line for line in answer["log"] if line.startswith("INFO mergekit_optimer")]
    assert lines == [
        f"INFO mergekit_optimer.hub.pull: org/base@{base.head}: all 3 files are in the cache and checked, at "
        f"{base.head[:12]}"
    ]


def test_a_checked_file_is_hashed_again_only_when_it_changed(base: Repo, client: Client, tmp_path: Path) -> None:
    path = Path(client.call(do="pull", repo="org/base", revision=base.head, home=tmp_path)["path"], "model.safetensors")
    status = path.stat()
    path.resolve().write_bytes(WEIGHTS[::-1])
    os.utime(path.resolve(), ns=(status.st_atime_ns, status.st_mtime_ns))
    client.call(do="pull", repo="org/base", revision=base.head, home=tmp_path)
    assert path.read_bytes() == WEIGHTS[::-1], "a file of the same time and size was hashed again"
    os.utime(path.resolve(), ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    answer = client.call(do="pull", repo="org/base", revision=base.head, home=tmp_path)
    assert path.read_bytes() == WEIGHTS
    assert any("model.safetensors in the cache is damaged; fetching it again" in line for line in answer["log"])


def test_revisions_share_what_they_have_in_common(hub: LoopbackHub, base: Repo, client: Client, tmp_path: Path) -> None:
    client.call(do="pull", repo="org/base", revision=base.head, home=tmp_path)
    asked(hub)
    second = base.commit({"config.json": b"{ }"})
    answer = client.call(do="pull", repo="org/base", revision=second, home=tmp_path)
    assert Path(answer["path"], "model.safetensors").read_bytes() == WEIGHTS
    assert asked(hub) == [f"GET /api/models/org/base/tree/{second}", f"GET /org/base/resolve/{second}/config.json"]


def test_what_huggingface_hub_cached_is_checked_and_used(
    hub: LoopbackHub, base: Repo, client: Client, tmp_path: Path
) -> None:
    code = f"hub.snapshot_download('org/base', cache_dir={str(tmp_path / 'hub')!r})"
    folder = client.call(do="run", code=code)["value"]
    asked(hub)
    answer = client.call(do="pull", repo="org/base", revision=base.head, home=tmp_path)
    assert answer["path"] == folder
    assert asked(hub) == [f"GET /api/models/org/base/tree/{base.head}"]


def test_what_was_pulled_is_used_by_huggingface_hub(
    hub: LoopbackHub, base: Repo, client: Client, tmp_path: Path
) -> None:
    pulled = client.call(do="pull", repo="org/base", revision="main", home=tmp_path)
    asked(hub)
    for revision in (base.head, "main"):
        code = (
            f"hub.hf_hub_download('org/base', 'model.safetensors', revision={revision!r}, "
            f"cache_dir={str(tmp_path / 'hub')!r}, local_files_only=True)"
        )
        assert client.call(do="run", code=code)["value"] == pulled["path"] + "/model.safetensors"
    assert asked(hub) == []


def test_only_safe_files_of_a_model_are_fetched(hub: LoopbackHub, client: Client, tmp_path: Path) -> None:
    other = {"pytorch_model.bin": b"x", "training_args.bin": b"x", "modeling.py": b"x", "x.gguf": b"x", "a.pkl": b"x"}
    hub.state.add_repo("org/base", BASE | other)
    folder = Path(client.call(do="pull", repo="org/base", home=tmp_path)["path"])
    assert sorted(path.name for path in folder.rglob("*")) == sorted(BASE)


def test_a_model_that_is_only_there_as_pickle_is_refused(hub: LoopbackHub, client: Client, tmp_path: Path) -> None:
    hub.state.add_repo("org/old", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    error = client.call(do="pull", repo="org/old", home=tmp_path)["error"]
    assert error.startswith("org/old has its weights as pickle only (pytorch_model.bin), which can run code")
    assert not any("/resolve/" in request for request in asked(hub))


def test_only_data_of_a_dataset_is_fetched(hub: LoopbackHub, client: Client, tmp_path: Path) -> None:
    files = {"train.jsonl": b'{"text": "one"}\n', "ja/train.parquet": b"p", "load.py": b"x", "audio.tar": b"x"}
    hub.state.add_repo("org/text", files, "dataset")
    folder = Path(client.call(do="pull", repo="org/text", kind="dataset", home=tmp_path)["path"])
    assert folder.parts[-3] == "datasets--org--text"
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == ["ja/train.parquet", "train.jsonl"]


def test_a_long_list_of_files_comes_in_pages(hub: LoopbackHub, client: Client, tmp_path: Path) -> None:
    hub.state.page_size = 3
    names = [f"part-{number:03}.jsonl" for number in range(10)]
    hub.state.add_repo("org/text", dict.fromkeys(names, b'{"text": "same"}\n'), "dataset")
    folder = Path(client.call(do="pull", repo="org/text", kind="dataset", home=tmp_path)["path"])
    assert sorted(path.name for path in folder.iterdir()) == names
    assert sum("/resolve/" in request for request in asked(hub)) == 1, "the same content was fetched again"


def test_a_list_that_goes_on_elsewhere_is_refused(hub: LoopbackHub, client: Client, tmp_path: Path) -> None:
    hub.state.page_size, hub.state.pages_at = 3, hub.storage.url
    hub.state.add_repo("org/base", BASE)
    answer = client.call(do="pull", repo="org/base", home=tmp_path, token=BEN)
    assert answer["error"] == f"{hub.url} lists org/base on another host; check HF_ENDPOINT."
    assert hub.storage.requests == []


def test_an_empty_file_is_there(hub: LoopbackHub, client: Client, tmp_path: Path) -> None:
    hub.state.add_repo("org/base", BASE | {"added_tokens.json": b""})
    folder = Path(client.call(do="pull", repo="org/base", home=tmp_path)["path"])
    assert (folder / "added_tokens.json").read_bytes() == b""


def test_files_come_several_at_once(hub: LoopbackHub, client: Client, tmp_path: Path) -> None:
    files = {f"model-{number}.safetensors": WEIGHTS + bytes([number]) for number in range(12)}
    hub.state.add_repo("org/shards", files)
    folder = Path(client.call(do="pull", repo="org/shards", home=tmp_path, n_parallel=4)["path"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_a_private_repository_is_read_with_the_token_and_the_storage_never_sees_it(
    hub: LoopbackHub, client: Client, tmp_path: Path
) -> None:
    hub.state.add_repo("ben/own", BASE, private=True)
    answer = client.call(do="pull", repo="ben/own", home=tmp_path, token=BEN)
    assert answer["label"].startswith("ben/own@")
    assert {seen.token for seen in hub.requests} == {BEN}
    assert [seen.token for seen in hub.storage.requests] == [None]
    assert BEN not in json.dumps(answer)
    assert not any(BEN in path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())


def test_too_little_room_is_told_before_the_first_byte(hub: LoopbackHub, client: Client, tmp_path: Path) -> None:
    hub.state.add_repo("org/base", BASE | {"model-2.safetensors": bytes(2_000_000)})
    answer = client.call(do="pull", repo="org/base", home=tmp_path, free_bytes=1_200_000)
    assert answer["error"] == (
        f"org/base needs 2.0 MB more on the disk of {tmp_path / 'hub'}, where 1.2 MB are free; free some room, or set "
        "HF_HOME to another disk."
    )
    assert not any("/resolve/" in request for request in asked(hub))


def test_a_file_that_is_too_large_for_http_is_told_with_the_command_that_fetches_it(
    base: Repo, client: Client, tmp_path: Path
) -> None:
    usual = client.call(do="run", code="hub.constants.MAX_HTTP_DOWNLOAD_SIZE")["value"]
    client.call(do="run", code="setattr(hub.constants, 'MAX_HTTP_DOWNLOAD_SIZE', 1000)")
    answer = client.call(do="pull", repo="org/base", home=tmp_path)
    client.call(do="run", code=f"setattr(hub.constants, 'MAX_HTTP_DOWNLOAD_SIZE', {usual})")
    assert f"`hf download --repo-type model --revision {base.head} org/base model.safetensors`" in answer["error"]


def test_two_processes_may_pull_at_once(hub: LoopbackHub, client: Client, tmp_path: Path) -> None:
    files = {f"model-{number}.safetensors": WEIGHTS * 50 + bytes([number]) for number in range(6)}
    hub.state.add_repo("org/shards", files)
    with running_client(hub.url, tmp_path / "other") as other:
        for one in (client, other):
            one.send(do="pull", repo="org/shards", home=tmp_path, n_parallel=3)
        answers = [one.answer() for one in (client, other)]
    for answer in answers:
        assert {path.name: path.read_bytes() for path in Path(answer["path"]).iterdir()} == files


@pytest.mark.parametrize(
    "path",
    [
        "../../evil.json", "/etc/evil.json", "a/../../evil.json", "C:evil.json", "a\\..\\evil.json", "evil\0.json",
        "a//evil.json", "./evil.json", "x" * 300 + ".json", "..", "new\nline.json",
    ],
)  # fmt: skip
def test_a_name_that_could_leave_the_snapshot_is_refused(
    hub: LoopbackHub, client: Client, tmp_path: Path, path: str
) -> None:
    hub.state.add_repo("org/evil", BASE | {path: b"evil"})
    answer = client.call(do="pull", repo="org/evil", home=tmp_path / "home")
    assert "which is no safe name; nothing was fetched" in answer["error"]
    assert not any("evil" in file.name and file.is_file() for file in tmp_path.rglob("*"))
    assert not any("/resolve/" in request for request in asked(hub))


def test_a_repository_name_that_is_a_path_is_refused(hub: LoopbackHub, client: Client, tmp_path: Path) -> None:
    for name in ("../../x", "org/../x", "a/b/c", "/etc", "org/x\0"):
        answer = client.call(do="pull", repo=name, home=tmp_path)
        assert answer["error"] == f"{name} is not a repository name (owner/name)."
    assert asked(hub) == []


def test_a_revision_that_is_a_path_writes_nothing_elsewhere(base: Repo, client: Client, tmp_path: Path) -> None:
    for revision in ("../../../x", "a/../../x", "/x"):
        base.branches[revision] = base.head
        answer = client.call(do="pull", repo="org/base", revision=revision, home=tmp_path)
        assert answer["label"] == f"org/base@{base.head}"
    assert not list((tmp_path / "hub/models--org--base").glob("refs/*"))


@pytest.mark.parametrize("what", ["file", "wanted file", "folder", "snapshot"])
def test_a_link_out_of_the_cache_is_refused(base: Repo, client: Client, tmp_path: Path, what: str) -> None:
    folder = Path(client.call(do="pull", repo="org/base", home=tmp_path / "home")["path"])
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/model.safetensors").write_bytes(WEIGHTS)
    if what == "snapshot":
        folder.rename(folder.with_name("old"))
        folder.symlink_to(tmp_path / "secret")
    else:
        place = {"file": "extra.json", "wanted file": "model.safetensors", "folder": "sub"}[what]
        (folder / place).unlink(missing_ok=True)
        (folder / place).symlink_to(tmp_path / "secret" / ("" if what == "folder" else "model.safetensors"))
    answer = client.call(do="pull", repo="org/base", revision=base.head, home=tmp_path / "home")
    assert f"is a link to {tmp_path / 'secret'}" in answer["error"]
    assert answer["error"].endswith("and pull again.")


def test_a_cache_that_cannot_be_written_is_read(hub: LoopbackHub, base: Repo, client: Client, tmp_path: Path) -> None:
    client.call(do="pull", repo="org/base", revision=base.head, home=tmp_path)
    asked(hub)
    # Whoever runs the tests may write anywhere, so a file stands where a folder would be made.
    (tmp_path / "hub/models--org--base/refs").write_text("")
    assert client.call(do="pull", repo="org/base", home=tmp_path)["label"] == f"org/base@{base.head}"
    assert asked(hub) == ["GET /api/models/org/base/revision/main"]


def test_a_damaged_record_is_as_good_as_none(base: Repo, client: Client, tmp_path: Path) -> None:
    client.call(do="pull", repo="org/base", revision=base.head, home=tmp_path)
    for text in ("{", "[]", '{"format_version": 9}', '{"format_version": 1, "files": {"a": 3}, "blobs": {"b": 1}}'):
        for path in (tmp_path / "records").rglob("*.json"):
            path.write_text(text)
        answer = client.call(do="pull", repo="org/base", revision=base.head, home=tmp_path)
        assert answer["label"] == f"org/base@{base.head}", text


@pytest.mark.usefixtures("base")
def test_a_token_that_no_header_can_hold_is_not_shown(client: Client, tmp_path: Path) -> None:
    answer = client.call(do="pull", repo="org/base", home=tmp_path, token="hf_halfé_otherhalf")
    assert answer["error"] == (
        "The request for org/base has a header that cannot be sent; log in again with `hf auth login`."
    )
    assert "otherhalf" not in json.dumps(answer)


def test_a_path_is_taken_as_it_stands(tmp_path: Path) -> None:
    recipe = Recipe.model_construct(folder=tmp_path)
    (tmp_path / "base").mkdir()
    assert locate(ModelSource(path="base"), recipe, "model") == Located(tmp_path / "base")
    with pytest.raises(HubError, match="none does not exist; the recipe names it as a model"):
        locate(ModelSource(path="none"), recipe, "model")


@pytest.mark.parametrize("reference", ["evil/code--tok.T", ["evil/code--tok.T", None]])
def test_trusted_code_that_lies_in_another_repository_is_refused(tmp_path: Path, reference: Any) -> None:
    (tmp_path / "base").mkdir()
    config = {"auto_map": {"AutoTokenizer": reference}}
    (tmp_path / "base/tokenizer_config.json").write_text(json.dumps(config))
    recipe = Recipe.model_construct(folder=tmp_path)
    with pytest.raises(HubError, match="takes its code from the repository 'evil/code'"):
        locate(ModelSource(path="base", trust_remote_code=True), recipe, "model")
    (tmp_path / "base/tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["tok.T", null]}}')
    assert locate(ModelSource(path="base", trust_remote_code=True), recipe, "model").path == tmp_path / "base"


def test_rows_are_read_from_a_dataset_repository(hub: LoopbackHub, client: Client) -> None:
    repo = hub.state.add_repo("org/text", {"train.jsonl": b'{"text": "one"}\n{"text": "two"}\n'}, "dataset")
    answer = client.call(do="rows", repo="org/text", revision=repo.head)
    assert answer["value"] == [{"text": "one"}, {"text": "two"}]


def test_a_run_sees_one_commit_of_a_moving_branch(hub: LoopbackHub, client: Client) -> None:
    repo = hub.state.add_repo("org/moving", {"train.jsonl": b'{"text": "one"}\n'}, "dataset")
    for _ in range(2):
        assert client.call(do="rows", repo="org/moving", revision="main")["value"] == [{"text": "one"}]
        repo.commit({"train.jsonl": b'{"text": "two"}\n'})
        hub.state.requests.clear()
    assert asked(hub) == []


def ask(client: Client, home: Path, name: str, *arguments: str | None) -> dict[str, Any]:
    return client.call(do="ask", name=name, arguments=arguments, home=home)


def test_a_revision_is_resolved_and_nothing_fetched_or_noted(
    hub: LoopbackHub, base: Repo, client: Client, tmp_path: Path
) -> None:
    base.tags["v1"] = base.head
    for revision in ("main", "v1", None):
        assert ask(client, tmp_path, "resolve", "org/base", revision, "model")["value"] == base.head
    assert asked(hub) == [f"GET /api/models/org/base/revision/{name}" for name in ("main", "v1", "main")]
    assert ask(client, tmp_path, "resolve", "org/base", "0" * 40, "model")["value"] == "0" * 40
    assert asked(hub) == []
    assert not (tmp_path / "hub").exists()


def test_a_revision_that_cannot_be_resolved_is_told_with_the_cached_commit(
    hub: LoopbackHub, base: Repo, client: Client, tmp_path: Path
) -> None:
    hub.state.fail("GET", "/revision/", 503, times=99)
    error = ask(client, tmp_path, "resolve", "org/base", "main", "model")["error"]
    assert error.startswith("Which commit org/base@main is at cannot be asked (4 tries failed, the last with 503")
    hub.state.faults.clear()
    client.call(do="pull", repo="org/base", revision="main", home=tmp_path)
    hub.state.fail("GET", "/revision/", 503, times=99)
    error = ask(client, tmp_path, "resolve", "org/base", "main", "model")["error"]
    assert error.endswith(f"The cache has it as of {base.head}: set that as its revision to use it.")
    assert ask(client, tmp_path, "resolve", "org/a/b", "main", "model")["type"] == "HubError"
    # What was pulled by its commit is in the cache as well.
    (tmp_path / "hub/models--org--base/refs/main").unlink()
    error = ask(client, tmp_path, "resolve", "org/base", "main", "model")["error"]
    assert error.endswith(f"The cache has org/base at {base.head}: set that as its revision to use it.")


def item(id: str, kind: str = "model") -> dict[str, Any]:
    return {"_id": id, "id": id, "type": kind, "position": 0}


def test_a_collection_gives_its_models_in_order(hub: LoopbackHub, client: Client, tmp_path: Path) -> None:
    items = [item("org/dv-zh"), item("org/text", "dataset"), item("org/dv-ja"), item("org/dv-zh")]
    hub.state.collections["org/pool-123"] = {"items": items}
    hub.state.fail("GET", "/collections/", 503)
    answer = ask(client, tmp_path, "list_collection", "org/pool-123")
    assert (answer["value"], answer["waits"]) == (["org/dv-zh", "org/dv-ja"], [1.0])


@pytest.mark.parametrize("does", [429, 500, 503, "close"])
def test_a_collection_that_cannot_be_had_is_one_sentence(
    hub: LoopbackHub, client: Client, tmp_path: Path, does: int | Trouble
) -> None:
    hub.state.collections["org/pool-123"] = {"items": [item("org/dv-zh")]}
    hub.state.fail("GET", "/collections/", does, times=99)
    answer = ask(client, tmp_path, "list_collection", "org/pool-123")
    cause = "the connection to http://127.0.0.1" if does == "close" else f"planned {does}"
    assert answer["type"] == "HubError"
    assert answer["error"].startswith("collection org/pool-123 cannot be had: 4 tries failed, the last with ")
    assert cause in answer["error"]
    assert answer["error"].endswith("run the same command again, it goes on where it stopped.")
    assert answer["waits"] == [1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "The collection org/pool-123 does not exist or is private: check its address, then `hf auth login`."),
        (403, "This login may not read collection org/pool-123 (403 Forbidden: planned 403): ask its owner"),
    ],
)
def test_a_collection_that_is_refused_is_asked_for_once(
    hub: LoopbackHub, client: Client, tmp_path: Path, status: int, words: str
) -> None:
    hub.state.fail("GET", "/collections/", status, times=99)
    answer = ask(client, tmp_path, "list_collection", "org/pool-123")
    assert words in answer["error"]
    assert answer["waits"] == []


@pytest.mark.parametrize(
    ("slug", "words"),
    [
        ("org/none-1", "The collection org/none-1 does not exist or is private: check its address"),
        ("../models/org", "../models/org is no collection: name it as the end of its address"),
        ("https://huggingface.co/collections/org/pool-1", "is no collection: name it as the end of its address"),
        ("org/empty-1", "The collection org/empty-1 holds no models"),
        ("org/bad-1", "The collection org/bad-1 lists '../../x', which is no repository name"),
    ],
)
def test_what_is_no_collection_of_models_is_told(
    hub: LoopbackHub, client: Client, tmp_path: Path, slug: str, words: str
) -> None:
    hub.state.collections["org/empty-1"] = {"items": [item("org/text", "dataset")]}
    hub.state.collections["org/bad-1"] = {"items": [item("../../x")]}
    assert words in ask(client, tmp_path, "list_collection", slug)["error"]


def test_names_that_are_one_file_on_some_disks_are_refused(hub: LoopbackHub, client: Client, tmp_path: Path) -> None:
    hub.state.add_repo("org/base", BASE | {"Config.json": b"[]"})
    error = client.call(do="pull", repo="org/base", home=tmp_path)["error"]
    assert error == (
        "org/base has Config.json and config.json, which are one file on some disks; nothing was fetched. Tell "
        "its owner."
    )
    assert not any("/resolve/" in request for request in asked(hub))
