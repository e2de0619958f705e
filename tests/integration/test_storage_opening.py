"""Opening a database: files are private, and each mistake is told in one line with its cure, never a password."""

import asyncio
import os
import secrets
import socket
import stat
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from storage import database, ledger, migrations
from storage.database import Database
from storage.errors import (
    DatabaseDamaged,
    DatabaseMissing,
    DatabaseRefused,
    DatabaseUnavailable,
    DatabaseUrlInvalid,
    StorageError,
)
from tests.fakes.tcp_proxy import TcpProxy
from tests.integration.conftest import on_server

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
     "postgresql+psycopg2://u:hunter2@host/name", "postgresql+asyncpg://u:hunter2@host:port/name"],
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


async def test_only_who_may_makes_a_database(tmp_path: Path) -> None:
    with pytest.raises(DatabaseMissing):
        async with Database(sqlite(tmp_path / "dswbot.db"), create=False):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["flipped", "cut short"])
async def test_a_damaged_page_is_found_before_it_is_met(tmp_path: Path, how: str) -> None:
    file = tmp_path / "dswbot.db"
    async with Database(sqlite(file)) as db:
        await migrations.upgrade(db)
        async with db.write() as session:
            for number in range(300):
                await ledger.raise_alert(session, "kind", str(number), "text " * 50, NOW)
        await db.examine()
    whole = bytearray(file.read_bytes())
    if how == "flipped":
        middle = len(whole) // 2 // 4096 * 4096
        whole[middle : middle + 64] = os.urandom(64)
    file.write_bytes(whole if how == "flipped" else whole[: -3 * 4096])
    with pytest.raises(DatabaseDamaged, match="restore a backup"):
        async with Database(sqlite(file)) as db:
            await db.examine()


async def test_looking_for_damage_takes_no_longer_than_it_may(
    sqlite_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "EXAMINING", 0.0)
    await sqlite_db.examine()
    await sqlite_db.ping()


async def test_a_wrong_password_is_named() -> None:
    """What a server says that does not trust its own machine, unlike the one of these tests."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readexactly(8) == bytes.fromhex("0000000804d2162f"):  # is TLS spoken?
            writer.write(b"N")
            await reader.readexactly(4)
        fields = b'SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user "u"\0\0'
        writer.write(b"E" + (len(fields) + 4).to_bytes(4) + fields)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        told = await mistake(f"postgresql+asyncpg://u:hunter2@127.0.0.1:{port}/name", DatabaseUnavailable)
    assert "password authentication failed" in told
    assert "database.url" in told
    assert "hunter2" not in told


async def test_a_user_who_may_not_make_tables_is_told_what_he_lacks(postgres_url: str) -> None:
    user = f"dswbot_guest_{secrets.token_hex(4)}"
    await on_server(f"CREATE ROLE {user} LOGIN")
    try:
        url = make_url(postgres_url).set(username=user, password="hunter2")
        told = await mistake(url.render_as_string(hide_password=False), DatabaseRefused)
    finally:
        await on_server(f"DROP ROLE {user}")
    assert "permission denied" in told
    assert "owner" in told
    assert "hunter2" not in told


@pytest.mark.parametrize(
    "statement", ["SELECT nothing FROM nowhere", "INSERT INTO alerts (nonsense) VALUES (1)", "SELEKT 1"]
)
async def test_what_is_wrong_in_itself_is_not_worth_another_try(db: Database, statement: str) -> None:
    with pytest.raises(DatabaseRefused):
        async with db.write() as session:
            await session.execute(text(statement))
    await db.ping()


async def test_a_value_that_postgres_does_not_take_is_not_worth_another_try(postgres_db: Database) -> None:
    with pytest.raises(DatabaseRefused):
        async with postgres_db.write() as session:
            await session.execute(text("SELECT CAST(:number AS integer)"), {"number": 1 << 40})


async def test_a_crowd_that_finds_no_connection_is_told_to_come_again(
    postgres_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_db._reader.pool, "_timeout", 0.1)
    enough = asyncio.Event()

    async def hold() -> None:
        async with postgres_db.read() as session:
            await session.execute(text("SELECT 1"))
            await enough.wait()

    holders = [asyncio.create_task(hold(), name=f"reader {number}") for number in range(40)]
    done, _ = await asyncio.wait(holders, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    enough.set()
    await asyncio.wait(holders)
    assert done
    assert {type(task.exception()) for task in done} == {DatabaseUnavailable}
    await postgres_db.ping()


async def test_nothing_waits_for_ever_for_a_postgres_that_hangs(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections are taken and kept, and nothing comes back: what a full disk or a lost route looks like."""
    for name in ("COMMAND", "CONNECTING", "PING"):
        monkeypatch.setattr(database, name, 0.5)
    url = make_url(postgres_url)
    with TcpProxy(url.host or "127.0.0.1", url.port or 5432) as line:
        through = url.set(host="127.0.0.1", port=line.port).render_as_string(hide_password=False)
        async with asyncio.timeout(30), Database(through) as db:
            with pytest.raises(DatabaseUnavailable):  # noqa: PT012 - the transaction is what fails
                async with db.write() as session:
                    await session.execute(text("SELECT 1"))
                    line.set("dead")
                    await session.execute(text("SELECT 1"))
            with pytest.raises(DatabaseUnavailable):
                await db.ping()
            line.set("open")
            async with db.write() as session:
                await session.execute(text("SELECT 1"))
            line.set("dead")
        line.set("dead")
        assert "no answer" in await mistake(through, DatabaseUnavailable)


async def test_a_write_that_fails_is_remembered_until_one_succeeds(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading goes on where a disk is full, so reading alone does not show how a database is."""

    def full(_connection: object) -> None:
        raise DatabaseUnavailable("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr("sqlalchemy.ext.asyncio.AsyncSession.commit", full)
        with pytest.raises(DatabaseUnavailable):
            async with db.write() as session:
                await ledger.raise_alert(session, "kind", "key", "text", NOW)
        with pytest.raises(DatabaseUnavailable, match="full"):
            await db.ping()
    await db.ping()
    assert not db._failing
