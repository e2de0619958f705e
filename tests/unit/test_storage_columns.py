"""Times mean the same on both databases."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy.dialects import postgresql, sqlite

from storage.models import UtcDateTime

BOTH = pytest.mark.parametrize("dialect", [sqlite.dialect(), postgresql.dialect()], ids=lambda dialect: dialect.name)
NOON = datetime(2026, 1, 1, 12, 30, 0, 123456, tzinfo=timezone(timedelta(hours=8)))


@BOTH
def test_a_time_comes_back_as_the_same_moment_in_utc(dialect) -> None:
    column = UtcDateTime()
    back = column.process_result_value(column.process_bind_param(NOON, dialect), dialect)
    assert (back, back.tzinfo) == (NOON, UTC)


def test_what_sqlite_keeps_is_utc() -> None:
    kept = UtcDateTime().process_bind_param(NOON, sqlite.dialect())
    assert kept == datetime(2026, 1, 1, 4, 30, 0, 123456)  # noqa: DTZ001 - SQLite keeps no zone


@BOTH
def test_no_time_stays_none(dialect) -> None:
    assert UtcDateTime().process_bind_param(None, dialect) is None
    assert UtcDateTime().process_result_value(None, dialect) is None


@BOTH
def test_a_time_without_a_zone_is_refused(dialect) -> None:
    with pytest.raises(ValueError, match="zone"):
        UtcDateTime().process_bind_param(datetime(2026, 1, 1), dialect)  # noqa: DTZ001
