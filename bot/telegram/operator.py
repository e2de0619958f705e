"""What the bot needs from whoever looks after the instance. It knows neither what buttons mean nor what things cost."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncSession


class Choice(Protocol):
    """A button: what it says, and what a press on it brings, 64 bytes at most."""

    @property
    def label(self) -> str: ...

    @property
    def data(self) -> str: ...


Keyboard = Sequence[Sequence[Choice]]  # rows


class Said(Protocol):
    """A text, and what can be chosen below it."""

    @property
    def text(self) -> str: ...

    @property
    def keyboard(self) -> Keyboard: ...


class Pressed(Protocol):
    """What a press has led to."""

    @property
    def toast(self) -> str:
        """What the presser is told at once; Telegram shows 200 characters."""

    @property
    def line(self) -> str:
        """What is added to the message; empty for nothing."""

    @property
    def keyboard(self) -> Keyboard | None:
        """What takes the place of the message's buttons; None: they stay, or go where a line is added."""


class CostAnswer(Protocol):
    @property
    def caption(self) -> str:
        """A few lines: 1,024 characters at most beside a picture."""

    @property
    def draw(self) -> Callable[[], Awaitable[bytes]]:
        """Draws the picture, a PNG. May fail."""


Cost = Callable[[str, datetime], Awaitable[CostAnswer]]  # in a language, as of a time


class Operator(Protocol):
    """`session`: a transaction of the caller's. `by`: who asks. `key`: the same however often that is told."""

    async def press(self, session: AsyncSession, data: str, *, by: str, key: str, language: str) -> Pressed: ...

    async def hold(self, session: AsyncSession, until: str, *, by: str, key: str, language: str) -> str:
        """`until`: as it was typed. Returns what the operator is told."""

    async def release(self, session: AsyncSession, *, by: str, key: str, language: str) -> str: ...

    def stored(self) -> None:
        """Called once what was asked for is committed."""

    async def status(self, language: str) -> Said: ...

    @property
    def cost(self) -> Cost: ...
