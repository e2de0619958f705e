"""The fake DSW: what it refuses, how its instances live, and what they cost."""

import asyncio
import hashlib
import hmac
import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from tests.fakes.dsw import Clock, FakeDsw
from tests.fakes.dsw_bill import Account, FreeTier, Spec
from tests.fakes.dsw_call import millis
from tests.fakes.dsw_faults import HANG, THROTTLED, Fault
from tests.fakes.dsw_instance import AT_ONCE, Instance, Load, Pace
from tests.fakes.dsw_signature import AccessKey

INSTANCE = "/api/v2/instances/dsw-1"
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
KEY = AccessKey()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def dsw(clock: Clock) -> AsyncIterator[FakeDsw]:
    async with FakeDsw(clock=clock) as fake:
        yield fake


@pytest.fixture
def instance(dsw: FakeDsw) -> Instance:
    return dsw.add("dsw-1")


async def ask(
    dsw: FakeDsw, action: str, method: str, path: str, query: dict[str, str] | None = None,
    body: object = None, key: AccessKey = KEY, at: datetime | None = None,
    changed: dict[str, Any] | None = None, **headers: str,
) -> tuple[int, dict[str, Any]]:  # fmt: skip
    """A call signed by the letter of the documentation.

    `headers`: signed and sent in place of what is right. `changed`: query and headers, put in after it was signed.
    """
    raw = b"" if body is None else json.dumps(body).encode()
    sent = {
        "host": dsw.address, "x-acs-action": action, "x-acs-version": "2022-01-01",
        "x-acs-date": f"{at or datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "x-acs-signature-nonce": uuid.uuid4().hex,
        "x-acs-content-sha256": hashlib.sha256(raw).hexdigest(), "content-type": "application/json",
    }  # fmt: skip
    if key.token:
        sent |= {"x-acs-security-token": key.token, "x-acs-accesskey-id": key.id}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    sent |= {name: value for name, value in given.items() if name != "authorization"}
    names = sorted(name for name in sent if name == "host" or name.startswith(("x-acs-", "content-type")))
    pairs = "&".join(f"{quote(one, safe='~')}={quote(value, safe='~')}" for one, value in sorted((query or {}).items()))
    lines = "".join(f"{name}:{sent[name].strip()}\n" for name in names)
    canonical = "\n".join([method, path, pairs, lines, ";".join(names), sent["x-acs-content-sha256"]])
    to_sign = "ACS3-HMAC-SHA256\n" + hashlib.sha256(canonical.encode()).hexdigest()
    signature = hmac.new(key.secret.encode(), to_sign.encode(), hashlib.sha256).hexdigest()
    signed = f"ACS3-HMAC-SHA256 Credential={key.id},SignedHeaders={';'.join(names)},Signature={signature}"
    sent |= {"authorization": given.get("authorization", signed)} | (changed or {}).get("headers", {})
    url = URL(f"http://{dsw.address}{path}?{pairs}{(changed or {}).get('query', '')}".rstrip("?"), encoded=True)
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, data=raw, headers={name: value for name, value in sent.items() if value}) as got,
    ):
        return got.status, json.loads(await got.read())


async def get(dsw: FakeDsw) -> dict[str, Any]:
    return (await ask(dsw, "GetInstance", "GET", INSTANCE))[1]


async def code_of(call: Any) -> tuple[int, str]:
    status, body = await call
    assert body.get("RequestId")
    assert not body.get("Success")
    return status, body["Code"]


# Signatures


@pytest.mark.usefixtures("instance")
async def test_what_is_signed_right_is_answered(dsw: FakeDsw) -> None:
    status, body = await ask(dsw, "GetInstance", "GET", INSTANCE, {"Token": "a b/ü*~"})
    assert (status, body["Success"], body["Status"], body["InstanceId"]) == (200, True, "Running", "dsw-1")
    assert [(call.operation, call.instance, call.key, call.code) for call in dsw.calls] == [
        ("GetInstance", "dsw-1", KEY.id, "")
    ]


