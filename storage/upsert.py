"""INSERT … ON CONFLICT DO NOTHING, which both databases know by the same name from different modules."""

from typing import Any

from sqlalchemy import inspect
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from storage.models import Table


async def insert_new(session: AsyncSession, table: type[Table], **values: Any) -> bool:
    """Inserts a row; False where a row with the same unique key is there already."""
    insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    statement = insert(table).values(**values).on_conflict_do_nothing().returning(*inspect(table).primary_key)
    return (await session.execute(statement)).first() is not None
