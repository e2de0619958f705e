"""The DSW instance through Alibaba's own SDK, against a strict fake of the API."""

import asyncio
import gc
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from alibabacloud_credentials.client import Client as Credential
from alibabacloud_credentials.models import Config as CredentialConfig
from alibabacloud_credentials.utils import auth_util

from bot import config
from bot.money import dsw_sdk
from bot.money.dsw import Dsw
from bot.money.dsw_refusal import Refusal, clean, refused
from bot.money.dsw_sdk import direct
from bot.money.instance import CallFailed, Cloud, Culler, View
from bot.money.situation import Snapshot
from storage.timeline import Lived
from tests.fakes.dsw import Clock, FakeDsw
from tests.fakes.dsw_bill import FreeTier, Spec
from tests.fakes.dsw_call import millis
from tests.fakes.dsw_faults import HANG, THROTTLED, Fault
from tests.fakes.dsw_instance import AT_ONCE, Instance, Load
from tests.fakes.dsw_signature import AccessKey

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
START = datetime(2026, 11, 24, 10, tzinfo=UTC)
A10 = "ecs.gn7i-c8g1.2xlarge"


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsw_sdk, "PAUSES", (0.01, 0.02))


@pytest.fixture
def clock() -> Clock:
    return Clock(START)


@pytest.fixture
async def fake(clock: Clock) -> AsyncIterator[FakeDsw]:
    async with FakeDsw(clock=clock) as running:
        yield running
    assert running.world.deleted == []
    gc.collect()  # a session that was left open warns now


@pytest.fixture
def instance(fake: FakeDsw) -> Instance:
    return fake.add("dsw-1")


@pytest.fixture
def dsw(fake: FakeDsw, clock: Clock) -> Dsw:
    return client(fake, clock)


def signer(key: AccessKey) -> Credential:
    kind = "sts" if key.token else "access_key"
    return Credential(
        CredentialConfig(
            type=kind, access_key_id=key.id, access_key_secret=key.secret, security_token=key.token or None
        )
    )


def settings(fake: FakeDsw, **given: Any) -> config.Dsw:
    return config.Dsw(**{"instance_id": "dsw-1", "endpoint": fake.address, "protocol": "http"} | given)


def client(fake: FakeDsw, clock: Clock, *, patience: float = 10.0, key: AccessKey | None = None, **given: Any) -> Dsw:
    return Dsw(settings(fake, **given), credential=signer(key or fake.key), patience=patience, now=clock)


async def failure(call: Any) -> str:
    with pytest.raises(CallFailed) as caught:
        await call
    told = str(caught.value)
    assert "\n" not in told
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return told


# What it is


async def test_the_view_tells_what_dsw_tells(fake: FakeDsw, instance: Instance, dsw: Dsw, clock: Clock) -> None:
    clock.advance(90 * MINUTE)
    cloud: Cloud = dsw
    assert cloud.instance == "dsw-1"
    assert await cloud.view() == View("Running", spec=A10, up_since=START, ran=90 * MINUTE)
    instance.crash(clock(), "GpuLost")
    assert await dsw.view() == View("Failed", spec=A10, ran=90 * MINUTE, reason="The instance has failed.")
    assert [call.operation for call in fake.calls] == ["GetInstance", "GetLifecycle", "GetInstance"]


