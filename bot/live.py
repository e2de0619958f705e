"""An answer while it is written: one writer, any number of readers who look at it at their own pace."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from inference.protocol import Chunk, Usage
from storage.inbox import Claim, Draft

NEWS = 8  # tokens that are worth a note; a long draft is noted when it has grown by an eighth


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
        self.starts = 0  # how often it has begun from nothing
        self.completed = False  # nothing will be added
        self.ended = False  # and it is committed, given up or given back
        self._finish_reason = ""
        self._usage = Usage(0, 0, 0)
        self._tokens: list[int] = []
        self._noted = 0  # tokens of the newest draft
        self._scope: asyncio.Timeout | None = None
        self._changed = asyncio.Event()

    def begin(self, claim: Claim, draft: Draft | None) -> None:
        """The turn starts, or goes on from a draft. What was shown of a try that failed does not count."""
        self.claim, self.key, self.placeholder = claim, claim.conversation_key, claim.placeholder
        self.text, self.reasoning = (draft.text, draft.reasoning) if draft else ("", "")
        self._tokens = list(draft.tokens) if draft else []
        self._noted = len(self._tokens)
        self.starts += not draft
        self._finish_reason = ""
        self.completed = self.ended = False

    def add(self, chunk: Chunk) -> None:
        self.text += chunk.text
        self.reasoning += chunk.reasoning
        self._tokens += chunk.tokens
        if chunk.finish and chunk.usage:
            self._finish_reason, self._usage = chunk.finish, chunk.usage
        self._notify()

    @property
    def tokens(self) -> tuple[int, ...]:
        return tuple(self._tokens)

    @property
    def unfinished(self) -> bool:
        """Whether there is a beginning to go on from. A finished answer is none: nothing may be added to it."""
        return bool(self._tokens) and not self._finish_reason

    @property
    def grown(self) -> bool:
        """Whether a new draft is worth while."""
        return self.unfinished and len(self._tokens) - self._noted >= max(NEWS, self._noted // 8)

    def draft(self, model: str) -> Draft:
        """What there is so far: tokens, and the text that came with them."""
        return Draft(model, self.tokens, self.text, self.reasoning)

    def noted(self, draft: Draft) -> None:
        """It is stored."""
        self._noted = len(draft.tokens)

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
            self._finish_reason, self._usage = "cancelled", Usage(0, 0, len(self._tokens))
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
            async with asyncio.timeout(seconds):
                await self._changed.wait()
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
