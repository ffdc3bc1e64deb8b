"""Pulling from a Hub that fails: each fault ends in success or in one sentence, with nothing half visible."""

from __future__ import annotations

import hashlib
import re
import signal
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from loopback_client import Client, running_client
from loopback_hub import LoopbackHub
from loopback_repos import ANN, BASE, BEN, WEIGHTS, Repo, Trouble

from mergekit_optimer.hub import Patience
from mergekit_optimer.hub.faults import PassingError, Tries, judge

pytest_plugins = ["loopback_fixtures"]

# Each kind of request of a pull, by a regular expression of its address.
PLACES = {"revision": "/revision/main", "tree": "/tree/", "file": "/resolve/.*config", "storage": "^/lfs/"}


class Puller:
    """Pulls org/base into a cache of this test's own, with a token that must turn up nowhere."""

    def __init__(self, client: Client, home: Path) -> None:
        self.client, self.home = client, home

    def __call__(self, **call: Any) -> dict[str, Any]:
        answer = self.client.call(**({"do": "pull", "repo": "org/base", "home": self.home, "token": ANN} | call))
        assert not re.search("ann.?ann|benben|signature", f"{answer.get('error')} {answer.get('text')}")
        assert not any(ANN in line for line in answer.get("log", []))
        return answer

    def visible(self) -> dict[str, bytes]:
        """What a snapshot shows."""
        return {path.name: path.read_bytes() for path in self.home.glob("hub/models--*/snapshots/*/[!.]*")}


@pytest.fixture
def pull(client: Client, tmp_path: Path) -> Puller:
    return Puller(client, tmp_path)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("does", [429, 500, 502, 503, 504, "close", "reset", "cut"])
def test_a_fault_that_passes_is_waited_out(
    hub: LoopbackHub, base: Repo, pull: Puller, place: str, does: int | Trouble
) -> None:
    hub.state.fail("GET", PLACES[place], does, times=2)
    answer = pull(revision="main")
    assert answer["label"] == f"org/base@{base.head}"
    assert answer["waits"] in ([1.0, 2.0], [1.0, 1.0]), "the second counts anew where bytes came in between"
    assert pull.visible() == BASE


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("does", [500, 503, 429, "close"])
def test_a_fault_that_stays_is_one_sentence(
    hub: LoopbackHub, base: Repo, pull: Puller, place: str, does: int | Trouble
) -> None:
    hub.state.fail("GET", PLACES[place], does, times=99)
    answer = pull(revision="main")
    assert answer["type"] == "HubError"
    cause = "the connection to http://127.0.0.1" if does == "close" else f"planned {does}"
    if place == "storage" and does != "close":
        cause = f"the Hub's storage answered {does}"
    assert cause in answer["error"]
    assert "org/base" in answer["error"]
    assert "4 tries failed, the last with" in answer["error"]
    assert answer["error"].endswith("run the same command again, it goes on where it stopped.")
    assert "\n" not in answer["error"]
    assert answer["waits"] == [1.0, 2.0, 4.0]
    assert "model.safetensors" not in pull.visible()
    hub.state.faults.clear()
    assert pull(revision="main")["label"] == f"org/base@{base.head}"
    assert pull.visible() == BASE


def test_waits_double_up_to_a_cap_and_what_the_hub_names_has_its_own() -> None:
    patience = Patience(first_wait_s=2, longest_wait_s=9, longest_named_wait_s=30)
    assert [patience.wait_s(n_failed, None) for n_failed in range(1, 6)] == [2, 4, 8, 9, 9]
    assert [patience.wait_s(1, named_s) for named_s in (0, 29, 31, 1e9)] == [0, 29, 30, 30]


def test_a_wait_ends_when_another_file_has_failed() -> None:
    stop = Event()
    stop.set()
    Tries(Patience(first_wait_s=1e6, longest_wait_s=1e6), "a file", stop).failed(PassingError("no answer"))


def test_a_cause_is_told_without_token_and_length() -> None:
    import httpx2

    told = judge(
        httpx2.ReadError(f"sent Bearer abc.def and {BEN}\nto all " + "x" * 999), "org/base", "https://u:p@host"
    )
    assert str(told).startswith(
        "the connection to https://host failed (ReadError: sent Bearer <token> and <token> to all xxx"
    )
    assert str(told).endswith("xxx...)")
    assert len(str(told)) < 220


