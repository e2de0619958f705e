"""What Alibaba charged, read by its own client from a strict fake of its billing, and kept in the ledger."""

import asyncio
import csv
import gc
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alibabacloud_credentials.client import Client as Credential
from alibabacloud_credentials.models import Config as CredentialConfig
from structlog.testing import capture_logs
from typer.testing import CliRunner

from bot.cli import app
from bot.errors import ConfigError
from bot.money import billing
from bot.money.billing import AGAIN, REACH, Billing, complete, days_due
from bot.money.bss import Bss
from bot.money.days import DAY
from bot.money.instance import CallFailed
from storage import migrations, money
from storage.database import Database
from storage.errors import StorageError
from storage.money import Billed
from storage.timeline import Price, Segment
from tests.fakes.bss import ABROAD, DENIED, OPERATION, FakeBss
from tests.fakes.dsw import Clock
from tests.fakes.dsw_faults import HANG, THROTTLED, Fault

HOUR = timedelta(hours=1)
TODAY = date(2026, 11, 24)
NOON = datetime(2026, 11, 24, 4, tzinfo=UTC)  # in China
YESTERDAY = TODAY - DAY


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON)


@pytest.fixture
async def bss(clock: Clock) -> AsyncIterator[FakeBss]:
    async with FakeBss(clock=clock) as fake:
        yield fake
    gc.collect()  # a session that was left open warns now


@pytest.fixture
def bills(bss: FakeBss) -> Bss:
    return client(bss)


def client(bss: FakeBss, *, patience: float = 10.0, endpoint: str = "", secret: str = "") -> Bss:
    key = CredentialConfig(type="access_key", access_key_id=bss.key.id, access_key_secret=secret or bss.key.secret)
    return Bss(endpoint=endpoint or bss.address, protocol="http", credential=Credential(key), patience=patience)


async def billed(db: Database) -> list[tuple[date, float]]:
    async with db.read() as session:
        return [(one.day, one.yuan) for one in await money.billed_days(session, date(2026, 1, 1))]


async def failure(bills: Bss, instance: str = "dsw-1") -> str:
    with pytest.raises(CallFailed) as caught:
        await bills.charged(instance, YESTERDAY)
    told = str(caught.value)
    assert "\n" not in told
    assert caught.value.__cause__ is None
    return told


# The bill


async def test_a_days_rows_are_added_up(bss: FakeBss, bills: Bss) -> None:
    for product, yuan in (("learn", 9.74), ("PAI", 0.5), ("learn", -0.24)):  # a refund
        bss.charge("dsw-1", YESTERDAY, yuan, product=product)
    bss.charge("dsw-2", YESTERDAY, 100.0)
    assert await bills.charged("dsw-1", YESTERDAY) == pytest.approx(10.0)
    assert await bills.charged("dsw-1", YESTERDAY - DAY) is None
    assert bss.asked[0] == {
        "BillingCycle": "2026-11", "BillingDate": "2026-11-23", "Granularity": "DAILY", "InstanceID": "dsw-1",
        "MaxResults": "300",
    }  # fmt: skip


async def test_all_pages_are_read(bss: FakeBss, bills: Bss) -> None:
    for _ in range(650):
        bss.charge("dsw-1", YESTERDAY, 0.01)
    assert await bills.charged("dsw-1", YESTERDAY) == pytest.approx(6.5)
    assert [bool(query.get("NextToken")) for query in bss.asked] == [False, True, True]


async def test_pages_that_come_again_and_again_are_none(bss: FakeBss, bills: Bss) -> None:
    bss.faults.until_healed(OPERATION, Fault(body=b'{"Success": true, "Data": {"Items": [], "NextToken": "a"}}'))
    assert "again and again" in await failure(bills)


@pytest.mark.parametrize(
    ("row", "yuan"),
    [
        ({"PretaxAmount": 2}, 2.0),
        ({"PretaxAmount": "2.50"}, 2.5),
        ({"PretaxAmount": 2.0, "BillingDate": None}, 2.0),
        ({"PretaxAmount": 2.0, "BillingDate": "2026-11-22"}, None),
        ({"PretaxAmount": 2.0, "InstanceID": "dsw-2"}, None),
        ({"PretaxAmount": None}, "the bill tells 'None' where an amount should be"),
        ({"PretaxAmount": True}, "the bill tells 'True' where an amount should be"),
        ({"PretaxAmount": "NaN"}, "the bill tells 'NaN' where an amount should be"),
        ({"PretaxAmount": 2.0, "Currency": "USD"}, "the bill is in USD: only yuan are understood"),
    ],
)
async def test_rows_are_read_strictly(bss: FakeBss, bills: Bss, row: dict[str, Any], yuan: float | str | None) -> None:
    item = {"InstanceID": "dsw-1", "BillingDate": "2026-11-23", "Currency": "CNY"} | row
    bss.faults.until_healed(OPERATION, Fault(says={"Data": {"Items": [item]}}))
    if isinstance(yuan, str):
        assert yuan in await failure(bills)
    else:
        assert await bills.charged("dsw-1", YESTERDAY) == yuan


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'{"Success": true}', b'{"Success": true, "Data": {"Items": {"Item": []}}}',
             b'{"Success": true, "Data": {"Items": [1]}}']
)  # fmt: skip
async def test_what_is_no_bill_is_not_believed(bss: FakeBss, bills: Bss, body: bytes) -> None:
    bss.charge("dsw-1", YESTERDAY, 1.0)
    bss.faults.once(OPERATION, Fault(body=body))
    assert "can't be read" in await failure(bills)
    assert await bills.charged("dsw-1", YESTERDAY) == 1.0