@pytest.mark.usefixtures("instance")
@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"key": AccessKey("LTAIother")}, (404, "InvalidAccessKeyId.NotFound")),
        ({"key": AccessKey(secret="wrong")}, (400, "SignatureDoesNotMatch")),
        ({"key": AccessKey(token="one")}, (400, "InvalidSecurityToken.MismatchWithAccessKey")),
        ({"authorization": "Bearer x"}, (400, "IncompleteSignature")),
        ({"x_acs_content_sha256": "0" * 64}, (400, "InvalidContentSHA256")),
        ({"x_acs_date": ""}, (400, "MissingXAcsDate")),
        ({"x_acs_date": "Tue, 24 Nov 2026 10:00:00 GMT"}, (400, "InvalidTimeStamp.Format")),
        ({"at": datetime.now(UTC) - timedelta(minutes=16)}, (400, "InvalidTimeStamp.Expired")),
        ({"at": datetime.now(UTC) + timedelta(hours=9)}, (400, "InvalidTimeStamp.Expired")),
        ({"x_acs_version": "2021-02-26"}, (400, "InvalidVersion")),
    ],
)
async def test_what_is_signed_wrong_is_refused(dsw: FakeDsw, wrong: dict[str, Any], code: tuple[int, str]) -> None:
    assert await code_of(ask(dsw, "GetInstance", "GET", INSTANCE, **wrong)) == code
    assert dsw.done("GetInstance") == []


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"query": "&SaveImage=false"}, "SignatureDoesNotMatch"),
        ({"headers": {"x-acs-date": "2026-11-24T10:00:01Z"}}, "InvalidTimeStamp.Expired"),
        ({"headers": {"x-acs-action": "StartInstance"}}, "SignatureDoesNotMatch"),
        ({"headers": {"x-acs-extra": "1"}}, "IncompleteSignature"),
        ({"headers": {"host": "elsewhere"}}, "SignatureDoesNotMatch"),
    ],
)
async def test_nothing_that_was_signed_may_be_changed(
    dsw: FakeDsw, instance: Instance, changed: dict[str, Any], code: str
) -> None:
    call = ask(dsw, "StopInstance", "PUT", f"{INSTANCE}/stop", {"SaveImage": "true"}, changed=changed)
    assert await code_of(call) == (400, code)
    assert instance.status == "Running"


@pytest.mark.usefixtures("instance")
async def test_a_nonce_is_good_for_one_call(dsw: FakeDsw) -> None:
    assert (await ask(dsw, "GetInstance", "GET", INSTANCE, x_acs_signature_nonce="n"))[0] == 200
    again = ask(dsw, "GetInstance", "GET", INSTANCE, x_acs_signature_nonce="n")
    assert await code_of(again) == (400, "SignatureNonceUsed")


async def test_temporary_credentials_need_their_token() -> None:
    key = AccessKey("STS.NUfake", "secret", "the-token")
    async with FakeDsw(keys=[key]) as dsw:
        dsw.add("dsw-1")
        assert (await ask(dsw, "GetInstance", "GET", INSTANCE, key=key))[0] == 200
        without = AccessKey(key.id, key.secret)
        assert await code_of(ask(dsw, "GetInstance", "GET", INSTANCE, key=without)) == (400, "MissingSecurityToken")
        assert dsw.environment["ALIBABA_CLOUD_SECURITY_TOKEN"] == "the-token"


# What it does not know


