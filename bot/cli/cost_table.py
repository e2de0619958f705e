"""A cost report as tables: for the terminal, and for spreadsheets."""

import csv
import io
from dataclasses import astuple
from typing import Any

from rich import box
from rich.table import Table

from bot.money.cost import CostReport
from bot.money.cost_words import words_for
from bot.money.report import Line

FIELDS = (
    "period", "used_hours", "idle_hours", "start_and_save_hours", "unwatched_hours", "stopped_hours",
    "not_seen_hours", "compute_hours", "yuan_estimated", "yuan_billed",
)  # fmt: skip
STOPPED = 4  # among the states


def periods(report: CostReport, language: str) -> Table:
    """A line for each period and one for all; columns that would be empty are left out."""
    words, whole = words_for(language), report.summary.total
    shown = [
        number for number, minutes in enumerate(astuple(whole.minutes))
        if number != STOPPED and (minutes or number < 3)
    ]  # fmt: skip
    table = _table(title=words.hours, title_style="dim", title_justify="left", show_footer=True, footer_style="bold")
    table.add_column(words.periods[report.by], words.total, no_wrap=True)
    for number in shown:
        head, sum_ = words.states[number].replace(" ", "\n", 1), _hours(astuple(whole.minutes)[number])
        table.add_column(head, sum_, justify="right")
    table.add_column(words.compute_hours_head, _amount(whole.compute_hours, 1), justify="right")
    table.add_column(words.estimated, _yuan(whole), justify="right")
    if whole.billed is not None:
        table.add_column(words.billed_head, _billed(whole), justify="right")
    for one in report.lines:
        minutes = astuple(one.minutes)
        cells = [one.label, *(_hours(minutes[number]) for number in shown), _amount(one.compute_hours, 1), _yuan(one)]
        table.add_row(*cells, *([_billed(one)] if whole.billed is not None else []))
    return table


def conversations(report: CostReport, language: str) -> Table:
    """What the dearest took of the time in which they were answered."""
    words = words_for(language)
    table = _table()
    table.add_column(words.conversation, overflow="ellipsis", no_wrap=True)
    for head in (words.replies_head, words.compute_hours_head, words.estimated):
        table.add_column(head, justify="right")
    for talk in report.talks:
        table.add_row(talk.conversation, str(talk.replies), _amount(talk.compute_hours, 2), _amount(talk.yuan, 2))
    return table


def comma_separated(report: CostReport) -> bytes:
    """A line for each period. What is not known is empty. With the mark by which Excel knows UTF-8."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(FIELDS)
    for one in report.lines:
        hours = [f"{minutes / 60:.4f}" for minutes in astuple(one.minutes)]
        billed = "" if one.billed is None else f"{one.billed:.2f}"
        yuan = f"{one.yuan:.2f}" if one.priced else ""
        writer.writerow([one.label, *hours, f"{one.compute_hours:.4f}", yuan, billed])
    return file.getvalue().encode("utf-8-sig")


def _table(**looks: Any) -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, **looks)


def _hours(minutes: float) -> str:
    return _amount(minutes / 60, 1)


def _amount(number: float, digits: int) -> str:
    return f"{number:.{digits}f}" if number else "–"


def _yuan(line: Line) -> str:
    return _amount(line.yuan, 2) if line.priced else "?"


def _billed(line: Line) -> str:
    return "–" if line.billed is None else f"{line.billed:.2f}"
