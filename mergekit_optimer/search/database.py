"""A study in PostgreSQL, which drivers on many machines share without knowing of each other.

What is tried next is decided by one driver at a time, under a lock that PostgreSQL drops with its connection; whose
driver is no longer heard of, that trial ends, and its weights are tried again. Time is the server's, so a machine's
clock may be wrong.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from mergekit_optimer.errors import SearchError
from mergekit_optimer.search.address import Address
from mergekit_optimer.search.retry import INTERRUPTED, give_back

log = logging.getLogger(__name__)

Result = TypeVar("Result")

HEARTBEAT_S = 15
# A trial that takes longer hangs: no sign of life is sent of it any more.
PATIENCE_S = 4 * 3600.0
# So long a driver waits for another's decision before it says so.
_SAY_AFTER_S = 60.0
# A driver that has not been heard of for so long is taken for dead.
GRACE_S = 90
# Waits until a server that does not answer is given up: 5 minutes in all.
WAITS_S = (1, 2, 4, 8, 15, 30, 60, 60, 60, 60)
# Waits between looks at a lock that another driver holds, and at trials that others run.
_LOOK_S, _PAUSE_S = 0.1, 0.5
# By this attribute a trial is known to have been begun whole.
_DRIVER = "driver"


def check_storage(url: str) -> None:
    """Check in a moment, before anything heavy loads, that a study's database can be used.

    Raises:
        SearchError: The URL is none of PostgreSQL's, its driver is not installed, or the server does not let us in.
    """
    database = Database(url, "check")
    try:
        database.connect()
    finally:
        database.close()


def storage_label(url: str) -> str:
    """A database's URL as it may be shown and kept: without its password.

    Raises:
        SearchError: It is none of PostgreSQL's.
    """
    return Address(url).label


def is_same_storage(url: str, label: str) -> bool:
    """Whether a label, as ``storage_label`` gives it, is of a URL's database."""
    return Address(url).is_same_database(label)


