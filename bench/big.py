"""A database with a million messages in ten thousand conversations: what each step of a turn takes there.

    python -m bench.big [--database sqlite|postgresql] [--messages 1000000] [--postgres URL of an empty database]

Conversations are of uneven size, the largest of 20,000 messages, and 120 days old. Each step is a transaction as the
service makes it, commit included. First 500 messages wait; then 10,000, and as many deliveries, in the worst shapes;
then the oldest tenth of everything is deleted, and a conversation forgotten, while messages come.
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Column, Integer, MetaData, Table, Text, insert, text
from sqlalchemy.ext.asyncio import AsyncSession

from bot.clock import now
from storage import conversations, inbox, migrations, models, outbox, retention, vacuum
from storage.acceptance import Acceptance
from storage.database import Database
from storage.inbox import Incoming, Reply
from storage.models import UtcDateTime
from storage.outbox import NewDelivery

CONVERSATIONS = 10_000
LARGEST = 20_000  # messages of one conversation
AGE = timedelta(days=120)
MANY = 10_000  # of what waits in the worst shapes
TIMES = 300
SLOTS, SENDS = 16, 8  # that are claimed at once
LEASE = timedelta(seconds=15)
EVERY = 0.01  # seconds between two messages that come while others are deleted
QUESTION = "How do I get the logs of a job that has failed on a node that is gone by now? " * 2
ANSWER = "Look at the archive: the agent ships each line as it comes, so what the node wrote is there. " * 6

FILL = (
    """INSERT INTO messages (id, conversation_id, parent_id, role, content, created_at, prompt_tokens, cached_tokens,
                             completion_tokens, model, finish_reason)
       SELECT 2 * turn - 1, room, 2 * earlier, 'user', :question, at, NULL, NULL, NULL, NULL, NULL FROM turns UNION ALL
       SELECT 2 * turn, room, 2 * turn - 1, 'assistant', :answer, at, 90, 60, 40, 'm', 'stop' FROM turns""",
    """INSERT INTO inbox (id, public_id, source, external_id, conversation_id, text, meta, state, fence, attempts,
                          reply_id, created_at, done_at)
       SELECT turn, name, 'webhook:bench', name, room, :question, '', 'done', 1, 0, 2 * turn, at, at FROM turns""",
    """INSERT INTO outbox (id, public_id, inbox_id, channel, destination, lane, payload, state, attempts, failures,
                           next_at, created_at, sent_at)
       SELECT turn, name, turn, 'callback', 'bench', 'webhook:bench:room-' || room, :answer, 'sent', 1, 0, at, at, at
       FROM turns""",
    """INSERT INTO usage (source, conversation_id, model, prompt_tokens, cached_tokens, completion_tokens,
                          finish_reason, started_at, finished_at)
       SELECT 'webhook:bench', room, 'm', 90, 60, 40, 'stop', at, at FROM turns""",
)
TURNS = Table(
    "turns", MetaData(), Column("turn", Integer, primary_key=True), Column("room", Integer), Column("earlier", Integer),
    Column("name", Text), Column("at", UtcDateTime), prefixes=["TEMPORARY"],
)  # fmt: skip


def key(room: int) -> str:
    return f"webhook:bench:room-{room}"


def incoming(room: int) -> Incoming:
    return Incoming("webhook:bench", models.public_id("key"), key(room), QUESTION)


def delivery(lane: str) -> NewDelivery:
    return NewDelivery("callback", "bench", lane, ANSWER)


def rooms(turns: int, chance: random.Random) -> list[int]:
    """Whose each turn is: few conversations have many."""
    weights = [chance.paretovariate(1.2) for _ in range(CONVERSATIONS - 1)]
    left = turns - LARGEST // 2
    sizes = [LARGEST // 2, *(max(1, round(left * weight / sum(weights))) for weight in weights)]
    drawn = [room for room, size in enumerate(sizes, 1) for _ in range(size)]
    chance.shuffle(drawn)
    return drawn


def planned(turns: int) -> list[dict[str, object]]:
    drawn, newest = rooms(turns, random.Random(7)), dict[int, int]()
    first = now() - AGE
    rows: list[dict[str, object]] = []
    for turn, room in enumerate(drawn, 1):
        at = first + AGE * (turn / (len(drawn) + 1))
        name = models.public_id("old")
        rows.append({"turn": turn, "room": room, "earlier": newest.get(room), "name": name, "at": at})
        newest[room] = turn
    return rows


async def fill(db: Database, messages: int) -> None:
    """Rows as the service leaves them. The database makes them itself from a list of turns, which is quick."""
    began = time.monotonic()
    opened = [{"key": key(room), "created_at": now() - AGE} for room in range(1, CONVERSATIONS + 1)]
    async with db.connection() as connection:
        await connection.execute(insert(models.Conversation), opened)
        await connection.run_sync(TURNS.create)
        await connection.execute(insert(TURNS), planned(messages // 2))
        for statement in FILL:
            await connection.execute(text(statement), {"question": QUESTION, "answer": ANSWER})
        if db.dialect == "postgresql":
            for table in ("messages", "inbox", "outbox"):
                renumber = f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))"
                await connection.execute(text(renumber))
        await connection.run_sync(TURNS.drop)
    async with db.connection() as connection:
        await connection.execute(text("ANALYZE"))
    print(f"  filled in {time.monotonic() - began:.0f} s")


class Watch:
    """Runs transactions and prints how long they took."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.chance = random.Random(11)
        self._taken: dict[str, list[float]] = {}

    def room(self) -> int:
        return self.chance.randint(1, CONVERSATIONS)

    def note(self, name: str, seconds: float) -> None:
        self._taken.setdefault(name, []).append(1e3 * seconds)

    @asynccontextmanager
    async def step(self, name: str, *, reads: bool = False) -> AsyncIterator[AsyncSession]:
        began = time.perf_counter()
        async with self.db.read() if reads else self.db.write() as session:
            yield session
        self.note(name, time.perf_counter() - began)

    def report(self) -> None:
        for name, taken in self._taken.items():
            taken.sort()
            shown = [taken[min(int(share * len(taken)), len(taken) - 1)] for share in (0.5, 0.95, 0.99, 1)]
            print(f"  {name:<62}" + "".join(f"{value:>8.2f}" for value in shown), flush=True)
        self._taken.clear()


