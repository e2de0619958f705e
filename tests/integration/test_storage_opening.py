"""Opening a database: files are private, and each mistake is told in one line with its cure, never a password."""

import asyncio
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import make_url

from storage import ledger, migrations
from storage.database import Database
from storage.errors import DatabaseUnavailable, DatabaseUrlInvalid, StorageError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NOBODY = 65534


def sqlite(file: Path) -> str:
    return f"sqlite+aiosqlite:///{file}"


async def mistake(url: str, kind: type[StorageError] = StorageError) -> str:
    """What the operator is told."""
    with pytest.raises(kind) as caught:
        async with Database(url) as db:
            await migrations.upgrade(db)
    told = str(caught.value)
    assert "\n" not in told
    return told


@pytest.fixture
def shared_dir() -> Iterator[Path]:
    """A directory that others may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def read_only_dir(shared_dir: Path) -> Iterator[Path]:
    """Root may write anywhere, so the test is somebody else for a while."""
    shared_dir.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield shared_dir
    finally:
        if root:
            os.seteuid(0)
        shared_dir.chmod(0o755)


async def test_the_files_are_for_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with Database(sqlite(tmp_path / "dswbot.db")) as db:
            await migrations.upgrade(db)
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert {"dswbot.db", "dswbot.db-wal", "dswbot.db-shm"} <= set(modes)
    assert set(modes.values()) == {0o600}


async def test_sqlite_is_durable_and_checks_references(sqlite_db: Database) -> None:
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    async with sqlite_db.write() as session:
        connection = await session.connection()
        for pragma, value in wanted.items():
            assert (await connection.exec_driver_sql(f"PRAGMA {pragma}")).scalar_one() == value


async def test_what_was_committed_is_there_after_opening_again(tmp_path: Path) -> None:
    url = sqlite(tmp_path / "dswbot.db")
    for expected in (True, False):
        async with Database(url) as db:
            await migrations.upgrade(db)
            await db.ping()
            async with db.write() as session:
                assert await ledger.raise_alert(session, "kind", "key", "text", NOW) is expected


async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("These are notes, and by no means a database.\n" * 100)
    told = await mistake(sqlite(file))
    assert str(file) in told
    assert "not an intact SQLite database" in told
    assert "restore" in told
    assert file.read_text().startswith("These are notes")


async def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    file = tmp_path / "dswbot.db"
    async with Database(sqlite(file)) as db:
        await migrations.upgrade(db)
    whole = bytearray(file.read_bytes())
    whole[100:4096] = os.urandom(3996)  # the first page holds the schema
    file.write_bytes(whole)
    assert "not an intact SQLite database" in await mistake(sqlite(file))


async def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    told = await mistake(sqlite(tmp_path / "missing" / "dswbot.db"))
    assert "missing/dswbot.db" in told
    assert "No such file or directory" in told


async def test_a_directory_that_is_read_only_is_named(read_only_dir: Path) -> None:
    told = await mistake(sqlite(read_only_dir / "dswbot.db"))
    assert str(read_only_dir) in told
    assert "Permission denied" in told
    assert "writable" in told


async def test_a_database_that_is_a_directory_is_named(tmp_path: Path) -> None:
    assert str(tmp_path) in await mistake(sqlite(tmp_path))


@pytest.mark.parametrize(
    "url",
    ["nonsense", "", "mysql://user:hunter2@host/name", "sqlite://", "sqlite+aiosqlite:///:memory:",
     "postgresql+psycopg2://u:hunter2@host/name"],
)  # fmt: skip
async def test_an_address_that_is_not_understood_is_answered_with_examples(url: str) -> None:
    told = await mistake(url, DatabaseUrlInvalid)
    assert "sqlite+aiosqlite:///" in told
    assert "postgresql+asyncpg://" in told
    assert "hunter2" not in told


async def test_a_postgres_that_is_not_there_is_named() -> None:
    with socket.socket() as listener:  # bound and never listening: nothing answers there
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        told = await mistake(f"postgresql+asyncpg://u:hunter2@127.0.0.1:{port}/name", DatabaseUnavailable)
    assert f"127.0.0.1:{port}" in told
    assert "hunter2" not in told


async def test_an_unknown_postgres_database_is_named(postgres_url: str) -> None:
    url = make_url(postgres_url).set(database="no_such_database", password="hunter2")
    told = await mistake(url.render_as_string(hide_password=False), DatabaseUnavailable)
    assert "no_such_database" in told
    assert "does not exist" in told
    assert "hunter2" not in told


async def test_an_unknown_postgres_user_is_named(postgres_url: str) -> None:
    url = make_url(postgres_url).set(username="no_such_user", password="hunter2")
    told = await mistake(url.render_as_string(hide_password=False), DatabaseUnavailable)
    assert "no_such_user" in told
    assert "hunter2" not in told


async def test_an_unknown_option_in_the_address_is_told(postgres_url: str) -> None:
    await mistake(f"{postgres_url}?sslmode=disable")


async def test_a_postgres_that_goes_away_is_told_and_comes_back(postgres_db: Database) -> None:
    await postgres_db.ping()
    with pytest.raises(DatabaseUnavailable):  # noqa: PT012 - the transaction is what fails
        async with postgres_db.write() as session:
            connection = await session.connection()
            pid = (await connection.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()
            async with postgres_db.read() as other:
                await (await other.connection()).exec_driver_sql(f"SELECT pg_terminate_backend({pid})")
            await ledger.raise_alert(session, "kind", "key", "text", NOW)
    await postgres_db.ping()


async def test_another_process_that_writes_is_waited_for(tmp_path: Path) -> None:
    url = sqlite(tmp_path / "dswbot.db")
    async with Database(url) as one, Database(url) as other:
        await migrations.upgrade(one)
        async with one.write() as first:
            await ledger.raise_alert(first, "kind", "1", "text", NOW)

            async def second() -> bool:
                async with other.write() as session:
                    return await ledger.raise_alert(session, "kind", "1", "text", NOW)

            waiting = asyncio.create_task(second(), name="second writer")
            await asyncio.sleep(0.3)
            assert not waiting.done()
        assert await waiting is False
