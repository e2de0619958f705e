"""The DSW instance, through Alibaba's API.

Read in the documentation and in the SDK 2.4, and tried against a fake of both, not yet against the live service:
SaveImage saves the environment before it stops; a timer and an idle rule have no update; a session is the span from a
start to the stop or failure. Nowhere documented, and made harmless here: what a second timer does, what a stop of a
stopped instance answers, how sessions are paged, and whether a failed saving leaves the instance running.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from bot import clock, config
from bot.money.dsw_answers import began_to_run, lived, measured, price, subscription, view
from bot.money.dsw_refusal import Refused
from bot.money.dsw_sdk import DswCalls
from bot.money.instance import CallFailed, Culler, Subscription, Usage, View
from bot.money.stopping import DOWN, GOING, STARTING
from storage.timeline import Lived, Price

PATIENCE = 20.0  # seconds
SESSIONS = 20  # asked for at once
SPECS = 100
STOPPED_ANYHOW = GOING | DOWN | {"Saved"}  # Saved: a stop that saves goes on from there
STARTED_ANYHOW = STARTING | {"Running"}


class Dsw:
    """One instance, as `bot.money.instance.Cloud`.

    `instance`, `region`: where the settings name none, as on the instance itself, whose environment tells them.
    `credential`: what signs the calls, a client of alibabacloud_credentials; None: what Alibaba's default chain finds.
    `patience`: seconds for each call. Raises CallFailed where no instance is named.
    """

    def __init__(
        self, settings: config.Dsw, *, instance: str = "", region: str = "", credential: Any = None,
        patience: float = PATIENCE, now: Callable[[], datetime] = clock.now,
    ) -> None:  # fmt: skip
        self._instance = settings.instance_id or instance
        if not self._instance:
            raise CallFailed("dsw.instance_id is not set: copy it from the console's list of DSW instances")
        self._calls = DswCalls(settings, region=settings.region or region, credential=credential, patience=patience)
        self._now = now

    @property
    def instance(self) -> str:
        return self._instance

    async def view(self) -> View:
        """`up_since` is left out where DSW does not tell the instance's life."""
        seen = await self._look()
        if seen.status in DOWN | STARTING:
            return seen
        with suppress(Refused):
            for session in await self._page(0, 1):
                return replace(seen, up_since=began_to_run(session))
        return seen

    async def _look(self) -> View:
        return view(await self._calls.read("GetInstance", self._instance), self._now())

    async def _unless(self, so_already: Callable[[View], bool], operation: str) -> None:
        """Where it is refused, looks whether nothing was left to do."""
        try:
            await self._calls.write(operation, self._instance)
        except Refused as refused:
            try:
                seen = await self._look()
            except CallFailed:
                raise refused from None
            if not so_already(seen):
                raise

    # The past

    async def lived(self, since: datetime) -> Sequence[Lived]:
        """All of its sessions that reach beyond then, whole, in order.

        They are paged by how many to leave out; where DSW should mean another thing, they come again, and that ends it.
        """
        found: dict[int, list[Lived]] = {}
        asked = 0
        while True:
            page = await self._page(asked, SESSIONS)
            told = {spans[0].session: spans for session in page if (spans := lived(session))}
            news = told.keys() - found.keys()
            found |= told
            asked += len(page)
            before = [number for number, spans in found.items() if spans[0].started_at <= since]
            if before or not news or len(page) < SESSIONS:
                break
        first = max(before, default=0)
        return [span for number in sorted(found) if number >= first for span in found[number]]

    async def _page(self, first: int, limit: int) -> list[Sequence[Any]]:
        body = await self._calls.read(
            "GetLifecycle", self._instance, order="DESC", limit=limit, session_number=first or None
        )
        return list(body.lifecycle or [])

    async def usage(self, since: datetime) -> Usage | None:
        """What is measured each minute. `until`: up to then all that is told was measured."""
        gpu, cpu, received, sent = [
            await self._measured(kind, since)
            for kind in ("GpuCoreUsage", "CpuCoreUsage", "NetworkInputRate", "NetworkOutputRate")
        ]
        network = {at: received.get(at, 0.0) + sent.get(at, 0.0) for at in received.keys() | sent.keys()}
        told = [points for points in (gpu, cpu, network) if points]
        if not told:
            return None
        until = datetime.fromtimestamp(min(max(points) for points in told), UTC)
        most = [max(points.values(), default=None) for points in (gpu, cpu, network)]
        return Usage(until, gpu=most[0], cpu=most[1], network=most[2])

    async def _measured(self, kind: str, since: datetime) -> dict[int, float]:
        body = await self._calls.read(
            "GetInstanceMetrics", self._instance, metric_type=kind, start_time=_written(since),
            end_time=_written(self._now()), time_step="1m",
        )  # fmt: skip
        return measured(body)

    # Money

    async def price(self, spec: str) -> Price | None:
        found = await self._spec(spec)
        return price(found, self._now()) if found else None

    async def stock(self, spec: str) -> bool | None:
        found = await self._spec(spec)
        return found.is_available if found else None

    async def _spec(self, name: str) -> Any:
        """Its line in the price list; None where there is none."""
        for kind in ("GPU", "CPU"):
            number, seen, total = 1, 0, 1
            while seen < total:
                body = await self._calls.read(
                    "ListEcsSpecs", accelerator_type=kind, page_number=number, page_size=SPECS
                )
                for spec in body.ecs_specs or []:
                    if spec.instance_type == name:
                        return spec
                if not body.ecs_specs:
                    break
                number, seen, total = number + 1, seen + len(body.ecs_specs), body.total_count or 0
        return None

    async def subscription(self) -> Subscription | None:
        return subscription(await self._calls.read("GetUserConfig"), self._now())

    # What is done to it

    async def save(self, name: str) -> None:
        """Saves its image and stops it then: without a registry of one's own, DSW saves in no other way.

        DSW gives the image a name by itself, so `name` is not used. A `stop` that comes while it stops is harmless.
        """
        # Python's True would be sent as "True"; every other language's SDK sends this.
        await self._calls.write("StopInstance", self._instance, save_image="true")

    async def stop(self) -> None:
        await self._unless(lambda seen: seen.status in STOPPED_ANYHOW, "StopInstance")

    async def start(self) -> None:
        await self._unless(lambda seen: seen.status in STARTED_ANYHOW, "StartInstance")

    async def arm(self, after: timedelta) -> None:
        """Takes the timer away and sets a new one: DSW can't change one.

        A service that dies between the two, or whose second call fails, leaves no timer: then only the idle rule
        (`guard`) stops the instance. So a failure here has to be tried again, and `guard` to be set.
        The time is given as a duration: neither clock has to be right.
        """
        await self.disarm()
        left = max(int(after / timedelta(milliseconds=1)), 1)
        await self._calls.write("CreateInstanceShutdownTimer", self._instance, remaining_time_in_ms=left)

    async def disarm(self) -> None:
        await self._unless(lambda seen: seen.timer_due is None, "DeleteInstanceShutdownTimer")

    async def guard(self, culler: Culler | None) -> None:
        """As with the timer: the old rule goes before the new one comes."""
        await self._unless(lambda seen: seen.culler is None, "DeleteIdleInstanceCuller")
        if culler:
            await self._calls.write(
                "CreateIdleInstanceCuller", self._instance, cpu_percent_threshold=culler.cpu_percent,
                gpu_percent_threshold=culler.gpu_percent, max_idle_time_in_minutes=culler.minutes,
            )  # fmt: skip


def _written(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