@pytest.mark.usefixtures("instance")
@pytest.mark.parametrize(
    ("call", "code"),
    [
        (("ExplodeInstance", "PUT", INSTANCE), (404, "InvalidAction.NotFound")),
        (("StopInstance", "POST", f"{INSTANCE}/stop"), (404, "InvalidAction.NotFound")),
        (("StopInstance", "PUT", f"{INSTANCE}/start"), (404, "InvalidAction.NotFound")),
        (("GetInstance", "GET", "/api/v2/instances/dsw-2"), (404, "InstanceNotFound")),
        (("StopInstance", "PUT", f"{INSTANCE}/stop", {"Force": "true"}), (400, "InvalidParameter")),
        (("StopInstance", "PUT", f"{INSTANCE}/stop", {"SaveImage": "True"}), (400, "ValidationError")),
        (("StartInstance", "PUT", f"{INSTANCE}/start", {}, {"EcsSpec": "x"}), (400, "InvalidParameter")),
        (("StartInstance", "PUT", f"{INSTANCE}/start", {}, []), (400, "ValidationError")),
        (("ListEcsSpecs", "GET", "/api/v2/ecsspecs", {}), (400, "ValidationError")),
        (("ListEcsSpecs", "GET", "/api/v2/ecsspecs", {"AcceleratorType": "TPU"}), (400, "ValidationError")),
        (("GetLifecycle", "GET", f"{INSTANCE}/lifecycle", {"Order": "UP"}), (400, "ValidationError")),
        (("GetLifecycle", "GET", f"{INSTANCE}/lifecycle", {"StartTime": "today"}), (400, "ValidationError")),
        (("GetInstanceMetrics", "GET", "/api/v2/instance/dsw-1/metrics", {}), (400, "ValidationError")),
    ],
)
async def test_it_refuses_what_the_api_does_not_know(
    dsw: FakeDsw, instance: Instance, call: Any, code: tuple[int, str]
) -> None:
    assert await code_of(ask(dsw, *call)) == code
    assert instance.status == "Running"
    assert dsw.calls[-1].code == code[1]


@pytest.mark.usefixtures("instance")
async def test_a_right_that_is_missing_is_named(dsw: FakeDsw) -> None:
    dsw.denied.add("StopInstance")
    status, body = await ask(dsw, "StopInstance", "PUT", f"{INSTANCE}/stop")
    assert (status, body["Code"]) == (403, "Forbidden.RAM")
    assert body["AccessDeniedDetail"]["AuthAction"] == "paidsw:StopInstance"


# How an instance lives


async def test_a_start_takes_its_states_and_a_stop_its_own(dsw: FakeDsw, clock: Clock) -> None:
    instance = dsw.add("dsw-1", status="Stopped", pace=Pace(queuing=MINUTE))
    assert (await ask(dsw, "StartInstance", "PUT", f"{INSTANCE}/start"))[0] == 200
    seen = []
    for _ in range(20):
        seen.append((await get(dsw))["Status"])
        clock.advance(timedelta(seconds=10))
    assert list(dict.fromkeys(seen)) == ["Queuing", "ResourceAllocating", "Starting", "EnvPreparing", "Running"]
    assert await code_of(ask(dsw, "StartInstance", "PUT", f"{INSTANCE}/start")) == (400, "ValidationError")
    ran = (await get(dsw))["AccumulatedRunningTimeInMs"]
    assert ran == 40_000
    assert (await ask(dsw, "StopInstance", "PUT", f"{INSTANCE}/stop"))[0] == 200
    assert (await get(dsw))["Status"] == "Stopping"
    assert await code_of(ask(dsw, "StopInstance", "PUT", f"{INSTANCE}/stop")) == (400, "ValidationError")
    clock.advance(MINUTE)
    assert (await get(dsw))["Status"] == "Stopped"
    clock.advance(HOUR)
    assert (await get(dsw))["AccumulatedRunningTimeInMs"] == ran
    assert [entry.status for entry in instance.sessions[1]] == [
        "Creating", "Queuing", "ResourceAllocating", "Starting", "EnvPreparing", "Running", "Stopping", "Stopped"
    ]  # fmt: skip


@pytest.mark.parametrize("stock", [True, False])
async def test_a_start_may_fail(dsw: FakeDsw, clock: Clock, stock: bool) -> None:
    dsw.add("dsw-1", status="Stopped", start_fails="ImagePullBackOff")
    dsw.world.specs[Spec().name].available = stock
    await ask(dsw, "StartInstance", "PUT", f"{INSTANCE}/start")
    clock.advance(HOUR)
    seen = await get(dsw)
    assert (seen["Status"], seen["ReasonCode"]) == ("Failed", "ImagePullBackOff" if stock else "ResourceNotEnough")


