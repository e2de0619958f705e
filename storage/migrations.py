"""The schema's versions, by Alembic: `upgrade` on every start, under a lock, each step in one transaction."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, text

from alembic import command
from storage.database import Database
from storage.errors import DatabaseNewer, DatabaseOlder

SCRIPTS = Path(__file__).parent.parent / "alembic"
LOCK = 0x64737762  # PostgreSQL's advisory lock for migrations: "dswb"


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


def _upgrade(connection: Connection, target: str) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
    current, head = _known(connection)
    if current != head or target != "head":
        command.upgrade(_config(connection), target)


@contextlib.contextmanager
def _file_lock(database: Path | None) -> Iterator[None]:
    """Two processes that start together on one SQLite file take turns."""
    if database is None:
        yield
        return
    descriptor = os.open(f"{database}.migrate", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


async def upgrade(db: Database, target: str = "head") -> None:
    """Brings the schema to the newest version; what is interrupted leaves the old one. Raises DatabaseNewer."""
    with _file_lock(db.file):
        async with db.connection() as connection:
            await connection.run_sync(_upgrade, target)


async def downgrade(db: Database, target: str) -> None:
    """Takes the schema back to a version."""
    with _file_lock(db.file):
        async with db.connection() as connection:
            await connection.run_sync(lambda sync: command.downgrade(_config(sync), target))


async def check(db: Database) -> None:
    """Raises DatabaseNewer or DatabaseOlder where the schema is not this version's."""
    async with db.connection() as connection:
        current, head = await connection.run_sync(_known)
    if current != head:
        raise DatabaseOlder