async def test_it_began_to_run_when_its_last_session_did(fake: FakeDsw, dsw: Dsw, clock: Clock) -> None:
    instance = fake.add("dsw-1", status="Stopped")
    assert (await dsw.view()).up_since is None
    instance.start(clock.advance(HOUR))
    assert (await dsw.view()).up_since is None
    clock.advance(HOUR)
    assert (await dsw.view()).up_since == START + HOUR + timedelta(seconds=100)
    fake.denied.add("GetLifecycle")
    assert (await dsw.view()).status == "Running"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2026-11-24T10:00:00Z", START),
        ("2026-11-24T10:00:00.250Z", START + timedelta(milliseconds=250)),
        ("2026-11-24T18:00:00+08:00", START),
        ("2026-11-24T18:00:00.5+0800", START + timedelta(seconds=0.5)),
        ("2026-11-24T10:00:00", None),
        ("2026-11-24", None),
        ("2026-13-24T10:00:00Z", None),
        (1795514400, None),
    ],
)
@pytest.mark.usefixtures("instance")
async def test_times_are_read_strictly(fake: FakeDsw, dsw: Dsw, written: object, read: datetime | None) -> None:
    fake.faults.until_healed("GetInstance", Fault(says={"InstanceShutdownTimer": {"DueTime": written}}))
    if read:
        assert (await dsw.view()).timer_due == read
    else:
        assert await failure(dsw.view()) == f"DSW tells a time that can't be read: {str(written)!r}"


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ({"Status": None}, "DSW tells no status of the instance"),
        ({"AccumulatedRunningTimeInMs": "long"}, "DSW tells 'long' where a number should be"),
        ({"IdleInstanceCuller": {"MaxIdleTimeInMinutes": True}}, "DSW tells 'True' where a number should be"),
        ({"InstanceShutdownTimer": {"RemainingTimeInMs": {}}}, "DSW tells '{}' where a number should be"),
    ],
)
@pytest.mark.usefixtures("instance")
async def test_nonsense_is_not_believed(fake: FakeDsw, dsw: Dsw, says: dict[str, Any], told: str) -> None:
    fake.faults.until_healed("GetInstance", Fault(says=says))
    assert await failure(dsw.view()) == told


@pytest.mark.usefixtures("instance")
async def test_an_empty_timer_and_an_empty_rule_are_none(fake: FakeDsw, dsw: Dsw) -> None:
    empty = {"InstanceShutdownTimer": {}, "IdleInstanceCuller": {"InstanceId": "dsw-1"}, "LatestSnapshot": {}}
    fake.faults.once("GetInstance", Fault(says=empty), Fault(says={"InstanceShutdownTimer": {"RemainingTimeInMs": 1}}))
    assert await dsw.view() == View("Running", spec=A10, up_since=START, ran=timedelta())
    assert (await dsw.view()).timer_due == START + timedelta(milliseconds=1)


@pytest.mark.usefixtures("instance")
async def test_contradictory_states_are_passed_on(fake: FakeDsw, dsw: Dsw, clock: Clock) -> None:
    await dsw.stop()
    clock.advance(HOUR)
    fake.faults.once("GetInstance", Fault(says={"Status": "Running"}))
    assert [(await dsw.view()).status for _ in range(2)] == ["Running", "Stopped"]


# Stopping, starting, saving


async def test_it_stops_and_starts(instance: Instance, dsw: Dsw, clock: Clock) -> None:
    await dsw.stop()
    await dsw.stop()  # it is on its way
    clock.advance(HOUR)
    await dsw.stop()
    assert (await dsw.view()).status == "Stopped"
    await dsw.start()
    await dsw.start()
    clock.advance(HOUR)
    await dsw.start()
    assert (await dsw.view()).status == "Running"
    assert len(instance.sessions) == 2


async def test_a_stop_that_can_not_be_is_refused(fake: FakeDsw, instance: Instance, dsw: Dsw, clock: Clock) -> None:
    instance.snapshot(clock(), "env", "registry/env:1")  # somebody saves it in the console
    assert await failure(dsw.stop()) == (
        "DSW refused StopInstance (ValidationError): The instance can't be stopped: its status is Saving."
    )
    fake.faults.until_healed("GetInstance", Fault(500, "InternalError"))
    assert "refused StopInstance" in await failure(dsw.stop())


@pytest.mark.usefixtures("instance")
async def test_a_stop_without_effect_is_seen_in_the_view(fake: FakeDsw, dsw: Dsw, clock: Clock) -> None:
    fake.faults.once("StopInstance", Fault(ignored=True))
    await dsw.stop()
    clock.advance(HOUR)
    assert (await dsw.view()).status == "Running"


