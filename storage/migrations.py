"""The schema's versions, by Alembic: `upgrade` on every start, under a lock, all steps in one transaction.

SQLite changes a column by copying its table, so an upgrade of a large file takes a while and room for a second copy.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path

import structlog
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, text

from alembic import command
from storage import vacuum
from storage.database import Database
from storage.errors import DatabaseNewer, DatabaseOlder

log = structlog.get_logger()

SCRIPTS = Path(__file__).parent.parent / "alembic"
LOCK = 0x64737762  # PostgreSQL's advisory lock for migrations: "dswb"
LOOK_EVERY = 0.2  # seconds between two looks whether the lock of SQLite's file is free
WAITING = "another process is changing the database's schema; waiting for it"


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _known(connection: Connection) -> tuple[str | None, str | None]:
    """(the database's revision, the newest that this code knows). Raises DatabaseNewer."""
    current = MigrationContext.configure(connection).get_current_revision()
    scripts = ScriptDirectory.from_config(_config(connection))
    try:
        if current:
            scripts.get_revision(current)
    except CommandError:
        raise DatabaseNewer from None
    return current, scripts.get_current_head()


def _lock(connection: Connection) -> None:
    """Two processes that start together on one PostgreSQL database take turns, until the transaction ends."""
    if connection.dialect.name != "postgresql":
        return
    if not connection.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": LOCK}):
        log.info(WAITING)
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})


def _upgrade(connection: Connection, target: str) -> bool:
    """Whether there was anything to do."""
    _lock(connection)
    current, head = _known(connection)
    if current == head and target == "head":
        return False
    if current:
        log.info("the database's schema is brought up to date", old=current, new=head)
    command.upgrade(_config(connection), target)
    return True


def _downgrade(connection: Connection, target: str) -> None:
    _lock(connection)
    command.downgrade(_config(connection), target)


@contextlib.asynccontextmanager
async def _file_lock(database: Path | None) -> AsyncIterator[None]:
    """The same for one SQLite file. Nothing else in this process waits for it."""
    if database is None:
        yield
        return
    descriptor = os.open(f"{database}.migrate", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        await _flock(descriptor)
        yield
    finally:
        os.close(descriptor)


async def _flock(descriptor: int) -> None:
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not told:
                log.info(WAITING)
                told = True
            await asyncio.sleep(LOOK_EVERY)


async def upgrade(db: Database, target: str = "head") -> None:
    """Brings the schema to the newest version; what is interrupted leaves the old one. Raises DatabaseNewer."""
    async with _file_lock(db.file):
        async with db.connection() as connection:
            changed = await connection.run_sync(_upgrade, target)
        if changed:
            await vacuum.enable(db)


async def downgrade(db: Database, target: str) -> None:
    """Takes the schema back to a version."""
    async with _file_lock(db.file), db.connection() as connection:
        await connection.run_sync(_downgrade, target)


async def check(db: Database) -> None:
    """Raises DatabaseNewer or DatabaseOlder where the schema is not this version's."""
    async with db.connection() as connection:
        current, head = await connection.run_sync(_known)
    if current != head:
        raise DatabaseOlder
