"""The idle reminder: once a spell, also across restarts, to the log and to the operators."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from sqlalchemy.ext.asyncio import AsyncSession

from bot.clock import now
from bot.money.policy import Evidence, IdleSpell, Rates, idle_spell
from bot.patience import persistently
from inference.engine import Engine
from storage import ledger, outbox
from storage.database import Database
from storage.errors import StorageError
from storage.outbox import NewDelivery

log = structlog.get_logger()

TICK = 20.0  # seconds


def duration(span: timedelta, *, chinese: bool = False) -> str:
    """`2 h 5 min`, `15 min`, `40 s`."""
    hours, rest = divmod(int(span.total_seconds()), 3600)
    minutes, seconds = divmod(rest, 60)
    h, m, s = ("小时", "分钟", "秒") if chinese else ("h", "min", "s")
    parts = [f"{hours} {h}"] if hours else []
    parts += [f"{minutes} {m}"] if minutes else []
    return " ".join(parts or [f"{seconds} {s}"])


def _cost(span: timedelta, rates: Rates, *, chinese: bool) -> str:
    hours = span.total_seconds() / 3600
    parts = []
    if rates.yuan is not None:
        parts.append(f"¥{hours * rates.yuan:.2f}")
    if rates.compute_hours is not None:
        parts.append(f"{hours * rates.compute_hours:.2f} {'计算时' if chinese else 'compute-hours'}")
    return (" / " if chinese else " and ").join(parts)


def in_english(spell: IdleSpell, rates: Rates) -> str:
    text = f"Nobody has used the GPU for {duration(spell.lasted)}."
    if idle := _cost(spell.lasted, rates, chinese=False):
        whole = _cost(spell.up, rates, chinese=False)
        text += f" This idle time has cost {idle}, all {duration(spell.up)} since the start {whole}."
    else:
        text += " Set budget.yuan_per_hour or budget.compute_hours_per_hour to see what that costs."
    return text + " If you are done, stop the DSW instance in the PAI console; otherwise just send a message."


def in_chinese(spell: IdleSpell, rates: Rates) -> str:
    text = f"GPU 已空闲 {duration(spell.lasted, chinese=True)}，无人使用。"
    if idle := _cost(spell.lasted, rates, chinese=True):
        up = duration(spell.up, chinese=True)
        text += f"空闲花费 {idle}，启动以来 {up} 共 {_cost(spell.up, rates, chinese=True)}。"
    else:
        text += "设置 budget.yuan_per_hour 或 budget.compute_hours_per_hour 即可看到费用。"
    return text + "如已用完，请在 PAI 控制台停止 DSW 实例；否则发条消息即可继续。"


def reminder(spell: IdleSpell, rates: Rates, language: str) -> str:
    """The reminder's text: English, Chinese, or both where no language is set."""
    texts = {"en": in_english, "zh": in_chinese}
    chosen = [texts[language[:2]]] if language[:2] in texts else list(texts.values())
    return "\n\n".join(text(spell, rates) for text in chosen)


class IdleWatch:
    """Looks every now and then whether the machine is idle. All state is in tables, so a missed tick is harmless.

    `announce` makes the deliveries that carry a text to the operators.
    """

    def __init__(self, db: Database, engine: Engine, *, after: float, rates: Rates, language: str,
                 announce: Callable[[str], list[NewDelivery]], wake: Callable[[], None]) -> None:  # fmt: skip
        self._db = db
        self._engine = engine
        self._after = timedelta(seconds=after)
        self._rates = rates
        self._language = language
        self._announce = announce
        self._wake = wake

    async def run(self) -> None:
        """Ticks until it is cancelled."""
        run = await persistently(self._resume, "the idle watch")
        scheduler = AsyncIOScheduler(timezone="UTC")
        every = min(TICK, self._after.total_seconds() / 4)
        scheduler.add_job(
            self.tick, "interval", args=[run], seconds=every, coalesce=True, max_instances=1,
            misfire_grace_time=None, id="idle",
        )  # fmt: skip
        scheduler.start()
        try:
            await asyncio.Event().wait()
        finally:
            scheduler.shutdown(wait=False)

    async def _resume(self) -> ledger.Run:
        async with self._db.write() as session:
            return await ledger.resume_run(session, now(), self._after)

    async def tick(self, run: ledger.Run) -> None:
        """One look, and what follows from it."""
        try:
            async with self._db.read() as session:
                last = await ledger.last_activity(session)
            busy = bool(self._engine.unfinished)
            spell = idle_spell(Evidence(now(), run.started_at, last, busy), self._after)
            async with self._db.write() as session:
                await ledger.beat(session, run.id, now())
                if spell:
                    await self._remind(session, spell)
        except StorageError as error:
            log.error("the idle watch can't reach the database; trying again", reason=str(error))

    async def _remind(self, session: AsyncSession, spell: IdleSpell) -> None:
        text = reminder(spell, self._rates, self._language)
        if not await ledger.raise_alert(session, "idle", spell.key, text, now()):
            return
        await outbox.add(session, self._announce(text), now())
        log.warning("the GPU is idle", text=text)
        self._wake()
