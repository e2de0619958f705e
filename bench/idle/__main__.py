"""Idle minutes paid, wrong stops and wakes of several rules on the same simulated months.

    python -m bench.idle [--seed 1] [--seeds 5] [--days 30] [--yuan-per-hour 9.74]

A wake costs minutes that are paid before the machine is of use. A stop is wrong if it happens in a minute that was in
use. Who uses the machine is made from the seed alone, before any rule sees it.
"""

import argparse
import time
from dataclasses import replace
from datetime import timedelta

from bench.idle import rivals
from bench.idle.ours import Run, policy
from bench.idle.outcome import WAKE_MINUTES, Outcome, idle_minutes
from bench.idle.trace import Trace, simulate
from bot.money.learning import suggest
from bot.money.situation import Rules

BRIEFLY = timedelta(minutes=2)
RULES = Rules(action="stop", allow_stop=True, dry_run=False)
OURS = "dswbot, learned limit"
FIXED = "dswbot, every signal, 25 min"
SHORT = "dswbot, every signal, {:g} min"  # of a wake: the best that can be promised without knowing anything
CULLER = "DSW's culler, 30 min"


def compare(trace: Trace, seed: int, wake: float) -> tuple[list[Outcome], Run]:
    span = timedelta(minutes=wake)
    brief = replace(RULES, after=max(span - BRIEFLY, BRIEFLY), warn_for=BRIEFLY)
    ours, run = policy(OURS, trace, RULES, wake=span, learns=True, seed=seed)
    outcomes = [
        rivals.never(trace),
        rivals.dsw_culler(trace),
        rivals.jupyterhub_culler(trace),
        rivals.timer(trace),
        policy(FIXED, trace, RULES, wake=span, learns=False, seed=seed)[0],
        policy(SHORT.format(wake), trace, brief, wake=span, learns=False, seed=seed)[0],
        ours,
        rivals.foresight(trace, wake),
    ]
    return outcomes, run


def table(outcomes: list[Outcome], wake: float, yuan: float) -> str:
    """`yuan`: an hour."""
    culler = next(one for one in outcomes if one.name == CULLER).paid(wake)
    paid = f"{'idle paid':>11}{'of culler':>11}{'wakes':>7}{'yuan':>8}"
    lines = [f"{'rule':<34}{'wrong stops':>12}{'found':>9}{paid}{'reminders':>11}{'repeated':>10}"]
    for one in outcomes:
        found = "" if one.found is None else f"{one.found:.2%}"
        told = "" if one.reminders is None else f"{one.reminders:>11}{one.repeated:>10}"
        cost = one.paid(wake)
        paid = f"{cost:>11,.0f}{cost / culler:>11.3f}{one.wakes:>7}{cost / 60 * yuan:>8,.0f}"
        lines.append(f"{one.name:<34}{len(one.wrong):>12}{found:>9}{paid}{told}")
    return "\n".join(lines)


def _details(run: Run, trace: Trace, arguments: argparse.Namespace) -> str:
    ours, limits = run.outcome, sorted(run.limits)
    tenths = " / ".join(f"{limits[len(limits) * part // 10]:.0f}" for part in (1, 5, 9)) if limits else "-"
    better = suggest(
        run.gaps, trace.at(len(trace.minutes)), present=RULES.after, warn_for=RULES.warn_for, floor=RULES.floor,
        wake=timedelta(minutes=arguments.wake), yuan_per_hour=arguments.yuan_per_hour,
    )  # fmt: skip
    lines = [
        f"{OURS}: stopped after {tenths} min of idleness (p10 / p50 / p90), {ours.alerts} alerts",
        f"minutes without use: {ours.absent} with a login whose owner had left, {ours.down} with the service down",
        *(f"wrong: {wrong}" for wrong in ours.wrong),
        f"idle.after, with {RULES.warn_for / timedelta(minutes=1):.0f} min of warning: {better or 'no better one'}",
    ]
    return "\n".join(lines)


def _one(seed: int, arguments: argparse.Namespace) -> list[Outcome]:
    began = time.monotonic()
    trace = simulate(seed, arguments.days, arguments.zone)
    outcomes, run = compare(trace, seed, arguments.wake)
    total = len(trace.minutes)
    print(f"\nseed {seed}: {idle_minutes(trace):,} of {total:,} minutes idle, in {len(trace.gaps())} gaps; "
          f"a wake costs {arguments.wake:g} min ({time.monotonic() - began:.0f} s)\n")  # fmt: skip
    print(table(outcomes, arguments.wake, arguments.yuan_per_hour))
    print(_details(run, trace, arguments))
    return outcomes


def _mean(months: list[list[Outcome]], wake: float) -> str:
    lines = [f"\nmean of {len(months)} months: wrong stops, idle minutes paid, share of the culler's"]
    culler = sum(one.paid(wake) for month in months for one in month if one.name == CULLER)
    for same in zip(*months, strict=True):
        paid, wrong = sum(one.paid(wake) for one in same), sum(len(one.wrong) for one in same)
        lines.append(f"{same[0].name:<34}{wrong / len(same):>8.1f}{paid / len(same):>10,.0f}{paid / culler:>10.3f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.idle", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1, help="how many, from --seed on")
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--zone", default="Europe/Berlin")
    parser.add_argument("--wake", type=float, default=WAKE_MINUTES, help="minutes paid for a wake")
    parser.add_argument("--yuan-per-hour", type=float, default=9.74)
    arguments = parser.parse_args([] if __name__ != "__main__" else None)
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    months = [_one(seed, arguments) for seed in seeds]
    if len(months) > 1:
        print(_mean(months, arguments.wake))


if __name__ == "__main__":
    main()
