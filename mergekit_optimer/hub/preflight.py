"""Everything that could stop a push, asked before its first byte, for all its repositories. Changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergekit_optimer.errors import HubError
from mergekit_optimer.hub.faults import AGAIN, RefusedError, one_line
from mergekit_optimer.hub.remote import Remote
from mergekit_optimer.hub.snapshot import HubFile, is_commit
from mergekit_optimer.hub.upload import CARD, Content, PushOptions, Upload, checked_contents

log = logging.getLogger(__name__)

# What the Hub itself puts into a new repository.
_HUBS_OWN = ".gitattributes"


@dataclass(frozen=True)
class PushPlan:
    """What a push would do to one repository.

    Attributes:
        upload: What it is to be.
        exists: Whether there is one.
        head: The commit that its branch main is at; None for a new one.
        is_private: Whether only its owner sees it now; None for a new one.
        sent: Files that are new or changed, with the SHA-256 of their content.
        kept: Files that are there already, as the Hub lists them.
        removed: Files that are there and are to go.
        contents: By name, what ``sent`` and ``kept`` are made of.
    """

    upload: Upload
    exists: bool
    head: str | None
    is_private: bool | None
    sent: tuple[HubFile, ...]
    kept: tuple[HubFile, ...]
    removed: tuple[str, ...]
    contents: Mapping[str, Content]

    @property
    def size_bytes(self) -> int:
        """Of what is sent."""
        return sum(file.size for file in self.sent)


def plan_push(uploads: Sequence[Upload], options: PushOptions | None = None) -> list[PushPlan]:
    """Check a push and say what it would do; nothing is changed on the Hub.

    Args:
        uploads: Repositories as they are to be.
        options: How; None for the usual patience.

    Raises:
        HubError: There is no login that may write to all of them, a repository holds somebody else's work, or is public
            where it is to be private, a file must not leave this machine, or the Hub refuses a card.
    """
    options = options or PushOptions()
    _check_names(uploads)
    contents = [checked_contents(upload, options) for upload in uploads]
    if not uploads:
        return []
    account = _account(remote_of(uploads[0], options))
    for upload in uploads:
        _check_member(upload.repo, account)
    plans = [_plan(upload, files, options) for upload, files in zip(uploads, contents, strict=True)]
    for plan in plans:
        if any(file.path == CARD for file in plan.sent):
            check_card(remote_of(plan.upload, options), plan.upload.card)
    return plans


def check_login(repos: Sequence[str], options: PushOptions | None = None) -> None:
    """Check, before hours of other work, that there is a login that may write to these repositories.

    Raises:
        HubError: There is none, or one of them is nobody's that it is a member of.
    """
    options = options or PushOptions()
    account = _account(Remote(repos[0], "model", repos[0], options.patience, "write"))
    for repo in repos:
        _check_member(repo, account)


def hidden_ones(repos: Sequence[str], options: PushOptions | None = None) -> list[str]:
    """Return which of these models not everybody can see.

    Raises:
        HubError: The Hub does not say.
    """
    options = options or PushOptions()
    states = {repo: state_of(Remote(repo, "model", repo, options.patience)) for repo in repos}
    return [repo for repo, state in states.items() if state is None or state[1]]


def remote_of(upload: Upload, options: PushOptions) -> Remote:
    """The repository of an upload, to be written to."""
    return Remote(upload.repo, "model", upload.repo, options.patience, "write")


def compare(
    contents: Mapping[str, Content], listed: Sequence[HubFile]
) -> tuple[tuple[HubFile, ...], tuple[HubFile, ...], tuple[str, ...]]:
    """Return which files are to be sent, which are there already, and which of those there are to go."""
    there = {file.path: file for file in listed}
    kept = tuple(
        there[path] for path, content in contents.items() if path in there and content.is_listed_as(there[path])
    )
    same = {file.path for file in kept}
    sent = tuple(HubFile(path, content.size, content.sha256) for path, content in contents.items() if path not in same)
    return sent, kept, tuple(sorted(set(there) - set(contents) - {_HUBS_OWN}))


def check_card(remote: Remote, card: str) -> None:
    """Have the Hub read a card's metadata.

    Raises:
        HubError: It refuses them.
    """
    from huggingface_hub.utils import get_session, hf_raise_for_status

    def validate(api: Any) -> list[str]:
        body = {"content": card, "repoType": remote.kind}
        response = get_session().post(f"{api.endpoint}/api/validate-yaml", json=body)
        if response.status_code != 400:
            hf_raise_for_status(response)
        answer = response.json()
        for warning in answer.get("warnings", []):
            log.warning("%s: the Hub about the metadata of %s: %s", remote.name, CARD, _words(warning))
        return [_words(error) for error in answer.get("errors", [])]

    if errors := remote.ask(validate):
        raise HubError(
            f"The Hub refuses the metadata of {CARD} for {remote.name} ({'; '.join(errors)}); mend them first."
        )


def _check_names(uploads: Sequence[Upload]) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    seen: set[str] = set()
    for upload in uploads:
        try:
            validate_repo_id(upload.repo)
        except HFValidationError as error:
            raise HubError(f"{upload.repo} is not a repository name (owner/name).") from error
        if "/" not in upload.repo:
            raise HubError(f"{upload.repo} is not a repository name (owner/name): it lacks its owner.")
        if upload.repo.casefold() in seen:
            raise HubError(f"{upload.repo} would be pushed twice at once; give each part a name of its own.")
        seen.add(upload.repo.casefold())


def _account(remote: Remote) -> dict[str, Any]:
    """Return whose login this is."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        raise HubError(f"{remote.name} cannot be pushed: HF_HUB_OFFLINE=1 is set; unset it, then {AGAIN}.")
    try:
        account = remote.ask(lambda api: api.whoami())
    except RefusedError as error:
        if error.status != 401:
            raise
        raise HubError(
            f"{remote.place} does not know the token of this login (401); `hf auth login` again, or mend HF_TOKEN, "
            "which goes before it."
        ) from error
    if not isinstance(account, dict) or not isinstance(account.get("name"), str):
        raise HubError(f"{remote.place} does not say whose login this is; check HF_ENDPOINT.")
    role = ((account.get("auth") or {}).get("accessToken") or {}).get("role")
    if role == "read":
        raise HubError(
            f"The token of {account['name']} may only read, so {remote.name} cannot be pushed: `hf auth login` with "
            "one that has the role write."
        )
    return account


