"""What a cost report says in words, English and Chinese. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date


def english_day(day: date) -> str:
    return f"{day.day} {day:%b}"


def chinese_day(day: date) -> str:
    return f"{day.month}月{day.day}日"


def english_span(first: date, last: date) -> str:
    if first.year != last.year:
        return f"{english_day(first)} {first.year} – {english_day(last)} {last.year}"
    if first.month != last.month:
        return f"{english_day(first)} – {english_day(last)}"
    return english_day(last) if first == last else f"{first.day}–{english_day(last)}"


def chinese_span(first: date, last: date) -> str:
    if first.year != last.year:
        return f"{first.year}年{chinese_day(first)}–{last.year}年{chinese_day(last)}"
    if first.month != last.month:
        return f"{chinese_day(first)}–{chinese_day(last)}"
    return chinese_day(last) if first == last else f"{chinese_day(first)}–{last.day}日"


@dataclass(frozen=True, slots=True)
class Words:
    """One language."""

    day: Callable[[date], str]
    span: Callable[[date, date], str]
    compute_hours: str
    joint: str
    unpriced: str
    ran: str
    not_run: str
    disk: str
    billed: str
    replies: str
    stopped: str
    idle: str
    waking: str
    unwatched: str
    unknown: str
    comma: str
    separator: str
    stop: str
    quota: str
    spent: str
    renewed: str
    runs_out: str
    lasts: str
    month: str
    no_budget: str
    trial_over: str
    states: tuple[str, str, str, str, str, str]  # as the fields of report.Minutes
    periods: dict[str, str]
    hours: str
    compute_hours_head: str
    estimated: str
    billed_head: str
    total: str
    conversation: str
    replies_head: str
    short_day: Callable[[date], str]
    month_name: Callable[[date], str]
    nothing: str
    left_head: str
    used_up: str

    def amount(self, compute_hours: float, yuan: float, digits: int = 1) -> str:
        """`12.3 compute-hours + ¥4.50`; only yuan where no quota is touched."""
        parts = [self.compute_hours.format(f"{compute_hours:.{digits}f}")] if compute_hours > 0 else []
        return self.joint.join([*parts, *([f"¥{yuan:.2f}"] if yuan >= 0.005 or not parts else [])])


ENGLISH = Words(
    day=english_day,
    span=english_span,
    compute_hours="{} compute-hours",
    joint=" + ",
    unpriced="an unknown price (set budget.yuan_per_hour)",
    ran="{span}: {hours} h of running for {amount}",
    not_run="{span}: it did not run",
    disk="¥{disk:.2f} for the disk",
    billed="¥{billed:.2f} billed so far",
    replies="replies: {replies}, {amount} each",
    stopped="Stopped for {hours} h",
    idle="Idle for {share:.0f} % of that: {hours} h",
    waking="waking took {hours} h",
    unwatched="unwatched {hours} h",
    unknown="not seen {hours} h",
    comma=", ",
    separator="; ",
    stop=".",
    quota="{left:.1f} of {whole:.0f} compute-hours left until {end}",
    spent="The {whole:.0f} compute-hours are spent",
    renewed="new ones come on {end}",
    runs_out="at the last week's pace they end on {date}",
    lasts="at the last week's pace they last",
    month="¥{left:.2f} of ¥{whole:.0f} left this month",
    no_budget="No budget is known: budget.* sets one",
    trial_over="The free trial ended on {date}",
    states=("used", "idle", "start & save", "unwatched", "stopped", "not seen"),
    periods={"day": "Day", "week": "Week", "month": "Month"},
    hours="Hours by what the GPU did, and what that cost",
    compute_hours_head="compute-\nhours",
    estimated="¥\nestimated",
    billed_head="¥\nbilled",
    total="Total",
    conversation="Dearest conversations",
    replies_head="replies",
    short_day=english_day,
    month_name="{:%b}".format,
    nothing="No figures yet",
    left_head="Compute-hours left: {left:.1f} of {whole:.0f}",
    used_up="used up on {date}",
)

CHINESE = Words(
    day=chinese_day,
    span=chinese_span,
    compute_hours="{} 计算时",
    joint=" + ",
    unpriced="价格未知（请设置 budget.yuan_per_hour）",
    ran="{span}：开机 {hours} 小时，花费 {amount}",
    not_run="{span}：未开机",
    disk="云盘 ¥{disk:.2f}",
    billed="已出账 ¥{billed:.2f}",
    replies="{replies} 条回复，平均每条 {amount}",
    stopped="停机 {hours} 小时",
    idle="其中闲置 {share:.0f}%：{hours} 小时",
    waking="启动耗时 {hours} 小时",
    unwatched="未监测 {hours} 小时",
    unknown="状态不明 {hours} 小时",
    comma="，",
    separator="；",
    stop="。",
    quota="免费额度剩余 {left:.1f} / {whole:.0f} 计算时，{end}到期",
    spent="本期 {whole:.0f} 计算时已用完",
    renewed="{end}更新",
    runs_out="按最近一周的用量，{date}用完",
    lasts="按最近一周的用量够用",
    month="本月预算剩余 ¥{left:.2f} / ¥{whole:.0f}",
    no_budget="没有已知的预算：可用 budget.* 设置",
    trial_over="免费试用已于 {date}结束",
    states=("使用", "闲置", "启停", "未监测", "停机", "不明"),
    periods={"day": "日期", "week": "周", "month": "月份"},
    hours="GPU 各状态的小时数与花费",
    compute_hours_head="计算时",
    estimated="¥\n估算",
    billed_head="¥\n账单",
    total="合计",
    conversation="花费最多的对话",
    replies_head="回复",
    short_day="{0.month}/{0.day}".format,
    month_name="{0.month}月".format,
    nothing="还没有数据",
    left_head="剩余计算时：{left:.1f} / {whole:.0f}",
    used_up="{date}用完",
)


def words_for(language: str) -> Words:
    """Those of a language code; English where it is not Chinese."""
    return CHINESE if language.lower().startswith("zh") else ENGLISH
