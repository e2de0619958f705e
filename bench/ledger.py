"""Thirty simulated days on the DSW API's fake: what the ledger says they cost, beside what the fake charged.

    python -m bench.ledger [--seed N] [--days N]

The instance is started, stopped, saved and left alone at random, by others too; the service looks every four minutes,
is down for hours and days, and calls fail. Nothing of what the fake bills is known to the ledger but what the real SDK
reads from it.
"""

import argparse
import asyncio
import contextlib
import random
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from alibabacloud_credentials.client import Client
from alibabacloud_credentials.models import Config

from bot.config import Dsw as Settings
from bot.money.accounts import Terms
from bot.money.cost import Books, load
from bot.money.dsw import Dsw
from bot.money.instance import CallFailed, View
from bot.money.market import EVERY, Markets
from bot.money.outlook import ledger_state
from bot.money.situation import State
from storage import migrations, money
from storage.database import Database
from storage.timeline import Segment
from tests.fakes.dsw import Clock, FakeDsw

START = datetime(2026, 10, 3, 1, tzinfo=UTC)
LOOK = timedelta(minutes=4)
GAP = timedelta(minutes=5)
INSTANCE = "dsw-bench"
FAILS = 0.02  # of the looks
DOWN = 0.004  # of the looks begin a time without the service


@dataclass(frozen=True, slots=True)
class Result:
    """Both sides, in yuan and in compute-hours."""

    ledger: tuple[float, float]
    billed: tuple[float, float]
    starts: int
    hours_down: float

    @property
    def error(self) -> float:
        """The larger of both, as a share of the bill."""
        return max(abs(ours - theirs) / theirs for ours, theirs in zip(self.ledger, self.billed, strict=True) if theirs)


async def simulate(seed: int, days: int, folder: Path) -> Result:
    luck, clock = random.Random(seed), Clock(START)
    starts, hours_down = 0, 0.0
    async with contextlib.AsyncExitStack() as stack:
        fake = await stack.enter_async_context(FakeDsw(clock=clock))
        machine = fake.add(INSTANCE, status="Stopped")
        db = await stack.enter_async_context(Database(f"sqlite+aiosqlite:///{folder / 'ledger.db'}"))
        await migrations.upgrade(db)
        key = fake.key
        credential = Client(Config(type="access_key", access_key_id=key.id, access_key_secret=key.secret))
        settings = Settings(instance_id=INSTANCE, region="cn-hangzhou", endpoint=fake.address, protocol="http")
        cloud = Dsw(settings, credential=credential, now=clock)
        terms = Terms()
        markets = Markets(db, INSTANCE, cloud, terms)
        end = START + timedelta(days=days)
        while clock() < end:
            machine.settle(clock())
            if machine.status == "Stopped" and luck.random() < 0.02:
                machine.start(clock())
                starts += 1
            elif machine.status == "Running" and luck.random() < 0.01:
                machine.stop(clock(), save=luck.random() < 0.3)
            if luck.random() < DOWN:
                away = timedelta(hours=luck.choice((1, 3, 9, 30)))
                hours_down += away / timedelta(hours=1)
                clock.advance(away)
                markets = Markets(db, INSTANCE, cloud, terms)
            elif luck.random() >= FAILS:
                await look(db, cloud, markets, clock())
            clock.advance(LOOK * luck.uniform(0.7, 1.2))
        if machine.status == "Running":
            machine.stop(clock())
        clock.advance(timedelta(minutes=30))
        await look(db, cloud, Markets(db, INSTANCE, cloud, terms), clock())
        clock.advance(EVERY)
        await look(db, cloud, markets, clock())
        async with db.read() as session:
            books = await load(session, terms, clock(), START.date())
        bill = fake.account.bill
        return Result(summed(books, terms, clock()), (bill.yuan, bill.compute_hours), starts, hours_down)


async def look(db: Database, cloud: Dsw, markets: Markets, at: datetime) -> None:
    """As the idle watch does."""
    try:
        view = await cloud.view()
    except CallFailed:
        view = View(None)
    await markets.refresh(view.spec, at)
    segment = Segment(INSTANCE, ledger_state(State.ACTIVE, view.status, idle=False), at, at, price=markets.now.price)
    async with db.write() as session:
        await money.observe(session, segment, GAP)


def summed(books: Books, terms: Terms, at: datetime) -> tuple[float, float]:
    charges = books.account(terms, at).charges
    return sum(one.yuan for one in charges), sum(one.compute_hours for one in charges)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--days", type=int, default=30)
    options, _ = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(simulate(options.seed, options.days, Path(folder)))
    print(f"seed {options.seed}, {options.days} days, {result.starts} starts, service down {result.hours_down:.0f} h")
    print(f"{'':10}{'yuan':>12}{'compute-hours':>16}")
    for name, (yuan, hours) in (("ledger", result.ledger), ("billed", result.billed)):
        print(f"{name:10}{yuan:12.2f}{hours:16.2f}")
    print(f"largest difference: {result.error:.2%}")


if __name__ == "__main__":
    main()