def _check_member(repo: str, account: Mapping[str, Any]) -> None:
    """Refuse a namespace that is not this login's, or where it may only read."""
    owner, name = repo.partition("/")[0], account["name"]
    roles = {name.casefold(): None} | {
        str(org.get("name")).casefold(): org.get("roleInOrg")
        for org in account.get("orgs") or []
        if isinstance(org, dict)
    }
    if owner.casefold() not in roles:
        raise HubError(
            f"{name} is no member of {owner}, so {repo} cannot be pushed; push to {name}/, or ask to be one."
        )
    if roles[owner.casefold()] == "read":
        raise HubError(
            f"{name} may only read in {owner}, so {repo} cannot be pushed; push to {name}/, or ask for more."
        )


def _plan(upload: Upload, contents: Mapping[str, Content], options: PushOptions) -> PushPlan:
    remote = remote_of(upload, options)
    state = state_of(remote)
    if state is None:
        sent, _, _ = compare(contents, [])
        return PushPlan(upload, False, None, None, sent, (), (), contents)
    head, is_private = state
    if upload.private and not is_private:
        raise HubError(
            f"{upload.repo} is public, and is to be private: say --public to push to it as it is, or make it private "
            "in its settings first."
        )
    remote.ask(lambda api: api.auth_check(upload.repo, write=True))
    listed = remote.reach(lambda: remote.list_files(head))
    sent, kept, removed = compare(contents, listed)
    plan = PushPlan(upload, True, head, is_private, sent, kept, removed, contents)
    _check_ours(plan, {file.path for file in listed} - {_HUBS_OWN})
    return plan


def state_of(remote: Remote) -> tuple[str, bool] | None:
    """Return the commit of a repository's branch main and whether it is private; None where there is none to be seen.

    Raises:
        HubError: It has another name by now, or the Hub does not say.
    """
    try:
        info = remote.ask(lambda api: api.model_info(remote.repo))
    except RefusedError as error:
        if error.status == 404:
            return None
        raise
    if str(info.id).casefold() != remote.repo.casefold():
        raise HubError(f"{remote.repo} is called {info.id} by now; push to that name.")
    if not is_commit(info.sha) or not isinstance(info.private, bool):
        raise HubError(f"{remote.place} does not say at which commit {remote.repo} is; check HF_ENDPOINT.")
    return info.sha, info.private


def _check_ours(plan: PushPlan, there: set[str]) -> None:
    """Refuse a repository with files that no push like this one has made."""
    is_changed = plan.sent or plan.removed
    if not there or not is_changed or plan.upload.marker in there:
        return
    found = plan.removed[0] if plan.removed else min(there)
    marked = f", and no {plan.upload.marker}" if plan.upload.marker else ""
    raise HubError(
        f"{plan.upload.repo} holds something else ({found}{marked}), which a push would replace; name another "
        "repository, or delete that one first."
    )


def _words(entry: Any) -> str:
    return one_line(str(entry.get("message") if isinstance(entry, dict) else entry))
