"""A conversation in the terminal, over `/v1/chat/completions` like any other client's."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
from prompt_toolkit import PromptSession
from rich.console import Console

from bot import app
from bot.app import Running, opened_database
from bot.clock import now
from bot.config import Settings
from bot.errors import DswbotError
from storage import keys

KEY_NAME = "terminal"
DEMO = "embedded"  # too small to know when to end


class Delta(msgspec.Struct):
    content: str = ""
    reasoning_content: str = ""


class Choice(msgspec.Struct):
    delta: Delta


class ErrorText(msgspec.Struct):
    message: str


class Event(msgspec.Struct):
    """What the terminal needs of a chunk, of a model list or of an error."""

    choices: list[Choice] = []
    error: ErrorText | None = None


class Entry(msgspec.Struct):
    id: str


class Models(msgspec.Struct):
    data: list[Entry]


class Message(msgspec.Struct):
    role: str
    content: str


class Call(msgspec.Struct):
    model: str
    messages: list[Message]
    max_tokens: int | None
    stream: bool = True


class Unreachable(DswbotError):
    """No service answers there: start one with `dswbot serve`, or leave out --url."""


async def own_key(settings: Settings) -> str:
    """This machine's key for the terminal, made on first use and kept private beside the database."""
    path = settings.data / "terminal.key"
    async with opened_database(settings) as db:
        with contextlib.suppress(FileNotFoundError):
            key = path.read_text().strip()
            async with db.read() as session:
                if await keys.authenticate(session, key):
                    return key
        async with db.write() as session:
            key = await keys.create_key(session, f"{KEY_NAME}-{os.urandom(3).hex()}", "chat", now=now())
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key)
    return key


@asynccontextmanager
async def a_service(settings: Settings, url: str, key: str) -> AsyncIterator[tuple[str, str]]:
    """(URL, key) of a service: the one asked for, the one that runs here, or one of our own for as long as needed."""
    local = f"http://{settings.server.host}:{settings.server.port}"
    if url:
        yield url.rstrip("/"), key
        return
    key = key or await own_key(settings)
    if await _answers(local, key):
        yield local, key
        return
    ready: asyncio.Future[Running] = asyncio.get_running_loop().create_future()
    private = msgspec.structs.replace(settings, server=msgspec.structs.replace(settings.server, port=0))
    stop = asyncio.Event()
    service = asyncio.create_task(app.serve(private, ready.set_result, stop, telegram=False), name="own service")
    try:
        first: list[asyncio.Future[Any]] = [service, ready]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if service.done():
            service.result()
        yield ready.result().url, key
    finally:
        stop.set()
        await asyncio.wait({service})


async def _answers(url: str, key: str) -> bool:
    """Whether a service of this data directory listens there."""
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as http:
            async with http.get(f"{url}/v1/models", timeout=aiohttp.ClientTimeout(2)) as response:
                return response.status == 200
    return False


class Terminal:
    """One conversation. The history lives here; what is stopped stays in it as far as it was said."""

    def __init__(self, http: aiohttp.ClientSession, model: str, system: str) -> None:
        self._http = http
        self._model = model
        self._messages = [Message("system", system)] if system else []
        self._out = Console(highlight=False)
        self._prompt: PromptSession[str] | None = PromptSession() if sys.stdin.isatty() else None

    async def converse(self) -> None:
        """Reads and answers until Ctrl-D."""
        self._out.print(f"[dim]{self._model}. Ctrl-C stops an answer, Ctrl-D leaves.[/dim]")
        if self._model == DEMO:
            self._out.print("[dim]This small model only shows that everything works; "
                            "for a real one: dswbot model pull qwen3-4b[/dim]")  # fmt: skip
        while (text := await self._ask()) is not None:
            if text:
                self._messages.append(Message("user", text))
                self._messages.append(Message("assistant", await self._stoppable()))

    async def _ask(self) -> str | None:
        """What is typed next; None at the end. Ctrl-C empties the line, as in a shell."""
        try:
            if self._prompt:
                return (await self._prompt.prompt_async("\n> ")).strip()
            line = await asyncio.to_thread(sys.stdin.readline)  # a pipe
            return line.strip() if line else None
        except KeyboardInterrupt:
            return ""
        except EOFError:
            return None

    async def _stoppable(self) -> str:
        said: list[str] = []
        answer = asyncio.create_task(self._answer(said), name="answer")
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, answer.cancel)
        try:
            await asyncio.wait({answer})
            if answer.cancelled():
                self._out.print(" [dim](stopped)[/dim]")
            elif error := answer.exception():
                raise error
        finally:
            loop.remove_signal_handler(signal.SIGINT)
        return "".join(said)

    async def _answer(self, said: list[str]) -> None:
        call = Call(self._model, self._messages, 256 if self._model == DEMO else None)
        async with self._http.post("v1/chat/completions", data=msgspec.json.encode(call)) as response:
            if response.status != 200:
                raise DswbotError(_complaint(await response.read()))
            thinking = False
            async for line in response.content:
                if line.startswith(b"data: {"):
                    thinking = self._show(line[6:], said, thinking=thinking)
        self._out.print()

    def _show(self, data: bytes, said: list[str], *, thinking: bool) -> bool:
        """Prints one event; returns whether the model is still thinking."""
        event = msgspec.json.decode(data, type=Event)
        if event.error:
            raise DswbotError(event.error.message)
        for choice in event.choices:
            if choice.delta.reasoning_content:
                self._print(choice.delta.reasoning_content, style="dim")
                thinking = True
            if choice.delta.content:
                if thinking:
                    self._out.print("\n")
                thinking = False
                said.append(choice.delta.content)
                self._print(choice.delta.content)
        return thinking

    def _print(self, text: str, style: str = "") -> None:
        self._out.print(text, end="", style=style, markup=False, soft_wrap=True)
        sys.stdout.flush()


def _complaint(body: bytes) -> str:
    try:
        event = msgspec.json.decode(body, type=Event)
    except msgspec.MsgspecError:
        event = Event()
    return event.error.message if event.error else "The service gave an answer that can't be read."


async def talk(settings: Settings, *, url: str, key: str, system: str) -> None:
    """Holds a conversation with a service, which is started if need be."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    async with a_service(settings, url, key) as (base, token):
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        async with aiohttp.ClientSession(f"{base}/", headers=headers, timeout=timeout) as http:
            try:
                async with http.get("v1/models") as response:
                    if response.status != 200:
                        raise DswbotError(_complaint(await response.read()))
                    models = msgspec.json.decode(await response.read(), type=Models)
                await Terminal(http, models.data[0].id, system).converse()
            except aiohttp.ClientError as error:
                raise Unreachable from error
