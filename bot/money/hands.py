"""What is done to the instance, once it was decided and kept. What fails is told to the next decision."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

import structlog

from bot.money.evidence import Signal
from bot.money.instance import CallFailed, Cloud, Culler, View
from bot.money.situation import Decision, LiftTimer, RearmTimer, Rules, Save, Stop, Wake

log = structlog.get_logger()

FLUSH = 10.0  # seconds in which the last words may leave, before the machine they leave from is stopped


class Hands:
    """`local`: this service runs on the instance. `flush` returns once nothing more is to be sent.

    `failed`: why the last call was refused; whoever reads it empties it.
    """

    def __init__(self, cloud: Cloud | None, rules: Rules, *, local: bool, flush: Callable[[], Awaitable[None]]) -> None:
        self._cloud = cloud
        self._rules = rules
        self._local = local
        self._flush = flush
        self._rearm: timedelta | None = None  # a timer that is yet to be set
        self.failed = ""

    async def act(self, decision: Decision, at: datetime) -> None:
        if decision.actions:
            log.info("decided", state=decision.memory.state, reason=decision.reason,
                     actions=[type(action).__name__ for action in decision.actions])  # fmt: skip
        for action in decision.actions:
            match action:
                case Save():
                    await self._call("saving the image", lambda cloud: cloud.save(f"dswbot-{decision.memory.epoch}"))
                case Stop():
                    if self._local:
                        await self._last_words()
                    await self._call("stopping", lambda cloud: cloud.stop())
                case Wake():
                    await self._call("starting", lambda cloud: cloud.start())
                case RearmTimer():
                    self._rearm = action.until - at
                case LiftTimer():
                    self._rearm = timedelta()
                case _:
                    pass
        await self._set_timer()

    async def _last_words(self) -> None:
        try:
            async with asyncio.timeout(FLUSH):
                await self._flush()
        except TimeoutError:
            log.warning("what the operators should know has not left yet; it goes out at the next start")

    async def _call(self, what: str, call: Callable[[Cloud], Awaitable[None]]) -> None:
        """Makes a call. A refusal is the next tick's to decide about."""
        if self._cloud is None:
            self.failed = "nothing is configured that could do that: set dsw.instance_id or idle.stop_command"
            return
        try:
            await call(self._cloud)
        except CallFailed as error:
            log.error("a call to the cloud failed", what=what, reason=str(error))
            self.failed = str(error)

    async def _set_timer(self) -> None:
        """The dead-man timer: where it can't be set, that is tried again at each tick."""
        after, cloud = self._rearm, self._cloud
        if after is None or cloud is None:
            return
        try:
            await (cloud.arm(after) if after else cloud.disarm())
            self._rearm = None
        except CallFailed as error:
            log.warning("the instance's shutdown timer can't be set; trying again", reason=str(error))

    async def guard(self, view: View, signals: Sequence[Signal]) -> None:
        """The platform's own idle rule stands behind the timer, and is lifted while something is downloaded.

        A rule that somebody else has set is left alone.
        """
        cloud = self._cloud
        if cloud is None or not (self._rules.stops and self._rules.timer) or view.status != "Running":
            return
        ours = Culler(5, 5, max(60, round(2 * (self._rules.after + self._rules.warn_for) / timedelta(minutes=1))))
        downloading = any(signal.name == "downloads" and signal.busy for signal in signals)
        wanted = None if downloading else ours
        if view.culler == wanted or view.culler not in (None, ours):
            return
        try:
            await cloud.guard(wanted)
        except CallFailed as error:
            log.warning("the platform's idle rule can't be set", reason=str(error))
