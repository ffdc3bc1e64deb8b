"""Behaviour of huggingface_hub and httpx2 that the Hub modules lean on. A failure says what to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from loopback_client import Client
from loopback_hub import LoopbackHub
from loopback_repos import ANN, BASE, WEIGHTS, Repo

pytest_plugins = ["loopback_fixtures"]


def snapshot(client: Client, cache_dir: Path, options: str = "") -> dict[str, Any]:
    """What huggingface_hub's own download makes of org/base."""
    code = f"hub.snapshot_download('org/base', cache_dir={str(cache_dir)!r}, {options})"
    return client.call(do="run", code=code, token=ANN)


def test_the_cache_is_laid_out_as_snapshot_py_has_it(base: Repo, client: Client, tmp_path: Path) -> None:
    from mergekit_optimer.hub.snapshot import HubFile, RepoCache

    snapshot(client, tmp_path)
    cache = RepoCache(tmp_path, "org/base", "model")
    stored = base.commits[base.head].files
    for name, content in BASE.items():
        file = HubFile(name, len(content), stored[name].etag)
        assert cache.place(file, base.head).resolve() == cache.blob(file), "the cache's layout moved: hub/snapshot.py"
        assert file.matches(cache.blob(file))
        assert cache.lock(file).exists(), "locks lie elsewhere: two programs would fetch the same file at once"
    assert cache.ref("main") == base.head


@pytest.mark.usefixtures("base")
def test_a_download_of_the_client_checks_no_hash(hub: LoopbackHub, client: Client, tmp_path: Path) -> None:
    hub.state.fail("GET", "^/lfs/", "corrupt")
    folder = Path(snapshot(client, tmp_path)["value"])
    assert (folder / "model.safetensors").read_bytes() != WEIGHTS, "it does now: hub/download.py may use it"


@pytest.mark.usefixtures("base")
def test_a_download_of_the_client_tries_no_get_again(hub: LoopbackHub, client: Client, tmp_path: Path) -> None:
    hub.state.fail("GET", "^/lfs/", 503)
    assert snapshot(client, tmp_path)["type"] == "HfHubHTTPError", "it does now: hub/download.py may use it"
    hub.state.fail("GET", "^/lfs/", "reset")
    assert snapshot(client, tmp_path)["type"] == "ReadError", "it does now: hub/download.py may use it"


def test_a_branch_without_the_hub_is_guessed_by_the_client(
    hub: LoopbackHub, base: Repo, client: Client, tmp_path: Path
) -> None:
    snapshot(client, tmp_path)
    hub.state.fail("GET", "/", 503, times=99)
    assert Path(snapshot(client, tmp_path)["value"]).name == base.head, "it is refused now: hub/pull.py may ask it"


def test_a_snapshot_that_lacks_a_file_is_a_file_not_found_error(base: Repo, client: Client, tmp_path: Path) -> None:
    folder = Path(snapshot(client, tmp_path)["value"])
    (folder / "config.json").unlink()
    only_local = f"revision={base.head!r}, local_files_only=True"
    assert snapshot(client, tmp_path, only_local)["type"] == "IncompleteSnapshotError"
    assert snapshot(client, tmp_path / "none", only_local)["type"] == "LocalEntryNotFoundError"
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    assert issubclass(IncompleteSnapshotError, FileNotFoundError), "_use_unlisted in hub/pull.py catches that"
    assert issubclass(LocalEntryNotFoundError, FileNotFoundError), "_use_unlisted in hub/pull.py catches that"


@pytest.mark.usefixtures("base")
def test_the_session_drops_the_token_on_the_way_to_another_origin(hub: LoopbackHub, client: Client) -> None:
    code = (
        "hub.get_session().get(hub.hf_hub_url('org/base', 'model.safetensors'), "
        f"headers={{'authorization': 'Bearer {ANN}'}}, follow_redirects=True).status_code"
    )
    assert client.call(do="run", code=code)["value"] == 200
    assert [seen.token for seen in hub.requests] == [ANN]
    assert [seen.token for seen in hub.storage.requests] == [None], "strip it in hub/remote.py before following"


@pytest.mark.usefixtures("base")
def test_an_offline_session_makes_no_request(hub: LoopbackHub, offline_client: Client) -> None:
    answer = offline_client.call(do="run", code="hub.get_session().get(hub.hf_hub_url('org/base', 'config.json'))")
    assert answer["type"] == "OfflineModeIsEnabled", "judge in hub/faults.py tells offline mode by it"
    assert hub.state.requests == []


