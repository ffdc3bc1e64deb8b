"""Pushing to a Hub that fails: each fault ends in one whole commit or in one sentence, and never in two of either."""

from __future__ import annotations

import hashlib
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopback_client import running_client
from loopback_hub import LoopbackHub
from loopback_push import Pusher, listed, repo_of
from loopback_repos import ANN, Trouble

pytest_plugins = ["loopback_fixtures"]

# Each kind of request of a push that is made public, by method and a regular expression of its address.
PLACES = {
    "whoami": ("GET", "/whoami"),
    "look": ("GET", "/api/models/org/dv-ja$"),
    "card": ("POST", "/validate-yaml"),
    "create": ("POST", "/repos/create"),
    "list": ("GET", "/tree/"),
    "preupload": ("POST", "/preupload/"),
    "batch": ("POST", "/lfs/objects/batch"),
    "store": ("PUT", "^/lfs/"),
    "verify": ("POST", "/lfs-verify"),
    "commit": ("POST", "/commit/"),
    "settings": ("PUT", "/settings"),
}


def assert_whole(push: Pusher, answer: dict[str, Any]) -> None:
    """The repository is public and has all files, from one commit."""
    repo = repo_of(push.hub)
    assert answer["value"][0]["revision"] == repo.head, answer.get("text")
    assert [commit.title for commit in repo.commits.values()] == ["initial commit", "vector ja"]
    assert listed(repo) == sorted([".gitattributes", *push.files])
    assert not repo.private


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("does", [429, 500, 502, 503, 504, "close", "lost", "reset"])
def test_a_fault_that_passes_is_waited_out(hub: LoopbackHub, push: Pusher, place: str, does: int | Trouble) -> None:
    hub.state.fail(*PLACES[place], does, times=2)
    answer = push(push.upload(private=False))
    assert_whole(push, answer)
    # What was done and only its answer lost is found to be done.
    done = {"commit": [], "verify": [1.0]} if does in ("lost", "reset") else {}
    assert answer["waits"] == done.get(place, [1.0, 2.0])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("does", [503, 429, "close"])
def test_a_fault_that_stays_is_one_sentence_and_later_it_goes_on(
    hub: LoopbackHub, push: Pusher, place: str, does: int | Trouble
) -> None:
    hub.state.fail(*PLACES[place], does, times=99)
    answer = push(push.upload(private=False))
    assert answer["type"] == "HubError"
    cause = "the connection to http://127.0.0.1" if does == "close" else f"planned {does}"
    if place == "store" and does != "close":
        cause = f"the Hub's storage answered {does}"
    assert answer["error"].startswith("org/dv-ja cannot be pushed: 4 tries failed, the last with ")
    assert cause in answer["error"]
    assert answer["error"].endswith("run the same command again, it goes on where it stopped.")
    assert "\n" not in answer["error"]
    assert answer["waits"] == [1.0, 2.0, 4.0]
    assert not [repo for repo in hub.state.repos.values() if not repo.private], "something half done can be seen"
    hub.state.faults.clear()
    assert_whole(push, push(push.upload(private=False)))


# What is asked for besides, where the repository exists or something went wrong before.
def to_an_existing_one(hub: LoopbackHub) -> None:
    hub.state.add_repo("org/dv-ja", private=True)


def with_a_failed_commit(hub: LoopbackHub) -> None:
    hub.state.fail("POST", "/commit/", 503)


BESIDES: dict[str, tuple[Callable[[LoopbackHub], None], str, int]] = {
    "rights": (to_an_existing_one, "/auth-check/write", 1),
    "list before": (to_an_existing_one, "/tree/", 1),
    "list after": (to_an_existing_one, "/tree/", 2),
    "list after the first commit": (lambda _: None, "/tree/", 2),
    "branch": (with_a_failed_commit, "/revision/main", 1),
}


