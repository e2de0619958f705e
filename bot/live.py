"""An answer while it is written: one writer, any number of readers who look at it at their own pace."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from inference.protocol import Chunk, Usage
from storage.inbox import Claim


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a turn ended. finish_reason: stop, length, cancelled (somebody said stop) or error (`text` says why)."""

    text: str
    reasoning: str
    finish_reason: str
    usage: Usage
    started_at: datetime
    finished_at: datetime

    @classmethod
    def failure(cls, reason: str, at: datetime) -> Self:
        return cls(reason, "", "error", Usage(0, 0, 0), at, at)


class LiveTurn:
    """`text` and `reasoning` so far. Readers keep the length they have seen and wait for `changed`."""

    def __init__(self, message_id: int) -> None:
        self.message_id = message_id
        self.followers = 0
        self.key = ""  # the conversation's, once the turn has begun
        self.claim: Claim | None = None
        self.placeholder: str | None = None  # where the live view stands, set by whoever shows it
        self.text = ""
        self.reasoning = ""
        self.completed = False  # nothing will be added
        self.ended = False  # and it is committed, given up or given back
        self.result: Outcome | None = None
        self._finish_reason = ""
        self._usage = Usage(0, 0, 0)
        self._tokens = 0
        self._scope: asyncio.Timeout | None = None
        self._changed = asyncio.Event()

    def begin(self, claim: Claim) -> None:
        """The turn starts, perhaps anew after one that was given back: what was shown then does not count."""
        self.claim, self.key, self.placeholder = claim, claim.conversation_key, claim.placeholder
        self.text = self.reasoning = self._finish_reason = ""
        self.completed = self.ended = False
        self._tokens = 0

    def add(self, chunk: Chunk) -> None:
        self.text += chunk.text
        self.reasoning += chunk.reasoning
        self._tokens += len(chunk.tokens)
        if chunk.finish and chunk.usage:
            self._finish_reason, self._usage = chunk.finish, chunk.usage
        self._notify()

    def complete(self) -> None:
        self.completed = True
        self._notify()

    def end(self) -> None:
        self.completed = self.ended = True
        self._notify()

    @contextlib.asynccontextmanager
    async def stoppable(self) -> AsyncIterator[None]:
        """A block that `stop` ends early, and quietly."""
        try:
            async with asyncio.timeout(None) as self._scope:
                yield
        except TimeoutError:
            self._finish_reason, self._usage = "cancelled", Usage(0, 0, self._tokens)
        finally:
            self._scope = None

    def stop(self) -> bool:
        """Ends the generation; False where there is none to end."""
        if not self._scope or self.completed:
            return False
        self._scope.reschedule(asyncio.get_running_loop().time())
        return True

    async def changed(self, seconds: float) -> bool:
        """Waits for the next change; False where none came in `seconds`."""
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def over(self, seconds: float) -> None:
        """Waits for the end of the turn, at most `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.ended:
                    await self._changed.wait()

    def outcome(self, started_at: datetime, finished_at: datetime) -> Outcome:
        return Outcome(self.text.strip(), self.reasoning, self._finish_reason, self._usage, started_at, finished_at)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