async def test_a_day_without_rows_has_no_bill(bss: FakeBss, bills: Bss) -> None:
    bss.faults.once(OPERATION, Fault(body=b'{"Success": true, "Data": {"Items": null, "NextToken": null}}'))
    assert await bills.charged("dsw-1", YESTERDAY) is None


MISSING = "allow the action bssapi:DescribeInstanceBill on the resource * to the RAM user or role"


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (DENIED, f"refused DescribeInstanceBill (NotAuthorized): {MISSING}"),
        (Fault(400, "NoPermission"), f"refused DescribeInstanceBill (NoPermission): {MISSING}"),
        (Fault(200, "NotAuthorized"), f"refused DescribeInstanceBill (NotAuthorized): {MISSING}"),
        (ABROAD, "refused DescribeInstanceBill (NotApplicable): it is for accounts of aliyun.com"),
        (THROTTLED, "refused DescribeInstanceBill (Throttling.User)"),
        (Fault(500, "InternalError", "sorry"), "refused DescribeInstanceBill (InternalError): sorry"),
    ],
)
async def test_a_refusal_names_the_cure(bss: FakeBss, bills: Bss, fault: Fault, told: str) -> None:
    bss.faults.once(OPERATION, fault)
    assert told in await failure(bills)


async def test_what_does_not_answer_is_named(bss: FakeBss) -> None:
    assert "the access key's secret is wrong" in await failure(client(bss, secret="wrong"))
    bss.faults.once(OPERATION, HANG)
    assert "did not answer DescribeInstanceBill within 0.2 s" in await failure(client(bss, patience=0.2))
    assert "127.0.0.1:9 can't be reached" in await failure(client(bss, endpoint="127.0.0.1:9"))


# Which days


@pytest.mark.parametrize(
    ("at", "day"),
    [
        (datetime(2026, 11, 23, 18, 59, 59, tzinfo=UTC), date(2026, 11, 22)),  # 2:59:59 in China
        (datetime(2026, 11, 23, 19, tzinfo=UTC), date(2026, 11, 23)),
        (NOON, YESTERDAY),
    ],
)
def test_a_day_is_complete_three_hours_after_it(at: datetime, day: date) -> None:
    assert complete(at) == day


def test_the_last_three_days_are_read_again_and_what_was_missed() -> None:
    assert list(days_due(YESTERDAY, YESTERDAY)) == [YESTERDAY - 2 * DAY, YESTERDAY - DAY, YESTERDAY]
    assert list(days_due(YESTERDAY, YESTERDAY - DAY)) == list(days_due(YESTERDAY, YESTERDAY))
    assert days_due(YESTERDAY, YESTERDAY - 10 * DAY)[0] == YESTERDAY - 9 * DAY
    assert len(days_due(YESTERDAY, None)) == len(days_due(YESTERDAY, date(2026, 1, 1))) == REACH
    assert len(days_due(YESTERDAY, TODAY + DAY)) == AGAIN  # the clock was ahead then


# The ledger


async def test_days_land_in_the_ledger_and_are_corrected(bss: FakeBss, bills: Bss, db: Database, clock: Clock) -> None:
    for day, yuan in ((YESTERDAY - 40 * DAY, 1.0), (YESTERDAY - DAY, 5.0), (YESTERDAY, 7.0), (TODAY, 9.0)):
        bss.charge("dsw-1", day, yuan)
    kept = Billing(db, "dsw-1", bills, clock)
    following = await kept.look(clock())
    assert await billed(db) == [(YESTERDAY - DAY, 5.0), (YESTERDAY, 7.0)]
    assert following == datetime(2026, 11, 24, 19, tzinfo=UTC)
    assert len(bss.asked) == REACH
    bss.charge("dsw-1", YESTERDAY, 0.5)  # late
    clock.now = following
    assert await kept.look(clock()) == following + DAY
    assert await billed(db) == [(YESTERDAY - DAY, 5.0), (YESTERDAY, 7.5), (TODAY, 9.0)]
    assert [query["BillingDate"] for query in bss.asked[REACH:]] == ["2026-11-22", "2026-11-23", "2026-11-24"]


