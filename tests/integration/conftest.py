"""Real databases: a file of its own for each SQLite test, a database of its own for each PostgreSQL test."""

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import URL, make_url, text

from inference.protocol import EngineConfig
from inference.requantise import prepare
from storage import migrations
from storage.database import Database
from storage.models import Table
from tests.fakes.telegram import FakeTelegram
from tests.fakes.telegram_rig import Start, bot_at_work, without_pauses
from tests.models.qwen3_shape import write_qwen3_shape

SERVER = make_url(os.environ.get("DSWBOT_TEST_POSTGRES", "postgresql+asyncpg://root@127.0.0.1:5432/test"))
WANTED = (
    "start one with `docker run -p 5432:5432 -e POSTGRES_HOST_AUTH_METHOD=trust postgres` and set DSWBOT_TEST_POSTGRES"
)


async def on_server(statement: str) -> None:
    """Runs a statement on the PostgreSQL server, outside the databases under test."""
    plain = SERVER.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(plain, timeout=5)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def postgres_database() -> AsyncIterator[URL]:
    name = f"dswbot_test_{secrets.token_hex(6)}"
    try:
        await on_server(f"CREATE DATABASE {name}")
    except (OSError, TimeoutError) as error:
        lacking = f"PostgreSQL does not answer at {SERVER.host}:{SERVER.port} ({error}): {WANTED}"
        if os.environ.get("DSWBOT_TEST_REQUIRE_SERVERS") == "1":
            pytest.fail(lacking)
        pytest.skip(lacking)
    try:
        yield SERVER.set(database=name)
    finally:
        await on_server(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def dialect(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def postgres_url() -> AsyncIterator[str]:
    """An empty PostgreSQL database."""
    async with postgres_database() as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture
async def url(dialect: str, tmp_path: Path) -> AsyncIterator[str]:
    """An empty database."""
    if dialect == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'dswbot.db'}"
        return
    async with postgres_database() as made:
        yield made.render_as_string(hide_password=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def migrated_postgres() -> AsyncIterator[str]:
    """One PostgreSQL database with this version's tables: making one takes half a second, emptying it a tenth."""
    async with postgres_database() as made:
        url = made.render_as_string(hide_password=False)
        async with Database(url) as database:
            await migrations.upgrade(database)
        yield url


@pytest.fixture
async def postgres_db(migrated_postgres: str) -> AsyncIterator[Database]:
    """PostgreSQL with empty tables, also for what only several writers at once can show."""
    async with Database(migrated_postgres) as database:
        await emptied(database)
        yield database


@pytest.fixture
async def sqlite_db(tmp_path: Path) -> AsyncIterator[Database]:
    """SQLite with empty tables."""
    async with Database(f"sqlite+aiosqlite:///{tmp_path / 'dswbot.db'}") as database:
        await migrations.upgrade(database)
        yield database
        await connections_closed()


async def connections_closed() -> None:
    """SQLAlchemy closes a connection whose use was cancelled in a task of its own, which must not outlive the loop."""
    closing = [task for task in asyncio.all_tasks() if "_terminate" in getattr(task.get_coro(), "__qualname__", "")]
    if closing:
        await asyncio.wait(closing, timeout=1)


@pytest.fixture
def db(dialect: str, request: pytest.FixtureRequest) -> Database:
    """A database with empty tables; a test that takes it runs on each of the two."""
    return request.getfixturevalue("sqlite_db" if dialect == "sqlite" else "postgres_db")


@pytest.fixture
def db_url(db: Database) -> str:
    """The address of `db`, for a test that connects by itself."""
    return db._url.render_as_string(hide_password=False)


async def emptied(database: Database) -> None:
    """Empties the tables and begins their numbers anew."""
    tables = [table.name for table in Table.metadata.sorted_tables]
    async with database.write() as session:
        if database.dialect == "postgresql":
            await session.execute(text(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY CASCADE"))
            return
        for name in reversed(tables):
            await session.execute(text(f"DELETE FROM {name}"))


@pytest.fixture(scope="session")
def small(embedded_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as it is served."""
    return Path(prepare(EngineConfig("embedded", str(embedded_gguf), str(tmp_path_factory.mktemp("served")))).path)


@pytest.fixture(scope="session")
def tiny_qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen3_shape(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture
def start(tg: FakeTelegram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """A bot at work on the test's own fake Telegram, without the pauses that are the bot's."""
    without_pauses(monkeypatch)
    return partial(bot_at_work, tg, tmp_path)
