"""What the databases' drivers complain about, in this package's own terms."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from storage.errors import DatabaseDamaged, DatabaseRefused, DatabaseStarting, DatabaseUnavailable, StorageError

CANNOT_CONNECT_NOW = "57P03"  # of PostgreSQL: it is starting or stopping
NOT_ALLOWED = "42501"
REFUSED = ("22", "42")  # PostgreSQL's classes of errors that come again however often it is asked
SQLITE_REFUSED = (1, 18, 20, 21, 25)  # SQLite's: error, too big, mismatch, misuse, range
SQLITE_DAMAGED = (11, 26)  # corrupt, not a database


@asynccontextmanager
async def told(url: URL) -> AsyncIterator[None]:
    """Turns what the drivers say into one line that names the cause and the cure, never the password."""
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        raise _kind(error.orig)(cure(url, error.orig)) from error
    except PoolTimeout as error:
        raise DatabaseUnavailable(cure(url, TimeoutError("all connections are in use"))) from error
    except (TimeoutError, OSError) as error:  # asyncpg's own, while connecting
        raise DatabaseUnavailable(cure(url, error)) from error


def _kind(error: BaseException | None) -> type[StorageError]:
    """Whether it is worth while to ask again."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 21) & 0xFF
        if code in SQLITE_DAMAGED:
            return DatabaseDamaged
        return DatabaseRefused if code in SQLITE_REFUSED else DatabaseUnavailable
    state = getattr(error, "sqlstate", None) or ""
    if state == CANNOT_CONNECT_NOW:
        return DatabaseStarting
    unfit = error is not None and isinstance(error.__cause__, ValueError)  # asyncpg can't even send such a value
    return DatabaseRefused if state.startswith(REFUSED) or unfit else DatabaseUnavailable


def damage(url: URL, said: str) -> str:
    """What the operator is told of a damaged file."""
    return f"{url.database} is not an intact SQLite database ({said}): restore a backup, or move it away."


def cure(url: URL, error: BaseException | None) -> str:
    """The cause and the way out, in one line."""
    said = " ".join(str(error).split()) or "no answer"
    if url.get_backend_name() != "sqlite":
        where = f"PostgreSQL at {url.host or 'localhost'}:{url.port or 5432}"
        if getattr(error, "sqlstate", "") == NOT_ALLOWED:
            return f"{where} does not let its user do this: {said}. Make it the owner of {url.database!r}."
        if _kind(error) is DatabaseRefused:
            return f"{where} can't take this: {said}."
        return f"{where} refuses the database {url.database!r}: {said}. Check database.url and the server."
    if _kind(error) is DatabaseDamaged:
        return damage(url, said)
    if "readonly" in said:
        return f"{url.database} is read-only: make the file and its directory writable."
    if "full" in said or "disk I/O" in said:
        return f"The disk with {url.database} is full or failing ({said}): free some space; what was accepted is safe."
    return f"The database {url.database} can't be used: {said}."
