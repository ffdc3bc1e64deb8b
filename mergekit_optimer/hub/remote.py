"""Requests to one repository on the Hub: resolve a revision, list files, stream one, or ask huggingface_hub's API.

All go through huggingface_hub's own session (its login, proxies and certificates). Its downloads are not used: they do
not try a failed GET again, wait as long as a server names, start anew after a kill, and check no hash. The price is
plain HTTP also where the Hub stores a file with Xet; what `hf download` has fetched is found and checked. A push does
go through its API, and so through Xet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from mergekit_optimer import __version__
from mergekit_optimer.errors import HubError
from mergekit_optimer.hub.faults import AGAIN, Deed, PassingError, Patience, Tries, UnreachableError, judge, place_of
from mergekit_optimer.hub.session import one_try_session
from mergekit_optimer.hub.snapshot import COMMIT, HubFile, Kind, checked_file

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub import HfApi

# The Hub answers a commit of many files only when all of it is made.
_ANSWER_S = 60.0

T = TypeVar("T")


@dataclass(frozen=True)
class Remote:
    """A repository on the Hub.

    Attributes:
        repo: As owner/name.
        kind: Model or dataset.
        name: Repository and revision as the user wrote them, for sentences.
        patience: How long failures are borne with.
        deed: What is to be done there, for sentences.
    """

    repo: str
    kind: Kind
    name: str
    patience: Patience
    deed: Deed = "read"

    @property
    def endpoint(self) -> str:
        from huggingface_hub import constants

        return str(constants.ENDPOINT)

    @property
    def place(self) -> str:
        """The Hub's address, for sentences."""
        return place_of(self.endpoint)

    def resolve(self, revision: str) -> str:
        """Return the commit that a branch or tag is at.

        Raises:
            HubError: There is none, or this login may not know.
            UnreachableError: The Hub did not say.
        """
        answer, _ = self._json(f"{self._api}/revision/{quote(revision, safe='')}")
        commit = answer.get("sha") if isinstance(answer, dict) else None
        if not isinstance(commit, str) or COMMIT.fullmatch(commit) is None:
            raise HubError(f"{self.place} names no commit for {self.name}; check HF_ENDPOINT.")
        return commit

    def list_files(self, commit: str) -> list[HubFile]:
        """Return every file at a commit, by name.

        Raises:
            HubError: There is no such commit, this login may not list it, or a name in it is not safe.
            UnreachableError: The Hub did not say.
        """
        files: list[HubFile] = []
        url: str | None = f"{self._api}/tree/{commit}?recursive=true&expand=false"
        while url is not None:
            entries, following = self._json(url)
            try:
                for entry in entries:
                    if entry["type"] == "file":
                        large = entry.get("lfs") or {}
                        oid, size = large.get("oid", entry["oid"]), large.get("size", entry["size"])
                        files.append(checked_file(str(entry["path"]), int(size), str(oid), self.name))
            except (TypeError, KeyError, ValueError, AttributeError) as error:
                raise HubError(f"{self.place} lists {self.name} in no known form; check HF_ENDPOINT.") from error
            if following is not None and urlsplit(following)[:2] != urlsplit(self.endpoint)[:2]:
                # It would be asked for with the token.
                raise HubError(f"{self.place} lists {self.name} on another host; check HF_ENDPOINT.")
            url = following
        return sorted(files, key=lambda file: file.path)

    @contextmanager
    def stream(self, file: HubFile, commit: str, start: int) -> Iterator[httpx2.Response]:
        """Open a file's content from a byte on; the Hub may ignore the start and answer 200.

        Raises:
            PassingError: The request or, while the caller reads, the connection failed.
            HubError: The file cannot be had.
            UnreachableError: HF_HUB_OFFLINE=1.
        """
        import httpx2
        from huggingface_hub import constants
        from huggingface_hub.utils import get_session, hf_raise_for_status

        kind = "" if self.kind == "model" else f"{self.kind}s/"
        url = f"{self.endpoint}/{kind}{self.repo}/resolve/{commit}/{quote(file.path)}"
        # Compressed on the way, bytes could not be counted; a redirect to another host drops the token.
        headers = self._headers() | {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        timeout = self.patience.timeout_s or constants.HF_HUB_DOWNLOAD_TIMEOUT
        with (
            self._judged(),
            get_session().stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response,
        ):
            if response.status_code != httpx2.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                hf_raise_for_status(response)
            yield response

    def repeat(self, work: Callable[[], T]) -> T:
        """Do a piece of work until it does not fail in a passing way."""
        tries = Tries(self.patience, self.name)
        while True:
            try:
                return work()
            except PassingError as fault:
                tries.failed(fault)

    def ask(self, call: Callable[[HfApi], T]) -> T:
        """Return what huggingface_hub's API answers, asked until it does not fail in a passing way.

        Raises:
            HubError: It refuses, or cannot be had within the patience.
        """
        return self.reach(lambda: self.repeat(lambda: self.ask_once(call)))

    def ask_once(self, call: Callable[[HfApi], T], on_stored: Callable[[int], object] | None = None) -> T:
        """Ask huggingface_hub's API once.

        Args:
            call: With the API; makes requests and nothing else.
            on_stored: Called with the bytes of a large file, or of a part of one, that have been stored.

        Raises:
            PassingError: It failed in a way that may pass.
            HubError: It refuses.
            UnreachableError: HF_HUB_OFFLINE=1.
        """
        from huggingface_hub import HfApi

        api = HfApi(library_name="mergekit-optimer", library_version=__version__)
        timeout_s = self.patience.timeout_s or _ANSWER_S
        with (
            self._judged(OSError, RuntimeError, ValueError, KeyError),
            one_try_session(self._judge, timeout_s, on_stored),
        ):
            return call(api)

    def reach(self, work: Callable[[], T]) -> T:
        """Do a piece of work; that the Hub cannot be had for it becomes one sentence."""
        try:
            return work()
        except UnreachableError as error:
            done = "pushed" if self.deed == "write" else "had"
            raise HubError(f"{self.name} cannot be {done}: {error}; {AGAIN}.") from error

    @property
    def _api(self) -> str:
        return f"{self.endpoint}/api/{self.kind}s/{self.repo}"

    def _headers(self) -> dict[str, str]:
        from huggingface_hub.utils import build_hf_headers

        return dict(build_hf_headers(library_name="mergekit-optimer", library_version=__version__))

    def _json(self, url: str) -> tuple[Any, str | None]:
        """GET plain data; also the address of the next page, None on the last."""
        from huggingface_hub import constants
        from huggingface_hub.utils import get_session, hf_raise_for_status

        timeout = self.patience.timeout_s or constants.HF_HUB_DOWNLOAD_TIMEOUT

        def get() -> tuple[Any, str | None]:
            with self._judged():
                response = get_session().get(url, headers=self._headers(), timeout=timeout, follow_redirects=True)
                hf_raise_for_status(response)
                following = response.links.get("next", {}).get("url")
                try:
                    return response.json(), urljoin(url, following) if following else None
                except ValueError as error:
                    raise HubError(
                        f"{self.place} answers for {self.name} with no JSON (a login page?); check HF_ENDPOINT."
                    ) from error

        return self.repeat(get)

    def _judge(self, error: Exception) -> Exception:
        return judge(error, self.name, self.endpoint, self.deed)

    @contextmanager
    def _judged(self, *others: type[Exception]) -> Iterator[None]:
        import httpx2
        from huggingface_hub.errors import OfflineModeIsEnabled

        try:
            yield
        except (httpx2.HTTPError, httpx2.InvalidURL, OfflineModeIsEnabled, UnicodeEncodeError, *others) as error:
            # Without the cause: its text can hold a signed address or the header with the token.
            raise self._judge(error) from None
