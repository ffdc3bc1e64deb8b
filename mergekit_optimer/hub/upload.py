"""What is to be sent to a repository, and whether it may leave this machine at all. Asks nothing of the Hub."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mergekit_optimer.errors import HubError
from mergekit_optimer.hub.faults import Patience
from mergekit_optimer.hub.snapshot import HubFile, is_safe_name, same_on_some_disks

CARD = "README.md"
_CHUNK_BYTES = 2**20
# Pickles (training_args.bin can hold the token), the state of a training, logs and secrets.
_NEVER = re.compile(
    r"(^|/)(training_args\.|optimizer|scheduler|rng_state|events\.out|\.env|\.netrc|logs?/|\.git/|\.cache/)"
    r"|\.(bin|pt|pth|ckpt|pkl|pickle|journal|log|pem|key)$|(^|/)token$",
    re.IGNORECASE,
)
_TEXTS = (".json", ".jsonl", ".md", ".yaml", ".yml", ".txt", ".jinja", ".py", ".csv", ".toml")
# A vocabulary holds any word, "/root" and "/app" among them.
_VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
_LONGEST_HEADER = 100 * 2**20


@dataclass(frozen=True)
class Upload:
    """A whole model repository as it is to be.

    Attributes:
        repo: As owner/name.
        files: Content by name in the repository; what else is there, .gitattributes aside, is removed.
        title: Of the commit.
        private: Whether only its owner may see it.
        marker: One of the files, by which a repository is known to be a push like this one: another repository that
            holds files is left alone. "" where it may only be new, or be so already.
    """

    repo: str
    files: Mapping[str, Path | bytes]
    title: str
    private: bool = True
    marker: str = ""

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by name."""
        return {path: Content(source).size for path, source in sorted(self.files.items())}

    @property
    def card(self) -> str:
        """The card's text, "" where there is none."""
        return Content(self.files[CARD]).text() if CARD in self.files else ""


@dataclass(frozen=True)
class PushOptions:
    """How to push.

    Attributes:
        patience: How long a failing Hub is borne with.
        forbidden_texts: What no file may hold, such as folders of this machine; its home and working folder are added.
        n_parallel: Large files sent at once.
    """

    patience: Patience = field(default_factory=Patience)
    forbidden_texts: tuple[str, ...] = ()
    n_parallel: int = 5


@dataclass(frozen=True)
class Content:
    """The content of a file to send, hashed once for each way that the Hub may list it."""

    source: Path | bytes

    @cached_property
    def size(self) -> int:
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size

    @cached_property
    def sha256(self) -> str:
        return self._hashed(hashlib.sha256())

    @cached_property
    def _git_sha1(self) -> str:
        return self._hashed(hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False))

    def is_listed_as(self, file: HubFile) -> bool:
        """Whether the Hub has this very content under a name."""
        return self.size == file.size and file.oid == (self.sha256 if len(file.oid) == 64 else self._git_sha1)

    def text(self) -> str:
        """The content as text."""
        content = self.source if isinstance(self.source, bytes) else self.source.read_bytes()
        return content.decode(errors="replace")

    def header(self) -> str:
        """The header of a safetensors file as text, where its metadata are."""
        with self._opened() as stream:
            size = int.from_bytes(stream.read(8), "little")
            return str(stream.read(min(size, _LONGEST_HEADER)).decode(errors="replace"))

    def _opened(self) -> Any:
        return io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source.open("rb")

    def _hashed(self, digest: Any) -> str:
        with self._opened() as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
        return str(digest.hexdigest())


def checked_contents(upload: Upload, options: PushOptions) -> dict[str, Content]:
    """Return the files of an upload, by name, where all of them may leave this machine.

    Raises:
        HubError: A name is not safe, a file is missing, is of a kind that is never sent, or holds a token or a folder
            of this machine. The text that it holds is not shown.
    """
    if upload.marker and upload.marker not in upload.files:
        raise ValueError(f"the marker {upload.marker} is none of the files for {upload.repo}")
    for path in sorted(upload.files):
        _check_name(path, upload)
    if twins := same_on_some_disks(upload.files):
        raise HubError(f"{' and '.join(twins)} for {upload.repo} are one file on some disks; rename one of them.")
    contents = {path: Content(upload.files[path]) for path in sorted(upload.files)}
    patterns = _path_patterns(options.forbidden_texts)
    for path, content in contents.items():
        try:
            text = content.header() if path.endswith(".safetensors") else content.text() if _is_text(path) else ""
        except OSError as error:
            raise HubError(
                f"{path} for {upload.repo} cannot be read ({error.strerror}); make it anew, then push again."
            ) from error
        _check_text(path, text, patterns, upload.repo)
    return contents


def _check_name(path: str, upload: Upload) -> None:
    if not is_safe_name(path):
        raise HubError(f"{path[:60]!r} for {upload.repo} is no safe name for a file; rename it, then push again.")
    if _NEVER.search(path):
        raise HubError(
            f"{path} is never pushed (pickles, states of a training, logs and secrets are not); leave it out of what "
            f"is sent to {upload.repo}."
        )
    source = upload.files[path]
    if isinstance(source, Path) and not source.is_file():
        raise HubError(f"{path} for {upload.repo} is missing at {source}; make it anew, then push again.")


def _is_text(path: str) -> bool:
    return path.lower().endswith(_TEXTS) or "." not in Path(path).name


def _check_text(path: str, text: str, patterns: Sequence[re.Pattern[str]], repo: str) -> None:
    if found := _TOKEN.search(text):
        raise HubError(
            f"{path}, line {_line(text, found)}, holds what looks like a token of the Hub, so nothing is pushed to "
            f"{repo}; take it out, and revoke that token where it was shown to others."
        )
    if Path(path).name in _VOCABULARIES:
        return
    for pattern in patterns:
        if found := pattern.search(text):
            raise HubError(
                f"{path}, line {_line(text, found)}, names a folder of this machine, so nothing is pushed to {repo}; "
                "write a name or a repository there instead."
            )


def _line(text: str, found: re.Match[str]) -> int:
    return text.count("\n", 0, found.start()) + 1


def _path_patterns(forbidden: Iterable[str]) -> list[re.Pattern[str]]:
    """What to look for: texts as given, and this machine's own folders where they stand as such, in JSON's form too."""
    patterns = [re.escape(form) for text in forbidden if text for form in {text, json.dumps(text)[1:-1]}]
    for folder in _own_folders():
        # A folder of one part is a common word: it counts where something in it is named.
        end = r"(?![\w-]|\.\w)" if folder.count("/") > 1 else r"/[\w.]"
        patterns += [rf"(?<![\w.-]){re.escape(form)}{end}" for form in {folder, json.dumps(folder)[1:-1]}]
    return [re.compile(pattern) for pattern in sorted(patterns)]


def _own_folders() -> set[str]:
    """The user's home, with links and without, and the working folder."""
    folders = {Path.cwd()}
    # A user without a name, as in some containers, has no home.
    with suppress(RuntimeError):
        folders |= {Path.home(), Path.home().resolve()}
    return {str(folder) for folder in folders} - {"/"}