@pytest.mark.usefixtures("base")
def test_the_hub_may_name_the_wait_up_to_a_cap(hub: LoopbackHub, pull: Puller) -> None:
    hub.state.fail("GET", "/tree/", 429, retry_after="7")
    hub.state.fail("GET", "/tree/", 429, retry_after="86400")
    hub.state.fail("GET", "/tree/", 429, ratelimit='"api";r=0;t=55')
    assert pull()["waits"] == [7.0, 300.0, 55.0]
    assert pull.visible() == BASE


def test_a_limit_that_stays_is_told_with_the_wait_it_asks_for(hub: LoopbackHub, base: Repo, pull: Puller) -> None:
    hub.state.fail("GET", "/tree/", 429, times=99, retry_after="86400")
    assert (
        "4 tries failed, the last with 429 Too Many Requests: planned 429, and asks to wait 86400 s"
        in (pull(revision=base.head)["error"])
    )


def test_an_address_of_the_storage_that_is_no_longer_good_is_asked_for_again(
    hub: LoopbackHub, base: Repo, pull: Puller
) -> None:
    hub.state.fail("GET", "^/lfs/", 403, times=2)
    assert pull()["label"] == f"org/base@{base.head}"
    assert sum("/resolve/" in seen.path and "model" in seen.path for seen in hub.requests) == 3
    assert pull.visible() == BASE


@pytest.mark.usefixtures("base")
def test_silence_counts_as_a_failure(hub: LoopbackHub, pull: Puller) -> None:
    for place in PLACES.values():
        hub.state.fail("GET", place, "hang")
    assert pull(revision="main", timeout_s=0.2)["waits"] == [1.0] * 4
    assert pull.visible() == BASE


@pytest.mark.usefixtures("base")
def test_a_body_that_breaks_off_is_gone_on_with(hub: LoopbackHub, pull: Puller) -> None:
    hub.state.fail("GET", "^/lfs/", "cut")
    pull()
    ranges = [seen.headers.get("range") for seen in hub.storage.requests]
    assert ranges == [None, f"bytes={len(WEIGHTS) // 2}-"]
    assert pull.visible() == BASE


@pytest.mark.usefixtures("base")
def test_progress_counts_the_tries_anew(hub: LoopbackHub, pull: Puller) -> None:
    hub.state.fail("GET", "^/lfs/", "cut", times=9)
    assert pull()["waits"] == [1.0] * 9
    assert pull.visible() == BASE


@pytest.mark.parametrize("does", ["corrupt", "truncate"])
@pytest.mark.parametrize("place", ["storage", "small file"])
def test_a_damaged_file_is_fetched_once_more(
    hub: LoopbackHub, base: Repo, pull: Puller, does: Trouble, place: str
) -> None:
    hub.state.fail("GET", "^/lfs/" if place == "storage" else "/resolve/.*tokenizer", does)
    answer = pull()
    assert answer["label"] == f"org/base@{base.head}"
    assert pull.visible() == BASE


@pytest.mark.parametrize("does", ["corrupt", "truncate"])
def test_a_file_that_is_damaged_each_time_is_refused_and_not_kept(
    hub: LoopbackHub, base: Repo, pull: Puller, does: Trouble
) -> None:
    hub.state.fail("GET", "^/lfs/", does, times=99)
    answer = pull()
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    assert answer["type"] == "HubError"
    if does == "corrupt":
        assert answer["error"] == (
            f"org/base: model.safetensors came damaged twice (its SHA-256 is not the {sha256[:12]}... that the Hub "
            "lists), and nothing of it was kept; run the same command again later, and tell the repository's owner."
        )
        assert not list(pull.home.rglob("*.incomplete"))
    assert "model.safetensors" not in pull.visible()
    hub.state.faults.clear()
    assert pull()["label"] == f"org/base@{base.head}"
    assert pull.visible() == BASE


@pytest.mark.usefixtures("base")
def test_a_file_that_is_shorter_than_listed_is_refused(hub: LoopbackHub, pull: Puller) -> None:
    hub.state.large_files[hashlib.sha256(WEIGHTS).hexdigest()] = WEIGHTS[:100]
    answer = pull()
    assert "model.safetensors came damaged twice" in answer["error"]
    assert sorted(pull.visible()) == ["config.json"]


