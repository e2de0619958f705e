"""The one path from an accepted message to its reply: claim, history, generate, commit.

A message is a row of the inbox before anybody is told that it was accepted. The dispatcher claims the oldest
row of each conversation, one in flight a conversation, and answers it; no database session is open meanwhile.
Reply, usage, deliveries and the end of the inbox row are one transaction. Adapters (Telegram, webhooks) follow
the answer live and say what has to be delivered; this module knows neither.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Protocol

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from bot.clock import now
from bot.door import Door
from bot.leases import LEASE, Leases
from bot.live import LiveTurn, Outcome
from bot.patience import persistently
from inference.engine import Engine
from inference.errors import EngineUnavailable, InferenceError, InvalidRequest
from inference.protocol import ChatMessage, Request
from storage import conversations, inbox
from storage.acceptance import Acceptance
from storage.database import Database
from storage.errors import ClaimLost, StorageError
from storage.inbox import Accepted, Claim, Incoming, Reply
from storage.outbox import NewDelivery

log = structlog.get_logger()

POLL = 1.0  # seconds after which the dispatcher looks for work that nobody woke it for
ATTEMPTS = 3  # tries of a message that fails for a reason of ours
CLAIMS = 50  # times that it may be taken up: one that ends the process each time would be answered for ever
SHOW_GRACE = 5.0  # seconds that a live view may take to finish the call it is in

Ending = Callable[[AsyncSession], Awaitable[None]]  # how a turn ends: what is stored in one transaction


def _client(claim: Claim) -> str:
    """Whom a turn counts for where many wait: a conversation, or all of a program's together."""
    return claim.source if claim.source.startswith("webhook") else claim.conversation_key


@dataclass(frozen=True, slots=True)
class Persona:
    """How the model is asked: what every conversation begins with, whether it thinks first, how long it may talk."""

    system_prompt: str = ""
    thinking: bool | None = None
    max_tokens: int | None = None


class Channel(Protocol):
    """What an adapter adds to the turns of its own source."""

    async def show(self, live: LiveTurn) -> None:
        """Shows the answer while it is written; returns when it is complete."""

    def deliveries(self, claim: Claim, outcome: Outcome) -> list[NewDelivery]:
        """What must be sent, for good, when the turn has ended."""


