"""huggingface_hub's session while its API is asked for something: each request once, in time, and its failure judged.

The client tries some requests again by itself: it then sleeps for as long as a server names, and logs the address,
which can be signed. Others it tries only once, and none has a limit in time. Here all failures leave it at once, so
that one patience (``faults.Tries``) is behind every request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mergekit_optimer.hub.faults import PASSING_STATUSES


@contextmanager
def one_try_session(
    judged: Callable[[Exception], Exception], timeout_s: float, on_stored: Callable[[int], object] | None = None
) -> Iterator[None]:
    """Let no request of huggingface_hub's session be repeated, or hang, while the block lasts.

    The session is the one that all of huggingface_hub uses in this process, with the user's proxies and certificates.

    Args:
        judged: What a failure is raised as; it must be nothing that the client takes for a reason to try again.
        timeout_s: Silence on a connection that counts as a failure.
        on_stored: Called with the bytes of a large file, or of a part of one, that have been stored.
    """
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import get_session, hf_raise_for_status

    session = get_session()
    send, timeout = session.send, httpx2.Timeout(timeout_s).as_dict()

    def send_once(request: Any, **options: Any) -> Any:
        # Some calls of the API say "no limit" by themselves.
        request.extensions = request.extensions | {"timeout": timeout}
        try:
            response = send(request, **options)
            if response.status_code in PASSING_STATUSES:
                response.read()
                hf_raise_for_status(response)
        except (httpx2.TransportError, HfHubHTTPError) as error:
            # Without the cause: its text can hold a signed address.
            raise judged(error) from None
        if on_stored and request.method == "PUT" and response.is_success:
            on_stored(int(request.headers.get("Content-Length", 0)))
        return response

    session.send = send_once
    try:
        yield
    finally:
        session.send = send
