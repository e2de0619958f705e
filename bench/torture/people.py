"""Those who write on Telegram: they do not wait for an answer before they write the next message."""

import asyncio
import random

from bench.torture.clients import HOPELESS, Record
from tests.fakes.telegram import FakeTelegram

BOT = "123"
TOKEN = f"{BOT}:abc"
CHATS = (1001, 1002, 1003)
MOST_OPEN = 3  # questions that somebody waits for
COMMANDS = {"/help": 0.12, "/start": 0.02, "/stop": 0.02, "/new": 0.02}  # shares of what they write


class People:
    """One private chat each."""

    def __init__(self, telegram: FakeTelegram, record: Record, luck: random.Random) -> None:
        self._telegram = telegram
        self._record = record
        self._luck = luck
        self.closing = False

    async def chat(self, user: int) -> None:
        """Writes until told to close."""
        while not self.closing:
            if self._open(user) < MOST_OPEN:
                self._write(user)
            await asyncio.sleep(self._luck.uniform(0.2, 2.0))

    def _open(self, user: int) -> int:
        """About how many messages have no answer yet."""
        asked = answered = 0
        for message in self._telegram.chat(user)[-40:]:
            asked += message.sender != "bot"
            answered += message.sender == "bot" and message.text != "…"
        return asked - answered

    def _write(self, user: int) -> None:
        luck = self._luck.random()
        command = next((one for one in COMMANDS if (luck := luck - COMMANDS[one]) < 0), "")
        self.write(user, command, hopeless=not command and self._luck.random() < HOPELESS)

    def write(self, user: int, command: str = "", *, hopeless: bool = False) -> None:
        """Sends a command, a question, or one that can't be answered; unless everybody has left."""
        if self.closing:
            return
        ask = self._record.ask("command" if command else "telegram", str(user), "telegram", hopeless=hopeless)
        text = self._record.text(ask)
        update = self._telegram.user_sends(f"{command} {text}".strip() if command else text, user_id=user)
        ask.name = f"{BOT}:{update}"
