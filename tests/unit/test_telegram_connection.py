"""The connection's limits, and how long the bot waits before it tries again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest
from structlog.testing import capture_logs
from telegram.error import NetworkError, RetryAfter
from telegram.request import HTTPXRequest

from bot.config import Secret, Telegram
from bot.telegram.adapter import LONGEST_PAUSE, TelegramAdapter
from bot.telegram.connection import Connection

SETTINGS = Telegram(token=Secret("123:abc"))


@pytest.mark.parametrize(("seconds", "limit"), [(25, 35), (0, 10)])
async def test_an_answer_to_a_poll_may_take_ten_seconds_more_than_the_poll_itself(
    monkeypatch: pytest.MonkeyPatch, seconds: int, limit: float
):
    asked = []

    async def do_request(_self: object, url: str, *_: object, **timeouts: float) -> tuple[int, bytes]:
        asked.append((parse_qs(urlsplit(url).query), timeouts["read_timeout"]))
        return 200, b'{"ok":true,"result":[{"update_id":5}]}'

    monkeypatch.setattr(HTTPXRequest, "do_request", do_request)
    async with Connection(SETTINGS) as connection:
        assert await connection.updates(5, seconds) == [(5, {"update_id": 5})]
    query = {"timeout": [str(seconds)], "allowed_updates": ['["message","callback_query"]'], "offset": ["5"]}
    assert asked == [(query, limit)]


@pytest.mark.parametrize(
    ("name", "silent_at"), [("httpx", "INFO"), ("httpcore.http11", "INFO"), ("telegram.Bot", "CRITICAL")]
)
def test_libraries_that_would_log_the_token_or_what_people_write_are_silent(name: str, silent_at: str):
    Connection(SETTINGS)
    assert not logging.getLogger(name).isEnabledFor(getattr(logging, silent_at))


Failing = Callable[..., Awaitable[list[float]]]


@pytest.fixture
def waits_after(monkeypatch: pytest.MonkeyPatch) -> Failing:
    """How long a bot waits after each of these errors, and that it says the same."""

    async def waits_after(*errors: Exception) -> list[float]:
        adapter = TelegramAdapter(SETTINGS, None, SimpleNamespace(channels={}), SimpleNamespace(senders={}), demo=False)
        adapter.username = "introduced already"
        coming, waits = iter(errors), []

        async def fail(*_: object) -> None:
            if error := next(coming, None):
                raise error
            raise asyncio.CancelledError

        async def note(seconds: float) -> None:
            waits.append(seconds)

        monkeypatch.setattr(adapter._connection, "updates", fail)
        monkeypatch.setattr(asyncio, "sleep", note)
        with capture_logs() as events, pytest.raises(asyncio.CancelledError):
            await adapter.run()
        assert [event["next_try_in"] for event in events] == waits
        return waits

    return waits_after


async def test_pauses_double_up_to_half_a_minute_however_long_it_lasts(waits_after: Failing):
    waits = await waits_after(*[NetworkError("away")] * 1500)
    assert waits[:7] == [1, 2, 4, 8, 16, 30, 30]
    assert set(waits[7:]) == {LONGEST_PAUSE}


async def test_a_pause_that_telegram_asks_for_is_kept_and_logged_as_it_is(waits_after: Failing):
    assert await waits_after(NetworkError("away"), RetryAfter(45), NetworkError("away")) == [1, 45, 4]