@pytest.mark.parametrize("fails", ["", "PushError"])
async def test_a_stop_that_saves_stops_only_what_was_saved(dsw: FakeDsw, clock: Clock, fails: str) -> None:
    dsw.add("dsw-1", save_fails=fails)
    await ask(dsw, "StopInstance", "PUT", f"{INSTANCE}/stop", {"SaveImage": "true"})
    seen = []
    for _ in range(60):
        now = await get(dsw)
        seen.append((now["Status"], now["LatestSnapshot"]["Status"]))
        clock.advance(timedelta(seconds=5))
    saved = [("Saved", "Saved"), ("Stopping", "Saved"), ("Stopped", "Saved")]
    assert list(dict.fromkeys(seen)) == [
        ("Saving", "Committing"), ("Saving", "Pushing"), *([("SaveFailed", "Failed")] if fails else saved)
    ]  # fmt: skip
    assert (await get(dsw))["LatestSnapshot"]["ReasonCode"] == fails


async def test_a_snapshot_leaves_it_running(dsw: FakeDsw, clock: Clock, instance: Instance) -> None:
    body = {"SnapshotName": "env", "ImageUrl": "registry.cn-hangzhou.aliyuncs.com/me/env:1"}
    _, made = await ask(dsw, "CreateInstanceSnapshot", "POST", f"{INSTANCE}/snapshots", body=body)
    one = f"{INSTANCE}/snapshots/{made['SnapshotId']}"
    assert (await ask(dsw, "GetInstanceSnapshot", "GET", one))[1]["Status"] == "Committing"
    clock.advance(HOUR)
    assert (await ask(dsw, "GetInstanceSnapshot", "GET", one))[1]["Status"] == "Saved"
    _, listed = await ask(dsw, "ListInstanceSnapshot", "GET", f"{INSTANCE}/snapshots")
    assert [shot["SnapshotName"] for shot in listed["Snapshots"]] == ["env"]
    assert instance.status == "Running"
    missing = ask(dsw, "GetInstanceSnapshot", "GET", f"{INSTANCE}/snapshots/none")
    assert await code_of(missing) == (404, "ValidationError")


async def test_the_timer_stops_it(dsw: FakeDsw, clock: Clock, instance: Instance) -> None:
    path = f"{INSTANCE}/shutdowntimer"
    assert await code_of(ask(dsw, "GetInstanceShutdownTimer", "GET", path)) == (404, "ValidationError")
    due = {"RemainingTimeInMs": 600_000}
    assert (await ask(dsw, "CreateInstanceShutdownTimer", "POST", path, body=due))[0] == 200
    assert await code_of(ask(dsw, "CreateInstanceShutdownTimer", "POST", path, body=due)) == (400, "ValidationError")
    clock.advance(9 * MINUTE)
    _, timer = await ask(dsw, "GetInstanceShutdownTimer", "GET", path)
    assert (timer["DueTime"], timer["RemainingTimeInMs"]) == ("2026-11-24T10:10:00Z", 60_000)
    clock.advance(5 * MINUTE)
    seen = await get(dsw)
    assert (seen["Status"], "InstanceShutdownTimer" in seen) == ("Stopped", False)
    stopping = next(entry for entry in instance.sessions[0] if entry.status == "Stopping")
    assert stopping.at == datetime(2026, 11, 24, 10, 10, tzinfo=UTC)


@pytest.mark.usefixtures("instance")
@pytest.mark.parametrize(
    "body",
    [{}, {"RemainingTimeInMs": 0}, {"RemainingTimeInMs": "soon"}, {"RemainingTimeInMs": True}, {"DueTime": "soon"},
     {"DueTime": "2020-01-01T00:00:00Z"}, {"DueTime": "2026-12-01T00:00:00Z", "RemainingTimeInMs": 1}],
)  # fmt: skip
async def test_a_timer_needs_one_time_that_is_to_come(dsw: FakeDsw, body: Any) -> None:
    call = ask(dsw, "CreateInstanceShutdownTimer", "POST", f"{INSTANCE}/shutdowntimer", body=body)
    assert await code_of(call) == (400, "ValidationError")


