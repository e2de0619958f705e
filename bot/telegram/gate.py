"""Flood control: a chat that Telegram has told us to leave alone is left alone, by everything that writes to it."""

import time

from telegram.error import RetryAfter

SLOWEST = 12  # an answer is shown by about so many edits, however long it takes
SHORTEST_GAP = 1.2  # seconds between two edits in a private chat


def edit_gap(elapsed: float) -> float:
    """Seconds until the next edit of an answer that has been written for `elapsed` seconds."""
    return max(SHORTEST_GAP, elapsed / SLOWEST)


def seconds_of(error: RetryAfter) -> float:
    """How long a RetryAfter asks for; python-telegram-bot gives a number or a timedelta."""
    after = error.retry_after
    return float(after if isinstance(after, int | float) else after.total_seconds())


class FloodGate:
    """Until when each chat is closed, on the monotonic clock, and what live messages are known to show."""

    def __init__(self) -> None:
        self._closed: dict[int, float] = {}
        self.shown: dict[tuple[int, int], str] = {}  # by (chat, message)

    def wait(self, chat_id: int) -> float:
        """Seconds until the chat may be written to."""
        left = self._closed.get(chat_id, 0.0) - time.monotonic()
        if left <= 0:
            self._closed.pop(chat_id, None)
        return max(0.0, left)

    def close(self, chat_id: int, error: RetryAfter) -> float:
        """Closes the chat for as long as Telegram says, and a little; returns the seconds."""
        seconds = seconds_of(error) + 0.5
        self._closed[chat_id] = max(self._closed.get(chat_id, 0.0), time.monotonic() + seconds)
        return seconds
