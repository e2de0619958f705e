"""The connection to Telegram: calls, long polling, and what a proxy says in Telegram's place."""

import logging
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import httpx
import msgspec
import telegram
from telegram.error import NetworkError
from telegram.request import HTTPXRequest

from bot.config import Telegram
from bot.errors import ProxyInvalid

WANTED = '["message","callback_query"]'  # kinds of updates
MARGIN = 10  # seconds that the answer to a poll may take beyond those that the poll itself waits
QUIET = {
    "httpx": logging.WARNING,  # below, these two log addresses, and the token is part of those
    "httpcore": logging.WARNING,
    "telegram": logging.CRITICAL + 1,  # what it logs are answers, with all that people write; it raises as well
}


class Answer(msgspec.Struct):
    """What every answer of the Bot API begins with."""

    ok: bool
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Numbered(msgspec.Struct):
    """What every update has."""

    update_id: int


class Impostor(NetworkError):
    """Something on the way answers in Telegram's place."""

    def __init__(self, said: str) -> None:
        super().__init__(f"something else answers in Telegram's place: {said}")


class Client(HTTPXRequest):
    """Raises Impostor for what is not Telegram's answer; the library would take its status or body for one."""

    async def do_request(self, *args: Any, **kwargs: Any) -> tuple[int, bytes]:
        code, payload = await super().do_request(*args, **kwargs)
        if not _is_telegrams(code, payload):
            raise Impostor(f"HTTP status {code}")
        return code, payload


def _is_telegrams(code: int, payload: bytes) -> bool:
    try:
        answer = msgspec.json.decode(payload, type=Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return answer.ok == (200 <= code < 300) and (answer.result is not msgspec.UNSET or not answer.ok)


class Connection:
    """Use as `async with`. `bot` makes the calls; polling has a connection of its own."""

    def __init__(self, settings: Telegram) -> None:
        for name, level in QUIET.items():
            logging.getLogger(name).setLevel(level)
        proxy = settings.proxy or None
        try:
            self._calls = Client(connection_pool_size=32, proxy=proxy, read_timeout=15, connect_timeout=10)
            self._polls = Client(connection_pool_size=1, proxy=proxy)
        except (ValueError, RuntimeError, httpx.InvalidURL):
            raise ProxyInvalid from None
        self.bot = telegram.Bot(
            settings.token, base_url=settings.base_url, base_file_url=settings.base_file_url,
            request=self._calls, get_updates_request=self._polls,
        )  # fmt: skip

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:  # fmt: skip
        await self._calls.shutdown()
        await self._polls.shutdown()

    async def updates(self, offset: int | None, seconds: int) -> list[tuple[int, dict[str, Any]]]:
        """Polls for so many seconds. Updates by their numbers, unread: the library reads all of them or none."""
        asked = {"timeout": seconds, "allowed_updates": WANTED} | ({"offset": offset} if offset else {})
        address = f"{self.bot.base_url}/getUpdates?{urlencode(asked)}"
        result = await self._polls.post(address, read_timeout=seconds + MARGIN)
        try:
            raws = msgspec.convert(result, list[dict[str, Any]])
            return [(msgspec.convert(raw, Numbered).update_id, raw) for raw in raws]
        except msgspec.ValidationError:
            raise Impostor("these are no updates") from None

    async def renew_polling(self) -> None:
        """Polls from a new connection: the old one may be half open and stay silent."""
        await self._polls.shutdown()
        await self._polls.initialize()