@pytest.mark.usefixtures("instance")
async def test_a_timer_that_is_deleted_stops_nothing(dsw: FakeDsw, clock: Clock) -> None:
    path = f"{INSTANCE}/shutdowntimer"
    due = {"DueTime": "2026-11-24T10:10:00Z"}
    assert (await ask(dsw, "CreateInstanceShutdownTimer", "POST", path, body=due))[0] == 200
    assert (await ask(dsw, "DeleteInstanceShutdownTimer", "DELETE", path))[0] == 200
    assert await code_of(ask(dsw, "DeleteInstanceShutdownTimer", "DELETE", path)) == (404, "ValidationError")
    clock.advance(HOUR)
    assert (await get(dsw))["Status"] == "Running"


async def test_the_culler_wants_both_below_their_limits_without_a_break(
    dsw: FakeDsw, clock: Clock, instance: Instance
) -> None:
    path = f"{INSTANCE}/idleinstanceculler"
    rule = {"CpuPercentThreshold": 20, "GpuPercentThreshold": 10, "MaxIdleTimeInMinutes": 30}
    assert (await ask(dsw, "CreateIdleInstanceCuller", "POST", path, body=rule))[0] == 200
    assert await code_of(ask(dsw, "CreateIdleInstanceCuller", "POST", path, body=rule)) == (400, "ValidationError")
    clock.advance(25 * MINUTE)
    assert (await ask(dsw, "GetIdleInstanceCuller", "GET", path))[1]["IdleTimeInMinutes"] == 25
    instance.use(clock(), Load(cpu=50))
    clock.advance(MINUTE)
    instance.use(clock(), Load())
    clock.advance(29 * MINUTE)
    seen = await get(dsw)
    assert (seen["Status"], seen["IdleInstanceCuller"]["IdleTimeInMinutes"]) == ("Running", 29)
    clock.advance(2 * MINUTE)
    assert (await get(dsw))["Status"] == "Stopped"
    assert (await ask(dsw, "DeleteIdleInstanceCuller", "DELETE", path))[0] == 200


async def test_arrears_stop_it_for_good(dsw: FakeDsw, clock: Clock, instance: Instance) -> None:
    instance.fall_into_arrears(clock())
    assert (await get(dsw))["Status"] == "ArrearStopping"
    clock.advance(MINUTE)
    assert (await get(dsw))["Status"] == "Arrearge"
    assert await code_of(ask(dsw, "StartInstance", "PUT", f"{INSTANCE}/start")) == (400, "ValidationError")


@pytest.mark.usefixtures("instance")
async def test_a_deletion_is_remembered(dsw: FakeDsw) -> None:
    assert (await ask(dsw, "DeleteInstance", "DELETE", INSTANCE))[0] == 200
    assert dsw.world.deleted == ["dsw-1"]


# What it tells


async def test_lists_come_in_pages(dsw: FakeDsw) -> None:
    for number in range(12):
        dsw.add(f"dsw-{number}", status="Stopped" if number % 2 else "Running")
    _, first = await ask(dsw, "ListInstances", "GET", "/api/v2/instances", {"PageSize": "5", "PageNumber": "3"})
    assert ([one["InstanceId"] for one in first["Instances"]], first["TotalCount"]) == (["dsw-10", "dsw-11"], 12)
    _, down = await ask(dsw, "ListInstances", "GET", "/api/v2/instances", {"Status": "Stopped"})
    assert down["TotalCount"] == 6
    _, specs = await ask(dsw, "ListEcsSpecs", "GET", "/api/v2/ecsspecs", {"AcceleratorType": "GPU", "PageSize": "1"})
    assert (len(specs["EcsSpecs"]), specs["TotalCount"], specs["EcsSpecs"][0]["Price"]) == (1, 2, 9.74)


