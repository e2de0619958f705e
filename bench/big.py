"""A database with a million messages in ten thousand conversations: what each step of a turn takes there.

    python -m bench.big [--messages 1000000] [--postgres postgresql+asyncpg://user@host/database]

Conversations are of uneven size, the largest of 20,000 messages; 500 messages wait, and then 10,000 in one
conversation alone. Each step is a transaction as the service makes it, commit included.
"""

import argparse
import asyncio
import itertools
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from bot.clock import now
from storage import conversations, inbox, migrations, models, outbox
from storage.database import Database
from storage.inbox import Claim, Incoming, Reply
from storage.outbox import NewDelivery

CONVERSATIONS = 10_000
LARGEST = 20_000  # messages of one conversation
TIMES = 300
LEASE = timedelta(seconds=15)
QUESTION = "How do I get the logs of a job that has failed on a node that is gone by now? " * 2
ANSWER = "Look at the archive: the agent ships each line as it comes, so what the node wrote is there. " * 6

FILL = (
    """INSERT INTO messages (id, conversation_id, role, content, created_at)
       SELECT 2 * turn - 1, room, 'user', :question, c.created_at FROM turns JOIN conversations c ON c.id = room""",
    """INSERT INTO messages (id, conversation_id, parent_id, role, content, created_at, prompt_tokens, cached_tokens,
                             completion_tokens, model, finish_reason)
       SELECT 2 * turn, room, 2 * turn - 1, 'assistant', :answer, c.created_at, 90, 60, 40, 'm', 'stop'
       FROM turns JOIN conversations c ON c.id = room""",
    """INSERT INTO inbox (id, public_id, source, external_id, conversation_id, text, meta, state, fence, attempts,
                          reply_id, created_at, done_at)
       SELECT turn, 'msg_' || turn, 'webhook:bench', 'old-' || turn, room, :question, '', 'done', 1, 0, 2 * turn,
              c.created_at, c.created_at FROM turns JOIN conversations c ON c.id = room""",
    """INSERT INTO outbox (id, public_id, inbox_id, channel, destination, lane, payload, state, attempts, failures,
                           next_at, created_at, sent_at)
       SELECT turn, 'dlv_' || turn, turn, 'callback', 'bench', c.key, :answer, 'sent', 1, 0, c.created_at,
              c.created_at, c.created_at FROM turns JOIN conversations c ON c.id = room""",
    """INSERT INTO usage (source, conversation_id, model, prompt_tokens, cached_tokens, completion_tokens,
                          finish_reason, started_at, finished_at)
       SELECT 'webhook:bench', room, 'm', 90, 60, 40, 'stop', c.created_at, c.created_at
       FROM turns JOIN conversations c ON c.id = room""",
)

numbers = itertools.count()
Step = Callable[[AsyncSession], Awaitable[object]]


def key(number: int) -> str:
    return f"webhook:bench:room-{number}"


def sizes(messages: int, chance: random.Random) -> list[int]:
    """How many questions each conversation has: few have many."""
    weights = [chance.paretovariate(1.2) for _ in range(CONVERSATIONS - 1)]
    left = messages // 2 - LARGEST // 2
    return [LARGEST // 2, *(max(1, round(left * weight / sum(weights))) for weight in weights)]


async def fill(db: Database, messages: int) -> None:
    """Rows as the service leaves them. The database makes them itself from a list of turns, which is quick."""
    chance, began = random.Random(7), time.monotonic()
    rooms = [room for room, count in enumerate(sizes(messages, chance), 1) for _ in range(count)]
    chance.shuffle(rooms)
    turns = [{"turn": turn, "room": room} for turn, room in enumerate(rooms, 1)]
    async with db.write() as session:
        for name in range(1, CONVERSATIONS + 1):
            session.add(models.Conversation(key=key(name), created_at=now() - timedelta(days=90)))
        await session.execute(text("CREATE TEMPORARY TABLE turns (turn INTEGER PRIMARY KEY, room INTEGER NOT NULL)"))
        await session.execute(text("INSERT INTO turns VALUES (:turn, :room)"), turns)
        for statement in FILL:
            await session.execute(text(statement), {"question": QUESTION, "answer": ANSWER})
        if db.dialect == "postgresql":
            for table in ("messages", "inbox", "outbox"):
                renumber = f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))"
                await session.execute(text(renumber))
        await session.execute(text("DROP TABLE turns"))
    async with db.write() as session:
        await session.execute(text("ANALYZE"))
    print(f"  filled in {time.monotonic() - began:.0f} s")


def incoming(room: int) -> Incoming:
    number = next(numbers)
    return Incoming("webhook:bench", f"new-{number}", key(room), QUESTION)


def fresh(group: list[Incoming]) -> list[Incoming]:
    return [replace(one, external_id=f"new-{next(numbers)}") for one in group]


