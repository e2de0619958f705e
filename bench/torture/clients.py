"""Programs that post to webhooks, as impatient and as stubborn as programs are.

Each message has its Idempotency-Key, and is posted with it again until the client knows how it ended; sometimes it
is posted twice at once, or once more when all is over. An answer that was lost is followed by its message's id.
"""

import asyncio
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import aiohttp

from bench.torture.history import Ask, Heard, Mode

TWICE, AGAIN, HOPELESS, HASTY = 0.15, 0.1, 0.03, 0.15  # shares of the messages
PATIENCE = 30.0  # seconds
MOST_OPEN = 2  # callbacks that a conversation waits for
FAILURE = "message_failed"


@dataclass(slots=True)
class Record:
    """What all users of a shard have sent and heard."""

    asks: list[Ask] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    told_back: set[str] = field(default_factory=set)  # ids of messages whose callbacks were acknowledged
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def ask(self, mode: Mode, conversation: str, source: str, *, hopeless: bool = False) -> Ask:
        """A new message; who sends it fills in the name."""
        number = next(self.numbers)
        ask = Ask(f"q{number}.", mode, conversation, source, f"key-{number}", time.time(), hopeless)
        self.asks.append(ask)
        return ask

    def text(self, ask: Ask) -> str:
        return f"{ask.marker} " + ("word " * 600 if ask.hopeless else f"Say something about {ask.conversation}.")


class Shop:
    """A webhook client with several conversations."""

    def __init__(self, name: str, key: str, urls: Callable[[], list[str]], record: Record, luck: random.Random) -> None:
        self._name = name
        self._urls = urls
        self._record = record
        self._luck = luck
        self._http = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {key}"}, connector=aiohttp.TCPConnector(limit=0)
        )
        self.closing = False

    async def close(self) -> None:
        await self._http.close()

    async def room(self, name: str, *modes: Mode, at_once: int = 1) -> None:
        """Talks in one conversation until it is told to close."""
        while not self.closing:
            asks = [self._new(name, self._luck.choice(modes)) for _ in range(at_once)]
            await asyncio.gather(*(self._converse(ask) for ask in asks))
            await asyncio.sleep(self._luck.uniform(0.0, 0.6))

    def _new(self, room: str, mode: Mode) -> Ask:
        hopeless = self._luck.random() < HOPELESS
        return self._record.ask(mode, room, f"webhook:{self._name}", hopeless=hopeless)

    async def _converse(self, ask: Ask) -> None:
        times = 2 if self._luck.random() < TWICE else 1
        await asyncio.gather(*(self._settle(ask) for _ in range(times)))
        if self._luck.random() < AGAIN:
            await self._settle(ask)
        while ask.mode == "callback" and not self.closing and self._waiting(ask.conversation) >= MOST_OPEN:  # noqa: ASYNC110
            await asyncio.sleep(0.1)

    def _waiting(self, room: str) -> int:
        told = self._record.told_back
        newest = (ask for ask in self._record.asks[-500:] if (ask.mode, ask.conversation) == ("callback", room))
        return sum(ask.told_id not in told for ask in newest)

    async def _settle(self, ask: Ask) -> None:
        """Posts until it is known how the message ended, or that it was accepted where a callback tells the rest."""
        lost = ""  # the id of a message whose answer was lost
        while True:
            try:
                seconds = self._luck.uniform(0.2, 1.5) if self._luck.random() < HASTY else PATIENCE
                async with asyncio.timeout(seconds):
                    if await (self._look(ask, lost) if lost else self._post(ask)):
                        return
            except (aiohttp.ClientError, TimeoutError):
                lost = ask.told_id if self._luck.random() < 0.5 else ""
            await asyncio.sleep(self._luck.uniform(0.1, 0.5))

    def _url(self) -> str:
        return f"{self._luck.choice(self._urls())}/webhooks/{self._name}"

    async def _post(self, ask: Ask) -> bool:
        body = {"text": self._record.text(ask), "conversation": ask.conversation, "reply": ask.mode}
        async with self._http.post(self._url(), json=body, headers={"Idempotency-Key": ask.name}) as response:
            if response.content_type == "text/event-stream":
                return await self._stream(ask, response)
            return self._heard(ask, response.status, await response.json())

    async def _look(self, ask: Ask, identifier: str) -> bool:
        async with self._http.get(f"{self._url()}/messages/{identifier}") as response:
            report = await response.json()
            if response.status == 200 and report["status"] == "failed":
                self._failed(ask, identifier)
                return True
            done = response.status == 200 and report["status"] == "done"
            return self._heard(ask, response.status, report) if done or response.status != 200 else False

    async def _stream(self, ask: Ask, response: aiohttp.ClientResponse) -> bool:
        event = said = ""
        async for line in response.content:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "event":
                event = value
            if name != "data":
                continue
            data = json.loads(value)
            match event:
                case "accepted":
                    self._accepted(ask, data["id"])
                case "delta":
                    said += data["text"]
                case "restarted":
                    said = ""
                case "done":
                    if not data["reply"]["text"].startswith(said.strip()):
                        self._record.refused.append(f"{ask.marker} was told {said!r} and then {data}")
                    return self._heard(ask, 200, data)
                case "error":
                    self._failed(ask, data["id"])
                    return True
        return False

    def _heard(self, ask: Ask, status: int, report: dict) -> bool:
        """Notes what an answer says; False where the client must go on asking."""
        if status >= 500:
            return False
        if status == 422 and report["error"]["code"] == FAILURE:
            self._failed(ask, ask.told_id)
            return True
        if status not in (200, 202):
            self._record.refused.append(f"{ask.marker} {status} {report}")
            return True
        self._accepted(ask, report["id"])
        if reply := report.get("reply"):
            self._record.heard.append(Heard(ask.marker, time.time(), report["id"], reply["text"]))
        return bool(reply) or ask.mode == "callback"

    def _accepted(self, ask: Ask, identifier: str) -> None:
        if ask.told_id and ask.told_id != identifier:
            self._record.refused.append(f"{ask.marker} was {ask.told_id} and is {identifier}")
        ask.told_id = identifier
        ask.accepted_at = ask.accepted_at or time.time()

    def _failed(self, ask: Ask, identifier: str) -> None:
        ask.accepted_at = ask.accepted_at or time.time()
        self._record.heard.append(Heard(ask.marker, time.time(), identifier, "", failed=True))
