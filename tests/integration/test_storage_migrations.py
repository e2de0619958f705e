"""The schema: what the migrations make is what the models say, and nothing is left half-way."""

import logging
import re
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from storage import inbox, migrations, outbox
from storage.database import Database
from storage.errors import DatabaseNewer, DatabaseOlder
from storage.inbox import Incoming
from storage.models import Table

TABLES = {table.name for table in Table.metadata.sorted_tables}
ROOT = Path(migrations.__file__).parent.parent
NEXT = """
revision = "9999"
down_revision = "0005"

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


# A conversation with three messages that wait, one with an answer that is being sent, and one that is closed.
OLDEST = (
    "INSERT INTO conversations (id, key, created_at) VALUES (1, 'a', {at}), (2, 'b', {at})",
    "INSERT INTO conversations (id, key, created_at, closed_at) VALUES (9, 'a', {at}, {at})",
    """INSERT INTO messages (id, conversation_id, parent_id, role, content, created_at)
       VALUES (1, 2, NULL, 'user', 'q', {at}), (2, 2, 1, 'assistant', 'r', {at})""",
    """INSERT INTO inbox (id, public_id, source, external_id, conversation_id, text, meta, state, fence, attempts,
                          reply_id, created_at)
       VALUES (1, 'm1', 's', '1', 1, 'x', '', 'claimed', 1, 0, NULL, {at}),
              (2, 'm2', 's', '2', 1, 'y', '', 'queued', 0, 0, NULL, {at}),
              (3, 'm3', 's', '3', 1, 'z', '', 'queued', 0, 0, NULL, {at}),
              (4, 'm4', 's', '4', 2, 'q', '', 'done', 1, 0, 2, {at})""",
    """INSERT INTO outbox (id, public_id, inbox_id, channel, lane, payload, state, attempts, next_at, created_at)
       VALUES (1, 'd1', 4, 'c', 'l', 'p', 'sending', 1, {at}, {at}),
              (2, 'd2', 4, 'c', 'l', 'p', 'planned', 0, {at}, {at}),
              (3, 'd3', 4, 'c', 'k', 'p', 'planned', 2, {at}, {at}),
              (4, 'd4', 4, 'c', 'k', 'p', 'sent', 1, {at}, {at})""",
    """INSERT INTO usage (source, conversation_id, model, prompt_tokens, cached_tokens, completion_tokens,
                          finish_reason, started_at, finished_at) VALUES ('s', 2, 'm', 1, 0, 1, 'stop', {at}, {at})""",
)


async def fill_oldest(db: Database) -> None:
    await migrations.upgrade(db, "0001")
    async with db.connection() as connection:
        for statement in OLDEST:
            await connection.execute(text(statement.format(at="CURRENT_TIMESTAMP")))


async def rows(db: Database, columns: str, table: str) -> list[tuple[object, ...]]:
    async with db.connection() as connection:
        found = await connection.execute(text(f"SELECT {columns} FROM {table} ORDER BY id"))
        return [tuple(row) for row in found]


async def everything(db: Database) -> list[list[tuple[object, ...]]]:
    """What every version's tables have."""
    return [
        await rows(db, "id, key, created_at, closed_at", "conversations"),
        await rows(db, "id, conversation_id, parent_id, role, content, created_at", "messages"),
        await rows(db, "id, public_id, source, external_id, conversation_id, text, state, fence, reply_id", "inbox"),
        await rows(db, "id, public_id, inbox_id, channel, lane, payload, state, attempts, next_at", "outbox"),
        await rows(db, "source, conversation_id, model, prompt_tokens, finish_reason, finished_at", "usage"),
    ]


async def test_data_survives_every_step_up_and_down(url: str) -> None:
    async with Database(url) as db:
        await fill_oldest(db)
        before = await everything(db)
        for target in ("0002", "0003"):
            await migrations.upgrade(db, target)
            assert await everything(db) == before
        assert await rows(db, "id", "inbox WHERE NOT head") == [(2,), (3,)]
        assert await rows(db, "id", "outbox WHERE NOT head") == [(2,)]
        assert await rows(db, "destination, failures", "outbox") == [("l", 1), ("l", 0), ("k", 2), ("k", 1)]
        for target in ("0002", "0001"):
            await migrations.downgrade(db, target)
            assert await everything(db) == before
        await migrations.upgrade(db)
        assert await everything(db) == before


