"""The ledger: segments of the instance's time, the free quota, and what was billed.

Segments of one instance never overlap and leave no gap: only `observe` and `rebuild` write them, one at a time, and
what nobody saw is a segment of its own. They are kept for good.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from storage import models
from storage.timeline import Lived, Price, Segment, corrected
from storage.upsert import insert, insert_new

LOCK = 0x64737763  # PostgreSQL's advisory lock for segments: "dswc"
BATCH = 500  # rows that one statement deletes


@dataclass(frozen=True, slots=True)
class Quota:
    """How many compute-hours were left of the free quota. `starts_at`, `ends_at`: of the free trial."""

    at: datetime
    initial: float
    remaining: float
    unit: str = "CU*H"
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    source: str = "GetUserConfig"


@dataclass(frozen=True, slots=True)
class Billed:
    """What Alibaba charged for a day, by its own account."""

    instance: str
    day: date
    yuan: float
    source: str
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class Answer:
    """When one answer was written, and in which conversation, or for which key where none was kept."""

    conversation: str
    started_at: datetime
    finished_at: datetime


async def observe(session: AsyncSession, seen: Segment, gap: timedelta) -> None:
    """Goes on with the instance's newest segment up to `seen.ended_at`, when it was looked at.

    `seen.started_at`: since when it has been in that state, as far as is known; before that, back to the last look, it
    was in its former one. Where nobody looked for longer than `gap`, nobody knows what it did.
    """
    await _one_at_a_time(session)
    now = seen.ended_at
    newest = await _newest(session, seen.instance)
    if newest is not None and newest.ended_at - now > gap:  # the clock was ahead: that time is yet to come
        await _cut(session, seen.instance, now)
        newest = await _newest(session, seen.instance)
    if newest is None:
        session.add(_row(replace(seen, started_at=now)))
    elif now - newest.ended_at > gap:
        _go_on(session, newest, Segment(seen.instance, "unknown", newest.ended_at, now))
        session.add(_row(replace(seen, started_at=now)))
    elif now > newest.ended_at:
        _go_on(session, newest, replace(seen, started_at=max(newest.ended_at, min(seen.started_at, now))))
    await session.flush()


def _go_on(session: AsyncSession, newest: models.Segment, seen: Segment) -> None:
    if _segment(newest).like(seen):
        newest.ended_at = seen.ended_at
    elif newest.started_at == seen.started_at:  # it was seen only once
        for name, value in _columns(seen).items():
            setattr(newest, name, value)
    else:
        newest.ended_at = seen.started_at
        if seen.started_at < seen.ended_at:
            session.add(_row(seen))


async def rebuild(session: AsyncSession, instance: str, lived: Sequence[Lived], price: Price, now: datetime) -> int:
    """Corrects segments by the instance's life as DSW tells it, and fills what was missed at `price`.

    Returns how many are new; 0 where all was as DSW says.
    """
    if not lived:
        return 0
    await _one_at_a_time(session)
    rows = await _since(session, instance, min(one.started_at for one in lived))
    known = {_segment(row): row.id for row in rows}
    right = corrected(instance, list(known), lived, price, now)
    fresh = [segment for segment in right if segment not in known]
    wrong = [known[segment] for segment in known.keys() - set(right)]
    for first in range(0, len(wrong), BATCH):
        await session.execute(delete(models.Segment).where(models.Segment.id.in_(wrong[first : first + BATCH])))
    session.add_all(_row(segment) for segment in fresh)
    await session.flush()
    return len(fresh)


async def _since(session: AsyncSession, instance: str, start: datetime) -> list[models.Segment]:
    """The segments since then and the one before: it may reach beyond, and between may be what was missed."""
    table = models.Segment
    mine = select(table).where(table.instance == instance)
    before = mine.where(table.started_at < start).order_by(table.started_at.desc()).limit(1)
    later = mine.where(table.started_at >= start).order_by(table.started_at)
    return [row for query in (before, later) for row in await session.scalars(query)]


async def _one_at_a_time(session: AsyncSession) -> None:
    """Until this transaction ends nobody else writes segments; on SQLite nobody writes anything."""
    if session.get_bind().dialect.name == "postgresql":
        await session.execute(select(func.pg_advisory_xact_lock(LOCK)))


async def _newest(session: AsyncSession, instance: str) -> models.Segment | None:
    query = select(models.Segment).where(models.Segment.instance == instance)
    return await session.scalar(query.order_by(models.Segment.started_at.desc()).limit(1))


async def _cut(session: AsyncSession, instance: str, now: datetime) -> None:
    table = models.Segment
    await session.execute(delete(table).where(table.instance == instance, table.started_at >= now))
    beyond = update(table).where(table.instance == instance, table.ended_at > now)
    await session.execute(beyond.values(ended_at=now).execution_options(synchronize_session="fetch"))


def _columns(segment: Segment) -> dict[str, object]:
    price = segment.price
    return {
        "instance": segment.instance, "session": segment.session, "state": segment.state,
        "started_at": segment.started_at, "ended_at": segment.ended_at, "spec": price.spec,
        "yuan_per_hour": price.yuan_per_hour, "compute_hours_per_hour": price.compute_hours_per_hour,
        "price_source": price.source, "priced_at": price.seen_at, "rebuilt": segment.rebuilt,
    }  # fmt: skip


def _row(segment: Segment) -> models.Segment:
    return models.Segment(**_columns(segment))


def _segment(row: models.Segment) -> Segment:
    price = Price(row.spec, row.yuan_per_hour, row.compute_hours_per_hour, row.price_source, row.priced_at)
    return Segment(row.instance, row.state, row.started_at, row.ended_at, row.session, price, row.rebuilt)


async def segments(session: AsyncSession, since: datetime, instance: str | None = None) -> list[Segment]:
    """Those that ended later, whole, in order; of all instances where none is named."""
    query = select(models.Segment).where(models.Segment.ended_at > since)
    if instance is not None:
        query = query.where(models.Segment.instance == instance)
    return [_segment(row) for row in await session.scalars(query.order_by(models.Segment.started_at))]


async def note_quota(session: AsyncSession, quota: Quota) -> None:
    """Notes what is left; once for each moment and source."""
    await insert_new(session, models.QuotaSnapshot, **asdict(quota))


async def quotas(session: AsyncSession, since: datetime) -> list[Quota]:
    """What was left since then, and the last time before, in order."""
    table = models.QuotaSnapshot
    before = select(func.max(table.at)).where(table.at < since).scalar_subquery()
    rows = await session.scalars(select(table).where((table.at >= since) | (table.at == before)).order_by(table.at))
    return [Quota(row.at, row.initial, row.remaining, row.unit, row.starts_at, row.ends_at, row.source) for row in rows]


async def note_billed(session: AsyncSession, billed: Iterable[Billed]) -> None:
    """Notes what days cost; a later account replaces an earlier one."""
    for day in billed:
        row = insert(session, models.BilledDay).values(**asdict(day))
        newer = {name: row.excluded[name] for name in ("yuan", "source", "seen_at")}
        connection = await session.connection()
        await connection.execute(row.on_conflict_do_update(index_elements=["instance", "day"], set_=newer))


async def billed_days(session: AsyncSession, since: date) -> list[Billed]:
    table = models.BilledDay
    rows = await session.scalars(select(table).where(table.day >= since).order_by(table.day, table.instance))
    return [Billed(row.instance, row.day, row.yuan, row.source, row.seen_at) for row in rows]


async def answers(session: AsyncSession, since: datetime) -> list[Answer]:
    """The answers that ended since then, in order."""
    usage, conversation = models.Usage, models.Conversation
    query = (
        select(usage.started_at, usage.finished_at, usage.source, usage.key_name, conversation.key)
        .outerjoin(conversation, conversation.id == usage.conversation_id)
        .where(usage.finished_at >= since)
        .order_by(usage.finished_at)
    )
    return [
        Answer(key or (f"{source}:{name}" if name else source), min(start, end), end)  # where the clock was set back
        for start, end, source, name, key in await session.execute(query)
    ]


async def raised(session: AsyncSession, kinds: Iterable[str]) -> frozenset[tuple[str, str]]:
    """(kind, key) of the alerts of these kinds that were raised."""
    query = select(models.Alert.kind, models.Alert.key).where(models.Alert.kind.in_(list(kinds)))
    return frozenset((kind, key) for kind, key in await session.execute(query))
