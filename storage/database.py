"""The connection to SQLite or PostgreSQL, and what a transaction is.

SQLite: WAL, synchronous=FULL, one writer connection for which coroutines queue, and BEGIN IMMEDIATE. The
driver's own way of beginning transactions loses updates silently: two readers of the same value both write.
https://docs.sqlalchemy.org/en/21/dialects/sqlite.html#sqlite-transactions
"""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import URL, Connection, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from storage.errors import DatabaseInconsistent, DatabaseUnavailable, DatabaseUrlInvalid, StorageError

T = TypeVar("T")

BUSY_TIMEOUT = 10_000  # milliseconds that SQLite waits for another process
READERS = 4


class Database:
    """Use as `async with`. `read` and `write` give sessions; a write block is one transaction."""

    def __init__(self, url: str) -> None:
        self._url = _parsed(url)
        self.dialect = self._url.get_backend_name()
        self._writing = asyncio.Lock()

    @property
    def file(self) -> Path | None:
        """SQLite's file."""
        return Path(self._url.database or "") if self.dialect == "sqlite" else None

    async def __aenter__(self) -> Self:
        if self.file:
            _make_private(self.file)
            self._writer = _sqlite_engine(self._url, size=1, begin="BEGIN IMMEDIATE", reads_only=False)
            self._reader = _sqlite_engine(self._url, size=READERS, begin="BEGIN", reads_only=True)
        else:
            self._writer = self._reader = create_async_engine(self._url, pool_pre_ping=True, pool_size=10)
        try:
            async with _told(self._url):
                async with self._writer.connect() as connection:
                    await connection.execute(text("SELECT 1 FROM sqlite_master" if self.file else "SELECT 1"))
        except TypeError:  # asyncpg, on an option in the URL that it does not know
            await self._dispose()
            raise DatabaseUrlInvalid from None
        except StorageError:
            await self._dispose()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:  # fmt: skip
        await _shielded(self._dispose())

    async def _dispose(self) -> None:
        await self._reader.dispose()
        await self._writer.dispose()

    def read(self) -> AbstractAsyncContextManager[AsyncSession]:
        """A session that sees one state of the database and changes nothing."""
        return self._session(self._reader, commit=False)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """One transaction: committed at the end of the block, rolled back on an error."""
        async with self._turn(), self._session(self._writer, commit=True) as session:
            yield session

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """A connection in a transaction, for migrations.

        SQLite changes a table by making another one and dropping the first, which must not take along the rows
        that refer to it: https://www.sqlite.org/lang_altertable.html#otheralter
        """
        async with self._turn(), _told(self._url), self._writer.connect() as connection:
            if self.file:
                await _pragma(connection, "foreign_keys = OFF")
            try:
                async with connection.begin():
                    yield connection
                    if self.file and (await connection.exec_driver_sql("PRAGMA foreign_key_check")).first():
                        raise DatabaseInconsistent
            finally:
                if self.file:
                    await _shielded(_pragma(connection, "foreign_keys = ON"))

    async def ping(self) -> None:
        """Raises StorageError where the database does not answer."""
        async with self.read() as session:
            await session.execute(text("SELECT 1"))

    def _turn(self) -> AbstractAsyncContextManager[Any]:
        return self._writing if self.file else contextlib.nullcontext()

    @asynccontextmanager
    async def _session(self, engine: AsyncEngine, *, commit: bool) -> AsyncIterator[AsyncSession]:
        """A cancelled task must not leave a transaction or a connection behind, so both ends are shielded."""
        session = AsyncSession(engine, expire_on_commit=False)
        async with _told(self._url):
            try:
                yield session
                if commit:
                    await _shielded(session.commit())
            finally:
                await _shielded(session.close())


async def _shielded(work: Coroutine[Any, Any, T]) -> T:
    """Finishes `work` even if this task is cancelled meanwhile; the cancellation comes after."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled:
        raise cancelled
    return task.result()


async def _pragma(connection: AsyncConnection, setting: str) -> None:
    """Outside of a transaction, where some settings have no effect."""
    raw = await connection.get_raw_connection()
    assert raw.driver_connection
    await (await raw.driver_connection.execute(f"PRAGMA {setting}")).close()


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
        driver = parsed.get_dialect().driver
    except (ArgumentError, NoSuchModuleError, ImportError):
        raise DatabaseUrlInvalid from None
    if driver not in ("aiosqlite", "asyncpg") or (driver == "aiosqlite" and parsed.database in (None, "", ":memory:")):
        raise DatabaseUrlInvalid
    return parsed


def _make_private(file: Path) -> None:
    """Creates the file for its owner only; -wal and -shm take its mode."""
    try:
        os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StorageError(
            f"The database {file} can't be opened: {error.strerror}. Make its directory writable, or set data_dir."
        ) from None


def _sqlite_engine(url: URL, *, size: int, begin: str, reads_only: bool) -> AsyncEngine:
    engine = create_async_engine(url, poolclass=AsyncAdaptedQueuePool, pool_size=size, max_overflow=0, pool_timeout=60)

    @event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")  # heeded where the file is still empty
        cursor.execute("PRAGMA query_only = ON" if reads_only else "PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


@asynccontextmanager
async def _told(url: URL) -> AsyncIterator[None]:
    """Turns what the drivers say into one line that names the cause and the cure, never the password."""
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        raise DatabaseUnavailable(_cure(url, error.orig)) from error
    except (TimeoutError, OSError) as error:  # asyncpg's own, while connecting
        raise DatabaseUnavailable(_cure(url, error)) from error


def _cure(url: URL, error: BaseException | None) -> str:
    said = " ".join(str(error).split())
    if url.get_backend_name() != "sqlite":
        where = f"{url.host or 'localhost'}:{url.port or 5432}"
        return (
            f"PostgreSQL at {where} refuses the database {url.database!r}: {said}. Check database.url and the server."
        )
    if isinstance(error, sqlite3.DatabaseError) and ("not a database" in said or "malformed" in said):
        return f"{url.database} is not an intact SQLite database ({said}): restore a backup, or move it away."
    if "readonly" in said:
        return f"{url.database} is read-only: make the file and its directory writable."
    if "full" in said or "disk I/O" in said:
        return f"The disk with {url.database} is full or failing ({said}): free some space; what was accepted is safe."
    return f"The database {url.database} can't be used: {said}."
