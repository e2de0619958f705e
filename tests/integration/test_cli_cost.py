"""`dswbot cost` on a real database, as it is run."""

import asyncio
import csv
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bot.cli import app
from storage import ledger, migrations, money
from storage.database import Database
from storage.money import Billed
from storage.timeline import Price, Segment
from tests.service import DSWBOT, clean_environment

ASK_FOR_HELP = """
import atexit, sys
sys.argv = ["dswbot", "cost", "--help"]
heavy = {"sqlalchemy", "matplotlib", "numpy", "aiohttp", "msgspec"}
atexit.register(lambda: print("heavy:", sorted(heavy & set(sys.modules))))
from bot.__main__ import main
main()
"""
NOW = datetime.now(UTC)
A10 = Price("A10", 10.0, 7.0, "specs")


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory of its own, with the settings' defaults."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSWBOT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("DSWBOT_IDLE__TIMEZONE", "UTC")
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path / "data"


async def fill(data: Path, parts: list[Segment], *, billed: Sequence[Billed] = (), answers: bool = True) -> None:
    data.mkdir()
    start = parts[0].started_at
    async with Database(f"sqlite+aiosqlite:///{data / 'dswbot.db'}") as db:
        await migrations.upgrade(db)
        async with db.write() as session:
            session.add_all(money._row(one) for one in parts)
            await money.note_billed(session, billed)
            spent = ledger.Usage("openai", "m", 1, 0, 1, "stop", start, start + timedelta(minutes=1), key_name="ci")
            if answers:
                await ledger.record_usage(session, spent)


@pytest.fixture
def used(data: Path) -> Path:
    """Yesterday it was used for an hour and a half, and idle for half an hour; a bill has come."""
    start = (NOW - timedelta(days=1)).replace(hour=9, minute=0, second=0, microsecond=0)
    end = start + timedelta(minutes=90)
    parts = [Segment("i", "used", start, end, 1, A10), Segment("i", "idle", end, end + timedelta(minutes=30), 1, A10)]
    asyncio.run(fill(data, parts, billed=[Billed("i", start.date(), 12.34, "bss", NOW)]))
    return data