async def test_the_lifecycle_comes_in_sessions(dsw: FakeDsw, clock: Clock) -> None:
    instance = dsw.add("dsw-1", pace=AT_ONCE)
    dsw.world.stamp = millis
    for _ in range(3):
        clock.advance(HOUR)
        instance.settle(clock())
        instance.stop(clock())
        clock.advance(HOUR)
        instance.start(clock())

    async def told(**query: str) -> tuple[list[list[str]], int]:
        _, body = await ask(dsw, "GetLifecycle", "GET", f"{INSTANCE}/lifecycle", query)
        times = [[entry["GmtCreateTime"][11:16] for entry in each][::4] for each in body["Lifecycle"]]
        return times, body["TotalCount"]

    assert await told(Order="ASC", Limit="2") == ([["10:00"], ["12:00", "12:00"]], 4)
    newest = [["16:00", "16:00"], ["15:00", "14:00"]]
    assert await told(Limit="2") == (newest, 4)
    assert await told(Limit="2", SessionNumber="1") == ([["15:00", "14:00"], ["13:00", "12:00"]], 4)
    assert await told(StartTime="2026-11-24T14:30:00Z") == (newest, 2)
    assert await told(Order="ASC", EndTime="2026-11-24T11:30:00Z") == ([["10:00"]], 1)
    _, body = await ask(dsw, "GetLifecycle", "GET", f"{INSTANCE}/lifecycle", {"Limit": "1"})
    assert body["Lifecycle"][0][0]["Status"] == "Running"
    assert "GmtEndTime" not in body["Lifecycle"][0][0]
    assert body["Lifecycle"][0][1]["GmtEndTime"] == "2026-11-24T16:00:00.000Z"


async def test_metrics_tell_the_most_of_each_step_while_it_ran(dsw: FakeDsw, clock: Clock, instance: Instance) -> None:
    clock.advance(5 * MINUTE)
    instance.use(clock(), Load(gpu=90, received=1000))
    clock.advance(timedelta(seconds=30))
    instance.use(clock(), Load(gpu=1))
    clock.advance(timedelta(seconds=150))
    path = "/api/v2/instance/dsw-1/metrics"
    query = {"MetricType": "GpuCoreUsage", "StartTime": "2026-11-24T10:00:00Z", "TimeStep": "2m"}
    _, body = await ask(dsw, "GetInstanceMetrics", "GET", path, query)
    assert [point["Value"] for point in body["PodMetrics"][0]["Metrics"]] == [0, 0, 90, 1]
    assert body["PodMetrics"][0]["Metrics"][-1]["Time"] == clock().timestamp()
    query = {"MetricType": "NetworkInputRate", "StartTime": "2026-11-24T09:00:00Z", "EndTime": "2026-11-24T09:30:00Z"}
    assert (await ask(dsw, "GetInstanceMetrics", "GET", path, query))[1]["PodMetrics"] == []


# What it costs


async def test_the_free_tier_goes_first_then_yuan(clock: Clock) -> None:
    account = Account(FreeTier(initial=7.0))
    async with FakeDsw(clock=clock, account=account) as dsw:
        dsw.add("dsw-1")
        clock.advance(30 * MINUTE)
        _, config = await ask(dsw, "GetUserConfig", "GET", "/api/v2/userconfig")
        assert config["FreeTier"]["PeriodBaseValue"] == pytest.approx(7.0 - 6.991 / 2)
        clock.advance(90 * MINUTE)
        bill = dsw.account.bill
        assert bill.minutes == 120
        assert bill.compute_hours == pytest.approx(7.0)
        assert bill.yuan == pytest.approx((2 - 7.0 / 6.991) * 9.74)
        _, config = await ask(dsw, "GetUserConfig", "GET", "/api/v2/userconfig")
        assert (config["FreeTier"]["PeriodBaseValue"], config["AccountSufficient"]) == (0, True)


async def test_a_session_pays_for_each_minute_that_it_starts(dsw: FakeDsw, clock: Clock) -> None:
    instance = dsw.add("dsw-1", pace=AT_ONCE)
    for seconds in (61, 59, 60):
        clock.advance(timedelta(seconds=seconds))
        instance.settle(clock())
        instance.stop(clock())
        clock.advance(HOUR)
        instance.settle(clock())
        instance.start(clock())
    assert dsw.account.bill.minutes == 2 + 1 + 1