@pytest.mark.parametrize("fails", ["", "PushError"])
async def test_saving_stops_it_once_it_is_saved(fake: FakeDsw, dsw: Dsw, clock: Clock, fails: str) -> None:
    instance = fake.add("dsw-1")
    instance.snapshot(clock(), "an older one", "registry/env:1")
    clock.advance(HOUR)
    assert (await dsw.view()).snapshot is Snapshot.SAVED
    instance.save_fails = fails
    began = clock()
    await dsw.save("after-17")
    seen = []
    for _ in range(60):
        view = await dsw.view()
        assert view.snapshot_at == began
        seen.append((view.status, view.snapshot))
        clock.advance(timedelta(seconds=4))
        if view.status == "Saved":
            await dsw.stop()  # harmless
    saved = [("Saved", Snapshot.SAVED), ("Stopping", Snapshot.SAVED), ("Stopped", Snapshot.SAVED)]
    failed = [("SaveFailed", Snapshot.FAILED)]
    assert list(dict.fromkeys(seen)) == [("Saving", Snapshot.RUNNING), *(failed if fails else saved)]
    assert fake.done("StopInstance")[0].query == {"SaveImage": "true"}
    if fails:
        await dsw.stop()
        assert (await dsw.view()).status == "Stopping"


@pytest.mark.usefixtures("instance")
async def test_an_older_snapshot_tells_nothing_of_this_saving(fake: FakeDsw, dsw: Dsw) -> None:
    old = {"Status": "Saved", "GmtCreateTime": "2026-01-01T00:00:00Z"}
    for status in ("Saving", "SaveFailed"):
        fake.faults.once("GetInstance", Fault(says={"Status": status, "LatestSnapshot": old}))
    saving, failed = await dsw.view(), await dsw.view()
    assert (saving.snapshot, saving.snapshot_at) == (Snapshot.RUNNING, None)
    assert (failed.snapshot, failed.snapshot_at) == (Snapshot.FAILED, None)


# What stops it by itself


async def test_the_timer_is_set_anew(fake: FakeDsw, instance: Instance, dsw: Dsw, clock: Clock) -> None:
    await dsw.arm(15 * MINUTE)
    clock.advance(5 * MINUTE)
    await dsw.arm(15 * MINUTE)
    assert (await dsw.view()).timer_due == START + 20 * MINUTE
    assert fake.done("CreateInstanceShutdownTimer")[-1].body == {"RemainingTimeInMs": 900_000}
    clock.advance(16 * MINUTE)
    assert (await dsw.view()).status == "Stopped"
    stopping = next(entry for entry in instance.sessions[0] if entry.status == "Stopping")
    assert stopping.at == START + 20 * MINUTE


@pytest.mark.usefixtures("instance")
async def test_the_timer_is_lifted(dsw: Dsw, clock: Clock) -> None:
    await dsw.arm(timedelta(microseconds=1))
    await dsw.disarm()
    await dsw.disarm()  # there is none any more
    clock.advance(HOUR)
    assert (await dsw.view()).status == "Running"


@pytest.mark.usefixtures("instance")
async def test_a_timer_that_can_not_be_lifted_is_not_hidden(fake: FakeDsw, dsw: Dsw) -> None:
    await dsw.arm(HOUR)
    fake.denied.add("DeleteInstanceShutdownTimer")
    missing = "allow the action paidsw:DeleteInstanceShutdownTimer"
    assert missing in await failure(dsw.disarm())
    assert missing in await failure(dsw.arm(HOUR))
    assert (await dsw.view()).timer_due == START + HOUR


@pytest.mark.usefixtures("instance")
async def test_the_idle_rule_is_set_changed_and_lifted(fake: FakeDsw, dsw: Dsw, clock: Clock) -> None:
    await dsw.guard(None)
    await dsw.guard(Culler(20, 10, 60))
    await dsw.guard(Culler(5, 5, 120))
    assert (await dsw.view()).culler == Culler(5, 5, 120)
    await dsw.guard(None)
    assert (await dsw.view()).culler is None
    await dsw.guard(Culler(5, 5, 30))
    clock.advance(HOUR)
    assert (await dsw.view()).status == "Stopped"
    fake.denied.add("DeleteIdleInstanceCuller")
    assert "allow the action paidsw:DeleteIdleInstanceCuller" in await failure(dsw.guard(None))