async def accept(db: Database, wanted: Sequence[Incoming]) -> None:
    for start in range(0, len(wanted), 256):
        async with db.write() as session:
            await inbox.accept(session, wanted[start : start + 256], now())


async def ordinary(watch: Watch) -> None:
    """What happens all the time."""
    await accept(watch.db, [incoming(watch.room()) for _ in range(500)])
    await turns(watch, "500 wait", 100)
    await deliveries(watch, "few wait", 100)
    for _ in range(TIMES):
        async with watch.step("a commit of one row alone: the disk") as session:
            await session.execute(text("UPDATE conversations SET system_prompt = NULL WHERE id = 1"))
        for name, room in (("a conversation", watch.room()), ("the one of 20,000 messages", 1)):
            async with watch.step(f"open {name} and read its history", reads=True) as session:
                found = await conversations.open_conversations(session, [key(room)], now())
                await conversations.history(session, found[key(room)])
        async with watch.step("accept a message") as session:
            (accepted,) = await inbox.accept(session, [incoming(watch.room())], now())
        async with watch.step("where a message stands", reads=True) as session:
            message = await inbox.by_public_id(session, accepted.public_id)
            assert message
            await inbox.status(session, message.id)
    for _ in range(TIMES):
        async with watch.step("accept 64 at once") as session:
            await inbox.accept(session, [incoming(watch.room()) for _ in range(64)], now())


async def turns(watch: Watch, shape: str, times: int) -> None:
    for _ in range(times):
        async with watch.step(f"claim up to {SLOTS}: {shape}") as session:
            claims = await inbox.claim(session, "bench", now(), LEASE, channels=["webhook"], limit=SLOTS)
        for claim in claims:
            reply = Reply(ANSWER, None, "m", "stop", 90, 60, 40, now(), now())
            async with watch.step(f"append question and answer: {shape}") as session:
                await inbox.finish(session, claim, reply, [delivery(claim.conversation_key)], now())


async def deliveries(watch: Watch, shape: str, times: int, **options: Sequence[tuple[str, str]]) -> None:
    for _ in range(times):
        async with watch.step(f"claim up to {SENDS} deliveries: {shape}") as session:
            due = await outbox.claim_due(session, "bench", now(), LEASE, channels=["callback"], limit=SENDS, **options)
        for one in due:
            async with watch.step(f"note that one was sent: {shape}") as session:
                await outbox.mark_sent(session, one, None, now())


