"""Groups of jobs become transactions: one for all that waited, one disk flush for all of them.

Each job has its own result; one that raises takes no other with it. Belongs to whoever writes, a thread or a process,
and knows nothing of either.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from relay.errors import StoreUnavailable
from relay.stores import sqlite_transitions as transitions
from relay.stores.sqlite_checkpoints import Checkpoints
from relay.stores.sqlite_disk import DiskFloor
from relay.stores.sqlite_file import is_disk_error, open_writer, standing_files, unavailable, unopenable
from relay.stores.sqlite_jobs import Accept, Call, CallResult, Failed, Finish, Job, Parted, Reply, Result, Settle
from relay.stores.sqlite_session import Session


def run_calls(session: Session, jobs: Sequence[Call]) -> list[Result]:
    return [CallResult(job.function(session)) for job in jobs]


#: How each kind of job is run, for many at once or for one, in the order in which kinds stand in a group.
KINDS: Final[dict[type[Job], Callable[[Session, Any], Sequence[Result]]]] = {
    Accept: transitions.accept,
    Finish: transitions.finish,
    Settle: transitions.settle,
    Call: run_calls,
}


class Committer:
    """Made by `open`. `opens`: how often the file has been opened so far."""

    def __init__(self, path: Path, session: Session, opens: int, disk_free_bytes_min: int) -> None:
        self.opens = opens
        self._path, self._window_ms = path, session.window_ms
        self._session: Session | None = session
        self._files = standing_files(path)
        self._disk = DiskFloor(path.parent, disk_free_bytes_min)
        self._checkpoints = Checkpoints()
        self._commits = 0

    @classmethod
    def open(cls, path: Path, window_ms: int, disk_free_bytes_min: int) -> Committer:
        """Open the file and read what is known. Raises ConfigError, or StoreUnavailable with the remedy."""
        try:
            connection = open_writer(path)
            try:
                opens = connection.execute("UPDATE meta SET opens = opens + 1 RETURNING opens").fetchone()[0]
                return cls(path, Session(connection, window_ms), int(opens), disk_free_bytes_min)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            raise unopenable(error, path) from error

    def commit(self, jobs: Sequence[Job]) -> Reply:
        """Durable when it returns, but for what Failed. Never raises. `checkpoint` should follow the answers."""
        refused = self._without_room(jobs)
        if not refused:
            results = self._commit(jobs)
        else:
            done = iter(self._commit([job for number, job in enumerate(jobs) if number not in refused]))
            results = [refused[number] if number in refused else next(done) for number in range(len(jobs))]
        return Reply(results, self._checkpoints.rest_seconds, self._commits)

    def do_chore(self) -> bool:
        """One short step of housekeeping, in a transaction of its own. False when there is nothing to do."""
        try:
            self._refuse_moved_file()
            session = self._ready_session()
            session.begin()
            more = session.keys.step() or session.ids.step()
            self._commit_session(session)
        except Exception:  # noqa: BLE001  it is tried again after the next commit, and so is told then if it matters
            self._roll_back()
            return False
        return more

    def checkpoint(self) -> None:
        """Move the WAL into the file, when it has grown enough."""
        if self._session is not None and self._checkpoints.is_due():
            with suppress(sqlite3.Error):  # the WAL keeps what is not moved
                self._checkpoints.run(self._session.connection)

    def close(self) -> None:
        """Move the WAL into the file, close it."""
        if self._session is not None:
            with suppress(sqlite3.Error):  # the WAL keeps what is not moved
                self._session.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._drop_connection()

    def _without_room(self, jobs: Sequence[Job]) -> dict[int, Result]:
        """By their numbers, those that the disk has no room for."""
        if self._disk.has_room(sum([job.size_bytes for job in jobs if job.grows])):
            return {}
        error = StoreUnavailable("the disk is nearly full (store.disk_free_bytes_min)")
        grows = ((number, job) for number, job in enumerate(jobs) if job.grows)
        return {number: Failed(error) for number, job in grows if not self._disk.has_room(job.size_bytes)}

    def _commit(self, jobs: Sequence[Job]) -> Sequence[Result]:
        if not jobs:
            return []
        try:
            self._refuse_moved_file()
            try:
                return self._together(jobs)
            except Exception as error:
                self._roll_back()
                if is_disk_error(error):
                    raise
                return self._apart(jobs)
        except Exception as error:  # noqa: BLE001  whoever commits must outlive everything; every caller gets the error
            self._roll_back()
            return [Failed(unavailable(error))] * len(jobs)

    def _refuse_moved_file(self) -> None:
        """Commits to a file that has no name any more would be gone with this process."""
        found = standing_files(self._path)
        if found != self._files and (self._session is not None or found[0] != self._files[0]):
            raise StoreUnavailable(f"{self._path} was removed or replaced: put it back, or restart the relay")

    def _together(self, jobs: Sequence[Job]) -> list[Result]:
        session = self._ready_session()
        session.begin()
        results: list[Result] = []
        for kind, of_kind in groupby(jobs, type):
            results += KINDS[kind](session, list(of_kind))
        self._durably(session, jobs)
        return results

    def _apart(self, jobs: Sequence[Job]) -> list[Result]:
        """The slow way, after one of the group raised: still one transaction, with a way back for each."""
        session = self._ready_session()
        session.begin()
        results: list[Result] = []
        for job in jobs:
            if isinstance(job, Accept) and not job.whole:
                parts = [Accept([delivery], 0, whole=True) for delivery in job.deliveries]
                results.append(Parted([self._alone(session, part) for part in parts]))
            else:
                results.append(self._alone(session, job))
        self._durably(session, jobs)
        return results

    def _alone(self, session: Session, job: Job) -> Result:
        """Failed where it raises and only it is to blame."""
        savepoint = session.savepoint()
        try:
            (result,) = KINDS[type(job)](session, [job])
        except Exception as error:
            if is_disk_error(error):
                raise
            session.back_to(savepoint)
            result = Failed(unavailable(error) if isinstance(error, sqlite3.Error) else error)
        session.release()
        return result

    def _durably(self, session: Session, jobs: Sequence[Job]) -> None:
        began = time.perf_counter()
        self._commit_session(session)
        self._commits += 1
        self._checkpoints.committed(sum([job.size_bytes for job in jobs]), time.perf_counter() - began)

    def _commit_session(self, session: Session) -> None:
        """Raises only what was not committed. What is remembered wrongly afterwards is read from the file again."""
        session.commit()
        try:
            session.committed()
        except Exception:  # noqa: BLE001  the transaction is durable, and must not be told to be lost
            self._drop_connection()

    def _ready_session(self) -> Session:
        if self._session is None:
            connection = open_writer(self._path)
            try:
                self._session = Session(connection, self._window_ms)
            except BaseException:
                connection.close()
                raise
            self._files = standing_files(self._path)
        return self._session

    def _roll_back(self) -> None:
        """Readers keep the WAL's index alive, so frames of a COMMIT that failed are overwritten, never adopted."""
        if self._session is None:
            return
        try:
            if self._session.connection.in_transaction:
                self._session.execute("ROLLBACK")
            self._session.rolled_back()
        except Exception:  # noqa: BLE001  what cannot be taken back is left behind with its connection
            self._drop_connection()

    def _drop_connection(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with suppress(sqlite3.Error):
                session.connection.close()
