"""The figures of a run, those of several put together, and the table."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import msgspec

from bench.engines import percentile
from bench.torture import checks, telegram_checks
from bench.torture.checks import Index
from bench.torture.failpoints import ALL
from bench.torture.history import Violation
from bench.torture.recovery import Recovery, recoveries
from bench.torture.telegram_checks import Chats

CHECKS: tuple[Callable[[Index], Iterator[Violation]], ...] = (
    checks.unanswered, checks.lost, checks.unknown_messages, checks.doubled_rows, checks.stray_answers,
    checks.doubled_replies, checks.doubled_callbacks, checks.order, checks.order_of_callbacks, checks.dead_letters,
    checks.processes, checks.noted,
)  # fmt: skip
OF_CHATS: tuple[Callable[[Chats], Iterator[Violation]], ...] = (
    telegram_checks.answers, telegram_checks.extra, telegram_checks.unexcused, telegram_checks.order,
)  # fmt: skip


class Summary(msgspec.Struct):
    """What is printed of a run."""

    seconds: float
    counts: dict[str, int]
    kinds: dict[str, int]  # violations
    reached: dict[str, int]  # failpoints
    recoveries: list[Recovery]
    loads: list[float]
    starts: list[float]
    stops: list[float]
    violations: list[Violation]


def violations(index: Index) -> list[Violation]:
    """All that is wrong with a history."""
    found = [violation for check in CHECKS for violation in check(index)]
    chats = Chats(index)
    found += [violation for check in OF_CHATS for violation in check(chats)]
    return [*found, *telegram_checks.manners(index.history)]


def summarised(index: Index, seconds: float) -> Summary:
    history = index.history
    found = violations(index)
    return Summary(
        seconds=seconds,
        counts=_counts(index),
        kinds=dict(Counter(violation.kind for violation in found)),
        reached=dict(Counter(life.reached for life in history.lives if life.reached)),
        recoveries=recoveries(history),
        loads=[life.model_seconds for life in history.lives if life.model_seconds],
        starts=[life.ready - life.started for life in history.lives if life.ready],
        stops=[life.stop_seconds for life in history.lives if life.how == "SIGTERM"],
        violations=found,
    )


def _counts(index: Index) -> dict[str, int]:
    history, chats = index.history, Chats(index)
    ends = Counter(life.how.partition(" ")[0] for life in history.lives)
    posts = Counter(post.webhook_id for post in history.posts)
    return {
        "kill -9 of the service": ends["kill"] + ends["failpoint"],
        "  of these at a failpoint": ends["failpoint"],
        "  of these before it was ready": sum(not life.ready for life in history.lives),
        "kill -9 of the worker": len(history.worker_kills),
        "SIGTERM": ends["SIGTERM"],
        **{f"trouble: {kind}": count for kind, count in sorted(Counter(t.kind for t in history.troubles).items())},
        "trouble: calls to Telegram": sum(bool(call.fault) for call in history.calls),
        "messages": len(history.asks),
        **{f"  {mode}": count for mode, count in sorted(Counter(ask.mode for ask in history.asks).items())},
        "  that can't be answered": sum(ask.hopeless for ask in history.asks),
        "accepted": sum(index.accepted(ask) for ask in history.asks),
        "replies stored": sum(message.role == "assistant" for message in history.messages),
        "claims of one message, at most": max((row.fence for row in history.inbox), default=0),
        "callbacks: tries": len(history.posts),
        "callbacks: redeliveries with the same id": sum(count - 1 for count in posts.values()),
        "Telegram: uncertain sends": len(telegram_checks.uncertain(history)),
        "Telegram: '…' left behind": len(telegram_checks.placeholders(chats)),
        "Telegram: answers shown above an earlier one": len(telegram_checks.shown_out_of_order(chats)),
    }


def merged(summaries: Sequence[Summary]) -> Summary:
    """Several shards' as one: sums, but of what is `at most`."""
    counts: dict[str, int] = {}
    for summary in summaries:
        for name, count in summary.counts.items():
            known = counts.get(name, 0)
            counts[name] = max(known, count) if "at most" in name else known + count
    return Summary(
        seconds=max(summary.seconds for summary in summaries),
        counts=counts,
        kinds=_sum([summary.kinds for summary in summaries]),
        reached=_sum([summary.reached for summary in summaries]),
        recoveries=[one for summary in summaries for one in summary.recoveries],
        loads=[one for summary in summaries for one in summary.loads],
        starts=[one for summary in summaries for one in summary.starts],
        stops=[one for summary in summaries for one in summary.stops],
        violations=[one for summary in summaries for one in summary.violations],
    )


def _sum(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for some in counts:
        total.update(some)
    return dict(total)


def table(summary: Summary) -> str:
    """Everything in one table."""
    lines = [f"{name:<48}{count:>8}" for name, count in summary.counts.items()]
    missed = [name for name in ALL if name not in summary.reached]
    lines += ["", f"{'failpoint':<48}{'deaths':>8}"]
    lines += [f"{name:<48}{summary.reached[name]:>8}" for name in ALL if name in summary.reached]
    lines += [f"never reached: {', '.join(missed)}"] if missed else []
    lines += ["", f"{'seconds':<48}{'p50':>8}{'p95':>8}{'max':>8}{'of':>8}"]
    spans = {
        "from a kill to the next reply, without the load": [
            one.seconds for one in summary.recoveries if not one.held_up
        ],
        "  the same through a full disk, a pause, …": [one.seconds for one in summary.recoveries if one.held_up],
        "the model's load, in these": [one.model for one in summary.recoveries],
        "the model's load, in all starts": summary.loads,
        "from a start to ready": summary.starts,
        "from SIGTERM to the end": summary.stops,
    }
    for name, values in spans.items():
        figures = "".join(f"{percentile(values, share):>8.2f}" for share in (0.5, 0.95, 1.0))
        lines.append(f"{name:<48}{figures}{len(values):>8}")
    lines += ["", f"{'violations':<48}{len(summary.violations):>8}"]
    lines += [f"  {kind:<46}{count:>8}" for kind, count in sorted(summary.kinds.items())]
    kills = summary.counts["kill -9 of the service"] + summary.counts["kill -9 of the worker"]
    lines += [f"{'seconds in all':<48}{summary.seconds:>8.0f}{summary.seconds / max(1, kills):>8.2f} a kill"]
    return "\n".join(lines)
