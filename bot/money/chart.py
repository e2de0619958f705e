"""A cost report as a picture: what the instance did by day, and how the quota goes down. PNG or SVG.

It uses matplotlib's objects alone, never pyplot, so that it may run in any thread; it takes up to a second, so it must
not run in the event loop's.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from datetime import date, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findSystemFonts, get_font
from matplotlib.offsetbox import AnchoredOffsetbox, DrawingArea, HPacker, TextArea
from matplotlib.patches import Rectangle

from bot.money.budget import Standing
from bot.money.cost import CostReport, headline
from bot.money.cost_words import CHINESE, ENGLISH, Words, words_for
from bot.money.days import DAY, local_day
from bot.money.quota import Level
from bot.money.report import Line, Period

# Set once and for all, since matplotlib knows no other way: ids that are the same in each run, and text that is text.
mpl.rcParams.update({"svg.hashsalt": "dswbot", "svg.fonttype": "none"})

INCHES, DOTS = (6.0, 4.5), 400
# Of Okabe and Ito, told apart with any kind of sight: used, idle, overhead, unwatched, stopped. Unknown stays blank.
COLOURS = ("#0072B2", "#E69F00", "#CC79A7", "#8A8F98", "#E8EAED")
INK, FAINT, LINE, WARNING = "#22262B", "#6B7280", "#0072B2", "#C2410C"
# Hours that the axis may end at: where it stood still for most of the time, how it ran is still to be seen.
TOPS: dict[Period, tuple[int, ...]] = {"day": (3, 6, 12, 24), "week": (24, 48, 84, 168), "month": (100, 200, 400, 744)}
MOST_NUMBERS, MOST_TICKS, LEAST_BARS = 16, 10, 7
MOST_POINTS = 400
CHINESE_FONTS = ("cjk", "notosanssc", "sourcehansans", "wqy", "simhei", "msyh", "pingfang", "hiragino", "heiti",
                 "droidsansfallback", "lxgw", "uming", "simsun")  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Pen:
    """What is written in. `font`: a file, None for matplotlib's own."""

    words: Words
    font: str | None = None

    def style(self, size: float, colour: str = INK, *, bold: bool = False) -> dict[str, Any]:
        font = FontProperties(fname=self.font) if self.font else FontProperties(weight="bold" if bold else "normal")
        font.set_size(size)
        return {"fontproperties": font, "color": colour}


def draw(report: CostReport, language: str, kind: Literal["png", "svg"]) -> bytes:
    """The picture, of 2400 x 1800 dots where it is a PNG. Chinese where a font has it, else English."""
    pen = _pen(language)
    figure = Figure(figsize=INCHES, dpi=DOTS, facecolor="white")
    FigureCanvasAgg(figure)
    if report.empty:
        figure.text(0.5, 0.5, pen.words.nothing, ha="center", va="center", **pen.style(12, FAINT))
    else:
        _fill(figure, report, pen)
    file = io.BytesIO()
    nameless = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    figure.savefig(file, format=kind, metadata=nameless)
    return file.getvalue()


def _fill(figure: Figure, report: CostReport, pen: _Pen) -> None:
    head = headline(report, pen.words)
    width = sum(2 if char > "\u2e80" else 1 for char in head)
    figure.text(0.07, 0.945, head, **pen.style(min(10.5, 650 / width), bold=True))
    if report.quota is None or not report.levels:
        _bars(figure.add_axes((0.07, 0.1, 0.9, 0.72)), report, pen)
        return
    _bars(figure.add_axes((0.07, 0.455, 0.9, 0.385)), report, pen)
    _quota(figure.add_axes((0.07, 0.075, 0.9, 0.25)), report, report.quota, pen)