# The past


async def test_its_life_is_told_in_states(fake: FakeDsw, dsw: Dsw, clock: Clock) -> None:
    instance = fake.add("dsw-1", status="Stopped")
    instance.start(clock.advance(HOUR))
    clock.advance(HOUR)
    await dsw.save("x")
    clock.advance(HOUR)
    instance.settle(clock())
    instance.start(clock.advance(HOUR))
    clock.advance(HOUR)
    began = int(START.timestamp())

    def at(seconds: int) -> datetime:
        return START + timedelta(seconds=seconds)

    assert await dsw.lived(START) == [
        Lived(began, "stopped", at(0), None),
        Lived(began + 3600, "starting", at(3600), at(3700)),
        Lived(began + 3600, "unwatched", at(3700), at(7200)),
        Lived(began + 3600, "saving", at(7200), at(7325)),
        Lived(began + 3600, "stopping", at(7325), at(7345)),
        Lived(began + 3600, "stopped", at(7345), None),
        Lived(began + 14400, "starting", at(14400), at(14500)),
        Lived(began + 14400, "unwatched", at(14500), None),
    ]
    assert [one.session for one in await dsw.lived(at(14400))] == [began + 14400] * 2
    assert len(await dsw.lived(at(14399))) == 7
    fake.world.stamp = millis
    assert len(await dsw.lived(START)) == 8


async def test_a_long_life_comes_in_pages(fake: FakeDsw, dsw: Dsw, clock: Clock) -> None:
    instance = fake.add("dsw-1", pace=AT_ONCE)
    for _ in range(50):
        instance.stop(clock.advance(HOUR))
        instance.start(clock.advance(HOUR))
    whole = await dsw.lived(START - HOUR)
    assert [one.session for one in whole] == sorted(one.session for one in whole)
    assert len({one.session for one in whole}) == 51
    assert len(fake.done("GetLifecycle")) == 3
    assert len({one.session for one in await dsw.lived(clock() - HOUR)}) == 2
    assert len(fake.done("GetLifecycle")) == 4


async def test_pages_that_come_again_end_it(fake: FakeDsw, dsw: Dsw) -> None:
    fake.add("dsw-1")
    entries = [[{"Status": "Running", "GmtCreateTime": f"2026-11-{day:02}T00:00:00Z"}] for day in range(20, 0, -1)]
    fake.faults.until_healed("GetLifecycle", Fault(says={"Lifecycle": entries}))
    assert len(await dsw.lived(START - timedelta(days=365))) == 20


@pytest.mark.usefixtures("instance")
async def test_a_life_in_odd_words_is_not_made_up(fake: FakeDsw, dsw: Dsw) -> None:
    odd = [{"Status": "Pondering", "GmtCreateTime": "2026-11-24T10:00:00Z", "GmtEndTime": "2026-11-24T11:00:00Z"}]
    fake.faults.until_healed("GetLifecycle", Fault(says={"Lifecycle": [odd, []]}))
    assert await dsw.lived(START) == [Lived(int(START.timestamp()), "unknown", START, START + HOUR)]
    fake.faults.until_healed("GetLifecycle", Fault(says={"Lifecycle": [[{"Status": "Running"}]]}))
    assert await failure(dsw.lived(START)) == "DSW tells a time that can't be read: 'None'"


