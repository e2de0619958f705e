"""A notice in words: English, Chinese, or both. Pure.

Each language has a table of lines for each kind. A line is given in several wordings, the fullest first: the first one
whose every figure is known is taken, and a line of which none can be filled is left out.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, tzinfo

from bot.money.notice import Amount, Left, Notice
from bot.money.wording_en import ENGLISH
from bot.money.wording_table import Line, Words
from bot.money.wording_zh import CHINESE

FIELD = re.compile(r"{(\w+)}")
REASON_MOST = 160  # characters
NAME_MOST = 40
MARK = "\0"  # follows a time; the first one of a text is told with its zone

Figures = Mapping[str, str | None]


def text(notice: Notice, language: str, zone: tzinfo) -> str:
    """A few lines, times in `zone`. `language`: en, zh; any other means both, English first."""
    return "\n\n".join(_text(notice, words, zone) for words in _chosen(language))


def title(notice: Notice, language: str) -> str:
    """One short line, without times."""
    return " / ".join(_filled(words.titles[notice.kind], _figures(notice, words, None)) for words in _chosen(language))


def with_links(body: str, links: Iterable[tuple[str, str]], language: str) -> str:
    """The text, and below it a line for each (choice, address)."""
    chosen = _chosen(language)
    lines = [f"{' / '.join(words.links[choice] for words in chosen)}: {address}" for choice, address in links]
    return "\n".join([body, "", *lines]) if lines else body


def duration(span: timedelta, units: tuple[str, str, str, str]) -> str:
    """`3 d 4 h`, `2 h 5 min`, `15 min`, `40 s`."""
    hours, rest = divmod(max(int(span.total_seconds()), 0), 3600)
    days, hours = divmod(hours, 24) if hours >= 48 else (0, hours)
    minutes, seconds = divmod(rest, 60)
    counted = list(zip((days, hours, 0 if days else minutes), units, strict=False))
    return " ".join(f"{count} {unit}" for count, unit in counted if count) or f"{seconds} {units[-1]}"


def _chosen(language: str) -> tuple[Words, ...]:
    return {"en": (ENGLISH,), "zh": (CHINESE,)}.get(language[:2].lower(), (ENGLISH, CHINESE))


def _text(notice: Notice, words: Words, zone: tzinfo) -> str:
    figures = _figures(notice, words, zone)
    lines = (_filled(line, figures) for line in words.lines[notice.kind])
    whole = "\n".join(line for line in lines if line)
    return whole.replace(MARK, f" ({zone})", 1).replace(MARK, "")


def _filled(line: Line, figures: Figures) -> str:
    for wording in line:
        if all(figures[field] is not None for field in FIELD.findall(wording)):
            return wording.format_map(figures)
    return ""


def _figures(notice: Notice, words: Words, zone: tzinfo | None) -> Figures:
    """What the wordings may name, None where it is not known. Some are empty: they only say when a wording is right."""
    at, left = notice.at, notice.left or Left()
    idle = at - notice.idle_since if notice.idle is None and notice.idle_since else notice.idle
    since = at - idle if notice.idle_since is None and idle is not None else notice.idle_since
    hourly = _amount(notice.hourly, words)

    def moment(when: datetime | None) -> str | None:
        return _moment(when, at, zone, words) if when and zone else None

    def span(time: timedelta | None) -> str | None:
        return None if time is None else duration(time, words.units)

    return {
        **_names(notice, words),
        "at": moment(at), "since": moment(since), "idle": span(idle), "up": span(notice.up),
        "deadline": moment(notice.deadline), "within": span(notice.deadline - at if notice.deadline else None),
        "ends": moment(notice.deadline or left.until), "until": moment(left.until),
        "cost": _amount(notice.cost, words), "hourly": hourly, "unpriced": None if hourly else "",
        "left": _amount(Amount(left.yuan, left.compute_hours), words, digits=1),
        "saved": _amount(notice.saved, words), "saved_time": span(notice.saved_time),
        "setting": None if notice.idle is None else f"{notice.idle / timedelta(minutes=1):.0f}m",
        "share": None if notice.share is None else f"{notice.share * 100:.0f} %",
        "stoppable": "" if notice.stoppable else None, "fixed": None if notice.stoppable else "",
    }  # fmt: skip


def _names(notice: Notice, words: Words) -> Figures:
    name = _plain(notice.instance, NAME_MOST)
    gpu, inside = (words.gpu.format(name),) * 2 if name else words.nameless
    budget = _plain(notice.budget, NAME_MOST)
    return {
        "gpu": gpu, "the_gpu": inside, "name": words.gpu.format(name).strip(),
        "budget": words.budgets.get(budget, budget) or None, "period": _plain(notice.period, NAME_MOST) or None,
        "reason": _plain(notice.reason, REASON_MOST).rstrip(".。") or None,
    }  # fmt: skip


def _plain(said: str, most: int) -> str:
    """On one line, not longer than that."""
    line = " ".join("".join(char if char.isprintable() else " " for char in said).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def _amount(amount: Amount | None, words: Words, *, digits: int = 2) -> str | None:
    """`digits`: of compute-hours."""
    amount = amount or Amount()
    parts = [] if amount.yuan is None else [f"¥{max(amount.yuan, 0):.2f}"]
    if amount.compute_hours is not None:
        parts.append(f"{max(amount.compute_hours, 0):.{digits}f} {words.compute_hours}")
    return words.joint.join(parts) or None


def _moment(when: datetime, at: datetime, zone: tzinfo, words: Words) -> str:
    """`02:14`, with the day where that is not the notice's."""
    local, here = when.astimezone(zone), at.astimezone(zone)
    if local.date() == here.date():
        return f"{local:%H:%M}{MARK}"
    return local.strftime(words.other_day if local.year == here.year else words.other_year) + MARK
