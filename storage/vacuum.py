"""SQLite's file kept small and quick while the service runs. PostgreSQL does all of this by itself (autovacuum)."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import structlog

from storage.database import BUSY_TIMEOUT, Database
from storage.errors import StorageError

log = structlog.get_logger()

INCREMENTAL = 2  # PRAGMA auto_vacuum's number for it
PAGES = 64  # that a transaction gives back
PAUSE = 0.02  # seconds between two of them, for others to write
PATIENCE = 200  # milliseconds that a checkpoint waits for readers, and whoever writes for the checkpoint
SAMPLE = 400  # rows of an index that are looked at for the planner's statistics


async def _number(driver: Any, pragma: str) -> int:
    (row,) = await driver.execute_fetchall(f"PRAGMA {pragma}")
    return int(row[0])


@contextlib.contextmanager
def _writing_anew(without: str, by_hand: str) -> Iterator[None]:
    """Takes room for a second copy of the file. Where there is none, it is told what happens `without`, and no more."""
    try:
        yield
    except StorageError as error:
        log.warning(
            "the database's file can't be written anew", without=without, reason=str(error),
            cure=f"with room for a second copy of it, and the service stopped, do: sqlite3 FILE '{by_hand}'",
        )  # fmt: skip


async def enable(db: Database) -> None:
    """Lets a file of an earlier version give pages back. It is written anew for that, once, or stays as it is."""
    if not db.file:
        return
    with _writing_anew("it will not shrink", "PRAGMA auto_vacuum = INCREMENTAL; VACUUM"):
        async with db.driver() as driver:
            if await _number(driver, "auto_vacuum") == INCREMENTAL:
                return
            log.info("the database's file is written anew, so that it can shrink from now on", file=str(db.file))
            await driver.execute_fetchall("PRAGMA auto_vacuum = INCREMENTAL")
            await driver.execute_fetchall("VACUUM")


async def rewrite(db: Database) -> None:
    """Writes the file anew, without what lies between its rows: a copy of a row may be left where SQLite has moved it
    to another page. Whoever writes waits meanwhile."""
    if not db.file:
        return
    with _writing_anew("copies of what is deleted may be left in it", "VACUUM"):
        async with db.driver() as driver:
            await driver.execute_fetchall("VACUUM")


async def reclaim(db: Database) -> int:
    """Gives the free pages back to the disk, a few in each transaction; returns how many."""
    if not db.file:
        return 0
    given = 0
    while freed := await _reclaim_some(db):
        given += freed
        await asyncio.sleep(PAUSE)
    return given


async def _reclaim_some(db: Database) -> int:
    async with db.driver() as driver:
        before = await _number(driver, "freelist_count")
        if not before:
            return 0
        await driver.executescript(f"PRAGMA incremental_vacuum({PAGES})")  # `execute` would free one page alone
        return before - await _number(driver, "freelist_count")


async def truncate_log(db: Database) -> bool:
    """Brings the write-ahead log into the file and empties it; False where somebody still reads what is in it."""
    if not db.file:
        return True
    async with db.driver() as driver:
        await driver.execute_fetchall(f"PRAGMA busy_timeout = {PATIENCE}")
        try:
            return await _number(driver, "wal_checkpoint(TRUNCATE)") == 0
        finally:
            await driver.execute_fetchall(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")


async def optimize(db: Database) -> None:
    """Renews the planner's statistics where the tables have grown or shrunk much."""
    if not db.file:
        return
    async with db.driver() as driver:
        await driver.execute_fetchall(f"PRAGMA analysis_limit = {SAMPLE}")
        await driver.executescript("PRAGMA optimize")
