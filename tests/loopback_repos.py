"""What a Hub holds, for tests: users, repositories with their history, large files, and faults to come. No network."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Kind = Literal["model", "dataset"]
# What goes wrong in place of a status: no answer (closed, silent, or lost after the work was done), half a body (reset,
# ended in good order, silent), or a body that is whole in form, with wrong bytes or only half of them.
Trouble = Literal["close", "hang", "lost", "reset", "cut", "stall", "corrupt", "truncate"]
# What tests put into a Hub: a model, one who may write to org, one who may read.
WEIGHTS = bytes(range(256)) * 64
BASE = {"config.json": b"{}\n", "model.safetensors": WEIGHTS, "tokenizer.json": b'{"a": 1}'}
ANN, BEN = "hf_annannannann", "hf_benbenbenben"

_LARGE_SUFFIXES = (".safetensors", ".bin", ".pt", ".parquet", ".xz", ".gz", ".model")
_LARGE_BYTES = 10 * 2**20


@dataclass(frozen=True)
class User:
    """Whom a token stands for; a member of its own name and of its organisations, a reader in others."""

    name: str
    role: Literal["write", "read", "fineGrained"] = "write"
    orgs: tuple[str, ...] = ()
    read_orgs: tuple[str, ...] = ()

    def is_member(self, namespace: str) -> bool:
        return namespace == self.name or namespace in self.orgs


@dataclass(frozen=True)
class StoredFile:
    """A file of a commit; large ones are kept in LFS and known by their SHA-256."""

    content: bytes
    is_large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob_id(self) -> str:
        """Git's hash of the content, or of the pointer that stands for it."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        content = pointer.encode() if self.is_large else self.content
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_large else self.blob_id


@dataclass(frozen=True)
class Commit:
    sha: str
    title: str
    parent: str | None
    files: dict[str, StoredFile]


def is_large(path: str, size: int) -> bool:
    return path.endswith(_LARGE_SUFFIXES) or size >= _LARGE_BYTES


@dataclass
class Repo:
    """A repository: commits by sha, and what branches and tags are at."""

    id: str
    kind: Kind = "model"
    private: bool = False
    gated: bool = False
    granted: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit({".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")

    @property
    def namespace(self) -> str:
        return self.id.partition("/")[0]

    @property
    def head(self) -> str:
        return self.branches["main"]

    def commit(self, changes: Mapping[str, bytes | None], title: str = "change", branch: str = "main") -> str:
        """Add a commit and return its sha; None as content deletes a file."""
        parent = self.branches.get(branch)
        files = dict(self.commits[parent].files) if parent else {}
        for path, content in changes.items():
            files.pop(path, None)
            if content is not None:
                files[path] = StoredFile(content, is_large(path, len(content)))
        listing = "".join(f"{path} {files[path].blob_id}\n" for path in sorted(files))
        sha = hashlib.sha1(f"{self.kind} {self.id} {parent} {title}\n{listing}".encode()).hexdigest()
        self.commits[sha] = Commit(sha, title, parent, files)
        self.branches[branch] = sha
        return sha

    def at(self, revision: str) -> Commit | None:
        """The commit that a branch, tag, sha or beginning of a sha names."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        found = [commit for name, commit in self.commits.items() if len(sha) >= 7 and name.startswith(sha)]
        return found[0] if len(found) == 1 else None


@dataclass
class Fault:
    """Something that goes wrong with requests that match, ``after`` the first so many and ``times`` often.

    Attributes:
        method: As GET; a regular expression.
        path: Regular expression searched in path and query.
        does: A status to answer with, or a trouble.
        headers: Sent with a status.
    """

    method: str
    path: str
    does: int | Trouble
    after: int = 0
    times: float = 1
    headers: dict[str, str] = field(default_factory=dict)

    def has_come(self, seen: Seen) -> bool:
        """Whether it is this request's turn; counts it."""
        if not re.fullmatch(self.method, seen.method) or not re.search(self.path, seen.path):
            return False
        if self.after > 0:
            self.after -= 1
            return False
        self.times -= 1
        return self.times >= 0


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]

    @property
    def token(self) -> str | None:
        return self.headers.get("authorization", "").removeprefix("Bearer ") or None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class HubState:
    """Everything behind the server.

    Attributes:
        users: By token.
        repos: By kind and id.
        large_files: What was uploaded to LFS, by SHA-256.
        unverified: Which of them the client has not confirmed, so that they do not count yet.
        collections: What GET /api/collections/<slug> answers, by slug.
        xet_dir: Where a client puts large files with Xet, as into a storage; None for a Hub without.
        ignored: Files that preupload says are to be ignored, as a .gitignore would.
        events: What somebody else does before a request is answered.
        requests: All that came, in order; ``faults`` answered them where they matched.
        page_size: Entries of a tree on one page.
        pages_at: Where the next page is said to be, instead of here.
    """

    users: dict[str, User] = field(default_factory=dict)
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    large_files: dict[str, bytes] = field(default_factory=dict)
    unverified: set[str] = field(default_factory=set)
    collections: dict[str, dict[str, object]] = field(default_factory=dict)
    xet_dir: Path | None = None
    ignored: set[str] = field(default_factory=set)
    events: list[tuple[Fault, Callable[[], object]]] = field(default_factory=list)
    requests: list[Seen] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    page_size: int = 1000
    pages_at: str = ""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def add_repo(
        self, id: str, files: Mapping[str, bytes] | None = None, kind: Kind = "model", **options: bool
    ) -> Repo:
        """Make a repository, with a second commit where it is to hold files."""
        repo = self.repos[kind, id] = Repo(id, kind, **options)
        if files:
            repo.commit(files, "files")
        return repo

    def fail(self, method: str, path: str, does: int | Trouble, nth: int = 1, times: float = 1, **headers: str) -> None:
        """Plan a fault: from the nth match on, so many times. Headers are given as retry_after="7"."""
        named = {name.replace("_", "-").title(): value for name, value in headers.items()}
        self.faults.append(Fault(method, path, does, nth - 1, times, named))

    def before(self, method: str, path: str, does: Callable[[], object], nth: int = 1) -> None:
        """Plan something that is done once, before the nth match is answered."""
        self.events.append((Fault(method, path, "close", nth - 1), does))

    def fault_for(self, seen: Seen) -> Fault | None:
        """Note a request, and return what is to go wrong with it."""
        with self.lock:
            self.requests.append(seen)
            for event, does in self.events:
                if event.has_come(seen):
                    does()
            return next((fault for fault in self.faults if fault.has_come(seen)), None)
