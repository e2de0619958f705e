"""What DSW's answers say, in our words. Pure: the SDK's models in, values out; what can't be read raises CallFailed."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from bot.money.instance import CallFailed, Culler, Subscription, View
from bot.money.situation import Snapshot
from bot.money.stopping import DOWN, GOING, STARTING
from storage.money import Quota
from storage.timeline import Lived, Price

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:?\d\d)")
SAVING = {"Committing": Snapshot.RUNNING, "Pushing": Snapshot.RUNNING, "Saved": Snapshot.SAVED,
          "Failed": Snapshot.FAILED}  # fmt: skip
# While and after it saves, the status tells of this very saving; the newest snapshot may still be an older one.
STATUS_SAVING = {"Saving": Snapshot.RUNNING, "Saved": Snapshot.SAVED, "SaveFailed": Snapshot.FAILED}
LIVED = {
    **dict.fromkeys(STARTING, "starting"), **dict.fromkeys(GOING, "stopping"), **dict.fromkeys(DOWN, "stopped"),
    "Running": "unwatched", "SaveFailed": "unwatched", "Saving": "saving", "Saved": "saving",
}  # fmt: skip


def moment(text: object) -> datetime:
    """A time as DSW writes it, in UTC: 2026-11-24T10:00:00Z, with fractions or an offset too."""
    if isinstance(text, str) and TIME.fullmatch(text):
        try:
            return datetime.fromisoformat(text).astimezone(UTC)
        except ValueError:
            pass
    raise CallFailed(f"DSW tells a time that can't be read: {str(text)[:40]!r}")


def number(value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    raise CallFailed(f"DSW tells {str(value)[:40]!r} where a number should be")


def view(body: Any, now: datetime) -> View:
    """GetInstance's answer, which does not say since when it runs."""
    if not isinstance(body.status, str) or not body.status:
        raise CallFailed("DSW tells no status of the instance")
    ran = body.accumulated_running_time_in_ms
    saving, since = _snapshot(body.status, body.latest_snapshot)
    return View(
        body.status, spec=body.ecs_spec or "", ran=None if ran is None else timedelta(milliseconds=number(ran)),
        snapshot=saving, snapshot_at=since, timer_due=_due(body.instance_shutdown_timer, now),
        culler=_culler(body.idle_instance_culler), reason=body.reason_message or body.reason_code or "",
    )  # fmt: skip


def _snapshot(status: str, latest: Any) -> tuple[Snapshot | None, datetime | None]:
    told = SAVING.get(latest.status) if latest else None
    found = STATUS_SAVING.get(status, told)
    began = moment(latest.gmt_create_time) if found and found is told and latest.gmt_create_time else None
    return found, began


def _due(timer: Any, now: datetime) -> datetime | None:
    if timer and timer.due_time:
        return moment(timer.due_time)
    if timer and timer.remaining_time_in_ms is not None:
        return now + timedelta(milliseconds=number(timer.remaining_time_in_ms))
    return None


def _culler(culler: Any) -> Culler | None:
    if not culler or culler.max_idle_time_in_minutes is None:
        return None
    cpu, gpu = (number(value or 0) for value in (culler.cpu_percent_threshold, culler.gpu_percent_threshold))
    return Culler(int(cpu), int(gpu), int(number(culler.max_idle_time_in_minutes)))


# The past


def lived(session: Sequence[Any]) -> list[Lived]:
    """One of GetLifecycle's sessions, in order, each state until the next.

    DSW does not number its sessions; the second in which one began is its number.
    """
    told = [(moment(one.gmt_create_time), one) for one in session]
    if told and told[0][0] > told[-1][0]:  # newest first
        told.reverse()
    told.sort(key=lambda pair: pair[0])
    spans: list[Lived] = []
    for at, one in told:
        state = LIVED.get(one.status, "unknown")
        if spans and spans[-1].state == state:
            continue
        if spans:
            spans[-1] = replace(spans[-1], ended_at=at)
        spans.append(Lived(int(told[0][0].timestamp()), state, at, None))
    last = told[-1][1].gmt_end_time if told else None
    return [*spans[:-1], replace(spans[-1], ended_at=moment(last))] if last else spans


def began_to_run(session: Iterable[Any]) -> datetime | None:
    """When that session's instance ran first."""
    return min((moment(one.gmt_create_time) for one in session if one.status == "Running"), default=None)


def measured(body: Any) -> dict[int, float]:
    """GetInstanceMetrics' points: the most of all pods by time, in seconds since 1970."""
    points: dict[int, float] = {}
    for pod in body.pod_metrics or []:
        for point in pod.metrics or []:
            if point.value is not None:
                at = int(number(point.time))
                points[at] = max(points.get(at, 0.0), number(point.value))
    return points


# Money


def price(spec: Any, now: datetime) -> Price:
    """A line of ListEcsSpecs, whose prices are for an hour. Other money than yuan is none that we can reckon with."""
    in_yuan = spec.price is not None and (spec.currency or "CNY") == "CNY"
    if not in_yuan:
        return Price(spec.instance_type, seen_at=now)
    return Price(spec.instance_type, yuan_per_hour=number(spec.price), source="specs", seen_at=now)


def subscription(body: Any, now: datetime) -> Subscription:
    """GetUserConfig's answer. A free trial that is over has nothing left."""
    tier = body.free_tier
    if not tier or not tier.is_free_tier_user or tier.init_base_value is None or tier.period_base_value is None:
        return Subscription(None, body.account_sufficient)
    quota = Quota(
        now, number(tier.init_base_value), number(tier.period_base_value),
        unit=tier.period_base_unit or tier.init_base_unit or "CU*H",
        starts_at=moment(tier.start_time) if tier.start_time else None,
        ends_at=moment(tier.end_time) if tier.end_time else None,
    )  # fmt: skip
    return Subscription(quota, body.account_sufficient)