async def test_usage_is_the_most_of_the_span(instance: Instance, dsw: Dsw, clock: Clock) -> None:
    assert await dsw.usage(START) is None
    clock.advance(10 * MINUTE)
    instance.use(clock(), Load(gpu=80, cpu=12.5, received=2e6, sent=1e6))
    clock.advance(MINUTE)
    instance.use(clock(), Load(cpu=3))
    clock.advance(5 * MINUTE)
    seen = await dsw.usage(START)
    assert seen is not None
    assert (seen.until, seen.gpu, seen.cpu, seen.network) == (clock(), 80, 12.5, 3e6)
    later = await dsw.usage(clock() - 3 * MINUTE)
    assert later is not None
    assert (later.gpu, later.cpu, later.network) == (0, 3, 0)


# Money


@pytest.mark.usefixtures("instance")
async def test_prices_and_stock_come_from_the_list(fake: FakeDsw, dsw: Dsw, clock: Clock) -> None:
    for number in range(250):
        fake.world.specs[f"ecs.more-{number}"] = replace(Spec(), name=f"ecs.more-{number}", yuan_per_hour=number)
    found = await dsw.price(A10)
    assert found is not None
    assert (found.spec, found.yuan_per_hour, found.source, found.seen_at) == (A10, 9.74, "specs", clock())
    assert (await dsw.price("ecs.more-249")).yuan_per_hour == 249  # type: ignore[union-attr]
    assert (await dsw.price("ecs.g6.xlarge")).yuan_per_hour == 1.2  # type: ignore[union-attr]
    assert (await dsw.price("ecs.none"), await dsw.stock("ecs.none")) == (None, None)
    assert await dsw.stock(A10) is True
    fake.world.specs[A10].available = False
    assert await dsw.stock(A10) is False
    fake.world.specs[A10].currency = "USD"
    assert (await dsw.price(A10)).yuan_per_hour is None  # type: ignore[union-attr]


@pytest.mark.usefixtures("instance")
async def test_the_free_tier_goes_down_as_it_runs(fake: FakeDsw, dsw: Dsw, clock: Clock) -> None:
    clock.advance(10 * HOUR)
    seen = await dsw.subscription()
    assert seen is not None
    assert seen.quota is not None
    assert seen.sufficient is True
    assert (seen.quota.initial, seen.quota.unit, seen.quota.at) == (250, "CU*H", clock())
    assert seen.quota.remaining == pytest.approx(250 - 10 * 6.991)
    assert seen.quota.remaining == pytest.approx(250 - fake.account.bill.compute_hours)
    assert seen.quota.ends_at == FreeTier().ends_at
    fake.account.tier, fake.account.sufficient = None, False
    seen = await dsw.subscription()
    assert seen is not None
    assert (seen.quota, seen.sufficient) == (None, False)


# Failures


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Fault(200, "InternalError", "try\n again"), "DSW refused GetInstance (InternalError): try again"),
        (Fault(200, "null", ""), "DSW refused GetInstance (null): no reason is given"),
        (Fault(500, "ServiceUnavailable", "down"), "DSW refused GetInstance (ServiceUnavailable): down"),
        (THROTTLED, "DSW refused GetInstance (Throttling.User): too many calls are made to the account's API: "),
        (Fault(400, "ValidationError", "x" * 500), "DSW refused GetInstance (ValidationError): " + "x" * 199 + "…"),
        (Fault(403, "NoPermission", "no"), "DSW refused GetInstance (NoPermission): allow the action paidsw:GetIn"),
        (Fault(404, "InstanceNotFound", "gone"), "DSW refused GetInstance (InstanceNotFound): gone (is it the "),
        (Fault(body=b"<html>"), "what {} answers to GetInstance is not DSW's (RuntimeError): is it right?"),
        (Fault(body=b"[1]"), "DSW's answer to GetInstance can't be read"),
        (Fault(says={"Success": None}), "DSW refused GetInstance (null): no reason is given"),
        (Fault(reset="before"), "{} can't be reached for GetInstance (Server disconnected): is it right, and the net"),
    ],
)
@pytest.mark.usefixtures("instance")
async def test_a_failure_is_told_in_a_line(fake: FakeDsw, dsw: Dsw, fault: Fault, told: str) -> None:
    fake.faults.until_healed("GetInstance", fault)
    assert (await failure(dsw.view())).startswith(told.format(fake.address))