async def test_what_was_waiting_before_an_upgrade_is_answered_and_sent_in_order(url: str) -> None:
    async with Database(url) as db:
        await fill_oldest(db)
        await migrations.upgrade(db)
        answered: list[int] = []
        at = datetime.now(UTC) + timedelta(minutes=1)
        for _ in range(3):
            async with db.write() as session:
                await session.execute(
                    text("UPDATE inbox SET lease_until = NULL, state = 'queued' WHERE id = 1 AND state = 'claimed'")
                )
                (claim,) = await inbox.claim(session, "me", at, timedelta(minutes=1), channels=["s"])
                answered.append(claim.id)
                await inbox.fail(session, claim, "no", [], at)
        assert answered == [1, 2, 3]
        sent: list[int] = []
        async with db.write() as session:
            for delivery in await outbox.abandoned(session, "me", at, channels=["c"]):
                await outbox.mark_uncertain(session, delivery, "stopped")
        for _ in range(2):
            async with db.write() as session:
                due = await outbox.claim_due(session, "me", at, timedelta(minutes=1), channels=["c"], limit=1)
                sent += [one.id for one in due]
                for one in due:
                    await outbox.mark_sent(session, one, None, at)
        assert sorted(sent) == [2, 3]


async def test_ids_are_never_given_again(url: str) -> None:
    """A process that was paused may still hold the id of what was deleted meanwhile."""
    async with Database(url) as db:
        await fill_oldest(db)
        await migrations.upgrade(db)
        async with db.connection() as connection:
            for table in ("outbox", "inbox", "conversations"):
                if db.dialect == "postgresql":
                    await connection.execute(text(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), 9)"))
                await connection.execute(text(f"DELETE FROM {table}" + (" WHERE id = 9" * (table == "conversations"))))
        async with db.write() as session:
            (accepted,) = await inbox.accept(session, [Incoming("s", "new", "new", "x")], datetime.now(UTC))
        assert accepted.id > 4
        assert [one for (one,) in await rows(db, "id", "conversations")][-1] > 9


async def definitions(db: Database) -> set[str]:
    """Tables' and indexes' own words, in any order of columns: what `compare_metadata` overlooks is in them."""
    if db.dialect == "postgresql":
        query = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
    else:
        query = """SELECT sql FROM sqlite_master WHERE sql IS NOT NULL
                   AND tbl_name NOT IN ('alembic_version', 'sqlite_sequence')"""
    async with db.connection() as connection:
        found = (await connection.execute(text(query))).scalars()
        return {"".join(sorted(re.split(r"[\s,\"()]+", one))) for one in found}


async def test_indexes_and_numbering_are_what_the_models_say(url: str) -> None:
    async with Database(url) as db:
        await migrations.upgrade(db)
        migrated = await definitions(db)
        await migrations.downgrade(db, "base")
        async with db.connection() as connection:
            await connection.run_sync(Table.metadata.create_all)
        assert migrated == await definitions(db)


async def test_spans_of_the_service_go_and_come_back_empty(url: str) -> None:
    async with Database(url) as db:
        await migrations.upgrade(db, "0004")
        before = await definitions(db)
        async with db.connection() as connection:
            await connection.execute(
                text("INSERT INTO runs (started_at, alive_at) VALUES (CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)")
            )
        await migrations.upgrade(db, "0005")
        assert "runs" not in await tables(db)
        await migrations.downgrade(db, "0004")
        assert await definitions(db) == before
        assert await rows(db, "id", "runs") == []


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


async def test_a_process_killed_in_an_upgrade_of_old_data_leaves_it(url: str) -> None:
    """At the last statement of all, when every table has been made anew."""
    async with Database(url) as db:
        await fill_oldest(db)
        before = await everything(db)
        code = UPGRADE.replace(
            "RUN",
            "import os, signal; from alembic import command; real = command.upgrade\n"
            "def upgrade(*how):\n    real(*how); os.kill(os.getpid(), signal.SIGKILL)\n"
            "migrations.command.upgrade = upgrade",
        )
        killed = subprocess.run([sys.executable, "-c", code, url], check=False, cwd=ROOT, timeout=60)
        assert killed.returncode == -signal.SIGKILL
        assert await revision(db) == "0001"
        assert await everything(db) == before
        await migrations.upgrade(db)
        assert await everything(db) == before


UPGRADE = """
import asyncio, pathlib, sys
from storage import inbox, migrations, outbox
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
