"""Days and months where the operator is; their length follows daylight saving there. All times in UTC."""

from calendar import monthrange
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo

DAY = timedelta(days=1)
CHINA = timezone(timedelta(hours=8))  # whose days and months the cloud's bills and free quotas have


def local_day(at: datetime, zone: tzinfo) -> date:
    return at.astimezone(zone).date()


def day_start(day: date, zone: tzinfo) -> datetime:
    """Where daylight saving skips midnight, the first moment after it."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def midnights(first: datetime, last: datetime, zone: tzinfo) -> Iterator[datetime]:
    """The starts of the days from the first moment's to the last one's."""
    day = local_day(first, zone)
    while (start := day_start(day, zone)) <= last:
        yield start
        day += DAY


def month_start(at: datetime, zone: tzinfo) -> datetime:
    return day_start(local_day(at, zone).replace(day=1), zone)


def next_month(at: datetime, zone: tzinfo) -> datetime:
    """Its start."""
    return day_start((local_day(at, zone).replace(day=28) + 5 * DAY).replace(day=1), zone)


def month_later(at: datetime, zone: tzinfo) -> datetime:
    """The start of the same day of the next month, or of its last where it is shorter."""
    day, following = local_day(at, zone), local_day(next_month(at, zone), zone)
    last = monthrange(following.year, following.month)[1]
    return day_start(following.replace(day=min(day.day, last)), zone)