@pytest.mark.parametrize(
    ("fault", "tries"),
    [(THROTTLED, 3), (Fault(500, "InternalError"), 3), (Fault(200, "InternalError", "x"), 3),
     (Fault(400, "ValidationError"), 1), (Fault(403, "Forbidden"), 1), (Fault(body=b"<html>"), 3)],
)  # fmt: skip
@pytest.mark.usefixtures("instance")
async def test_only_reads_are_tried_again_and_only_where_it_helps(
    fake: FakeDsw, dsw: Dsw, fault: Fault, tries: int
) -> None:
    fake.faults.once("GetUserConfig", *[fault] * 3)
    await failure(dsw.subscription())
    assert len(fake.calls) == tries
    fake.faults.heal()
    fake.faults.once("CreateIdleInstanceCuller", *[fault] * 3)
    await failure(dsw.guard(Culler(5, 5, 60)))
    assert [call.operation for call in fake.calls].count("CreateIdleInstanceCuller") == 1


@pytest.mark.usefixtures("instance")
async def test_what_passes_is_not_noticed(fake: FakeDsw, dsw: Dsw) -> None:
    fake.faults.once("GetInstance", THROTTLED, Fault(reset="before"))
    assert (await dsw.view()).status == "Running"


@pytest.mark.usefixtures("instance")
async def test_a_stop_whose_answer_is_lost_is_done_once(fake: FakeDsw, dsw: Dsw) -> None:
    fake.faults.once("StopInstance", Fault(reset="after"))  # aiohttp sends it again by itself, and is refused
    await dsw.stop()
    assert [call.code for call in fake.calls if call.operation == "StopInstance"] == ["", "SignatureNonceUsed"]
    assert (await dsw.view()).status == "Stopping"


@pytest.mark.usefixtures("instance")
async def test_a_hang_is_cut(fake: FakeDsw, clock: Clock) -> None:
    dsw = client(fake, clock, patience=0.3)
    for operation in ("GetInstance", "StopInstance"):
        fake.faults.until_healed(operation, HANG)
    began = time.monotonic()
    assert await failure(dsw.view()) == "DSW did not answer GetInstance within 0.3 s"
    assert await failure(dsw.stop()) == "DSW did not answer StopInstance within 0.3 s"
    assert time.monotonic() - began < 3
    fake.faults.heal()
    assert (await dsw.view()).status == "Running"


@pytest.mark.usefixtures("instance")
async def test_a_slow_answer_is_waited_for(fake: FakeDsw, dsw: Dsw) -> None:
    fake.faults.once("GetInstance", Fault(slow=0.5))
    assert (await dsw.view()).status == "Running"


@pytest.mark.usefixtures("instance")
async def test_a_cancelled_call_leaves_nothing(fake: FakeDsw, dsw: Dsw) -> None:
    fake.faults.until_healed("GetInstance", HANG)
    before = asyncio.all_tasks()
    for wait in (0.0, 0.01, 0.2):
        call = asyncio.create_task(dsw.view())
        await asyncio.sleep(wait)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    fake.faults.heal()
    assert (await dsw.view()).status == "Running"
    await asyncio.sleep(0.1)
    own = {task.get_name() for task in asyncio.all_tasks() - before if "aiohttp.web" not in repr(task)}
    assert own == set()
    gc.collect()


@pytest.mark.usefixtures("instance")
async def test_calls_may_be_made_at_once(fake: FakeDsw, dsw: Dsw) -> None:
    views = await asyncio.gather(*(dsw.view() for _ in range(20)))
    assert {view.status for view in views} == {"Running"}
    assert not [call for call in fake.calls if call.code]


# Credentials