@pytest.mark.usefixtures("base")
def test_a_file_that_is_longer_than_listed_is_refused(hub: LoopbackHub, pull: Puller) -> None:
    hub.state.large_files[hashlib.sha256(WEIGHTS).hexdigest()] = WEIGHTS + b"x"
    assert "model.safetensors came damaged twice" in pull()["error"]
    assert sorted(pull.visible()) == ["config.json"]


def test_bytes_that_a_killed_pull_left_damaged_are_replaced(base: Repo, pull: Puller) -> None:
    blobs = pull.home / "hub/models--org--base/blobs"
    blobs.mkdir(parents=True)
    for left in (b"x" * 99, b"x" * len(WEIGHTS), b"x" * (len(WEIGHTS) + 1)):
        (blobs / f"{hashlib.sha256(WEIGHTS).hexdigest()}.incomplete").write_bytes(left)
        assert pull()["label"] == f"org/base@{base.head}"
        assert pull.visible() == BASE
        for path in blobs.iterdir():
            path.unlink()


@pytest.mark.usefixtures("base")
def test_a_storage_that_knows_no_ranges_is_begun_anew(hub: LoopbackHub, pull: Puller) -> None:
    hub.storage.knows_ranges = False
    hub.state.fail("GET", "^/lfs/", "cut", times=2)
    assert pull()["waits"] == [1.0, 2.0], "the second try came no further than the first"
    assert pull.visible() == BASE


def test_what_another_program_left_damaged_is_mended(hub: LoopbackHub, base: Repo, pull: Puller) -> None:
    code = f"hub.snapshot_download('org/base', cache_dir={str(pull.home / 'hub')!r})"
    hub.state.fail("GET", "^/lfs/", "corrupt")
    pull.client.call(do="run", code=code)
    assert pull.visible()["model.safetensors"] != WEIGHTS
    assert pull()["label"] == f"org/base@{base.head}"
    assert pull.visible() == BASE


@pytest.mark.parametrize(
    ("options", "token", "sentence"),
    [
        ({"private": True}, None, "org/base@main does not exist or is private: check the name, then `hf auth login`."),
        ({"private": True}, BEN, "org/base@main does not exist or is private: check the name, then `hf auth login`."),
        ({"gated": True}, None, "org/base@main is gated: accept its terms on its page at URL, then `hf auth login`."),
        ({"gated": True}, BEN, "org/base@main is gated: accept its terms on its page at URL, then `hf auth login`."),
        (
            {}, "hf_nobodynobody",
            "The Hub takes this login for no one's (401 Unauthorized: Invalid credentials in Authorization header) at "
            "org/base@main: `hf auth login` again.",
        ),
    ],
)  # fmt: skip
def test_who_may_not_read_is_told_why(
    hub: LoopbackHub, pull: Puller, options: dict[str, bool], token: str | None, sentence: str
) -> None:
    hub.state.add_repo("org/base", BASE, **options)
    answer = pull(revision="main", token=token)
    assert answer["error"] == sentence.replace("URL", hub.url)
    assert answer["waits"] == []
    assert pull.visible() == {}


@pytest.mark.usefixtures("base")
def test_what_does_not_exist_is_told(pull: Puller) -> None:
    assert pull(repo="org/none")["error"] == (
        "org/none does not exist or is private: check the name, then `hf auth login`."
    )
    for revision in ("none", "0" * 40):
        assert pull(revision=revision)["error"] == (
            f"org/base@{revision}: org/base has no such revision; set revision to a branch, tag or commit that it has."
        )


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "refused org/base (400 Bad Request: planned 400); run the same command again"),
        (403, "This login may not read org/base (403 Forbidden: planned 403): ask its owner, or `hf auth login`"),
        (404, "has no such place for org/base (404 Not Found: planned 404); check HF_ENDPOINT"),
        (409, "refused org/base (409 Conflict: planned 409); run the same command again"),
        (412, "refused org/base (412 Precondition Failed: planned 412); run the same command again"),
    ],
)
@pytest.mark.usefixtures("base")
def test_a_refusal_is_not_tried_again(hub: LoopbackHub, pull: Puller, status: int, words: str) -> None:
    for place in ("/tree/", "/resolve/.*model"):
        hub.state.faults.clear()
        hub.state.fail("GET", place, status, times=99)
        answer = pull()
        assert words in answer["error"]
        assert answer["waits"] == []