def _bars(axes: Axes, report: CostReport, pen: _Pen) -> None:
    lines = report.lines
    hours = [[minutes / 60 for minutes in astuple(line.minutes)] for line in lines]
    bottoms = [0.0] * len(lines)
    for state, colour in enumerate(COLOURS):
        heights = [bar[state] for bar in hours]
        axes.bar(range(len(lines)), heights, 0.74, bottom=bottoms, color=colour, linewidth=0)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    if len(lines) <= MOST_NUMBERS:
        for number, line in enumerate(lines):
            paid = line.minutes.paid / 60
            if paid >= 0.05:
                axes.annotate(
                    _brief(paid), (number, paid), (0, 2), textcoords="offset points", ha="center", **pen.style(7)
                )  # fmt: skip
    middle, width = (len(lines) - 1) / 2, max(len(lines), LEAST_BARS)
    axes.set_xlim(middle - width / 2, middle + width / 2)
    longest = max(line.minutes.paid / 60 for line in lines)
    top = next((top for top in TOPS[report.by] if top > 1.15 * longest), TOPS[report.by][-1])
    axes.set_ylim(0, top)
    _ticks(axes.yaxis, [0, top / 2, top], ["0", f"{top / 2:g}", f"{top:g} h"], pen)
    step = -(-len(lines) // MOST_TICKS)
    shown = range((len(lines) - 1) % step, len(lines), step)
    _ticks(axes.xaxis, shown, [_tick(lines[number].label, pen.words) for number in shown], pen)
    _plain(axes)
    _legend(axes, report.summary.total, pen)


def _brief(hours: float) -> str:
    return f"{hours:.1f}" if hours < 100 else f"{hours:.0f}"


def _tick(label: str, words: Words) -> str:
    if "W" in label:
        return label[5:]
    return (
        words.short_day(date.fromisoformat(label))
        if len(label) > 7
        else words.month_name(date.fromisoformat(label + "-01"))
    )


def _ticks(axis: Any, places: Sequence[float], labels: Sequence[str], pen: _Pen) -> None:
    axis.set_ticks(places, labels, **pen.style(7.5, FAINT))


def _plain(axes: Axes) -> None:
    axes.tick_params(length=0, pad=3)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set(color=FAINT, linewidth=0.6)


def _legend(axes: Axes, total: Line, pen: _Pen) -> None:
    """Each state's colour, name and hours, in a row above the bars."""
    entries: list[Artist] = []
    for name, minutes, colour in zip(pen.words.states, astuple(total.minutes), COLOURS, strict=False):
        if minutes / 60 >= 0.05:
            square = DrawingArea(6, 6)
            square.add_artist(Rectangle((0, 0), 6, 6, facecolor=colour, linewidth=0))
            written = TextArea(f"{name} {_brief(minutes / 60)} h", textprops=pen.style(8))
            entries.append(HPacker(children=[square, written], align="center", pad=0, sep=3))
    row = HPacker(children=entries, align="center", pad=0, sep=11)
    axes.add_artist(
        AnchoredOffsetbox(
            "lower left", child=row, pad=0, borderpad=0, frameon=False, bbox_to_anchor=(0, 1.06),
            bbox_transform=axes.transAxes,
        )
    )  # fmt: skip


def _quota(axes: Axes, report: CostReport, quota: Standing, pen: _Pen) -> None:
    words, start = pen.words, report.levels[0].at

    def days(at: datetime) -> float:
        return (at - start) / DAY

    left, now, end = max(quota.whole - quota.spent, 0.0), days(report.at), days(quota.end)
    levels = [*_thinned(report.levels), Level(report.at, left)]
    xs, ys = [days(level.at) for level in levels], [level.left for level in levels]
    axes.fill_between(xs, ys, color=LINE, alpha=0.12, linewidth=0)
    axes.plot(xs, ys, color=LINE, linewidth=1.6, solid_joinstyle="round")
    axes.plot([now], [left], "o", color=LINE, markersize=4, clip_on=False)
    outlook, colour = "", FAINT
    if not left:
        spent = next(level.at for level in levels if level.left <= 0)
        outlook, colour = words.used_up.format(date=words.day(local_day(spent, report.zone))), WARNING
    elif quota.a_day is not None:
        outlook, colour = _forecast(axes, report, quota, words, days)
    axes.set_title(words.left_head.format(left=left, whole=quota.whole), loc="left", pad=7, **pen.style(8.5))
    axes.set_title(outlook, loc="right", pad=7, **pen.style(8, colour))
    axes.set_xlim(0, end)
    axes.set_ylim(0, quota.whole * 1.02)
    _ticks(axes.yaxis, [0, quota.whole], ["0", f"{quota.whole:.0f}"], pen)
    ticks = [start + number * (quota.end - start) / 4 for number in range(5)]
    _ticks(axes.xaxis, [days(at) for at in ticks], [words.short_day(local_day(at, report.zone)) for at in ticks], pen)
    _plain(axes)


def _forecast(axes: Axes, report: CostReport, quota: Standing, words: Words,
              days: Callable[[datetime], float]) -> tuple[str, str]:  # fmt: skip
    """Dashes at the pace of the last week, down to nothing or to the period's end; returns what that says, and its
    colour."""
    runs_out, left = quota.runs_out(report.at), quota.whole - quota.spent
    until, colour = runs_out or quota.end, WARNING if runs_out else LINE
    falls = left - (quota.a_day or 0.0) * ((until - report.at) / DAY)
    axes.plot(
        [days(report.at), days(until)], [left, falls], color=colour, linewidth=1.2, linestyle=(0, (3, 2)),
        clip_on=False,
    )  # fmt: skip
    if not runs_out:
        return words.lasts, FAINT
    axes.plot([days(until)], [0], "o", color=colour, markersize=4, clip_on=False)
    return words.runs_out.format(date=words.day(local_day(until, report.zone))), colour


def _thinned(levels: Sequence[Level]) -> Sequence[Level]:
    return levels[:: -(-len(levels) // MOST_POINTS)]


def _pen(language: str) -> _Pen:
    words = words_for(language)
    font = chinese_font() if words is CHINESE else None
    return _Pen(ENGLISH) if words is CHINESE and font is None else _Pen(words, font)


@cache
def chinese_font() -> str | None:
    """The file of a font that has Chinese, if this machine has one."""
    files = {file: Path(file).stem.lower().replace("-", "").replace("_", "") for file in sorted(findSystemFonts())}
    likely = (file for name in CHINESE_FONTS for file, stem in files.items() if name in stem and "bold" not in stem)
    return next((file for file in likely if get_font(file).get_char_index(ord("闲"))), None)