async def clear(db: Database) -> None:
    async with db.connection() as connection:
        for statement in ("DELETE FROM outbox WHERE state <> 'sent'", "DELETE FROM drafts",
                          "DELETE FROM inbox WHERE state IN ('queued', 'claimed')"):  # fmt: skip
            await connection.execute(text(statement))


async def crowded(watch: Watch) -> None:
    """Shapes in which a queue could be walked in vain."""
    one, each = [incoming(1) for _ in range(MANY)], [incoming(room) for room in range(1, CONVERSATIONS + 1)]
    for shape, wanted in {"10,000 in one conversation": one, "10,000 conversations": each, "both": one + each}.items():
        await clear(watch.db)
        await accept(watch.db, wanted)
        await turns(watch, shape, 50)
    lanes = [delivery(key(room)) for room in range(1, CONVERSATIONS + 1)]
    for shape, planned_ in {"10,000 lanes": lanes, "10,000 in one lane": [delivery("one")] * MANY}.items():
        await clear(watch.db)
        for start in range(0, MANY, 1000):
            async with watch.db.write() as session:
                await outbox.add(session, planned_[start : start + 1000], now())
        await deliveries(watch, shape, 50)
        await deliveries(watch, f"{shape}, the receiver has enough", 50, full=[("callback", "bench")])
    async with watch.db.write() as session:
        (head,) = await outbox.claim_due(session, "bench", now(), LEASE, channels=["callback"], limit=SENDS)
        await outbox.mark_retry(session, head, now() + AGE, "later")
    await deliveries(watch, "10,000 behind one that is put off", 50)
    await clear(watch.db)


async def meanwhile(watch: Watch, name: str, work: Coroutine[object, object, object]) -> None:
    """How long acceptances take while something else is done, and how long that takes."""
    began, acceptance = time.monotonic(), Acceptance(watch.db)
    busy, calls = asyncio.create_task(work), set[asyncio.Task[None]]()

    async def call() -> None:
        at = time.perf_counter()
        await acceptance.accept(incoming(watch.room()), now())
        watch.note(f"accept a message {name}", time.perf_counter() - at)

    while not busy.done():
        calls.add(asyncio.create_task(call()))
        await asyncio.sleep(EVERY)
    await asyncio.gather(*calls)
    watch.report()
    print(f"    {busy.result()} in {time.monotonic() - began:.0f} s{size(watch.db)}")


async def deleting(watch: Watch) -> None:
    await meanwhile(watch, "while nothing else is done", asyncio.sleep(5))
    await meanwhile(watch, "while a tenth is deleted", retention.expire(watch.db, now() - 0.9 * AGE))
    await meanwhile(watch, "while free pages are given back", vacuum.reclaim(watch.db))
    await meanwhile(watch, "while the largest conversation is forgotten", retention.forget(watch.db, key(1), now()))


def size(db: Database) -> str:
    return f"; the file has {db.file.stat().st_size / 2**20:,.0f} MiB" if db.file else ""


async def one(name: str, url: str, messages: int) -> None:
    print(f"{name}, {messages:,} messages in {CONVERSATIONS:,} conversations")
    async with Database(url) as db:
        await migrations.upgrade(db)
        await fill(db, messages)
        print(f"  {'milliseconds' + size(db):<62}{'p50':>8}{'p95':>8}{'p99':>8}{'worst':>8}")
        watch = Watch(db)
        for phase in (ordinary, crowded):
            await phase(watch)
            watch.report()
        await deleting(watch)


async def everything(database: str, messages: int, postgres: str) -> None:
    if database in ("", "sqlite"):
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            await one("SQLite", f"sqlite+aiosqlite:///{folder}/big.db", messages)
    if database == "postgresql" or (postgres and not database):
        await one("PostgreSQL", postgres, messages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="", help="only one of them")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--postgres", default="", help="an empty database")
    options = parser.parse_args()
    if options.database == "postgresql" and not options.postgres:
        parser.error("--database postgresql needs --postgres")
    asyncio.run(everything(options.database, options.messages, options.postgres))


if __name__ == "__main__":
    main()
