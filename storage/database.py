"""The connection to SQLite or PostgreSQL, and what a transaction is.

SQLite: WAL, synchronous=FULL, one writer connection for which coroutines queue, and BEGIN IMMEDIATE. The
driver's own way of beginning transactions loses updates silently: two readers of the same value both write.
https://docs.sqlalchemy.org/en/21/dialects/sqlite.html#sqlite-transactions
"""

import asyncio
import contextlib
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import URL, Connection, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool

from storage.errors import (
    DatabaseDamaged,
    DatabaseInconsistent,
    DatabaseMissing,
    DatabaseStarting,
    DatabaseUnavailable,
    DatabaseUrlInvalid,
    StorageError,
)
from storage.faults import cure, damage, told

T = TypeVar("T")

BUSY_TIMEOUT = 10_000  # milliseconds that SQLite waits for another process
READERS = 4
CONNECTING = 10.0  # seconds in which PostgreSQL must take a connection
COMMAND = 10.0  # seconds in which it must carry out a statement
MIGRATING = 3600.0  # and one that changes a table
CLOSING = 2.0  # seconds that the end of its connections may take
PING = 3.0  # seconds in which the database must have shown that it works
EXAMINING = 3.0  # seconds that are spent on looking for damage
STARTING = 30.0  # seconds that a PostgreSQL server may take to start


class Database:
    """Use as `async with`. `read` and `write` give sessions; a write block is one transaction."""

    def __init__(self, url: str, *, create: bool = True) -> None:
        """`create`: make SQLite's file where there is none."""
        self._url = _parsed(url)
        self.dialect = self._url.get_backend_name()
        self._create = create
        self._writing = asyncio.Lock()
        self._failing = False  # the last write did not come through
        self._looking: asyncio.Task[None] | None = None

    @property
    def file(self) -> Path | None:
        """SQLite's file."""
        return Path(self._url.database or "") if self.dialect == "sqlite" else None

    async def __aenter__(self) -> Self:
        if self.file:
            if not self._create and not self.file.exists():
                raise DatabaseMissing
            _make_private(self.file)
            self._writer = _sqlite_engine(self._url, size=1, begin="BEGIN IMMEDIATE", reads_only=False)
            self._reader = _sqlite_engine(self._url, size=READERS, begin="BEGIN", reads_only=True)
        else:
            self._writer = self._reader = _postgres_engine(self._url, COMMAND)
        try:
            await self._first_contact()
        except TypeError:  # asyncpg, on an option in the URL that it does not know
            await self._dispose()
            raise DatabaseUrlInvalid from None
        except StorageError:
            await self._dispose()
            raise
        return self

    async def _first_contact(self) -> None:
        """Waits for a server that is just starting: after a crash of the machine both come up together."""
        deadline = asyncio.get_running_loop().time() + STARTING
        while True:
            try:
                async with told(self._url), self._writer.connect() as connection:
                    await connection.execute(text("SELECT 1 FROM sqlite_master" if self.file else "SELECT 1"))
                return
            except DatabaseStarting:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.5)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:  # fmt: skip
        await _shielded(self._dispose())

    async def _dispose(self) -> None:
        if self._looking:
            self._looking.cancel()
        with contextlib.suppress(TimeoutError):  # a server that does not answer is not waited for
            async with asyncio.timeout(CLOSING):
                await self._reader.dispose()
                await self._writer.dispose()

    def read(self) -> AbstractAsyncContextManager[AsyncSession]:
        """A session that sees one state of the database and changes nothing."""
        return self._session(self._reader, commit=False)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """One transaction: committed at the end of the block, rolled back on an error."""
        try:
            async with self._turn(), self._session(self._writer, commit=True) as session:
                yield session
        except DatabaseUnavailable:
            self._failing = True
            raise

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """A connection in a transaction, for migrations.

        SQLite changes a table by making another one and dropping the first, which must not take along the rows
        that refer to it: https://www.sqlite.org/lang_altertable.html#otheralter
        """
        engine = self._writer if self.file else _postgres_engine(self._url, MIGRATING, poolclass=NullPool)
        async with self._turn(), told(self._url), engine.connect() as connection:
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

    @asynccontextmanager
    async def driver(self) -> AsyncIterator[Any]:
        """The driver's own connection of SQLite's writer, in its turn, for what is allowed in no transaction."""
        async with self._turn(), told(self._url), self._writer.connect() as connection:
            raw = await connection.get_raw_connection()
            try:
                yield raw.driver_connection
            except sqlite3.Error as error:
                raise DatabaseUnavailable(cure(self._url, error)) from error

    async def ping(self) -> None:
        """Raises StorageError where the database does not answer, or takes nothing since a write has failed."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="look at the database")
            self._looking.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may wait
        await asyncio.wait({self._looking}, timeout=PING)
        if not self._looking.done():
            raise DatabaseUnavailable(cure(self._url, TimeoutError("no answer")))
        self._looking.result()

    async def _look(self) -> None:
        if not self._failing:
            async with self.read() as session:
                await session.execute(text("SELECT 1"))
            return
        async with self.write() as session:  # changes nothing, and is written to the disk all the same
            await session.execute(text("PRAGMA user_version = 0" if self.file else "SELECT txid_current()"))
        self._failing = False

    async def examine(self) -> None:
        """Looks for damage in SQLite's file, as far as a few seconds go. Raises DatabaseDamaged."""
        if not self.file:
            return
        async with told(self._url), self._reader.connect() as connection:
            checking = asyncio.ensure_future(connection.exec_driver_sql("PRAGMA quick_check(1)"))
            await asyncio.wait({checking}, timeout=EXAMINING)
            if not checking.done():
                raw = await connection.get_raw_connection()
                assert raw.driver_connection
                await raw.driver_connection.interrupt()
                with contextlib.suppress(DBAPIError):
                    await checking
                return
            found = str((await checking).scalar_one())
        if found != "ok":
            raise DatabaseDamaged(damage(self._url, found))

    def _turn(self) -> AbstractAsyncContextManager[Any]:
        return self._writing if self.file else contextlib.nullcontext()

    @asynccontextmanager
    async def _session(self, engine: AsyncEngine, *, commit: bool) -> AsyncIterator[AsyncSession]:
        """A cancelled task must not leave a transaction or a connection behind, so both ends are shielded."""
        session = AsyncSession(engine, expire_on_commit=False)
        async with told(self._url):
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
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError):  # the last where the port is no number
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
            f"The database {file} can't be opened: {error.strerror}. "
            "Make it and its directory writable, or set data_dir."
        ) from None


def _sqlite_engine(url: URL, *, size: int, begin: str, reads_only: bool) -> AsyncEngine:
    engine = create_async_engine(url, poolclass=AsyncAdaptedQueuePool, pool_size=size, max_overflow=0, pool_timeout=30)

    @event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")
        cursor.execute("PRAGMA foreign_keys = ON")
        if reads_only:
            cursor.execute("PRAGMA query_only = ON")
        else:
            cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")  # heeded where the file is still empty; locks it
            cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA secure_delete = ON")  # drafts and what is forgotten are overwritten, not only unlinked
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _postgres_engine(url: URL, seconds: float, **options: Any) -> AsyncEngine:
    """`seconds`: for each statement. A server that hangs must not make this process hang."""
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)  # it shows a trace for each line that breaks
    if not options:
        options = {"pool_pre_ping": True, "pool_size": 10, "pool_timeout": CONNECTING}
    return create_async_engine(url, connect_args={"timeout": CONNECTING, "command_timeout": seconds}, **options)
