"""The tests' own Hub does what huggingface_hub's client expects of one: pushes, history, refusals, collections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from loopback_client import Client
from loopback_hub import LoopbackHub
from loopback_repos import ANN, BEN

pytest_plugins = ["loopback_fixtures"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    return folder


def run(client: Client, code: str, token: str | None = ANN) -> Any:
    """The value of an expression over ``api``, or the kind and status of its error."""
    answer = client.call(do="run", code=code, token=token)
    return answer["value"] if "value" in answer else f"{answer['type']}: {answer['error'].splitlines()[0]}"


def test_a_token_stands_for_its_user(hub: LoopbackHub, client: Client) -> None:
    code = "[api.whoami()[key] for key in ('name', 'orgs')]"
    assert run(client, code) == ["ann", [{"name": "org", "type": "org", "roleInOrg": "write"}]]
    assert run(client, "api.whoami()['auth']['accessToken']['role']", BEN) == "read"
    assert "Invalid user token" in run(client, code, "hf_nobody")
    assert hub.state.requests[0].token == ANN


def test_a_folder_is_pushed_in_one_commit_and_read_back(
    hub: LoopbackHub, client: Client, folder: Path, tmp_path: Path
) -> None:
    run(client, "api.create_repo('org/new', private=True)")
    repo = hub.state.repos["model", "org/new"]
    assert repo.private
    first = repo.head
    code = f"api.upload_folder(repo_id='org/new', folder_path={str(folder)!r}, commit_message='all').oid"
    assert run(client, code) == repo.head
    assert [commit.title for commit in repo.commits.values()] == ["initial commit", "all"]
    assert repo.commits[repo.head].parent == first
    files = repo.commits[repo.head].files
    assert {path: files[path].content for path in files if path != ".gitattributes"} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    assert [path for path in sorted(files) if files[path].is_large] == ["model.safetensors"]
    assert [seen.token for seen in hub.storage.requests] == [None], "an upload to the storage carried the token"
    back = run(client, f"hub.snapshot_download('org/new', cache_dir={str(tmp_path / 'cache')!r})")
    assert Path(back).name == repo.head
    assert (Path(back) / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_a_second_push_of_the_same_makes_no_commit(hub: LoopbackHub, client: Client, folder: Path) -> None:
    repo = hub.state.add_repo("org/new")
    code = f"api.upload_folder(repo_id='org/new', folder_path={str(folder)!r}).oid"
    assert run(client, code) == run(client, code) == repo.head
    assert len(repo.commits) == 2


def test_a_push_onto_an_older_commit_is_refused(hub: LoopbackHub, client: Client) -> None:
    repo = hub.state.add_repo("org/new")
    first = repo.head
    repo.commit({"a.txt": b"someone else's"})
    code = (
        "api.create_commit('org/new', [hub.CommitOperationAdd('b.txt', b'b')], commit_message='b', "
        f"parent_commit={first!r})"
    )
    assert "412" in run(client, code)
    assert "b.txt" not in repo.commits[repo.head].files


def test_files_are_deleted_by_a_commit(hub: LoopbackHub, client: Client) -> None:
    repo = hub.state.add_repo("org/new", {"a.txt": b"a", "sub/b.txt": b"b", "c.txt": b"c"})
    run(client, "api.create_commit('org/new', [hub.CommitOperationDelete('a.txt'), "
        "hub.CommitOperationDelete('sub/')], commit_message='less')")  # fmt: skip
    assert sorted(repo.commits[repo.head].files) == [".gitattributes", "c.txt"]


def test_who_may_not_write_is_refused(hub: LoopbackHub, client: Client) -> None:
    repo = hub.state.add_repo("org/new")
    push = "api.upload_file(path_or_fileobj=b'x', path_in_repo='x.txt', repo_id='org/new')"
    assert "403" in run(client, push, BEN)
    assert "401" in run(client, push, "hf_nobody")
    assert "403" in run(client, "api.create_repo('org/other')", BEN)
    assert "403" in run(client, "api.create_repo('elsewhere/x')")
    assert run(client, "api.create_repo('org/new', exist_ok=True).repo_id") == "org/new"
    assert "409" in run(client, "api.create_repo('org/new')")
    assert len(repo.commits) == 1


def test_private_and_gated_repositories_are_closed_to_others(hub: LoopbackHub, client: Client, tmp_path: Path) -> None:
    hub.state.add_repo("org/private", private=True)
    gated = hub.state.add_repo("org/gated", {"config.json": b"{}"}, gated=True)
    for token in (None, BEN):
        assert run(client, "api.model_info('org/private').sha", token).startswith("RepositoryNotFoundError")
        assert run(client, "api.model_info('org/gated').sha", token) == gated.head
        code = f"hub.hf_hub_download('org/gated', 'config.json', cache_dir={str(tmp_path)!r})"
        assert run(client, code, token).startswith("GatedRepoError")
        assert run(client, "api.auth_check('org/gated')", token).startswith("GatedRepoError")
    assert run(client, "api.auth_check('org/private', write=True)") is None
    gated.granted.add("ben")
    assert run(client, "api.auth_check('org/gated')", BEN) is None
    assert "403" in run(client, "api.auth_check('org/gated', write=True)", BEN)


def test_history_is_told_by_revision(hub: LoopbackHub, client: Client) -> None:
    repo = hub.state.add_repo("org/data", {"train.jsonl": b"1"}, "dataset")
    first, second = repo.head, repo.commit({"train.jsonl": b"22"}, "longer")
    run(client, f"api.create_branch('org/data', repo_type='dataset', branch='old', revision={first!r})")
    run(client, f"api.create_tag('org/data', repo_type='dataset', tag='v1', revision={first!r})")
    assert repo.branches == {"main": second, "old": first}
    for revision, sha, size in (("main", second, 2), ("old", first, 1), ("v1", first, 1), (first[:8], first, 1)):
        info = f"api.dataset_info('org/data', revision={revision!r})"
        assert run(client, f"{info}.sha") == sha
        tree = f"api.list_repo_tree('org/data', repo_type='dataset', revision={revision!r})"
        assert run(client, f"[(f.path, f.size) for f in {tree}]")[1] == ["train.jsonl", size]
    refs = "api.list_repo_refs('org/data', repo_type='dataset')"
    assert run(client, f"[(ref.name, ref.target_commit) for ref in {refs}.branches]") == [
        ["main", second], ["old", first],
    ]  # fmt: skip
    titles = "[commit.title for commit in api.list_repo_commits('org/data', repo_type='dataset')]"
    assert run(client, titles) == ["longer", "files", "initial commit"]
    assert run(client, "api.model_info('org/data').sha").startswith("RepositoryNotFoundError")
    assert run(client, "api.dataset_info('org/data', revision='none').sha").startswith("RevisionNotFoundError")
    paths = f"api.get_paths_info('org/data', ['train.jsonl', 'none'], repo_type='dataset', revision={first!r})"
    assert run(client, f"[(f.path, f.size) for f in {paths}]") == [["train.jsonl", 1]]


def test_a_large_file_is_known_by_its_sha256(hub: LoopbackHub, client: Client) -> None:
    repo = hub.state.add_repo("org/base", {"model.safetensors": b"weights", "config.json": b"{}"})
    files = repo.commits[repo.head].files
    code = "{f.path: [f.blob_id, f.lfs and f.lfs.sha256] for f in api.list_repo_tree('org/base')}"
    listed = run(client, code)
    assert listed["config.json"] == ["9e26dfeeb6e641a33dae4961196235bdb965b21b", None]
    assert listed["model.safetensors"][1] == files["model.safetensors"].sha256
    head = "hub.get_hf_file_metadata(hub.hf_hub_url('org/base', 'model.safetensors'))"
    found = run(client, f"(lambda m: [m.etag, m.size, m.commit_hash, m.location])({head})")
    assert found[:3] == [files["model.safetensors"].sha256, 7, repo.head]
    assert found[3].startswith(f"{hub.storage.url}/lfs/")


def test_a_card_with_bad_metadata_is_refused(hub: LoopbackHub, client: Client) -> None:
    repo = hub.state.add_repo("org/base")
    code = "api.upload_file(path_or_fileobj=%r, path_in_repo='README.md', repo_id='org/base').oid"
    assert "Invalid metadata" in run(client, code % b"---\na: [\n---\n")
    assert len(repo.commits) == 1
    assert run(client, code % b"---\na: 1\n---\n") == repo.head


def test_a_collection_is_read(hub: LoopbackHub, client: Client) -> None:
    item = {"_id": "1", "id": "org/dv-ja", "type": "model", "position": 0}
    hub.state.collections["org/pool-123"] = {"title": "Pool", "items": [item]}
    assert run(client, "[item.item_id for item in api.get_collection('org/pool-123').items]") == ["org/dv-ja"]
    assert "404" in run(client, "api.get_collection('org/none-1')")


def test_a_repository_is_deleted_and_made_public(hub: LoopbackHub, client: Client) -> None:
    repo = hub.state.add_repo("org/base", private=True)
    run(client, "api.update_repo_settings('org/base', private=False)")
    assert not repo.private
    run(client, "api.delete_repo('org/base')")
    assert hub.state.repos == {}


def test_a_planned_fault_comes_when_it_is_planned(hub: LoopbackHub, client: Client) -> None:
    hub.state.add_repo("org/base")
    hub.state.fail("GET", "/api/models/org/base", 409, nth=2, times=2)
    answers = [run(client, "api.model_info('org/base').id") for _ in range(4)]
    assert [str(answer)[:11] for answer in answers] == ["org/base", "HfHubHTTPEr", "HfHubHTTPEr", "org/base"]


def test_the_answer_to_a_commit_may_be_lost(hub: LoopbackHub, client: Client) -> None:
    repo = hub.state.add_repo("org/new")
    hub.state.fail("POST", "/commit/", "lost")
    push = "api.upload_file(path_or_fileobj=b'x', path_in_repo='x.txt', repo_id='org/new')"
    assert run(client, push).startswith("RemoteProtocolError")
    assert "x.txt" in repo.commits[repo.head].files


def test_configuration_and_rows_load_with_transformers_and_datasets(hub: LoopbackHub, client: Client) -> None:
    base = hub.state.add_repo("org/base", {"config.json": b'{"model_type": "llama", "hidden_size": 32}'})
    hub.state.add_repo("org/text", {"train.jsonl": b'{"text": "one"}\n{"text": "two"}\n'}, "dataset")
    code = f"__import__('transformers').AutoConfig.from_pretrained('org/base', revision={base.head!r}).hidden_size"
    assert run(client, code) == 32
    code = "__import__('datasets').load_dataset('org/text', split='train')['text'][:]"
    assert run(client, code) == ["one", "two"]
