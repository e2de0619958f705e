"""The operations of the PAI-DSW API 2022-01-01 that the fake knows: their paths, their fields, and what they answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from tests.fakes.dsw_call import ISO, Call, Json
from tests.fakes.dsw_faults import Refused
from tests.fakes.dsw_instance import Culler, Instance, Snapshot, Timer
from tests.fakes.dsw_records import lifecycle, list_specs, metrics, user_config


@dataclass(frozen=True, slots=True)
class Operation:
    method: str
    path: str
    run: Callable[[Call], Json]
    query: frozenset[str] = frozenset()
    body: frozenset[str] = frozenset()
    writes: bool = False


# Instances


def _get_instance(call: Call) -> Json:
    one, stamp = call.instance, call.world.stamp
    entry = one.sessions[-1][-1]
    answer: Json = {
        "InstanceId": one.id, "InstanceName": "chat", "Status": one.status, "EcsSpec": one.spec.name,
        "AcceleratorType": one.spec.accelerator, "PaymentType": "PayAsYouGo",
        "AccumulatedRunningTimeInMs": one.ran // timedelta(milliseconds=1), "GmtCreateTime": stamp(one.created),
        "GmtModifiedTime": stamp(one.changed), "ReasonCode": entry.code, "ReasonMessage": entry.message,
        "InstanceSnapshotList": [_snapshot(shot, stamp) for shot in one.snapshots],
    }  # fmt: skip
    if one.timer:
        answer["InstanceShutdownTimer"] = _timer(one, one.timer, call)
    if one.culler:
        answer["IdleInstanceCuller"] = _culler(one, one.culler)
    if one.snapshots:
        answer["LatestSnapshot"] = _snapshot(one.snapshots[-1], stamp)
    return answer


def _list_instances(call: Call) -> Json:
    found = [one for one in call.world.instances.values() if call.query.get("Status", one.status) == one.status]
    page = call.page(found)
    named = [{"InstanceId": one.id, "Status": one.status, "EcsSpec": one.spec.name} for one in page]
    return {"Instances": named, "TotalCount": len(found)}


def _start(call: Call) -> Json:
    call.instance.start(call.now)
    return {"InstanceId": call.instance.id}


def _stop(call: Call) -> Json:
    save = call.query.get("SaveImage", "false")
    if save not in ("true", "false"):
        raise Refused(400, "ValidationError", f"SaveImage is {save!r}.")
    call.instance.stop(call.now, save=save == "true")
    return {"InstanceId": call.instance.id}


def _delete(call: Call) -> Json:
    call.world.deleted.append(call.instance.id)
    del call.world.instances[call.path["InstanceId"]]
    return {"InstanceId": call.path["InstanceId"]}


# What stops it by itself


def _timer(one: Instance, timer: Timer, call: Call) -> Json:
    stamp = call.world.stamp
    return {
        "InstanceId": one.id, "DueTime": stamp(timer.due), "GmtCreateTime": stamp(timer.created),
        "GmtModifiedTime": stamp(timer.created),
        "RemainingTimeInMs": (timer.due - call.now) // timedelta(milliseconds=1),
    }  # fmt: skip


def _create_timer(call: Call) -> Json:
    if len(call.body) != 1:
        raise Refused(400, "ValidationError", "One of DueTime and RemainingTimeInMs is needed.")
    if "RemainingTimeInMs" in call.body:
        left = call.whole("RemainingTimeInMs", call.body["RemainingTimeInMs"], 1)
        due = call.now + timedelta(milliseconds=left)
    elif ISO.fullmatch(str(call.body["DueTime"])):
        due = datetime.fromisoformat(call.body["DueTime"])
    else:
        raise Refused(400, "ValidationError", f"DueTime is {call.body['DueTime']!r}.")
    call.instance.set_timer(call.now, due)
    return {"InstanceId": call.instance.id}


def _get_timer(call: Call) -> Json:
    if call.instance.timer is None:
        raise Refused(404, "ValidationError", "The instance has no shutdown timer.")
    return _timer(call.instance, call.instance.timer, call)


def _delete_timer(call: Call) -> Json:
    if call.instance.timer is None:
        raise Refused(404, "ValidationError", "The instance has no shutdown timer.")
    call.instance.timer = None
    return {"InstanceId": call.instance.id}


def _culler(one: Instance, culler: Culler) -> Json:
    return {
        "InstanceId": one.id, "CpuPercentThreshold": culler.cpu, "GpuPercentThreshold": culler.gpu,
        "MaxIdleTimeInMinutes": culler.minutes, "IdleTimeInMinutes": culler.idle // timedelta(minutes=1),
    }  # fmt: skip


def _create_culler(call: Call) -> Json:
    cpu, gpu = (
        call.whole(name, call.body.get(name), 1, 100) for name in ("CpuPercentThreshold", "GpuPercentThreshold")
    )
    minutes = call.whole("MaxIdleTimeInMinutes", call.body.get("MaxIdleTimeInMinutes"), 1)
    call.instance.set_culler(Culler(cpu, gpu, minutes))
    return {"InstanceId": call.instance.id}


def _get_culler(call: Call) -> Json:
    if call.instance.culler is None:
        raise Refused(404, "ValidationError", "The instance has no idle culler.")
    return _culler(call.instance, call.instance.culler)


def _delete_culler(call: Call) -> Json:
    if call.instance.culler is None:
        raise Refused(404, "ValidationError", "The instance has no idle culler.")
    call.instance.culler = None
    return {"InstanceId": call.instance.id}


# Snapshots


def _snapshot(shot: Snapshot, stamp: Callable[[datetime], str]) -> Json:
    return {
        "ImageId": f"image-{shot.id}", "ImageName": shot.name, "ImageUrl": shot.image_url, "Status": shot.status,
        "GmtCreateTime": stamp(shot.created), "GmtModifiedTime": stamp(shot.modified),
        "ReasonCode": shot.code, "ReasonMessage": shot.message,
    }  # fmt: skip


def _listed(one: Instance, shot: Snapshot, stamp: Callable[[datetime], str]) -> Json:
    told = _snapshot(shot, stamp)
    del told["ImageName"]
    return told | {"SnapshotId": shot.id, "SnapshotName": shot.name, "InstanceId": one.id}


def _create_snapshot(call: Call) -> Json:
    name, url = call.body.get("SnapshotName"), call.body.get("ImageUrl")
    if not isinstance(name, str) or not isinstance(url, str) or not name or not url:
        raise Refused(400, "ValidationError", "SnapshotName and ImageUrl are needed.")
    return {"InstanceId": call.instance.id, "SnapshotId": call.instance.snapshot(call.now, name, url).id}


def _get_snapshot(call: Call) -> Json:
    for shot in call.instance.snapshots:
        if shot.id == call.path["SnapshotId"]:
            return _listed(call.instance, shot, call.world.stamp)
    raise Refused(404, "ValidationError", "The snapshot does not exist.")


def _list_snapshots(call: Call) -> Json:
    shots = call.instance.snapshots
    told = [_listed(call.instance, shot, call.world.stamp) for shot in call.page(shots)]
    return {"Snapshots": told, "TotalCount": len(shots)}


INSTANCE = "/api/v2/instances/{InstanceId}"
TIMER, CULLER, SNAPSHOTS = f"{INSTANCE}/shutdowntimer", f"{INSTANCE}/idleinstanceculler", f"{INSTANCE}/snapshots"
PAGED = frozenset({"PageNumber", "PageSize", "Order", "SortBy"})

OPERATIONS: Mapping[str, Operation] = {
    "GetInstance": Operation("GET", INSTANCE, _get_instance, frozenset({"Fields", "Token"})),
    "ListInstances": Operation("GET", "/api/v2/instances", _list_instances, PAGED | {"ResourceId", "Status"}),
    "StartInstance": Operation("PUT", f"{INSTANCE}/start", _start, writes=True),
    "StopInstance": Operation("PUT", f"{INSTANCE}/stop", _stop, frozenset({"SaveImage"}), writes=True),
    "DeleteInstance": Operation("DELETE", INSTANCE, _delete, writes=True),
    "CreateInstanceShutdownTimer": Operation(
        "POST", TIMER, _create_timer, body=frozenset({"DueTime", "RemainingTimeInMs"}), writes=True
    ),
    "GetInstanceShutdownTimer": Operation("GET", TIMER, _get_timer),
    "DeleteInstanceShutdownTimer": Operation("DELETE", TIMER, _delete_timer, writes=True),
    "CreateIdleInstanceCuller": Operation(
        "POST", CULLER, _create_culler, writes=True,
        body=frozenset({"CpuPercentThreshold", "GpuPercentThreshold", "MaxIdleTimeInMinutes"}),
    ),
    "GetIdleInstanceCuller": Operation("GET", CULLER, _get_culler),
    "DeleteIdleInstanceCuller": Operation("DELETE", CULLER, _delete_culler, writes=True),
    "CreateInstanceSnapshot": Operation(
        "POST", SNAPSHOTS, _create_snapshot, writes=True,
        body=frozenset({"SnapshotName", "SnapshotDescription", "ImageUrl", "Labels", "ExcludePaths", "Overwrite"}),
    ),
    "ListInstanceSnapshot": Operation("GET", SNAPSHOTS, _list_snapshots, PAGED),
    "GetInstanceSnapshot": Operation("GET", SNAPSHOTS + "/{SnapshotId}", _get_snapshot),
    "ListEcsSpecs": Operation("GET", "/api/v2/ecsspecs", list_specs, PAGED | {"AcceleratorType", "ResourceType"}),
    "GetUserConfig": Operation("GET", "/api/v2/userconfig", user_config),
    "GetLifecycle": Operation(
        "GET", f"{INSTANCE}/lifecycle", lifecycle,
        frozenset({"SessionNumber", "StartTime", "EndTime", "Limit", "Order", "Token"}),
    ),
    "GetInstanceMetrics": Operation(
        "GET", "/api/v2/instance/{InstanceId}/metrics", metrics,
        frozenset({"MetricType", "StartTime", "EndTime", "TimeStep"}),
    ),
}  # fmt: skip
