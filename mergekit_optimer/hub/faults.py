"""What can go wrong with the Hub: one sentence each, and what is tried again and for how long. Makes no request."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from mergekit_optimer.errors import HubError, OptimerError

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

log = logging.getLogger(__name__)

# Statuses that another try may not get.
PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
AGAIN = "run the same command again, it goes on where it stopped"
Deed = Literal["read", "write"]
_TOKEN = re.compile(r"\bhf_\w+|(?<=Bearer )\S+")
# The query of an address can be its signature.
_QUERY = re.compile(r"(?<=\w)\?[\w%.~-]+=\S*")


@dataclass(frozen=True)
class Patience:
    """How long a failing Hub is borne with.

    Attributes:
        n_tries: Tries without any progress before giving up.
        first_wait_s: Wait after the first failure; it doubles from there.
        longest_wait_s: No wait is longer, except where the Hub names one.
        longest_named_wait_s: The longest wait that is granted where the Hub names one (Retry-After).
        timeout_s: Silence on a connection that counts as a failure; None for huggingface_hub's own.
        sleep: Called with seconds to wait; None to sleep, woken where another file's failure ends the pull.
    """

    n_tries: int = 7
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    longest_named_wait_s: float = 300.0
    timeout_s: float | None = None
    sleep: Callable[[float], object] | None = None

    def wait_s(self, n_failed: int, named_s: float | None) -> float:
        """Seconds to wait after the n-th failure in a row (from 1), or what the Hub named, capped."""
        if named_s is not None:
            return min(named_s, self.longest_named_wait_s)
        return float(min(self.first_wait_s * 2 ** (n_failed - 1), self.longest_wait_s))


class PassingError(Exception):
    """One try failed in a way that may pass; its text is the cause.

    Attributes:
        wait_s: What the Hub asked to wait, None where it named nothing.
    """

    def __init__(self, cause: str, wait_s: float | None = None) -> None:
        super().__init__(cause)
        self.wait_s = wait_s


class UnreachableError(Exception):
    """The Hub could not be had within the patience, or must not be asked; its text is the cause."""


class RefusedError(HubError):
    """The Hub said no; who knows what a status means at that place has a better sentence.

    Attributes:
        status: Of the answer.
    """

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


class Tries:
    """Counts failures in a row of one piece of work and waits between them."""

    def __init__(self, patience: Patience, work: str, stop: Event | None = None) -> None:
        self.patience, self.work, self.n_failed = patience, work, 0
        self._sleep = patience.sleep or (stop.wait if stop else time.sleep)

    def failed(self, fault: PassingError) -> None:
        """Wait before the next try.

        Raises:
            UnreachableError: It was the last one.
        """
        self.n_failed += 1
        if self.n_failed >= self.patience.n_tries:
            asked = f", and asks to wait {fault.wait_s:.0f} s" if fault.wait_s else ""
            raise UnreachableError(f"{self.n_failed} tries failed, the last with {fault}{asked}") from fault
        wait_s = self.patience.wait_s(self.n_failed, fault.wait_s)
        log.info("%s: %s; trying again in %.0f s", self.work, fault, wait_s)
        self._sleep(wait_s)

    def progressed(self) -> None:
        self.n_failed = 0


def judge(error: Exception, name: str, endpoint: str, deed: Deed = "read") -> Exception:
    """Return what an exception of the client means: PassingError, UnreachableError, or a HubError with its sentence.

    Only statuses, reasons and the Hub's own words are taken over: an address may be signed, a header hold the token.

    Args:
        error: What a request raised.
        name: Repository and revision, as the user knows them.
        endpoint: The Hub's address.
        deed: What was to be done there.
    """
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    place = place_of(endpoint)
    if isinstance(error, PassingError | UnreachableError | OptimerError):
        return error
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        # What a thread of the client failed with.
        return judge(error.__cause__, name, endpoint, deed)
    if isinstance(error, OfflineModeIsEnabled):
        return UnreachableError("HF_HUB_OFFLINE=1 is set")
    if isinstance(error, LocalTokenNotFoundError):
        return HubError(
            f"There is no login to {place} for {name}: `hf auth login` with a token that has the role write."
        )
    if isinstance(error, HfHubHTTPError):
        if urlsplit(str(error.response.url))[:2] != urlsplit(endpoint)[:2]:
            # Storage elsewhere, at an address that is good for a while: another try gets another address.
            return PassingError(f"the Hub's storage answered {_status(error)}", _named_wait_s(error))
        if error.response.status_code in PASSING_STATUSES:
            return PassingError(_because(error), _named_wait_s(error))
        return RefusedError(_refusal(error, name, place, deed), error.response.status_code)
    if isinstance(error, httpx2.LocalProtocolError | UnicodeEncodeError):
        # The text of these errors holds the header itself.
        return HubError(f"The request for {name} has a header that cannot be sent; log in again with `hf auth login`.")
    if isinstance(error, httpx2.ProxyError):
        return HubError(f"The proxy between here and {place} refused {name}: {_words(error)}; check HTTPS_PROXY.")
    if isinstance(error, httpx2.TimeoutException):
        return PassingError(f"no answer from {place} in time ({type(error).__name__})")
    if isinstance(error, httpx2.UnsupportedProtocol | httpx2.TooManyRedirects | httpx2.InvalidURL):
        return HubError(f"{place} sends {name} to no usable address ({type(error).__name__}); check HF_ENDPOINT.")
    if isinstance(error, httpx2.TransportError):
        return PassingError(f"the connection to {place} failed ({_words(error)})")
    if isinstance(error, OSError):
        return _judge_system(error, name, place)
    return HubError(f"{place} did not answer as a Hub does for {name} ({type(error).__name__}); check HF_ENDPOINT.")


def _refusal(error: HfHubHTTPError, name: str, place: str, deed: Deed) -> str:
    from huggingface_hub import errors

    status, because, repo = error.response.status_code, _because(error), name.partition("@")[0]
    if isinstance(error, errors.GatedRepoError):
        return f"{name} is gated: accept its terms on its page at {place}, then `hf auth login`."
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{name} does not exist or is private: check the name, then `hf auth login`."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name}: {repo} has no such revision; set revision to a branch, tag or commit that it has."
    if isinstance(error, errors.DisabledRepoError):
        return f"{name} is disabled by the Hub ({because}); name another repository."
    if status == 401:
        return f"The Hub takes this login for no one's ({because}) at {name}: `hf auth login` again."
    if status == 403 and deed == "write":
        return (
            f"This login may not write to {name} ({because}): log in with a token that has the role write "
            "(`hf auth login`), or ask its owner."
        )
    if status == 403:
        return f"This login may not read {name} ({because}): ask its owner, or `hf auth login` as another."
    if isinstance(error, errors.EntryNotFoundError):
        return f"{name} lacks a file that it lists ({because}); {AGAIN}, and tell its owner if it stays so."
    if status == 404:
        return f"{place} has no such place for {name} ({because}); check HF_ENDPOINT."
    return f"{place} refused {name} ({because}); {AGAIN}."


def _judge_system(error: OSError, name: str, place: str) -> Exception:
    """Judge a file that cannot be read, or Xet, which speaks to its storage by itself and has tried again by itself."""
    if error.filename is not None:
        return HubError(f"{error.filename} cannot be read for {name}: {error.strerror}; mend that, then {AGAIN}.")
    if "404" in str(error):
        return HubError(f"{place} does not store large files with Xet; set HF_HUB_DISABLE_XET=1, then {AGAIN}.")
    return PassingError(f"the Hub's storage failed ({_words(error)})")


def _status(error: HfHubHTTPError) -> str:
    return f"{error.response.status_code} {error.response.reason_phrase}".strip()


def _because(error: HfHubHTTPError) -> str:
    """The status, and the Hub's own words where it has some."""
    message = one_line(error.server_message or "")
    return f"{_status(error)}: {message}" if message else _status(error)


def _named_wait_s(error: HfHubHTTPError) -> float | None:
    """Seconds that the Hub asks to wait: Retry-After (a number), or the window of its rate limit."""
    from huggingface_hub.utils import parse_ratelimit_headers

    headers = error.response.headers
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0 and error.response.status_code == 429:
        return float(limit.reset_in_seconds)
    value = headers.get("Retry-After", "").strip()
    return float(value) if value.isascii() and value.isdigit() else None


def place_of(endpoint: str) -> str:
    """The Hub's address without what a user may have put before the host."""
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _words(error: Exception) -> str:
    text = one_line(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def one_line(text: str) -> str:
    """The Hub's own words as they can be shown: on one line, not long, without tokens and signatures."""
    line = _QUERY.sub("", _TOKEN.sub("<token>", " ".join(text.split())))
    return line if len(line) <= 160 else line[:157] + "..."