@pytest.mark.parametrize("place", BESIDES)
@pytest.mark.parametrize("does", [429, 500, 503, "close", "reset"])
def test_a_fault_besides_is_waited_out(hub: LoopbackHub, push: Pusher, place: str, does: int | Trouble) -> None:
    prepare, path, nth = BESIDES[place]
    prepare(hub)
    hub.state.fail("GET", path, does, nth=nth, times=2)
    answer = push(push.upload(private=False))
    assert_whole(push, answer)
    # The commit that failed is waited for as well.
    assert answer["waits"] == [1.0, 2.0] + ([1.0] if place == "branch" else [])


@pytest.mark.parametrize("place", BESIDES)
@pytest.mark.parametrize("does", [500, 503, 429, "close"])
def test_a_fault_besides_that_stays_is_one_sentence_and_later_it_goes_on(
    hub: LoopbackHub, push: Pusher, place: str, does: int | Trouble
) -> None:
    prepare, path, nth = BESIDES[place]
    prepare(hub)
    hub.state.fail("GET", path, does, nth=nth, times=99)
    answer = push(push.upload(private=False))
    assert answer["type"] == "HubError"
    assert answer["error"].startswith("org/dv-ja cannot be pushed: 4 tries failed, the last with ")
    assert ("the connection to http://127.0.0.1" if does == "close" else f"planned {does}") in answer["error"]
    assert answer["error"].endswith("run the same command again, it goes on where it stopped.")
    assert "\n" not in answer["error"]
    assert answer["waits"] == [1.0, 2.0, 4.0]
    assert repo_of(hub).private
    hub.state.faults.clear()
    assert_whole(push, push(push.upload(private=False)))


@pytest.mark.parametrize("place", ["rights", "list before", "list after", "branch"])
@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "The Hub takes this login for no one's (401 Unauthorized: planned 401) at org/dv-ja"),
        (403, "This login may not write to org/dv-ja (403 Forbidden: planned 403)"),
    ],
)
def test_a_refusal_besides_is_not_tried_again(
    hub: LoopbackHub, push: Pusher, place: str, status: int, words: str
) -> None:
    prepare, path, nth = BESIDES[place]
    prepare(hub)
    hub.state.fail("GET", path, status, nth=nth, times=99)
    answer = push(push.upload(private=False))
    assert answer["error"].startswith(words)
    assert "\n" not in answer["error"]
    assert answer["waits"] == []
    assert repo_of(hub).private


@pytest.mark.parametrize("place", ["look", "store", "commit"])
def test_silence_counts_as_a_failure(hub: LoopbackHub, push: Pusher, place: str) -> None:
    hub.state.fail(*PLACES[place], "hang")
    answer = push(push.upload(private=False), timeout_s=0.5)
    hub.released.set()
    hub.storage.released.set()
    assert_whole(push, answer)
    assert answer["waits"] == [1.0]
    assert sum("in time (ReadTimeout); trying again" in line for line in answer["log"]) == 1


def test_the_hub_may_name_the_wait_up_to_a_cap(hub: LoopbackHub, push: Pusher) -> None:
    for place in ("store", "commit", "preupload", "whoami"):
        hub.state.fail(*PLACES[place], 429, retry_after="86400")
    assert push()["waits"] == [300.0] * 4


@pytest.mark.parametrize("n_parallel", [1, 4])
def test_large_files_that_came_through_count_the_tries_anew(
    hub: LoopbackHub, push: Pusher, tmp_path: Path, n_parallel: int
) -> None:
    files = dict(push.files)
    for number in range(4):
        (tmp_path / f"{number}.safetensors").write_bytes(bytes([number]) * 999)
        files[f"{number}.safetensors"] = {"path": str(tmp_path / f"{number}.safetensors")}
    # Every second one is refused: more failures than the patience has tries, none without progress.
    for nth in range(1, 6):
        hub.state.fail("PUT", "^/lfs/", 503, nth=nth)
    answer = push(push.upload(files=files), n_tries=3, n_parallel=n_parallel)
    assert answer["value"][0]["n_sent"] == 8, answer.get("text")