async def test_temporary_credentials_bring_their_token(clock: Clock) -> None:
    key = AccessKey("STS.NUx", "secret", "token/with+odd==characters")
    async with FakeDsw(clock=clock, keys=[key]) as fake:
        fake.add("dsw-1")
        assert (await client(fake, clock).view()).status == "Running"
        wrong = client(fake, clock, key=replace(key, token="another"))
        assert await failure(wrong.view()) == (
            "DSW refused GetInstance (InvalidSecurityToken.MismatchWithAccessKey): "
            "the temporary credentials are wrong or have run out: get new ones, and restart"
        )


@pytest.mark.usefixtures("instance")
async def test_wrong_keys_are_told_without_them(fake: FakeDsw, clock: Clock) -> None:
    keys = "ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET"
    wrong = client(fake, clock, key=AccessKey(fake.key.id, "notTheSecret"))
    assert await failure(wrong.stop()) == (
        f"DSW refused StopInstance (SignatureDoesNotMatch): the access key's secret is wrong: copy it again into {keys}"
    )
    unknown = client(fake, clock, key=AccessKey("LTAIunknown", "x"))
    assert await failure(unknown.stop()) == (
        "DSW refused StopInstance (InvalidAccessKeyId.NotFound): the access key is unknown or disabled: put a valid "
        f"one into {keys}"
    )