async def test_the_free_tier_is_full_again_each_month_in_china_until_it_ends(clock: Clock) -> None:
    clock.now = datetime(2026, 11, 30, 15, 0, tzinfo=UTC)  # 23:00 in China
    account = Account(FreeTier(initial=100.0, ends_at=datetime(2026, 11, 30, 18, 0, tzinfo=UTC)))
    async with FakeDsw(clock=clock, account=account) as dsw:
        dsw.add("dsw-1")
        clock.advance(HOUR)
        assert dsw.account.remaining(clock() - MINUTE) == pytest.approx(100 - 6.991)
        clock.advance(HOUR)
        assert dsw.account.remaining(clock()) == pytest.approx(100 - 6.991)
        clock.advance(2 * HOUR)
        assert dsw.account.remaining(clock()) == 0
        assert dsw.account.bill.yuan == pytest.approx(9.74)
        assert {day: bill.minutes for day, bill in dsw.account.by_day.items()} == {"2026-11-30": 60, "2026-12-01": 180}


async def test_what_the_free_tier_does_not_pay_for_costs_yuan_at_once(dsw: FakeDsw, clock: Clock) -> None:
    dsw.add("dsw-1", spec="ecs.gn6i-c4g1.xlarge", disk_yuan_per_hour=0.1)
    clock.advance(HOUR)
    bill = dsw.account.bill
    assert (bill.compute_hours, bill.yuan, bill.disk_yuan) == (0, pytest.approx(11.84), pytest.approx(0.1))


# Faults


@pytest.mark.usefixtures("instance")
async def test_faults_come_once_or_until_they_are_healed(dsw: FakeDsw) -> None:
    dsw.faults.once("GetInstance", THROTTLED, Fault(200, "InternalError", "try again"))
    dsw.faults.until_healed("GetInstance", Fault(500, "InternalError"))
    assert await code_of(ask(dsw, "GetInstance", "GET", INSTANCE)) == (429, "Throttling.User")
    status, body = await ask(dsw, "GetInstance", "GET", INSTANCE)
    assert (status, body["Success"], body["Code"], body["Message"]) == (200, False, "InternalError", "try again")
    for _ in range(2):
        assert await code_of(ask(dsw, "GetInstance", "GET", INSTANCE)) == (500, "InternalError")
    dsw.faults.heal()
    assert (await get(dsw))["Status"] == "Running"
    dsw.faults.once("GetInstance", Fault(says={"Status": "Stopped"}), Fault(body=b'"odd"'))
    assert (await get(dsw))["Status"] == "Stopped"
    assert await get(dsw) == "odd"


@pytest.mark.parametrize("reset", ["before", "after"])
async def test_a_connection_may_break_before_the_deed_or_after(dsw: FakeDsw, instance: Instance, reset: Any) -> None:
    dsw.faults.until_healed("StopInstance", Fault(reset=reset))
    with pytest.raises(aiohttp.ClientError):
        await ask(dsw, "StopInstance", "PUT", f"{INSTANCE}/stop")
    assert instance.status == ("Running" if reset == "before" else "Stopping")


async def test_a_stop_may_be_taken_and_have_no_effect(dsw: FakeDsw, clock: Clock, instance: Instance) -> None:
    dsw.faults.once("StopInstance", Fault(ignored=True))
    status, body = await ask(dsw, "StopInstance", "PUT", f"{INSTANCE}/stop")
    clock.advance(HOUR)
    instance.settle(clock())
    assert (status, body["Success"], instance.status) == (200, True, "Running")


@pytest.mark.usefixtures("instance")
async def test_it_may_be_slow_or_hang(dsw: FakeDsw) -> None:
    dsw.faults.once("GetInstance", Fault(slow=0.2), HANG)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert (await get(dsw))["Status"] == "Running"
    assert loop.time() - began >= 0.2
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(get(dsw), 0.2)