def test_an_address_of_the_storage_that_is_no_longer_good_is_asked_for_again(hub: LoopbackHub, push: Pusher) -> None:
    hub.state.fail("PUT", "^/lfs/", 403)
    answer = push()
    assert answer["value"], answer
    assert len(push.asked("POST", "/objects/batch")) == 2


@pytest.mark.parametrize(
    ("place", "status", "words"),
    [
        ("commit", 400, "refused org/dv-ja (400 Bad Request: planned 400)"),
        ("commit", 401, "The Hub takes this login for no one's (401 Unauthorized: planned 401) at org/dv-ja"),
        ("commit", 403, "This login may not write to org/dv-ja (403 Forbidden: planned 403): log in with a token that"),
        ("commit", 404, "has no such place for org/dv-ja (404 Not Found: planned 404)"),
        ("commit", 409, "refused org/dv-ja (409 Conflict: planned 409)"),
        ("commit", 413, "refused org/dv-ja (413 Request Entity Too Large: planned 413)"),
        ("batch", 402, "refused org/dv-ja (402 Payment Required: planned 402)"),
        ("create", 403, "This login may not write to org/dv-ja (403 Forbidden: planned 403)"),
        ("create", 402, "refused org/dv-ja (402 Payment Required: planned 402)"),
        ("settings", 403, "This login may not write to org/dv-ja (403 Forbidden: planned 403)"),
        ("preupload", 403, "This login may not write to org/dv-ja (403 Forbidden: planned 403)"),
    ],
)
def test_a_refusal_is_not_tried_again(hub: LoopbackHub, push: Pusher, place: str, status: int, words: str) -> None:
    hub.state.fail(*PLACES[place], status, times=99)
    answer = push(push.upload(private=False))
    assert words in answer["error"], answer["error"]
    assert "\n" not in answer["error"]
    assert answer["waits"] == []


def test_a_refusal_by_the_storage_is_told_with_its_words(hub: LoopbackHub, push: Pusher) -> None:
    hub.state.fail("POST", "/objects/batch", 403, times=99, x_error_message="Private repository storage limit reached")
    assert "(403 Forbidden: Private repository storage limit reached" in push()["error"]


@pytest.mark.parametrize("does", [500, 412, "close"])
def test_somebody_elses_push_in_between_is_told_and_kept(hub: LoopbackHub, push: Pusher, does: int | Trouble) -> None:
    push()
    repo = repo_of(hub)
    theirs: list[str] = []

    def commit_theirs() -> None:
        if not theirs:
            theirs.append(repo.commit({"README.md": b"# Theirs\n"}, "theirs"))

    hub.state.before("POST", "/commit/", commit_theirs)
    if does != 412:
        hub.state.fail("POST", "/commit/", does)
    answer = push(push.upload(files=push.files | {"config.json": "{ }"}))
    assert answer["error"] == (
        f"Somebody else pushed to org/dv-ja meanwhile (now at {theirs[0]}): run the same command again."
    )
    assert repo.head == theirs[0]


def test_a_commit_that_was_made_after_it_was_given_up_is_found(hub: LoopbackHub, push: Pusher) -> None:
    push()
    repo, files = repo_of(hub), push.files | {"config.json": "{ }"}
    # The first is answered 504 while the Hub still works on it; it is done by the time the second one comes.
    hub.state.fail("POST", "/commit/", 504)
    hub.state.before("POST", "/commit/", lambda: repo.commit({"config.json": b"{ }"}, "vector ja"), nth=2)
    answer = push(push.upload(files=files))
    assert answer["value"][0]["revision"] == repo.head, answer
    assert len(repo.commits) == 3


def test_somebody_else_makes_the_repository_in_between(hub: LoopbackHub, push: Pusher) -> None:
    hub.state.before("POST", "/repos/create", lambda: hub.state.add_repo("org/dv-ja", {"a.txt": b"a"}, private=True))
    assert push()["error"].startswith("Somebody else made org/dv-ja meanwhile (now at ")
    assert listed(repo_of(hub)) == [".gitattributes", "a.txt"]


