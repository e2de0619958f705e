"""Answers of the database that are good for a moment, so that a busy client does not ask it the same at every call."""

import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")

MOMENT = 1.0  # seconds after which a change shows, such as a key that was revoked
MOST = 1024


class Lately(Generic[T]):
    """What was found by its name. What is not there is looked for every time."""

    def __init__(self) -> None:
        self._found: dict[Hashable, tuple[float, T]] = {}

    async def get(self, name: Hashable, look: Callable[[], Awaitable[T | None]]) -> T | None:
        at, found = self._found.get(name, (0.0, None))
        if found is not None and time.monotonic() - at < MOMENT:
            return found
        began = time.monotonic()
        found = await look()
        if found is None:
            self._found.pop(name, None)
            return None
        if len(self._found) >= MOST:
            self._found.clear()
        self._found[name] = began, found
        return found
