"""Whole repositories -> the Hub: one commit each, on the commit that was looked at, and public only at the end.

push         all of it
send         the commits; what is new stays private
make_public  what is to be seen, when all that belongs together is there
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mergekit_optimer.errors import HubError
from mergekit_optimer.hub.faults import PassingError, RefusedError, Tries
from mergekit_optimer.hub.preflight import PushPlan, compare, remote_of, state_of
from mergekit_optimer.hub.remote import Remote
from mergekit_optimer.hub.room import in_bytes
from mergekit_optimer.hub.upload import PushOptions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pushed:
    """A repository after its push.

    Attributes:
        repo: As owner/name.
        revision: The commit with all files; the one from before where nothing was to be done.
        n_sent: Files sent.
        url: Its page.
    """

    repo: str
    revision: str
    n_sent: int
    url: str


def push(plans: Sequence[PushPlan], options: PushOptions | None = None) -> list[Pushed]:
    """Make repositories what their plans say; done again after a failure or a kill, it goes on.

    What is to be public becomes so after the last is there: nothing can be seen half done.

    Args:
        plans: From ``plan_push``.
        options: As given there.

    Raises:
        HubError: One cannot be pushed, in one sentence; those before it are pushed, and private if they were new.
    """
    pushed = send(plans, options)
    make_public(plans, options)
    return pushed


def send(plans: Sequence[PushPlan], options: PushOptions | None = None) -> list[Pushed]:
    """Make and fill repositories, all of them made, private, before the first byte; what is private stays so.

    Args:
        plans: From ``plan_push``.
        options: As given there.

    Raises:
        HubError: As ``push``.
    """
    options = options or PushOptions()
    remotes = [remote_of(plan.upload, options) for plan in plans]
    with _quiet_bars():
        heads = [plan.head or _create(remote) for plan, remote in zip(plans, remotes, strict=True)]
        return [
            _push_one(plan, remote, head, options) for plan, remote, head in zip(plans, remotes, heads, strict=True)
        ]


def make_public(plans: Sequence[PushPlan], options: PushOptions | None = None) -> None:
    """Let all see what the plans say they may, in order, after it was sent.

    Args:
        plans: As given to ``send``.
        options: As given there.

    Raises:
        HubError: The Hub refuses it, or cannot be had.
    """
    for plan in plans:
        if not plan.upload.private and plan.is_private is not False:
            _show_to_all(remote_of(plan.upload, options or PushOptions()))


def _create(remote: Remote) -> str:
    """Make a repository, private and empty, and return the commit it begins with."""
    try:
        remote.ask(lambda api: api.create_repo(remote.repo, private=True))
    except RefusedError as error:
        # Made by the request before, whose answer was lost, or by somebody else since it was looked for.
        if error.status != 409:
            raise
    else:
        log.info("%s: made, private", remote.name)
    state = state_of(remote)
    if state is None:
        raise HubError(f"{remote.name} exists and cannot be seen with this login; name another repository.")
    head, is_private = state
    there = [file.path for file in remote.reach(lambda: remote.list_files(head)) if file.path != ".gitattributes"]
    if there or not is_private:
        raise HubError(f"Somebody else made {remote.name} meanwhile (now at {head}): run the same command again.")
    return head


def _push_one(plan: PushPlan, remote: Remote, head: str, options: PushOptions) -> Pushed:
    n_files = len(plan.sent) + len(plan.kept)
    if plan.sent or plan.removed:
        size = in_bytes(plan.size_bytes)
        log.info("%s: sending %d of %d files, %s", remote.name, len(plan.sent), n_files, size)
        revision = remote.reach(lambda: _commit(plan, remote, head, options))
        log.info("%s: at %s", remote.name, revision)
    else:
        revision = head
        log.info("%s: all %d files are there, at %s", remote.name, n_files, revision)
    return Pushed(remote.repo, revision, len(plan.sent), f"{remote.place}/{remote.repo}")


def _commit(plan: PushPlan, remote: Remote, head: str, options: PushOptions) -> str:
    """Commit onto a commit, once, whatever answers are lost; returns the new one."""
    operations = _operations(plan)
    tries, left = Tries(remote.patience, remote.name), plan.size_bytes

    def count(n_bytes: int) -> None:
        # What is stored again and again is no progress.
        nonlocal left
        if n_bytes <= left:
            left -= n_bytes
            tries.progressed()

    def send(api: Any) -> str:
        return str(
            api.create_commit(
                remote.repo, operations, commit_message=plan.upload.title, parent_commit=head,
                num_threads=options.n_parallel,
            ).oid
        )  # fmt: skip

    while True:
        fault: PassingError | RefusedError
        try:
            revision = remote.ask_once(send, on_stored=count)
            break
        except RefusedError as error:
            # The request before may have done it after it was given up.
            if error.status != 412:
                raise
            fault = error
        except PassingError as error:
            fault = error
        now = remote.resolve("main")
        if now != head:
            if _is_whole(plan, remote, now):
                return now
            raise HubError(
                f"Somebody else pushed to {remote.name} meanwhile (now at {now}): run the same command again."
            ) from fault
        tries.failed(fault if isinstance(fault, PassingError) else PassingError(str(fault)))
    if not _is_whole(plan, remote, revision):
        raise HubError(
            f"{remote.name} does not list at {revision} what was sent there (a .gitignore in it?); look at its page, "
            "then run the same command again."
        )
    return revision


def _operations(plan: PushPlan) -> list[Any]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[Any] = []
    for file in plan.sent:
        try:
            operation = CommitOperationAdd(file.path, plan.contents[file.path].source)
        except (ValueError, OSError) as error:
            raise HubError(
                f"{file.path} for {plan.upload.repo} cannot be read any more; make it anew, then push again."
            ) from error
        # Hashed once already.
        operation.upload_info.sha256 = bytes.fromhex(file.oid)
        operations.append(operation)
    return operations + [CommitOperationDelete(path, is_folder=False) for path in plan.removed]


def _is_whole(plan: PushPlan, remote: Remote, commit: str) -> bool:
    """Whether a commit has all files as wanted, and no other."""
    sent, _, removed = compare(plan.contents, remote.list_files(commit))
    return not sent and not removed


def _show_to_all(remote: Remote) -> None:
    remote.ask(lambda api: api.update_repo_settings(remote.repo, private=False))
    log.info("%s: public now", remote.name)


@contextmanager
def _quiet_bars() -> Iterator[None]:
    """Draw huggingface_hub's progress bars only on a terminal."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    is_ours = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if is_ours:
        disable_progress_bars()
    try:
        yield
    finally:
        if is_ours:
            enable_progress_bars()
