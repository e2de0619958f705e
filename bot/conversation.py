"""The one path from an accepted message to its reply: claim, history, generate, commit.

A message is a row of the inbox before anybody is told that it was accepted. The dispatcher claims the oldest
row of each conversation, one in flight a conversation, and answers it; no database session is open meanwhile.
Reply, usage, deliveries and the end of the inbox row are one transaction. Adapters (Telegram, webhooks) follow
the answer live and say what has to be delivered; this module knows neither.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Protocol

import structlog

from bot.clock import now
from bot.live import LiveTurn, Outcome
from inference.engine import Engine
from inference.errors import EngineUnavailable, InferenceError, InvalidRequest
from inference.protocol import ChatMessage, Request
from storage import conversations, inbox
from storage.database import Database
from storage.errors import ClaimLost, StorageError
from storage.inbox import Accepted, Claim, Incoming, Reply
from storage.outbox import NewDelivery

log = structlog.get_logger()

LEASE = timedelta(seconds=15)
RENEW_EVERY = 5.0  # seconds
POLL = 1.0  # seconds after which the dispatcher looks for work that nobody woke it for
ATTEMPTS = 3  # tries of a message that fails for a reason of ours
SHOW_GRACE = 5.0  # seconds that a live view may take to finish the call it is in


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
                 concurrency: int | None = None) -> None:  # fmt: skip
        """`concurrency`: turns at once; by default what the model can use."""
        self._db = db
        self._engine = engine
        self._persona = persona
        self._owner = owner
        self._concurrency = concurrency
        self._wake = asyncio.Event()
        self._live: dict[int, LiveTurn] = {}
        self.channels: dict[str, Channel] = {}

    async def accept(self, incoming: Incoming) -> Accepted:
        """Stores a message for good, once for each (source, external id), and wakes the dispatcher."""
        async with self._db.write() as session:
            accepted = await inbox.accept(session, incoming, now())
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

    async def run(self) -> None:
        """Answers messages until it is cancelled; unfinished ones are given back for the next start."""
        await self._wait_for_model()
        async with asyncio.TaskGroup() as group:
            free = asyncio.Semaphore(self._concurrency or self._enough())
            while True:
                await self._wait_for_model()
                await free.acquire()
                if claim := await self._claim():
                    task = group.create_task(self._turn(claim), name=f"turn {claim.public_id}")
                    task.add_done_callback(lambda _: free.release())
                    task.add_done_callback(lambda _: self._wake.set())
                    continue
                free.release()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), POLL)

    def _enough(self) -> int:
        """Turns at once: all that the model computes together, and as many whose prompts are ready to follow."""
        info = self._engine.state.info
        return 2 * info.slots if info else 1

    async def _wait_for_model(self) -> None:
        while self._engine.state.status != "ready":
            await self._engine.changed()

    async def _claim(self) -> Claim | None:
        self._wake.clear()
        try:
            async with self._db.write() as session:
                return await inbox.claim(session, self._owner, now(), LEASE)
        except StorageError as error:
            log.error("no message can be taken from the database; trying again", reason=str(error))
            await asyncio.sleep(POLL)
            return None

    async def _turn(self, claim: Claim) -> None:
        """One turn; where not even its end can be stored, the lease runs out and it is tried again."""
        try:
            await self._answer(claim)
        except StorageError as error:
            log.error("the end of a turn can't be stored", message=claim.public_id, reason=str(error))

    async def _answer(self, claim: Claim) -> None:
        """Answers one message. Whatever goes wrong is retried, or ends in the dead letter with its reason."""
        live = self._live.setdefault(claim.id, LiveTurn(claim.id))
        live.begin(claim)
        try:
            async with self._lease(claim):
                outcome = await self._generate(claim, live)
                await self._finish(claim, live, outcome)
        except asyncio.CancelledError:
            await self._give_back(claim)
            raise
        except ClaimLost:
            log.warning("another process has taken this message over", message=claim.public_id)
        except InvalidRequest as error:
            await self._dead_letter(claim, live, str(error))
        except EngineUnavailable:
            await self._give_back(claim)
        except Exception as error:  # noqa: BLE001 - boundary: one turn must not end the others
            await self._failed(claim, live, error)
        finally:
            live.end()
            self._forget(live)

    async def _generate(self, claim: Claim, live: LiveTurn) -> Outcome:
        channel = self.channels.get(claim.source)
        shown = asyncio.create_task(channel.show(live), name=f"show {claim.public_id}") if channel else None
        started = now()
        try:
            async with self._db.read() as session:
                request = self._request(
                    await conversations.history(session, claim.conversation_id), claim.text, _client(claim)
                )
            async with (
                aclosing(self._engine.generate(request, patience=None, bounded=False)) as chunks,
                live.stoppable(),
            ):
                async for chunk in chunks:
                    live.add(chunk)
            return live.outcome(started, now())
        finally:
            live.complete()
            if shown:
                await self._settle(shown, claim)

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

    async def _finish(self, claim: Claim, live: LiveTurn, outcome: Outcome) -> None:
        info = self._engine.state.info
        reply = Reply(
            content=outcome.text, reasoning=outcome.reasoning or None, model=info.model if info else "",
            finish_reason=outcome.finish_reason, prompt_tokens=outcome.usage.prompt,
            cached_tokens=outcome.usage.cached, completion_tokens=outcome.usage.completion,
            started_at=outcome.started_at, finished_at=outcome.finished_at,
        )  # fmt: skip
        async with self._db.write() as session:
            await inbox.finish(session, claim, reply, self._deliveries(claim, live, outcome), now())
        live.result = outcome

    def _deliveries(self, claim: Claim, live: LiveTurn, outcome: Outcome) -> list[NewDelivery]:
        channel = self.channels.get(claim.source)
        seen = replace(claim, placeholder=live.placeholder or claim.placeholder)
        return channel.deliveries(seen, outcome) if channel else []

    async def _failed(self, claim: Claim, live: LiveTurn, error: Exception) -> None:
        reason = str(error) if isinstance(error, InferenceError | StorageError) else "an internal error, see the log"
        log.error("a turn failed", message=claim.public_id, attempt=claim.attempts, exc_info=error)
        if claim.attempts >= ATTEMPTS:
            await self._dead_letter(claim, live, reason)
            return
        with contextlib.suppress(StorageError):  # the lease runs out by itself where the database is gone
            async with self._db.write() as session:
                await inbox.retry(session, claim, now() + timedelta(seconds=2**claim.attempts), reason)

    async def _dead_letter(self, claim: Claim, live: LiveTurn, reason: str) -> None:
        outcome = Outcome.failure(reason, now())
        async with self._db.write() as session:
            await inbox.fail(session, claim, reason, self._deliveries(claim, live, outcome), now())
        live.result = outcome
        log.warning("a message was given up", message=claim.public_id, reason=reason)

    async def _give_back(self, claim: Claim) -> None:
        with contextlib.suppress(StorageError):
            async with self._db.write() as session:
                await inbox.release(session, claim)

    @contextlib.asynccontextmanager
    async def _lease(self, claim: Claim) -> AsyncIterator[None]:
        """Keeps the claim ours; ends the block with ClaimLost when another process has taken it."""
        owner = asyncio.current_task()
        assert owner
        lost = False

        async def renew() -> None:
            nonlocal lost
            while not lost:
                await asyncio.sleep(RENEW_EVERY)
                with contextlib.suppress(StorageError):
                    async with self._db.write() as session:
                        lost = not await inbox.renew(session, claim, now(), LEASE)
            owner.cancel()

        keeper = asyncio.create_task(renew(), name=f"lease {claim.public_id}")
        try:
            yield
        except asyncio.CancelledError:
            if lost and owner.uncancel() == 0:
                raise ClaimLost from None
            raise
        finally:
            keeper.cancel()

    def _forget(self, live: LiveTurn) -> None:
        if not live.followers and (live.ended or not live.key):
            self._live.pop(live.message_id, None)
