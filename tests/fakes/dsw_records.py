"""What the fake DSW tells of prices, of the account, and of an instance's past."""

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from tests.fakes.dsw_bill import Spec
from tests.fakes.dsw_call import PAGE, Call, Json
from tests.fakes.dsw_faults import Refused
from tests.fakes.dsw_instance import DOWN, Entry, Instance, Load

STEP = re.compile(r"([1-9]\d*)m")
METRICS: Mapping[str, Callable[[Load], float]] = {
    "GpuCoreUsage": lambda load: load.gpu, "CpuCoreUsage": lambda load: load.cpu,
    "NetworkInputRate": lambda load: load.received, "NetworkOutputRate": lambda load: load.sent,
}  # fmt: skip


def list_specs(call: Call) -> Json:
    kind = call.query.get("AcceleratorType")
    if kind not in ("CPU", "GPU"):
        raise Refused(400, "ValidationError", f"AcceleratorType is {kind!r}.")
    found = [spec for spec in call.world.specs.values() if spec.accelerator == kind]
    return {"EcsSpecs": [_spec(spec) for spec in call.page(found)], "TotalCount": len(found)}


def _spec(spec: Spec) -> Json:
    labels = [{"Key": "SupportResourcePackDeduction", "Value": "true"}] if spec.compute_hours_per_hour else []
    return {
        "InstanceType": spec.name, "AcceleratorType": spec.accelerator, "GPU": spec.gpus, "GPUType": spec.gpu_type,
        "GPUMemorySize": spec.gpu_memory, "CPU": spec.cpus, "Memory": spec.memory, "SystemDiskCapacity": 100,
        "Price": spec.yuan_per_hour, "Currency": spec.currency, "IsAvailable": spec.available,
        "SpotStockStatus": spec.spot_stock, "Labels": labels,
    }  # fmt: skip


def user_config(call: Call) -> Json:
    account, stamp = call.world.account, call.world.stamp
    answer: Json = {"AccountSufficient": account.sufficient, "EnableEciDisk": True}
    tier = account.tier
    if tier is None:
        return answer | {"FreeTierSpecAvailable": False, "FreeTier": {"IsFreeTierUser": False}}
    left = account.remaining(call.now)
    return answer | {
        "FreeTierSpecAvailable": True,
        "FreeTier": {
            "IsFreeTierUser": True, "Status": "valid" if tier.starts_at <= call.now < tier.ends_at else "invalid",
            "StartTime": stamp(tier.starts_at), "EndTime": stamp(tier.ends_at), "InitBaseValue": tier.initial,
            "InitBaseUnit": tier.unit, "InitShowValue": f"{tier.initial:.3f}", "InitShowUnit": tier.unit,
            "PeriodBaseValue": left, "PeriodBaseUnit": tier.unit, "PeriodShowValue": f"{left:.3f}",
            "PeriodShowUnit": tier.unit,
        },
    }  # fmt: skip


def lifecycle(call: Call) -> Json:
    """Sessions that have anything between StartTime and EndTime, from SessionNumber on, whole."""
    after, before, order = call.time("StartTime"), call.time("EndTime"), call.query.get("Order", "DESC")
    if order not in ("ASC", "DESC"):
        raise Refused(400, "ValidationError", f"Order is {order!r}.")
    found = [one for one in call.instance.sessions if _within(one, after, before)]
    first = call.whole("SessionNumber", call.query.get("SessionNumber", "0"), 0)
    limit = call.whole("Limit", call.query.get("Limit", str(PAGE)), 1, 100)
    shown = (found if order == "ASC" else found[::-1])[first : first + limit]
    told = [[_entry(one, call.world.stamp) for one in (each if order == "ASC" else each[::-1])] for each in shown]
    return {"Lifecycle": told, "TotalCount": len(found)}


def _within(session: list[Entry], after: datetime | None, before: datetime | None) -> bool:
    last = session[-1]
    end = last.at if last.status in DOWN else last.end
    return (after is None or end is None or end >= after) and (before is None or session[0].at <= before)


def _entry(entry: Entry, stamp: Callable[[datetime], str]) -> Json:
    told = {
        "LifecycleId": entry.id, "Status": entry.status, "ReasonCode": entry.code, "ReasonMessage": entry.message,
        "GmtCreateTime": stamp(entry.at),
    }  # fmt: skip
    return told | ({"GmtEndTime": stamp(entry.end)} if entry.end else {})


def metrics(call: Call) -> Json:
    """A point a step while it runs: the most in the span that ends then."""
    name, step = call.query.get("MetricType", ""), STEP.fullmatch(call.query.get("TimeStep", "1m"))
    if name not in METRICS or not step:
        raise Refused(400, "ValidationError", f"MetricType is {name!r}, TimeStep {call.query.get('TimeStep')!r}.")
    end = min(call.time("EndTime") or call.now, call.now)
    start = call.time("StartTime") or end - timedelta(hours=1)
    span = timedelta(minutes=int(step[1]))
    points, at = [], start + span
    while at <= end:
        if _ran_at(call.instance, at):
            loads = _loads(call.instance, at - span, at)
            points.append({"Time": int(at.timestamp()), "Value": max(METRICS[name](load) for load in loads)})
        at += span
    return {"InstanceId": call.instance.id, "PodMetrics": [{"PodId": "pod", "Metrics": points}] if points else []}


def _ran_at(one: Instance, at: datetime) -> bool:
    entries = (entry for session in one.sessions for entry in session if entry.status == "Running")
    return any(entry.at <= at and (entry.end is None or at < entry.end) for entry in entries)


def _loads(one: Instance, start: datetime, end: datetime) -> list[Load]:
    """That at the start, and all that came until the end."""
    before = [load for at, load in one.loads if at <= start]
    return before[-1:] + [load for at, load in one.loads if start < at < end] or [Load()]
