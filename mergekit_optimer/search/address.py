"""Where a study's database is: its URL, shown without the password; why it cannot be used, in a sentence."""

from __future__ import annotations

from typing import Any

from mergekit_optimer.errors import OptimerError, SearchError

# So that a server finds out within a minute that a driver's machine has vanished, and drops its locks; in UTC, so that
# drivers of different time zones compare the same moments.
_SESSION = "-c timezone=utc -c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
# And a driver that a server has.
_ALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}
_WANTED = "give postgresql://user@host:5432/database, or leave --storage out: a run has a journal file of its own"
_SCHEMES = ("postgresql", "postgresql+psycopg", "postgres")


class Address:
    """A PostgreSQL's URL. Nothing of it is shown but ``label``: it may hold a password."""

    def __init__(self, url: str) -> None:
        """Read a URL; connects to nothing.

        Raises:
            SearchError: It is none of PostgreSQL's, or PostgreSQL's driver is not installed.
        """
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):
            raise SearchError(f"--storage is no URL; {_WANTED}.") from None
        if parsed.drivername not in _SCHEMES:
            raise SearchError(f"--storage {parsed.drivername}:// is not known; {_WANTED}.")
        if any("@" in part for part in (parsed.host or "", parsed.database or "")):
            # What stands before the second @ is the end of a password.
            raise SearchError("--storage has an @ too many; write one in a password as %40, or leave the password out.")
        try:
            import psycopg  # noqa: F401
        except ImportError:
            raise SearchError(
                "PostgreSQL's driver is not installed: pip install 'mergekit-optimer[postgres]'."
            ) from None
        self.url: Any = parsed.set(drivername="postgresql+psycopg")

    @property
    def label(self) -> str:
        """What a person may be shown and a file may hold."""
        shown = self.url.set(drivername="postgresql")
        secret = [key for key in shown.query if "password" in key.lower()]
        return str(shown.difference_update_query(secret).render_as_string(hide_password=True))

    @property
    def connect_args(self) -> dict[str, Any]:
        """How to connect, for psycopg."""
        own = self.url.query.get("options", "")
        options = " ".join([*([own] if isinstance(own, str) else own), _SESSION]).strip()
        return {"connect_timeout": 10, "options": options} | _ALIVE

    def is_same_database(self, label: str) -> bool:
        """Whether another address, as its label, is of this database, whoever connects."""
        return _place(self.url) == _place(Address(label).url)

    def explained(self, error: BaseException) -> OptimerError:
        """Why it cannot be used, in a sentence."""
        # Optuna's error is of SQLAlchemy's, which is of the driver's.
        outer = error if hasattr(error, "orig") else error.__cause__ or error
        cause = getattr(outer, "orig", None) or outer
        first, *_ = str(cause).strip().splitlines() or [type(cause).__name__]
        return SearchError(
            f"{self.label} cannot be used: {first.rstrip('.')}. Mend that (a password belongs into ~/.pgpass "
            "or PGPASSWORD), then run the same command again: it goes on."
        )


def _place(url: Any) -> tuple[Any, ...]:
    return url.host, url.port or 5432, url.database or url.username