def test_a_pattern_spans_folders() -> None:
    from huggingface_hub.utils import filter_repo_objects

    found = filter_repo_objects(["a.json", "sub/b.json", "c.bin"], allow_patterns=["*.json"])
    assert list(found) == ["a.json", "sub/b.json"], "patterns stop at folders now: MODEL_FILES needs **/"


def test_a_header_that_cannot_be_sent_is_told_with_its_value() -> None:
    import httpx2

    assert issubclass(httpx2.LocalProtocolError, httpx2.TransportError)
    with pytest.raises(UnicodeEncodeError):
        httpx2.Request("GET", "http://127.0.0.1", headers={"authorization": "Bearer é"})


def test_the_limits_of_the_client_have_their_names() -> None:
    from huggingface_hub import constants

    assert constants.MAX_HTTP_DOWNLOAD_SIZE >= 50e9
    assert constants.HF_HUB_DOWNLOAD_TIMEOUT > 0
    assert Path(constants.HF_HUB_CACHE).is_absolute()


def test_the_window_of_a_rate_limit_is_read_from_its_headers() -> None:
    from huggingface_hub.utils import parse_ratelimit_headers

    limit = parse_ratelimit_headers({"ratelimit": '"api";r=0;t=55'})
    assert limit is not None
    assert (limit.remaining, limit.reset_in_seconds) == (0, 55)


def test_every_request_of_the_api_goes_through_send_of_the_session(hub: LoopbackHub, client: Client) -> None:
    hub.state.add_repo("org/new")
    code = (
        "(lambda s, seen: (setattr(s, 'send', (lambda send: lambda r, **k: (seen.append(r.method), send(r, **k))[1])"
        "(s.send)), api.create_commit('org/new', [hub.CommitOperationAdd('a.safetensors', b'a')], commit_message='a'), "
        "delattr(s, 'send'), seen)[-1])(hub.get_session(), [])"
    )
    seen = client.call(do="run", code=code, token=ANN)["value"]
    assert seen == ["POST", "POST", "PUT", "POST", "POST"], "hub/session.py sees no failures: wrap something else"


@pytest.mark.usefixtures("base")
def test_some_calls_of_the_api_set_no_limit_in_time(client: Client) -> None:
    code = (
        "(lambda s, seen: (s.event_hooks['request'].append(lambda r: seen.append(r.extensions['timeout']['read'])), "
        "setattr(s, 'timeout', 5), api.model_info('org/base'), s.event_hooks['request'].pop(), "
        "setattr(s, 'timeout', None), seen)[-1])(hub.get_session(), [])"
    )
    assert client.call(do="run", code=code)["value"] == [None], "one_try_session may set session.timeout instead"


def test_a_failing_large_file_is_a_runtime_error_with_its_cause(hub: LoopbackHub, client: Client) -> None:
    hub.state.add_repo("org/new")
    hub.state.fail("PUT", "^/lfs/", 400, times=9)
    code = "api.create_commit('org/new', [hub.CommitOperationAdd('a.safetensors', b'a')], commit_message='a')"
    answer = client.call(do="run", code=code, token=ANN)
    assert answer["type"] == "RuntimeError", "judge in hub/faults.py looks for the cause behind it"
    assert "BadRequestError" in answer["text"]


def test_a_hash_that_is_known_is_not_taken_again(tmp_path: Path) -> None:
    from huggingface_hub import CommitOperationAdd

    (tmp_path / "a").write_bytes(b"a")
    operation = CommitOperationAdd("a", tmp_path / "a")
    assert not operation.upload_info.is_hashed, "_operations in hub/push.py need not set it"
    operation.upload_info.sha256 = bytes(32)
    assert operation.upload_info.is_hashed


def test_what_the_hub_says_of_a_repository_has_its_names(base: Repo, client: Client) -> None:
    code = "(lambda info: [info.id, info.sha, info.private])(api.model_info('org/base'))"
    assert client.call(do="run", code=code)["value"] == ["org/base", base.head, False], "state_of in hub/preflight.py"


def test_xet_fails_with_errors_of_the_system() -> None:
    import hf_xet

    assert issubclass(hf_xet.XetAuthenticationError, OSError), "_judge_system in hub/faults.py takes it for Xet"
