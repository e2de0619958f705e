"""`dswbot cost`: what the instance has cost, as a table, a file for a spreadsheet, or a picture."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bot.cli.runner import run, settings
from bot.errors import DswbotError

if TYPE_CHECKING:
    from datetime import date, datetime

    from bot.money.accounts import Terms
    from bot.money.cost import CostReport
    from bot.money.report import Period


class By(StrEnum):
    """How much time a line of the table is of."""

    day = "day"
    week = "week"
    month = "month"


class Language(StrEnum):
    """Of the table, the summary and the chart."""

    en = "en"
    zh = "zh"


class DateInvalid(DswbotError):
    """--since is a day that has come, written as 2026-11-24."""


def cost(
    *,
    by: Annotated[By, typer.Option(help="A line for each.")] = By.day,
    since: Annotated[str, typer.Option(metavar="DATE", show_default=False, help="The first day: 2026-11-24.")] = "",
    csv: Annotated[Path | None, typer.Option(metavar="FILE", show_default=False, help="Write the table here.")] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", show_default=False, help="Draw a chart here.")] = None,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", show_default=False, help="Draw a chart here.")] = None,
    lang: Annotated[Language | None, typer.Option(show_default=False, help="telegram.language if not given.")] = None,
) -> None:
    """Show what the GPU has cost, how much of that it was idle, and what is left."""
    from bot.clock import now
    from bot.money.accounts import Terms
    from bot.money.cost import usual
    from bot.money.days import local_day

    chosen = settings()
    terms, at = Terms.of(chosen.budget, chosen.idle.timezone), now()
    today = local_day(at, terms.zone)
    first = _day(since, today) if since else usual(today, by.value)
    report = run(_report(chosen.database_url, terms, at, by.value, first))
    language = lang or chosen.telegram.language
    _print(report, language)
    if csv:
        from bot.cli.cost_table import comma_separated

        _write(csv, comma_separated(report))
    if png or svg:
        from bot.money.chart import draw

        if png:
            _write(png, draw(report, language, "png"))
        if svg:
            _write(svg, draw(report, language, "svg"))


async def _report(url: str, terms: "Terms", at: "datetime", by: "Period", first: "date") -> "CostReport":
    """Changes nothing: where there is no database yet, there are no figures."""
    from bot.money.cost import NO_BOOKS, cost_report, report
    from storage import migrations
    from storage.database import Database
    from storage.errors import DatabaseMissing

    try:
        async with Database(url, create=False) as database:
            await migrations.check(database)
            async with database.read() as session:
                return await cost_report(session, terms, at, by=by, first=first)
    except DatabaseMissing:
        return report(NO_BOOKS, terms, at, by=by, first=first)


def _day(text: str, today: "date") -> "date":
    from datetime import date

    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise DateInvalid from None
    if day > today:
        raise DateInvalid
    return max(day, date(2000, 1, 1))


def _print(report: "CostReport", language: str) -> None:
    from rich.console import Console

    from bot.cli.cost_table import conversations, periods
    from bot.money.cost import three_lines

    if report.empty:
        typer.echo(
            f"There are no figures since {report.first}: the first appear a minute after `dswbot serve` has begun to "
            "watch the GPU; --since DATE shows older ones."
        )
        return
    console = Console(highlight=False)
    console.print(periods(report, language), "")
    if report.talks:
        console.print(conversations(report, language), "")
    console.print(three_lines(report, language), soft_wrap=not console.is_terminal)


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise DswbotError(f"{path} can't be written ({error.strerror}): name a file in a directory of yours.") from None
    typer.echo(f"{path} is written.")