class Turns:
    """Accepts messages and answers them. `run` is the dispatcher; one a process."""

    def __init__(self, db: Database, engine: Engine, persona: Persona, *, owner: str,
                 stored: Callable[[], None] = lambda: None, concurrency: int | None = None,
                 door: Door | None = None) -> None:  # fmt: skip
        """`owner`: this gateway's name, the same after a restart. `stored`: told when turns may have left deliveries.
        `concurrency`: turns at once; by default what the model can use. `door`: while it is shut, messages wait."""
        self._db = db
        self._engine = engine
        self._persona = persona
        self._owner = owner
        self._stored = stored
        self._concurrency = concurrency
        self._door = door or Door()
        self._acceptance = Acceptance(db)
        self._leases = Leases(db, self._model)
        self._wake = asyncio.Event()
        self._closing = False
        self._running: set[asyncio.Task[None]] = set()
        self._live: dict[int, LiveTurn] = {}
        self.channels: dict[str, Channel] = {}  # by the first word of their sources

    async def accept(self, incoming: Incoming) -> Accepted:
        """Stores a message for good, once for each (source, external id), and wakes the dispatcher."""
        accepted = await self._acceptance.accept(incoming, now())
        self._wake.set()
        return accepted

    def wake(self) -> None:
        """Tells the dispatcher that an adapter has stored messages itself."""
        self._wake.set()

    @contextlib.contextmanager
    def follow(self, message_id: int) -> Iterator[LiveTurn]:
        """The live view of a message's turn, which may not have begun. Look at its stored state after this."""
        live = self._live.setdefault(message_id, LiveTurn(message_id))
        live.followers += 1
        try:
            yield live
        finally:
            live.followers -= 1
            self._forget(live)

    def stop(self, conversation_key: str) -> bool:
        """Ends the answer that a conversation is being given; what was said so far is its reply."""
        stopped = [live.stop() for live in self._live.values() if live.key == conversation_key]
        return any(stopped)

    def close(self) -> None:
        """Takes up no further messages; `run` returns once the turns that have begun are over."""
        self._closing = True
        self._wake.set()

    async def run(self) -> None:
        """Answers messages until it is closed. Where it is cancelled, what is unfinished is given back as it is."""
        await persistently(self._take_over, "what the last process was answering")
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(self._leases.run(), name="leases"),
                      group.create_task(self._wake_when_ready(), name="model watch")]  # fmt: skip
            while not self._closing:
                self._wake.clear()
                claims = await self._claim() if self._door.open and self._engine.state.status == "ready" else []
                for claim in claims:
                    task = group.create_task(self._turn(claim), name=f"turn {claim.public_id}")
                    self._running.add(task)
                    task.add_done_callback(self._over)
                if not claims:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(POLL):  # wait_for of Python 3.11 may lose a cancellation
                            await self._wake.wait()
            if self._running:
                await asyncio.wait(self._running)
            for task in beside:
                task.cancel()

    async def _wake_when_ready(self) -> None:
        while True:
            await self._engine.changed()
            self._wake.set()

    def _over(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._wake.set()

    async def _take_over(self) -> None:
        """Goes on at once with what the last process of this name was answering."""
        async with self._db.write() as session:
            await inbox.release_owned(session, self._owner)

    def _room(self) -> int:
        """Turns that may begin: all that the model computes together, and as many whose prompts are ready to follow."""
        info = self._engine.state.info
        return (self._concurrency or (2 * info.slots if info else 1)) - len(self._running)

    def _model(self) -> str:
        info = self._engine.state.info
        return f"{info.model} {info.description}" if info else ""

    async def _claim(self) -> list[Claim]:
        if (room := self._room()) <= 0:
            return []
        try:
            async with self._db.write() as session:
                return await inbox.claim(
                    session, self._owner, now(), LEASE, channels=self.channels, limit=room, held=self._leases.held
                )
        except StorageError as error:
            log.error("no message can be taken from the database; trying again", reason=str(error))
            return []

    async def _turn(self, claim: Claim) -> None:
        """Answers one message. However that ends, it is stored, or the message is given back."""
        live = self._live.setdefault(claim.id, LiveTurn(claim.id))
        live.begin(claim, claim.draft if claim.draft and claim.draft.model == self._model() else None)
        try:
            async with self._leases.hold(claim, live):
                end = await self._attempt(claim, live)
                await persistently(partial(self._store, end), "the end of a turn")
        except asyncio.CancelledError:
            with contextlib.suppress(StorageError):
                await self._store(self._given_back(claim, live))
            raise
        except ClaimLost:
            log.warning("another process has taken this message over", message=claim.public_id)
        except Exception as error:  # noqa: BLE001 - boundary: the database refuses this end, and must get another
            with contextlib.suppress(StorageError):
                await self._store(self._failed(claim, live, error))
        finally:
            live.end()
            self._forget(live)

    async def _store(self, end: Ending) -> None:
        async with self._db.write() as session:
            await end(session)
        self._stored()

    async def _attempt(self, claim: Claim, live: LiveTurn) -> Ending:
        """Generates the answer. Whatever goes wrong is retried, or ends in the dead letter with its reason."""
        try:
            if claim.fence > CLAIMS:
                return self._dead_letter(claim, live, f"it was taken up {CLAIMS} times and never came to an end")
            return self._finished(claim, live, await self._generate(claim, live))
        except InvalidRequest as error:
            return self._dead_letter(claim, live, str(error))
        except EngineUnavailable:
            return self._given_back(claim, live)
        except Exception as error:  # noqa: BLE001 - boundary: one turn must not end the others
            return self._failed(claim, live, error)

    async def _generate(self, claim: Claim, live: LiveTurn) -> Outcome:
        shown = asyncio.create_task(self._channel(claim).show(live), name=f"show {claim.public_id}")
        started = now()
        try:
            history = await persistently(partial(self._history, claim), "reading a conversation")
            request = self._request(history, claim.text, _client(claim))
            chunks = self._engine.generate(request, resume=live.tokens, patience=None, bounded=False)
            async with aclosing(chunks), live.stoppable():
                async for chunk in chunks:
                    live.add(chunk)
            return live.outcome(started, now())
        finally:
            live.complete()
            await self._settle(shown, claim)

    async def _history(self, claim: Claim) -> list[conversations.Turn]:
        async with self._db.read() as session:
            return await conversations.history(session, claim.conversation_id)

    @staticmethod
    async def _settle(shown: "asyncio.Task[None]", claim: Claim) -> None:
        """Lets the live view finish the call that it is in: what it has sent, the delivery must know."""
        await asyncio.wait({shown}, timeout=SHOW_GRACE)
        shown.cancel()
        await asyncio.wait({shown})
        if not shown.cancelled() and (error := shown.exception()):
            log.warning("the answer could not be shown live", message=claim.public_id, reason=str(error))

    def _request(self, history: list[conversations.Turn], text: str, client: str) -> Request:
        system = [ChatMessage("system", self._persona.system_prompt)] if self._persona.system_prompt else []
        turns = [ChatMessage(turn.role, turn.content) for turn in history]
        messages = (*system, *turns, ChatMessage("user", text))
        return Request(
            messages=messages,
            thinking=self._persona.thinking,
            max_tokens=self._persona.max_tokens,
            drop_oldest=True,
            client=client,
        )

    def _finished(self, claim: Claim, live: LiveTurn, outcome: Outcome) -> Ending:
        info = self._engine.state.info
        reply = Reply(
            content=outcome.text, reasoning=outcome.reasoning or None, model=info.model if info else "",
            finish_reason=outcome.finish_reason, prompt_tokens=outcome.usage.prompt,
            cached_tokens=outcome.usage.cached, completion_tokens=outcome.usage.completion,
            started_at=outcome.started_at, finished_at=outcome.finished_at,
        )  # fmt: skip
        deliveries = self._deliveries(claim, live, outcome)
        return lambda session: inbox.finish(session, claim, reply, deliveries, now())

    def _deliveries(self, claim: Claim, live: LiveTurn, outcome: Outcome) -> list[NewDelivery]:
        seen = replace(claim, placeholder=live.placeholder or claim.placeholder)
        return self._channel(claim).deliveries(seen, outcome)

    def _channel(self, claim: Claim) -> Channel:
        return self.channels[claim.source.partition(":")[0]]

    def _failed(self, claim: Claim, live: LiveTurn, error: Exception) -> Ending:
        reason = str(error) if isinstance(error, InferenceError | StorageError) else "an internal error, see the log"
        log.error("a turn failed", message=claim.public_id, attempt=claim.attempts + 1, exc_info=error)
        if claim.attempts + 1 >= ATTEMPTS:
            return self._dead_letter(claim, live, reason)
        not_before = now() + timedelta(seconds=2 ** (claim.attempts + 1))
        return lambda session: inbox.retry(session, claim, not_before, reason)

    def _dead_letter(self, claim: Claim, live: LiveTurn, reason: str) -> Ending:
        log.warning("a message is given up", message=claim.public_id, reason=reason)
        deliveries = self._deliveries(claim, live, Outcome.failure(reason, now()))
        return lambda session: inbox.fail(session, claim, reason, deliveries, now())

    def _given_back(self, claim: Claim, live: LiveTurn) -> Ending:
        """The next to take it up, or this process itself, goes on from the last token."""

        async def end(session: AsyncSession) -> None:
            if live.unfinished:
                await inbox.checkpoint(session, claim, live.draft(self._model()))
            await inbox.release(session, claim)

        return end

    def _forget(self, live: LiveTurn) -> None:
        if not live.followers and (live.ended or not live.key):
            self._live.pop(live.message_id, None)
