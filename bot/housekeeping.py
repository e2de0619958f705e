"""What keeps an old service small and quick: what is older than `database.keep` goes, and its room to the disk.

Snapshots of conversations' KV on disk hold their tokens, so they go too: unused ones with age, and all of them once a
conversation is forgotten, since nobody can say which were its own. They are only a cache.
"""

import asyncio
import contextlib
import math
import time
from datetime import timedelta
from pathlib import Path

import structlog

from bot.clock import now
from storage import retention, vacuum
from storage.database import Database
from storage.errors import StorageError

log = structlog.get_logger()

LOOK_EVERY = 60.0  # seconds between two looks; the first is as long after the start
TIDY_EVERY = 3600.0
SETTLED = 3600.0  # seconds after which a worker has written what it still had of a conversation in its memory
FORGOTTEN = "forgotten"  # a file beside the snapshots, of the time when a conversation was last forgotten


class Housekeeping:
    """`run` is the loop; one a process."""

    def __init__(self, db: Database, *, keep: float | None, snapshots: Path) -> None:
        """`keep`: seconds after which conversations are deleted; None for never. `snapshots`: the folder of them."""
        self._db = db
        self._keep = keep
        self._snapshots = snapshots

    async def run(self) -> None:
        """Tidies every hour, until it is cancelled."""
        tidied = -TIDY_EVERY
        while True:
            await asyncio.sleep(LOOK_EVERY)
            await asyncio.to_thread(finish_forgetting, self._snapshots)
            if time.monotonic() - tidied < TIDY_EVERY:
                continue
            try:
                await self.tidy()
                tidied = time.monotonic()
            except StorageError as error:
                log.error("the database can't be tidied; trying again", reason=str(error))

    async def tidy(self) -> None:
        """Does all that is due."""
        if self._keep is not None:
            before = now() - timedelta(seconds=self._keep)
            deleted = await retention.expire(self._db, before)
            snapshots = await asyncio.to_thread(delete_snapshots, self._snapshots, before.timestamp())
            if deleted or snapshots:
                log.info(
                    "what is older than database.keep is deleted", conversations=deleted.conversations,
                    messages=deleted.messages, snapshots=snapshots,
                )  # fmt: skip
        if mended := await retention.mend(self._db):
            log.warning("messages or deliveries waited for rows that are gone; they go on", count=mended)
        if pages := await vacuum.reclaim(self._db):
            log.info("the database's file has shrunk", pages=pages)
        await vacuum.optimize(self._db)
        await vacuum.truncate_log(self._db)


def delete_snapshots(folder: Path, before: float) -> int:
    """Deletes those that nobody has used since a time, and what was begun; returns how many. Their store copes."""
    deleted = 0
    for file in folder.glob("*/*"):
        try:
            if file.lstat().st_mtime < before:
                file.unlink()
                deleted += 1
        except FileNotFoundError:  # the store was faster
            pass
        except OSError as error:
            log.warning("a KV snapshot can't be deleted", file=str(file), reason=error.strerror)
    return deleted


def forget_snapshots(folder: Path) -> int:
    """Deletes all. A service that runs may write more of what it has in memory; it deletes that itself."""
    if folder.is_dir():
        (folder / FORGOTTEN).touch()
    return delete_snapshots(folder, math.inf)


def finish_forgetting(folder: Path) -> None:
    """Deletes what was written since, also by a worker that has just ended."""
    note = folder / FORGOTTEN
    with contextlib.suppress(OSError):  # there is no note, most of all
        age = time.time() - note.stat().st_mtime
        delete_snapshots(folder, math.inf)
        if age >= SETTLED:
            note.unlink()