class Measure:
    """Runs steps as transactions and prints how long they took."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._chance = random.Random(11)

    def room(self) -> int:
        return self._chance.randint(1, CONVERSATIONS)

    async def times(self, steps: dict[str, Callable[[], Step]], *, reads: bool = False, times: int = TIMES) -> None:
        """Runs the steps in turn; each makes the work of one transaction."""
        taken: dict[str, list[float]] = {name: [] for name in steps}
        for _, (name, step) in itertools.product(range(times), steps.items()):
            work = step()
            began = time.perf_counter()
            async with self._db.read() if reads else self._db.write() as session:
                await work(session)
            taken[name].append(1e3 * (time.perf_counter() - began))
        for name, values in taken.items():
            values.sort()
            p50, p95, p99 = (values[int(share * len(values))] for share in (0.5, 0.95, 0.99))
            print(f"  {name:<58}{p50:>8.2f}{p95:>8.2f}{p99:>8.2f}", flush=True)


def opening(room: int) -> Step:
    async def step(session: AsyncSession) -> None:
        found = await conversations.open_conversations(session, [key(room)], now())
        await conversations.history(session, found[key(room)])

    return step


async def measure(db: Database) -> None:
    """The steps of a turn, in its order."""
    watch, claims, sent = Measure(db), list[Claim](), list[outbox.Delivery]()
    print(f"  {'milliseconds':<58}{'p50':>8}{'p95':>8}{'p99':>8}")
    group = [incoming(watch.room()) for _ in range(64)]

    async def claim(session: AsyncSession) -> None:
        claims.extend(await inbox.claim(session, "bench", now(), LEASE, channels=["webhook"]))

    async def finish(session: AsyncSession) -> None:
        claimed = claims.pop()
        reply = Reply(ANSWER, None, "m", "stop", 90, 60, 40, now(), now())
        deliveries = [NewDelivery("callback", "bench", claimed.conversation_key, ANSWER)]
        await inbox.finish(session, claimed, reply, deliveries, now())

    async def due(session: AsyncSession) -> None:
        sent.extend(await outbox.claim_due(session, "bench", now(), LEASE, channels=["callback"], limit=1))

    def note() -> Step:
        return lambda session: outbox.mark_sent(session, sent.pop(), None, now())

    await watch.times({"a commit of one row alone: the disk": lambda: commit_alone})
    await watch.times({"open a conversation and read its history": lambda: opening(watch.room())}, reads=True)
    await watch.times({"the same for the one of 20,000 messages": lambda: opening(1)}, reads=True)
    await watch.times(
        {"accept a message": lambda: lambda session: inbox.accept(session, [incoming(watch.room())], now())}
    )
    await watch.times({"accept 64 at once": lambda: lambda session: inbox.accept(session, fresh(group), now())})
    await watch.times(
        {
            "claim one of 19,500 that wait": lambda: claim,
            "append question and answer, with delivery and usage": lambda: finish,
            "claim a delivery": lambda: due,
            "note that it was sent": note,
        }
    )
    await watch.times(
        {"where a message stands": lambda: lambda session: inbox.status(session, watch.room())}, reads=True
    )
    async with db.write() as session:
        await session.execute(text("UPDATE inbox SET state = 'done' WHERE state = 'queued'"))
        await inbox.accept(session, [incoming(1) for _ in range(10_000)], now())
    await watch.times(
        {"claim where 10,000 wait in one conversation": lambda: claim, "and append there": lambda: finish}, times=50
    )
    rooms = [NewDelivery("callback", "bench", key(room), "{}") for room in range(1, CONVERSATIONS + 1)]
    async with db.write() as session:
        await outbox.add(session, rooms, now())
    await watch.times({"claim a delivery where 10,000 lanes are due": lambda: due, "and note it": note}, times=50)
    async with db.write() as session:
        await session.execute(text("UPDATE outbox SET lane = 'one' WHERE state = 'planned'"))
    await watch.times({"claim a delivery where 10,000 wait in one lane": lambda: due, "and note it ": note}, times=50)


async def commit_alone(session: AsyncSession) -> None:
    await session.execute(text("UPDATE conversations SET system_prompt = NULL WHERE id = 1"))


async def one(name: str, url: str, messages: int) -> None:
    print(f"{name}, {messages:,} messages in {CONVERSATIONS:,} conversations")
    async with Database(url) as db:
        await migrations.upgrade(db)
        await fill(db, messages)
        await measure(db)
        if db.file:
            print(f"  the file has {db.file.stat().st_size / 2**20:,.0f} MiB")


async def everything(messages: int, postgres: str) -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        await one("SQLite", f"sqlite+aiosqlite:///{folder}/big.db", messages)
    if postgres:
        await one("PostgreSQL", postgres, messages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--postgres", default="", help="an empty database to measure beside SQLite")
    options = parser.parse_args()
    asyncio.run(everything(options.messages, options.postgres))


if __name__ == "__main__":
    main()
