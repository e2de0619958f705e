"""INSERT … ON CONFLICT, which both databases know by the same name from different modules."""

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import ColumnElement, inspect
from sqlalchemy import Table as SqlTable
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from storage.models import Table


def insert(session: AsyncSession, table: type[Table]) -> sqlite.Insert | postgresql.Insert:
    """The database's own INSERT."""
    target = cast("SqlTable", table.__table__)
    return sqlite.insert(target) if session.get_bind().dialect.name == "sqlite" else postgresql.insert(target)


async def insert_all(session: AsyncSession, table: type[Table], rows: Sequence[dict[str, Any]],
                     *returning: InstrumentedAttribute[Any] | ColumnElement[Any]) -> Sequence[Any]:  # fmt: skip
    """Inserts those rows whose unique keys are not there already, and returns columns of them."""
    statement = insert(session, table).on_conflict_do_nothing().returning(*returning)
    connection = await session.connection()
    return (await connection.execute(statement, list(rows))).all()


async def insert_new(session: AsyncSession, table: type[Table], **values: Any) -> bool:
    """Inserts a row; False where a row with the same unique key is there already."""
    return bool(await insert_all(session, table, [values], *inspect(table).primary_key))