async def test_a_bill_of_another_instance_is_no_reason_to_read_less(
    bss: FakeBss, bills: Bss, sqlite_db: Database
) -> None:
    async with sqlite_db.write() as session:
        await money.note_billed(session, [Billed("dsw-2", YESTERDAY, 1.0, "bss", NOON)])
    await Billing(sqlite_db, "dsw-1", bills).look(NOON)
    assert len(bss.asked) == REACH


async def test_a_refusal_is_logged_once_and_tried_a_day_later(bss: FakeBss, bills: Bss, sqlite_db: Database) -> None:
    bss.charge("dsw-1", YESTERDAY, 7.0)
    bss.faults.until_healed(OPERATION, DENIED)
    kept = Billing(sqlite_db, "dsw-1", bills)
    with capture_logs() as logs:
        assert await kept.look(NOON) == NOON + DAY
        assert await kept.look(NOON + DAY) == NOON + 2 * DAY
    (line,) = logs
    assert "bssapi:DescribeInstanceBill" in line["reason"]
    bss.faults.until_healed(OPERATION, Fault(500, "InternalError"))
    assert await kept.look(NOON) == NOON + HOUR
    bss.faults.heal()
    await kept.look(NOON)
    assert await billed(sqlite_db) == [(YESTERDAY, 7.0)]
    bss.faults.until_healed(OPERATION, DENIED)
    with capture_logs() as logs:
        await kept.look(NOON)
    assert len(logs) == 1


async def test_a_database_that_is_away_stops_nothing(
    bills: Bss, sqlite_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise StorageError("away")

    monkeypatch.setattr(money, "billed_days", away)
    with capture_logs() as logs:
        assert await Billing(sqlite_db, "dsw-1", bills).look(NOON) == NOON + HOUR
    assert [line["reason"] for line in logs] == ["away"]


async def test_the_loop_looks_when_it_is_time(
    bss: FakeBss, bills: Bss, sqlite_db: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(billing, "EVERY", 0.001)
    bss.charge("dsw-1", YESTERDAY, 7.0)
    looks: list[datetime] = []
    kept = Billing(sqlite_db, "dsw-1", bills, clock)
    real = kept.look

    async def look(at: datetime) -> datetime:
        following = await real(at)
        looks.append(at)
        return following

    monkeypatch.setattr(kept, "look", look)
    running = asyncio.create_task(kept.run())
    for moment in (NOON, NOON + 15 * HOUR, NOON - 5 * DAY):  # the clock is set back at last
        clock.now = moment
        async with asyncio.timeout(5):
            while moment not in looks:
                await asyncio.sleep(0.002)
        await asyncio.sleep(0.02)
    running.cancel()
    assert looks == [NOON, NOON + 15 * HOUR, NOON - 5 * DAY]


def test_a_bill_needs_an_instance(bills: Bss, sqlite_db: Database) -> None:
    with pytest.raises(ConfigError, match=r"set dsw\.instance_id"):
        Billing(sqlite_db, "", bills)


# What is printed


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Used for an hour on each of the last days, of which three are billed."""

    async def fill() -> None:
        start = now.replace(hour=2, minute=0, second=0, microsecond=0)
        price = Price("A10", 10.0, None, "specs")
        async with FakeBss(late=3 * HOUR) as bss, Database(f"sqlite+aiosqlite:///{tmp_path / 'dswbot.db'}") as db:
            await migrations.upgrade(db)
            async with db.write() as session:
                for ago in range(1, 7):
                    begun = start - ago * DAY
                    session.add(money._row(Segment("dsw-1", "used", begun, begun + HOUR, ago, price)))
            for ago in (3, 4, 5):
                bss.charge("dsw-1", (start - ago * DAY).date(), 9.5)
            await Billing(db, "dsw-1", client(bss)).look(now)

    now = datetime.now(UTC)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSWBOT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    asyncio.run(fill())
    return tmp_path


def test_the_bill_stands_beside_the_estimate(ledger: Path) -> None:
    found = CliRunner().invoke(app, ["cost", "--csv", str(ledger / "cost.csv")])
    assert found.exit_code == 0, found.output
    (total,) = [line.split() for line in found.output.splitlines() if line.startswith("Total")]
    assert total[-2:] == ["60.00", "28.50"]
    with (ledger / "cost.csv").open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [(row["yuan_estimated"], row["yuan_billed"]) for row in rows][:4] == [
        ("10.00", ""), ("10.00", "9.50"), ("10.00", "9.50"), ("10.00", "9.50"),
    ]  # fmt: skip
