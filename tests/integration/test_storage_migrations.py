"""The schema: what the migrations make is what the models say, and nothing is left half-way."""

import logging
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from storage import migrations
from storage.database import Database
from storage.errors import DatabaseNewer, DatabaseOlder
from storage.models import Table

TABLES = {table.name for table in Table.metadata.sorted_tables}
ROOT = Path(migrations.__file__).parent.parent
NEXT = """
revision = "9999"
down_revision = "0002"

import os, signal
from alembic import op
import sqlalchemy as sa

def upgrade():
    op.create_table("half_way", sa.Column("id", sa.Integer(), primary_key=True))
    op.execute("UPDATE alembic_version SET version_num = 'half'")
    {end}
"""


async def tables(db: Database) -> set[str]:
    async with db.connection() as connection:
        names = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    return set(names) - {"alembic_version", "sqlite_sequence"}


async def revision(db: Database) -> str:
    async with db.connection() as connection:
        return (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar_one()


@pytest.fixture
def with_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a further migration, which ends as said, behind the real ones."""

    def put(end: str) -> Path:
        scripts = tmp_path / "scripts"
        shutil.copytree(migrations.SCRIPTS, scripts, ignore=shutil.ignore_patterns("__pycache__"))
        (scripts / "versions" / "9999_next.py").write_text(NEXT.format(end=end))
        monkeypatch.setattr(migrations, "SCRIPTS", scripts)
        return scripts

    return put


async def test_the_migrations_make_what_the_models_say(url: str) -> None:
    async with Database(url) as db:
        await migrations.upgrade(db)
        async with db.connection() as connection:
            differences = await connection.run_sync(
                lambda sync: compare_metadata(
                    MigrationContext.configure(sync, opts={"compare_type": True}), Table.metadata
                )
            )
        assert differences == []
        assert await tables(db) == TABLES


async def test_partial_indexes_have_their_condition(db: Database) -> None:
    """`compare_metadata` does not look at it."""
    catalogue = "pg_indexes" if db.dialect == "postgresql" else "sqlite_master"
    column, name = ("indexdef", "indexname") if db.dialect == "postgresql" else ("sql", "name")
    async with db.read() as session:
        rows = await session.execute(text(f"SELECT {name}, {column} FROM {catalogue} WHERE {column} LIKE '%WHERE%'"))
        found = {row[0]: row[1] for row in rows}
    assert {"uq_conversations_open_key", "uq_inbox_one_in_flight"} <= set(found)
    assert "closed_at IS NULL" in found["uq_conversations_open_key"]
    assert "claimed" in found["uq_inbox_one_in_flight"]


async def test_up_down_and_up_again(url: str) -> None:
    async with Database(url) as db:
        for _ in range(2):
            await migrations.upgrade(db)
            await migrations.upgrade(db)  # nothing left to do
            await migrations.check(db)
            assert await tables(db) == TABLES
            await migrations.downgrade(db, "base")
            assert await tables(db) == set()


async def test_an_empty_database_is_older(url: str) -> None:
    async with Database(url) as db:
        with pytest.raises(DatabaseOlder, match="dswbot db upgrade"):
            await migrations.check(db)
        assert await tables(db) == set()


async def test_a_database_of_a_newer_version_is_refused_and_left_alone(url: str) -> None:
    async with Database(url) as db:
        await migrations.upgrade(db)
        async with db.connection() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = '7777'"))
        for use in (migrations.upgrade, migrations.check):
            with pytest.raises(DatabaseNewer, match="newer"):
                await use(db)
        assert await revision(db) == "7777"


async def test_a_migration_that_fails_leaves_the_old_schema(url: str, with_next) -> None:
    async with Database(url) as db:
        await migrations.upgrade(db)
        before = await revision(db)
        with_next('raise RuntimeError("half-way")')
        with pytest.raises(RuntimeError, match="half-way"):
            await migrations.upgrade(db)
        assert await revision(db) == before
        assert await tables(db) == TABLES
        await db.ping()


async def test_a_process_killed_in_a_migration_leaves_the_old_schema(url: str, with_next) -> None:
    async with Database(url) as db:
        await migrations.upgrade(db)
        before = await revision(db)
        scripts = with_next("os.kill(os.getpid(), signal.SIGKILL)")
        code = UPGRADE.replace("RUN", f"migrations.SCRIPTS = pathlib.Path({str(scripts)!r})")
        killed = subprocess.run([sys.executable, "-c", code, url], check=False, cwd=ROOT, timeout=60)
        assert killed.returncode == -signal.SIGKILL
        assert await revision(db) == before
        assert await tables(db) == TABLES


UPGRADE = """
import asyncio, pathlib, sys
from storage import migrations
from storage.database import Database
RUN
async def main():
    async with Database(sys.argv[1]) as db:
        await migrations.upgrade(db)
asyncio.run(main())
"""


async def test_processes_that_start_together_upgrade_once(url: str) -> None:
    code = UPGRADE.replace("RUN", "")
    started = [
        subprocess.Popen([sys.executable, "-c", code, url], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    ends = [(process.communicate(timeout=60)[1], process.returncode) for process in started]
    assert ends == [("", 0)] * 4
    async with Database(url) as db:
        await migrations.check(db)


async def test_upgrading_leaves_the_logging_as_it_is(sqlite_db: Database) -> None:
    root = logging.getLogger()
    before = root.level, list(root.handlers), logging.getLogger("storage").disabled
    await migrations.downgrade(sqlite_db, "base")
    await migrations.upgrade(sqlite_db)
    assert (root.level, list(root.handlers), logging.getLogger("storage").disabled) == before