@pytest.fixture
def stopped(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Yesterday it was stopped for ten hours, and its disk was paid for; no bill has come."""
    monkeypatch.setenv("DSWBOT_BUDGET__DISK_YUAN_PER_HOUR", "0.3")
    start = (NOW - timedelta(days=1)).replace(hour=9, minute=0, second=0, microsecond=0)
    asyncio.run(fill(data, [Segment("i", "stopped", start, start + timedelta(hours=10))], answers=False))
    return data


def cost(*arguments: str) -> str:
    found = CliRunner().invoke(app, ["cost", *arguments])
    assert found.exit_code == 0, found.output
    return found.output


def refused(*arguments: str) -> str:
    """The one line that an error is, as the process writes it."""
    found = subprocess.run([DSWBOT, "cost", *arguments], check=False, capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stderr.count("\n")) == (1, 1)
    return found.stderr


@pytest.mark.usefixtures("used")
def test_the_table_has_a_line_a_day_and_three_of_summary():
    lines = cost().splitlines()
    yesterday = f"{NOW - timedelta(days=1):%Y-%m-%d}"
    (line,) = [line.split() for line in lines if line.startswith(yesterday)]
    assert line == [yesterday, "1.5", "0.5", "–", "14.0", "–", "12.34"]
    (total,) = [line.split() for line in lines if line.startswith("Total")]
    assert total[1:] == line[1:]
    assert any(line.split() == ["openai:ci", "1", "0.12", "–"] for line in lines)
    assert "2.0 h of running for 14.0 compute-hours; ¥12.34 billed so far" in lines[-3]
    assert lines[-2].startswith("Idle for 25 % of that: 0.5 h, 3.5 compute-hours")
    assert "compute-hours left until" in lines[-1] or "new ones come on" in lines[-1]


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_table_fits_a_terminal_of_80_columns(language):
    table = cost("--lang", language).splitlines()[:-3]
    assert table
    assert max(len(line) for line in table) <= 80
    assert not any("…" in line for line in table)


@pytest.mark.usefixtures("used")
def test_the_language_is_that_of_the_bot_if_none_is_given(monkeypatch: pytest.MonkeyPatch):
    assert "合计" in cost("--lang", "zh")
    monkeypatch.setenv("DSWBOT_TELEGRAM__LANGUAGE", "zh-CN")
    assert "合计" in cost()
    assert "Total" in cost("--lang", "en")


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize("by", ["week", "month"])
def test_lines_may_be_of_weeks_or_months(by):
    start = NOW - timedelta(days=1)
    label = f"{start:%Y-%m}" if by == "month" else f"{start.isocalendar().year}-W{start.isocalendar().week:02d}"
    assert any(line.split()[:3] == [label, "1.5", "0.5"] for line in cost("--by", by).splitlines())


@pytest.mark.usefixtures("used")
def test_it_writes_a_table_for_spreadsheets_and_pictures(tmp_path: Path):
    files = [tmp_path / name for name in ("cost.csv", "cost.png", "cost.svg")]
    said = cost("--csv", str(files[0]), "--png", str(files[1]), "--svg", str(files[2]))
    assert all(f"{file} is written." in said.replace("\n", "") for file in files)
    with files[0].open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["used_hours"], rows[0]["compute_hours"], rows[0]["yuan_billed"]) == ("1.5000", "14.0000", "12.34")
    assert rows[-1]["yuan_billed"] == ""
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in files[2].read_bytes()


@pytest.mark.usefixtures("stopped")
def test_a_stopped_instances_disk_is_in_the_table_and_the_file(tmp_path: Path):
    lines = cost("--csv", str(tmp_path / "cost.csv")).splitlines()
    yesterday = f"{NOW - timedelta(days=1):%Y-%m-%d}"
    assert [line.split() for line in lines if line.startswith(yesterday)] == [[yesterday, "–", "–", "–", "–", "3.00"]]
    assert "billed" not in "\n".join(lines)
    assert any("it did not run; ¥3.00 for the disk." in line for line in lines)
    with (tmp_path / "cost.csv").open(encoding="utf-8-sig") as file:
        row = next(csv.DictReader(file))
    assert (row["stopped_hours"], row["yuan_estimated"], row["yuan_billed"]) == ("10.0000", "3.00", "")


@pytest.mark.usefixtures("used")
def test_since_leaves_out_what_was_before():
    assert "There are no figures since" in cost("--since", f"{NOW:%Y-%m-%d}")
    assert "Total" in cost("--since", "0001-01-01")  # the ledger begins later


def test_without_figures_it_says_when_they_appear(data: Path):
    said = cost()
    assert said.count("\n") == 1
    assert "the first appear a minute after `dswbot serve` has begun to watch the GPU" in said
    assert not data.exists()  # it only reads


@pytest.mark.parametrize("day", ["yesterday", "2026-02-30", "2999-01-01"])
def test_a_bad_date_is_one_line_that_says_how_to_write_it(day):
    assert refused("--since", day) == "dswbot: --since is a day that has come, written as 2026-11-24.\n"


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize("option", ["--csv", "--png", "--svg"])
def test_a_file_that_can_not_be_written_is_named(option, tmp_path: Path):
    target = tmp_path / "nowhere" / "file"
    assert refused(option, str(target)) == (
        f"dswbot: {target} can't be written (No such file or directory): name a file in a directory of yours.\n"
    )


def test_help_loads_neither_the_database_nor_the_drawing():
    """It must answer within half a second."""
    found = subprocess.run(
        [sys.executable, "-c", ASK_FOR_HELP],
        check=True,
        capture_output=True,
        text=True,
        env=clean_environment(),
    )
    assert "--since" in found.stdout
    assert found.stdout.splitlines()[-1] == "heavy: []"
