"""Pushing to a Hub that works: one commit, private, only what may leave, nobody else's work."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from loopback_client import Client
from loopback_hub import LoopbackHub
from loopback_push import FILES, Pusher, listed, repo_of
from loopback_repos import ANN, BEN, User

from mergekit_optimer.errors import HubError
from mergekit_optimer.hub import PushOptions, Upload
from mergekit_optimer.hub.upload import checked_contents

pytest_plugins = ["loopback_fixtures"]


def test_a_new_repository_is_private_and_has_all_files_in_one_commit(hub: LoopbackHub, push: Pusher) -> None:
    answer = push()
    repo = repo_of(hub)
    assert answer["value"] == [{"repo": "org/dv-ja", "revision": repo.head, "n_sent": 4, "url": f"{hub.url}/org/dv-ja"}]
    assert repo.private
    assert [commit.title for commit in repo.commits.values()] == ["initial commit", "vector ja"]
    files = repo.commits[repo.head].files
    assert files["model.safetensors"].content == push.weights.read_bytes()
    assert {name: files[name].content.decode() for name in FILES} == FILES
    assert listed(repo) == [
        ".gitattributes",
        "README.md",
        "config.json",
        "distribution_vector.json",
        "model.safetensors",
    ]
    lines = [line.partition(": ")[2] for line in answer["log"] if line.startswith("INFO mergekit_optimer")]
    assert lines == [
        "org/dv-ja: made, private",
        "org/dv-ja: sending 4 of 4 files, 16.4 kB",
        f"org/dv-ja: at {repo.head}",
    ]
    assert {seen.token for seen in hub.storage.requests} == {None}, "the storage saw the token"


def test_the_same_again_makes_no_commit_and_no_upload(hub: LoopbackHub, push: Pusher) -> None:
    first = push()["value"][0]
    hub.state.requests.clear()
    again = push()
    assert again["value"] == [first | {"n_sent": 0}]
    assert again["plans"][0]["kept"] == sorted(push.files)
    assert push.asked("PUT|POST|DELETE") == []
    assert len(repo_of(hub).commits) == 2


def test_only_what_changed_is_sent_and_what_is_stale_goes_in_the_same_commit(hub: LoopbackHub, push: Pusher) -> None:
    old = {"model-00002-of-00002.safetensors": "old shard", "notes/old.md": "old"}
    push(push.upload(files=push.files | old))
    hub.state.requests.clear()
    files = push.files | {"config.json": '{"a": 1}'}
    answer = push(push.upload(files=files, title="smaller"))
    plan = answer["plans"][0]
    assert (plan["sent"], plan["removed"], plan["size_bytes"]) == (["config.json"], sorted(old), 8)
    repo = repo_of(hub)
    assert listed(repo) == sorted([".gitattributes", *push.files])
    assert [commit.title for commit in repo.commits.values()] == ["initial commit", "vector ja", "smaller"]
    assert push.asked("PUT") == []


def test_a_plan_changes_nothing(hub: LoopbackHub, push: Pusher) -> None:
    answer = push(plan_only=True)
    assert answer["plans"][0] == {
        "exists": False, "head": None, "sent": sorted(push.files), "kept": [], "removed": [], "size_bytes": 16443,
    }  # fmt: skip
    assert hub.state.repos == {}
    assert push.asked("PUT|POST|DELETE") == ["POST /api/validate-yaml"]


def test_several_are_all_looked_at_before_the_first_byte(hub: LoopbackHub, push: Pusher) -> None:
    hub.state.add_repo("org/dv-zh", {"config.json": b"{}", "model.safetensors": b"a model"})
    error = push(push.upload(), push.upload("org/dv-zh"))["error"]
    assert error == (
        "org/dv-zh is public, and is to be private: say --public to push to it as it is, or make it private in its "
        "settings first."
    )
    assert ("model", "org/dv-ja") not in hub.state.repos


def test_several_become_public_only_after_the_last_is_there(hub: LoopbackHub, push: Pusher) -> None:
    uploads = [push.upload(name, private=False) for name in ("org/dv-ja", "org/dv-zh")]
    push(*uploads)
    kinds = [
        line.rpartition("/")[2] for line in push.asked("POST|PUT") if re.search("commit/main|settings|create", line)
    ]
    assert kinds == ["create", "create", "main", "main", "settings", "settings"]
    assert not repo_of(hub).private
    hub.state.requests.clear()
    assert [done["n_sent"] for done in push(*uploads)["value"]] == [0, 0]
    assert push.asked("POST|PUT") == []


def test_a_private_repository_is_made_public_without_a_new_commit(hub: LoopbackHub, push: Pusher) -> None:
    first = push()["value"][0]
    assert push(push.upload(private=False))["value"][0]["revision"] == first["revision"]
    assert not repo_of(hub).private


def test_somebody_elses_repository_is_left_alone(hub: LoopbackHub, push: Pusher) -> None:
    repo = hub.state.add_repo("org/dv-ja", {"config.json": b"{}", "pytorch_model.bin": b"theirs"}, private=True)
    assert push()["error"] == (
        "org/dv-ja holds something else (pytorch_model.bin, and no distribution_vector.json), which a push would "
        "replace; name another repository, or delete that one first."
    )
    assert len(repo.commits) == 2


def test_without_a_marker_only_an_empty_repository_is_filled(hub: LoopbackHub, push: Pusher) -> None:
    hub.state.add_repo("org/dv-ja", private=True)
    first = push(push.upload(marker=""))["value"][0]
    assert push(push.upload(marker=""))["value"][0]["revision"] == first["revision"]
    error = push(push.upload(marker="", files=FILES))["error"]
    assert error.startswith("org/dv-ja holds something else (model.safetensors), which")


def test_a_public_repository_may_be_pushed_to_as_public(hub: LoopbackHub, push: Pusher) -> None:
    hub.state.add_repo("org/dv-ja", {"distribution_vector.json": b"{}"})
    assert push(push.upload(private=False))["value"][0]["n_sent"] == 4
    assert push.asked("PUT", "settings") == []


@pytest.mark.parametrize(
    ("token", "repo", "words"),
    [
        (
            None,
            "org/dv-ja",
            r"There is no login to http://[\d.:]+ for org/dv-ja: `hf auth login` with a token that",
        ),
        ("hf_nobodynobody", "org/dv-ja", r"does not know the token of this login \(401\); `hf auth login` again"),
        (BEN, "ben/dv-ja", r"The token of ben may only read, so ben/dv-ja cannot be pushed: `hf auth login` with one"),
        (ANN, "other/dv-ja", r"ann is no member of other, so other/dv-ja cannot be pushed; push to ann/, or ask"),
        (ANN, "readers/dv-ja", r"ann may only read in readers, so readers/dv-ja cannot be pushed; push to ann/"),
        (ANN, "dv-ja", r"dv-ja is not a repository name \(owner/name\): it lacks its owner"),
        (ANN, "org/../dv-ja", r"org/../dv-ja is not a repository name \(owner/name\)"),
    ],
)
def test_who_may_not_push_is_told_before_anything_is_done(
    hub: LoopbackHub, push: Pusher, token: str | None, repo: str, words: str
) -> None:
    hub.state.users[ANN] = User("ann", orgs=("org",), read_orgs=("readers",))
    answer = push(push.upload(repo), token=token)
    assert answer["type"] in ("HubError", "RefusedError")
    assert re.search(words, answer["error"]), answer["error"]
    assert hub.state.repos == {}


def test_a_token_for_some_repositories_is_told_at_one_that_it_does_not_cover(hub: LoopbackHub, push: Pusher) -> None:
    hub.state.users[ANN] = User("ann", "fineGrained", orgs=("org",))
    hub.state.add_repo("org/dv-ja", {"distribution_vector.json": b"{}"}, private=True)
    words = "This login may not write to org/dv-ja (403 Forbidden: You don't have the rights to write to org"
    assert push()["error"].startswith(words)


def test_a_name_that_was_changed_is_told(hub: LoopbackHub, push: Pusher) -> None:
    hub.state.add_repo("org/dv-japanese", private=True)
    hub.state.repos["model", "org/dv-ja"] = hub.state.repos["model", "org/dv-japanese"]
    assert push()["error"] == "org/dv-ja is called org/dv-japanese by now; push to that name."


def test_one_repository_twice_is_told(push: Pusher) -> None:
    error = push(push.upload(), push.upload("org/DV-ja"))["error"]
    assert error.startswith("org/DV-ja would be pushed twice at once")


def test_a_card_that_the_hub_refuses_stops_all(hub: LoopbackHub, push: Pusher) -> None:
    bad = push.upload("org/dv-zh", files=push.files | {"README.md": "---\na: [\n---\n"})
    error = push(push.upload(), bad)["error"]
    assert error.startswith("The Hub refuses the metadata of README.md for org/dv-zh (while parsing")
    assert "\n" not in error
    assert hub.state.repos == {}


def test_without_a_network_it_is_one_sentence(push: Pusher, offline_client: Client) -> None:
    push.client = offline_client
    assert push()["error"] == (
        "org/dv-ja cannot be pushed: HF_HUB_OFFLINE=1 is set; unset it, then run the same command again, it goes on "
        "where it stopped."
    )


def checked(files: dict[str, Path | bytes], *forbidden: str) -> None:
    checked_contents(Upload("org/x", files, "x"), PushOptions(forbidden_texts=forbidden))


@pytest.mark.parametrize(
    "path",
    [
        "training_args.bin", "pytorch_model.bin", "sub/rng.pt", "optimizer.safetensors", "scheduler.json", ".env",
        ".env.local", "logs/a.txt", "train.log", "study.journal", "rng_state_0.json", "key.pem", "a/token",
        ".git/config",
    ],
)  # fmt: skip
def test_what_is_never_sent_is_refused_by_its_name(path: str) -> None:
    with pytest.raises(HubError, match=f"^{re.escape(path)} is never pushed .* leave it out of what is sent to org/x"):
        checked({path: b"x"})


@pytest.mark.parametrize("path", ["../a.json", "/etc/a", "a//b", "C:/a", "a\\b", "a\0b", "n" * 256, ""])
def test_a_name_that_is_no_safe_name_is_refused(path: str) -> None:
    with pytest.raises(HubError, match="is no safe name for a file"):
        checked({path: b"x"})


def test_two_names_that_are_one_file_elsewhere_are_refused() -> None:
    with pytest.raises(HubError, match=r"^A.json and a.json for org/x are one file on some disks"):
        checked({"a.json": b"", "A.json": b""})


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"^a.json for org/x is missing at .*gone; make it anew"):
        checked({"a.json": tmp_path / "gone"})


SECRET = "hf_" + "aB3" * 8


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("README.md", f"line\nmy {SECRET}\n".encode()),
        ("config.json", json.dumps({"token": SECRET}).encode()),
        ("tokenizer.json", SECRET.encode()),
        ("LICENSE", SECRET.encode()),
        ("merge.YAML", SECRET.encode()),
        ("model.safetensors", (99).to_bytes(8, "little") + json.dumps({"__metadata__": {"by": SECRET}}).encode()),
    ],
)
def test_a_file_with_a_token_is_refused_without_showing_it(path: str, content: bytes) -> None:
    with pytest.raises(HubError, match=f"^{path}, line [12], holds what looks like a token") as told:
        checked({path: content})
    assert "aB3" not in str(told.value)


def test_a_file_that_names_a_folder_of_this_machine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/root")
    monkeypatch.chdir(tmp_path)
    for text in (
        "/root/models/base",
        f"see {tmp_path}.",
        f'"{tmp_path}/x"',
        "/scratch/é/x",
        json.dumps("/scratch/é/x"),
    ):
        with pytest.raises(HubError, match=r"^config.json, line 1, names a folder of this machine"):
            checked({"config.json": text.encode()}, "/scratch/é")
    checked({"config.json": b'"/rooted/x" "/root" "https://host/root/x" "a/root/x" "/else/where"'})
    checked({"tokenizer.json": b'{"/root/x": 1}', "merges.txt": b"/root/x"})


def test_a_content_is_known_by_either_hash(tmp_path: Path) -> None:
    from mergekit_optimer.hub import HubFile
    from mergekit_optimer.hub.upload import Content

    (tmp_path / "a").write_bytes(b"weights")
    for source in (b"weights", tmp_path / "a"):
        content = Content(source)
        assert content.is_listed_as(HubFile("a", 7, hashlib.sha256(b"weights").hexdigest()))
        assert content.is_listed_as(HubFile("a", 7, "4ee2c3ffb4aaa2f8d1f5b7e8a3b0c7f1b9d8e6a5")) is False
        assert content.is_listed_as(HubFile("a", 7, hashlib.sha1(b"blob 7\0weights").hexdigest()))
        assert not content.is_listed_as(HubFile("a", 8, hashlib.sha256(b"weights").hexdigest()))