def test_a_file_that_is_listed_and_not_there_is_told(base: Repo, pull: Puller) -> None:
    pull(free_bytes=0)
    del base.commits[base.head].files["tokenizer.json"]
    assert pull()["error"].startswith("org/base lacks a file that it lists (404 Not Found: Entry not found); run the")
    assert sorted(pull.visible()) == ["config.json", "model.safetensors"]


def test_one_failing_file_ends_the_others_and_keeps_what_came(hub: LoopbackHub, pull: Puller) -> None:
    files = {f"model-{number}.safetensors": WEIGHTS + bytes([number]) for number in range(8)}
    repo = hub.state.add_repo("org/base", files)
    hub.state.fail("GET", "/resolve/.*model-4", 403, times=99)
    assert "403 Forbidden" in pull(n_parallel=1)["error"]
    assert sorted(pull.visible()) == [f"model-{number}.safetensors" for number in range(4)]
    hub.state.faults.clear()
    hub.state.requests.clear()
    assert pull(n_parallel=4)["label"] == f"org/base@{repo.head}"
    assert pull.visible() == files
    assert sum("/resolve/" in seen.path for seen in hub.state.requests) == 4


def test_a_full_disk_is_told_and_the_pull_goes_on_later(hub: LoopbackHub, base: Repo, pull: Puller) -> None:
    answer = pull(file_limit=9000)
    assert answer["type"] == "DiskError"
    assert answer["error"].startswith("model.safetensors of org/base cannot be written to ")
    assert "File too large. Free some room, or set HF_HOME to another disk; then run the same" in answer["error"]
    assert "model.safetensors" not in pull.visible()
    hub.storage.requests.clear()
    assert pull()["label"] == f"org/base@{base.head}"
    assert pull.visible() == BASE


def test_a_killed_pull_goes_on_where_it_was(hub: LoopbackHub, tmp_path: Path) -> None:
    big = bytes(range(251)) * 40_000
    repo = hub.state.add_repo("org/base", BASE | {"model-2.safetensors": big})
    hub.state.fail("GET", "^/lfs/", "stall")
    home = tmp_path / "home"
    with running_client(hub.url, home) as client:
        client.send(do="pull", repo="org/base", home=tmp_path)
        assert hub.storage.stalled.wait(60)
        partial = tmp_path / "hub/models--org--base/blobs" / f"{hashlib.sha256(big).hexdigest()}.incomplete"
        while partial.stat().st_size < 4 * 2**20:
            assert client.process.poll() is None
        client.process.send_signal(signal.SIGKILL)
        client.process.wait()
    kept = partial.stat().st_size
    assert not list(tmp_path.glob("hub/*/snapshots/*/model-2.safetensors"))
    hub.storage.requests.clear()
    with running_client(hub.url, home) as client:
        answer = client.call(do="pull", repo="org/base", home=tmp_path)
    assert answer["label"] == f"org/base@{repo.head}"
    assert Path(answer["path"], "model-2.safetensors").read_bytes() == big
    assert [seen.headers.get("range") for seen in hub.storage.requests] == [f"bytes={kept}-", None]
    assert not list(tmp_path.rglob("*.incomplete"))


def offline(hub: LoopbackHub, offline_client: Client, pull: Puller, **call: Any) -> dict[str, Any]:
    """Pull with HF_HUB_OFFLINE=1; nothing may be asked for."""
    hub.state.requests.clear()
    answer = Puller(offline_client, pull.home)(**call)
    assert hub.state.requests == []
    return answer


def test_a_pinned_commit_in_the_cache_needs_no_hub(
    hub: LoopbackHub, base: Repo, pull: Puller, offline_client: Client
) -> None:
    pull(revision="main")
    hub.state.fail("GET", "/", 503, times=99)
    answer = pull(revision=base.head)
    assert answer["label"] == f"org/base@{base.head}"
    assert answer["waits"] == []
    assert any("all 3 files are in the cache and checked" in line for line in answer["log"])
    assert offline(hub, offline_client, pull, revision=base.head)["label"] == f"org/base@{base.head}"