@pytest.mark.usefixtures("instance")
async def test_a_right_that_is_missing_is_named(fake: FakeDsw, dsw: Dsw) -> None:
    fake.denied |= {"StopInstance", "GetInstance"}
    assert await failure(dsw.stop()) == (
        "DSW refused StopInstance (Forbidden.RAM): allow the action paidsw:StopInstance on the resource * to the RAM "
        "user or role whose access key is used"
    )


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """The default chain finds nothing, wherever these tests run."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(auth_util, "environment_access_key_id", None)
    monkeypatch.setattr(auth_util, "environment_credentials_file", None)
    monkeypatch.setattr(auth_util, "environment_credentials_uri", None)
    monkeypatch.setattr(auth_util, "enable_oidc_credential", False)
    monkeypatch.setattr(auth_util, "environment_ecs_metadata_disabled", "true")


@pytest.mark.usefixtures("no_credentials", "instance")
async def test_credentials_come_from_the_default_chain(fake: FakeDsw, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await failure(Dsw(settings(fake)).view()) == (
        "no credentials for DSW: set ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET, or write "
        "~/.alibabacloud/credentials.ini, or give this machine a RAM role"
    )
    monkeypatch.setattr(auth_util, "environment_access_key_id", fake.key.id)
    monkeypatch.setattr(auth_util, "environment_access_key_secret", fake.key.secret)
    assert (await Dsw(settings(fake)).view()).status == "Running"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Cannot connect to host http://me:hunter2@proxy:3128", "Cannot connect to host http://***@proxy:3128"),
        ("key LTAI5tAbc of STS.NUabc", "key *** of ***"),
        ("your signature is [0123456789abcdef0123456789abcdef]", "your signature is [***]"),
        ("token CAISuQJ1q6Ft5B2yfSjIr5bDCM/h+g==; end", "token ***; end"),
        ("InstanceShutdownTimerAlreadyExists", "InstanceShutdownTimerAlreadyExists"),
        ("the instance dsw-9698d842b6a1f2c3", "the instance dsw-9698d842b6a1f2c3"),
        ("line\n two\t three", "line two three"),
    ],
)
def test_what_may_be_a_secret_is_left_out(said: str, told: str) -> None:
    assert clean(said) == told
    assert str(refused("GetInstance", Refusal(400, "Odd", said))).endswith(told)


# Settings, the network, the machine


def test_an_instance_must_be_named() -> None:
    with pytest.raises(CallFailed, match=r"^dsw.instance_id is not set"):
        Dsw(config.Dsw())
    assert Dsw(config.Dsw(), instance="from-the-environment").instance == "from-the-environment"
    assert Dsw(config.Dsw(instance_id="set"), instance="from-the-environment").instance == "set"


async def test_a_region_must_be_named() -> None:
    unset = Dsw(config.Dsw(instance_id="dsw-1"), credential=signer(AccessKey()))
    assert await failure(unset.view()) == "dsw.region is not set: put there where the instance is, like cn-hangzhou"


@pytest.mark.parametrize("endpoint", ["127.0.0.1:1", "dsw.invalid"])
async def test_what_can_not_be_reached_is_named(fake: FakeDsw, clock: Clock, endpoint: str) -> None:
    told = await failure(client(fake, clock, endpoint=endpoint).stop())
    assert told.startswith(f"{endpoint} can't be reached for StopInstance (Cannot connect to host {endpoint}")
    assert told.endswith("]): is it right, and the network up?")


@pytest.fixture
async def proxy() -> AsyncIterator[tuple[str, list[bytes]]]:
    """A proxy that refuses all, and the first lines of what it was asked."""
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    yield f"http://{host}:{port}", asked
    server.close()


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy"])
@pytest.mark.usefixtures("instance")
async def test_an_endpoint_on_this_machine_needs_no_proxy(
    fake: FakeDsw, dsw: Dsw, proxy: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, proxy[0])
    assert (await dsw.view()).status == "Running"
    await dsw.stop()
    assert proxy[1] == []
    port = fake.address.partition(":")[2]
    tls = Dsw(settings(fake, endpoint=f"localhost:{port}", protocol="https"), credential=signer(fake.key))
    monkeypatch.setenv(name.replace("HTTP", "HTTPS").replace("http_", "https_"), proxy[0])
    assert "can't be reached for StopInstance" in await failure(tls.stop())  # the fake speaks no TLS
    assert proxy[1] == []


@pytest.mark.usefixtures("instance")
async def test_others_are_reached_through_the_proxy(
    fake: FakeDsw, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://{fake.address}")
    far = client(fake, clock, endpoint="pai-dsw.example")
    assert (await far.view()).status == "Running"
    monkeypatch.setenv("NO_PROXY", ".example")
    assert "pai-dsw.example can't be reached" in await failure(client(fake, clock, endpoint="pai-dsw.example").stop())


async def test_a_region_that_can_not_be_reached_is_named(
    proxy: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy[0])
    dsw = Dsw(config.Dsw(instance_id="dsw-1"), region="cn-nowhere", credential=signer(AccessKey()))
    assert (await failure(dsw.stop())).startswith("the endpoint of dsw.region cn-nowhere can't be reached for StopInst")
    assert proxy[1] == [b"CONNECT pai-dsw.cn-nowhere.aliyuncs.com:443 HTTP/1.1\r\n"]


def test_who_is_reached_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "aliyuncs.com")
    hosts = ["127.0.0.1:80", "[::1]:80", "localhost", "pai-dsw.cn-hangzhou.aliyuncs.com", "example.com:443", "10.0.0.1"]
    assert [direct(host) for host in hosts] == [True, True, True, True, False, False]


def test_the_sdk_is_imported_by_the_first_call_only() -> None:
    script = (
        "import sys, bot.money.dsw as m, bot.config as c; m.Dsw(c.Dsw(instance_id='x', region='cn-hangzhou'));"
        "assert not [n for n in sys.modules if n.startswith(('alibabacloud', 'darabonba', 'Tea', 'aiohttp'))], 1"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


async def test_the_first_call_does_not_hold_the_loop_up(fake: FakeDsw) -> None:
    script = f"""
import asyncio, time
from bot import config
from bot.money import dsw_sdk
from bot.money.dsw import Dsw

async def main():
    dsw = Dsw(config.Dsw(instance_id="dsw-1", endpoint={fake.address!r}, protocol="http"))
    call, longest, last = asyncio.create_task(dsw.view()), 0.0, time.monotonic()
    while not call.done():
        await asyncio.sleep(0.01)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    print(call.result().status, longest)

asyncio.run(main())
"""
    fake.add("dsw-1")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE, env={"PATH": "/usr/bin:/bin"} | fake.environment
    )
    told, _ = await process.communicate()
    status, longest = told.decode().split()
    assert status == "Running"
    assert float(longest) < 0.5