class Database:
    """Where a shared study is kept; one object a driver."""

    is_shared = True

    def __init__(
        self,
        url: str,
        study: str,
        heartbeat_s: int = HEARTBEAT_S,
        grace_s: int = GRACE_S,
        waits_s: Sequence[float] = WAITS_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Take in where the database is; connects to nothing.

        Args:
            url: ``postgresql://user@host:port/database``.
            study: The study's name: locks are its own.
            heartbeat_s: Seconds between two signs of life.
            grace_s: Seconds without one after which a driver counts as dead.
            waits_s: Seconds waited, one after the other, for a server that does not answer.
            patience_s: Seconds that a trial may take; after it no sign of life is sent of it, whatever its driver does.

        Raises:
            SearchError: As check_storage, the server aside.
        """
        self._address, self._study = Address(url), study
        self._heartbeat_s, self._grace_s, self._waits_s = heartbeat_s, grace_s, waits_s
        self._patience_s = patience_s
        self._engine: Any = None
        self._locks: Any = None
        self._storage: Any = None
        # Trial -> its id, and when it was begun by the monotonic clock.
        self._alive: dict[int, tuple[int, float]] = {}
        self._heart: threading.Thread | None = None
        self._stopped = threading.Event()
        self._is_in_turn = False
        # By the monotonic clock: when stale trials were last looked for, and until when nobody counts as dead.
        self._swept = self._lenient_until = float("-inf")

    @property
    def label(self) -> str:
        return self._address.label

    def connect(self) -> None:
        """Connect once.

        Raises:
            SearchError: The server does not let us in.
        """
        from sqlalchemy.exc import SQLAlchemyError

        try:
            self._lock_connection()
        except SQLAlchemyError as error:
            raise self._address.explained(error) from None

    def storage(self) -> Any:
        """Optuna's storage; its tables are made where they are not there.

        Raises:
            SearchError: Another version of Optuna made them, or the server refuses.
        """
        from optuna.storages import RDBStorage
        from sqlalchemy.exc import SQLAlchemyError

        engine = {"pool_pre_ping": True, "connect_args": self._address.connect_args, "hide_parameters": True}
        # One lock for all studies: the tables are common to them.
        with self._held("tables"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self._storage = RDBStorage(
                    self._address.url.render_as_string(hide_password=False),
                    engine_kwargs=engine,
                    heartbeat_interval=self._heartbeat_s,
                    grace_period=self._grace_s,
                )
            except RuntimeError as error:
                raise SearchError(
                    f"{self.label} was made by another version of Optuna: {str(error).strip()} Or use another database."
                ) from None
            except SQLAlchemyError as error:
                if _is_away(error):
                    raise
                raise self._address.explained(error) from None
        return self._storage

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self._held(f"{self._study}/turn"), warnings.catch_warnings():
            # Optuna says on each trial that only its own loop sends signs of life; here ``begin`` does.
            warnings.filterwarnings("ignore", message="Heartbeat of storage")
            yield

    def sweep(self, study: Any, at_start: bool = False) -> None:
        import optuna

        now = time.monotonic()
        if not at_start and now - self._swept < self._heartbeat_s:
            return
        self._swept = now
        if now >= self._lenient_until:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                optuna.storages.fail_stale_trials(study)
        for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            if _DRIVER not in trial.user_attrs:
                # Its driver died in the turn in which it asked for it.
                give_back(study, trial.number, INTERRUPTED)

    def begin(self, trial: Any) -> None:
        from sqlalchemy import text

        self._storage.record_heartbeat(trial._trial_id)
        # Fails where the connection was lost since, and with it the turn: another driver may have had it.
        self._locks.execute(text("SELECT 1"))
        trial.set_user_attr(_DRIVER, f"{platform.node()}/{os.getpid()}")
        # Last: what failed on the way is nobody's, and must not be kept alive.
        self._alive[trial.number] = trial._trial_id, time.monotonic()
        if self._heart is None:
            self._heart = threading.Thread(target=self._beat, daemon=True, name="heartbeat")
            self._heart.start()

    def end(self, number: int) -> None:
        self._alive.pop(number, None)

    def claim(self, what: str) -> bool:
        return self._take(f"{self._study}/{what}")

    def release(self, what: str) -> None:
        self._let_go(f"{self._study}/{what}")

    def pause(self) -> None:
        time.sleep(_PAUSE_S)

    def patiently(self, work: Callable[[], Result]) -> Result:
        """Do what may be done again, waiting for a server that is away for some minutes.

        Raises:
            SearchError: It stayed away, or refuses.
        """
        if self._is_in_turn:
            # The turn is lost with the connection: all that is done in it must be done again.
            return work()
        for wait_s in (*self._waits_s, None):
            try:
                return work()
            except Exception as error:
                if not _is_of_server(error):
                    raise
                if wait_s is None or not _is_away(error):
                    raise self._address.explained(error) from error
                log.warning("%s does not answer; next try in %g s", self.label, wait_s)
            self._be_lenient()
            time.sleep(wait_s)
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Send no more signs of life, and disconnect."""
        self._stopped.set()
        if self._locks is not None:
            self._locks.close()
            self._locks = None
        if self._storage is not None:
            self._storage.engine.dispose()

    def _beat(self) -> None:
        while not self._stopped.wait(self._heartbeat_s):
            for trial_id, begun in list(self._alive.values()):
                if time.monotonic() - begun > self._patience_s:
                    continue
                try:
                    self._storage.record_heartbeat(trial_id)
                except Exception as error:
                    log.debug("no sign of life could be sent: %s", type(error).__name__)
                    self._be_lenient()

    def _be_lenient(self) -> None:
        """After a server was away, leave the others time to be heard of again."""
        self._lenient_until = time.monotonic() + self._grace_s

    @contextmanager
    def _held(self, lock: str) -> Iterator[None]:
        started, has_said = time.monotonic(), False
        while not self._take(lock):
            if not has_said and time.monotonic() - started > _SAY_AFTER_S:
                log.warning("waiting for another driver of %s, which decides what is tried next", self.label)
                has_said = True
            time.sleep(_LOOK_S)
        self._is_in_turn = True
        try:
            yield
        finally:
            self._is_in_turn = False
            self._let_go(lock)

    def _take(self, lock: str) -> bool:
        from sqlalchemy import text

        query, key = text("SELECT pg_try_advisory_lock(:key)"), {"key": _key(lock)}
        return self.patiently(lambda: bool(self._lock_connection().execute(query, key).scalar()))

    def _let_go(self, lock: str) -> None:
        from sqlalchemy import text
        from sqlalchemy.exc import SQLAlchemyError

        # With the connection the lock is gone too.
        if self._locks is not None and not self._locks.invalidated:
            with suppress(SQLAlchemyError):
                self._locks.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _key(lock)})

    def _lock_connection(self) -> Any:
        """The connection that holds this driver's locks; another where it was lost, and the locks with it."""
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        if self._engine is None:
            self._engine = create_engine(
                self._address.url,
                poolclass=NullPool,
                isolation_level="AUTOCOMMIT",
                connect_args=self._address.connect_args,
                hide_parameters=True,
            )
        if self._locks is None or self._locks.closed or self._locks.invalidated:
            self._locks = self._engine.connect()
        return self._locks


def _key(lock: str) -> int:
    digest = hashlib.sha256(f"mergekit-optimer/{lock}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _cause(error: BaseException) -> BaseException | None:
    """SQLAlchemy's error, where Optuna's is of one."""
    from optuna.exceptions import StorageInternalError

    return error.__cause__ if isinstance(error, StorageInternalError) else error


def _is_of_server(error: BaseException) -> bool:
    """Whether it is the server that says what failed."""
    from sqlalchemy.exc import DBAPIError, PendingRollbackError

    return isinstance(_cause(error), DBAPIError | PendingRollbackError)


def _is_away(error: BaseException) -> bool:
    """Whether the server, not what it was asked, is why something failed."""
    from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError

    cause = _cause(error)
    # The last: Optuna went on asking on a connection that was lost.
    return isinstance(cause, OperationalError | InterfaceError | PendingRollbackError) or (
        isinstance(cause, DBAPIError) and cause.connection_invalidated
    )