def test_a_pinned_commit_that_another_program_cached_is_checked_by_its_names(
    hub: LoopbackHub, base: Repo, pull: Puller, offline_client: Client
) -> None:
    code = f"hub.snapshot_download('org/base', cache_dir={str(pull.home / 'hub')!r})"
    folder = Path(pull.client.call(do="run", code=code)["value"])
    hub.state.fail("GET", "/", 503, times=99)
    answer = pull(revision=base.head)
    assert answer["label"] == f"org/base@{base.head}"
    lines = [line for line in answer["log"] if line.startswith("INFO mergekit_optimer")]
    assert lines[-1].endswith("using 3 files of the cache")
    assert "the Hub cannot be had (4 tries failed, the last with 503 Service Unavailable" in lines[-1]
    assert offline(hub, offline_client, pull, revision=base.head)["label"] == f"org/base@{base.head}"
    config = (folder / "config.json").read_bytes()
    (folder / "config.json").unlink()
    (folder / "config.json").write_bytes(config)
    log = pull(revision=base.head)["log"]
    assert any("1 files are no links to blobs and cannot be checked (config.json)" in line for line in log)
    (folder / "model.safetensors").resolve().write_bytes(WEIGHTS[::-1])
    assert "model.safetensors is damaged and the Hub cannot be had" in pull(revision=base.head)["error"]


def test_a_cache_that_lacks_a_file_is_not_used_without_the_hub(
    hub: LoopbackHub, base: Repo, pull: Puller, offline_client: Client
) -> None:
    folder = Path(pull(revision=base.head)["path"])
    (folder / "model.safetensors").resolve().unlink()
    answer = offline(hub, offline_client, pull, revision=base.head)
    assert answer["error"] == (
        f"org/base@{base.head} is not whole in the cache (1 of 3 files were missing) and the Hub cannot be had: "
        "HF_HUB_OFFLINE=1 is set; run the same command again, it goes on where it stopped."
    )


def test_an_empty_cache_without_the_hub_is_one_sentence(
    hub: LoopbackHub, base: Repo, pull: Puller, offline_client: Client
) -> None:
    assert offline(hub, offline_client, pull, revision=base.head)["error"] == (
        f"org/base@{base.head} is not in the cache, or not whole, and the Hub cannot be had (HF_HUB_OFFLINE=1 is set); "
        "run the same command again, it goes on where it stopped."
    )


def test_a_branch_without_the_hub_is_not_guessed(
    hub: LoopbackHub, base: Repo, pull: Puller, offline_client: Client
) -> None:
    hub.state.fail("GET", "/revision/", 503, times=99)
    error = pull(revision="main")["error"]
    assert error.startswith("Which commit org/base@main is at cannot be asked (4 tries failed, the last with 503")
    assert "and the cache does not have it; run the same command again" in error
    hub.state.faults.clear()
    pull(revision="main")
    base.commit({"config.json": b"{ }"})
    first = base.commits[base.head].parent
    hub.state.fail("GET", "/revision/", 503, times=99)
    assert pull(revision="main")["error"].endswith(
        f"The cache has it as of {first}: set that as its revision to use it."
    )
    assert offline(hub, offline_client, pull)["error"] == (
        "Which commit org/base is at cannot be asked (HF_HUB_OFFLINE=1 is set). The cache has it as of "
        f"{first}: set that as its revision to use it."
    )


def test_a_hub_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with running_client("http://user:secret@127.0.0.1:9", tmp_path) as client:
        answer = client.call(do="pull", repo="org/base", home=tmp_path)
    assert answer["error"] == (
        "Which commit org/base is at cannot be asked (4 tries failed, the last with the connection to "
        "http://127.0.0.1:9 failed (ConnectError: [Errno 111] Connection refused)), and the cache does not have it; "
        "run the same command again, it goes on where it stopped."
    )


def test_an_endpoint_that_is_no_hub_is_one_sentence(hub: LoopbackHub, tmp_path: Path) -> None:
    with running_client(hub.url + "/proxy", tmp_path) as client:
        answer = client.call(do="pull", repo="org/base", home=tmp_path)
    assert f"{hub.url} has no such place for org/base (404 Not Found: no such place" in answer["error"]
    with running_client("ftp://127.0.0.1", tmp_path) as client:
        answer = client.call(do="pull", repo="org/base", home=tmp_path)
    assert (
        answer["error"]
        == "ftp://127.0.0.1 sends org/base to no usable address (UnsupportedProtocol); check HF_ENDPOINT."
    )


def test_a_password_in_the_hubs_address_is_not_shown(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.state.fail("GET", "/revision/", 200)
    with running_client(hub.url.replace("http://", "http://me:secret@"), tmp_path / "home") as client:
        answer = client.call(do="pull", repo="org/base", home=tmp_path)
    assert answer["error"] == f"{hub.url} names no commit for org/base; check HF_ENDPOINT."
