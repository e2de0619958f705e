"""Whether the model takes new work. It is shut while the instance is on its way down, down, or on its way up."""

import asyncio


class Door:
    """One a process. `reason` says to whoever comes why it is shut; empty while it is open."""

    def __init__(self) -> None:
        self.reason = ""
        self._opened = asyncio.Event()
        self._opened.set()

    @property
    def open(self) -> bool:
        return self._opened.is_set()

    def shut(self, reason: str) -> None:
        self.reason = reason
        self._opened.clear()

    def unlock(self) -> None:
        self.reason = ""
        self._opened.set()