def test_files_that_the_repository_ignores_are_told(hub: LoopbackHub, push: Pusher) -> None:
    hub.state.add_repo("org/dv-ja", private=True)
    hub.state.ignored.add("config.json")
    assert "does not list at" in push()["error"]


def test_a_killed_push_goes_on_with_what_is_stored(hub: LoopbackHub, push: Pusher, tmp_path: Path) -> None:
    second = tmp_path / "second.safetensors"
    second.write_bytes(b"second" * 999)
    upload = push.upload(files=push.files | {"second.safetensors": {"path": str(second)}})
    hub.state.fail("PUT", "^/lfs/", "hang", nth=2)
    with running_client(hub.url, tmp_path / "home") as client:
        client.send(do="push", uploads=[upload], token=ANN)
        assert hub.storage.stalled.wait(60)
        client.process.send_signal(signal.SIGKILL)
        client.process.wait()
    hub.storage.released.set()
    assert len(repo_of(hub).commits) == 1
    assert len(push.asked("PUT", "/lfs/")) == 2
    answer = push(upload)
    assert answer["value"][0]["revision"] == repo_of(hub).head
    assert len(push.asked("PUT", "/lfs/")) == 3, "what was stored before the kill was sent again"
    assert len(repo_of(hub).commits) == 2


def test_a_killed_push_whose_commit_came_through_makes_no_second_one(
    hub: LoopbackHub, push: Pusher, tmp_path: Path
) -> None:
    with running_client(hub.url, tmp_path / "home") as client:
        hub.state.before("PUT", "/settings", client.process.kill)
        client.send(do="push", uploads=[push.upload(private=False)], token=ANN)
        client.process.wait()
    assert len(repo_of(hub).commits) == 2
    assert_whole(push, push(push.upload(private=False)))


def test_a_file_that_is_gone_by_the_time_it_is_sent_is_told(hub: LoopbackHub, push: Pusher) -> None:
    hub.state.before("POST", "/repos/create", push.weights.unlink)
    answer = push()
    assert answer["type"] == "HubError"
    assert "model.safetensors" in answer["error"]
    assert len(repo_of(hub).commits) == 1


def test_an_endpoint_that_is_no_hub_is_one_sentence(hub: LoopbackHub, push: Pusher, tmp_path: Path) -> None:
    with running_client(f"{hub.url}/none", tmp_path / "home") as push.client:
        assert re.search(r"has no such place for org/dv-ja \(404 Not Found.*check HF_ENDPOINT", push()["error"])


def test_large_files_go_to_xet_where_the_hub_has_it(hub: LoopbackHub, push: Pusher, tmp_path: Path) -> None:
    hub.state.xet_dir = tmp_path / "xet"
    content = push.weights.read_bytes()
    # What is in that storage cannot be read here, so the Hub knows the content of that hash beforehand.
    hub.state.large_files[hashlib.sha256(content).hexdigest()] = content
    hub.state.fail("GET", "/xet-write-token/", 503)
    with running_client(hub.url, tmp_path / "home", HF_HUB_DISABLE_XET="0") as push.client:
        assert_whole(push, push(push.upload(private=False)))
    assert push.asked("PUT", "/lfs/") == []
    assert push.asked("GET", "/xet-write-token/")
    assert [path for path in hub.state.xet_dir.rglob("*") if path.is_file()]


def test_a_hub_without_xet_is_told_with_the_way_out(hub: LoopbackHub, push: Pusher, tmp_path: Path) -> None:
    with running_client(hub.url, tmp_path / "home", HF_HUB_DISABLE_XET="0") as push.client:
        assert push()["error"] == (
            f"{hub.url} does not store large files with Xet; set HF_HUB_DISABLE_XET=1, then run the same command "
            "again, it goes on where it stopped."
        )


def test_a_token_in_the_environment_is_in_no_file_that_a_push_leaves(push: Pusher, hub: LoopbackHub) -> None:
    push()
    contents = [file.content for repo in hub.state.repos.values() for file in repo.commits[repo.head].files.values()]
    assert not any(ANN.encode() in content for content in contents)
    assert not any(ANN in str(seen.path) for seen in hub.requests)
