"""A worker's process: started with nothing secret in its environment, spoken to over a private Unix socket."""

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from inference import protocol as p
from inference.errors import EngineUnavailable

WORKER = ("inference.worker",)
DIAL_TIMEOUT = 60.0  # seconds from the start of the process to its call
KEEPING = 2.5  # seconds that a worker may take to put its conversations on disk when the service stops
SECRET_PREFIXES = ("DSWBOT_", "ALIBABA_CLOUD_", "ALIBABACLOUD_", "OPENAI_", "MODELSCOPE_")


class Link:
    """The connection to one living worker."""

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self.loaded = False
        self._reader = reader
        self._writer = writer

    def send(self, command: p.Command) -> None:
        if not self._writer.is_closing():
            self._writer.write(p.frame(command))

    async def reports(self) -> AsyncIterator[p.Report]:
        """What the worker says, until it dies."""
        while body := await p.read_body(self._reader):
            yield p.report_decoder.decode(body)

    def hang_up(self) -> None:
        self._writer.close()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(SECRET_PREFIXES)}


@contextlib.asynccontextmanager
async def _listening() -> AsyncIterator[
    tuple[str, "asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]"]
]:
    """A Unix socket for exactly one caller, in a directory of its own (0700)."""
    directory = tempfile.mkdtemp(prefix="dswbot-")
    caller: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Future()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if caller.done():
            writer.close()
        else:
            caller.set_result((reader, writer))

    path = str(Path(directory) / "worker.sock")
    server = await asyncio.start_unix_server(accept, path)
    try:
        yield path, caller
    finally:
        server.close()
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.asynccontextmanager
async def worker_process(worker: tuple[str, ...]) -> AsyncIterator[Link]:
    """A running worker that has dialled in; it is gone when the block ends."""
    async with _listening() as (path, caller):
        # -P: a file in the working directory must not stand in for a module of ours
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", *worker, path,
            stdin=asyncio.subprocess.DEVNULL, env=_environment(), start_new_session=True,
        )  # fmt: skip
        died = asyncio.create_task(process.wait(), name="worker exit")
        link = None
        try:
            first: list[asyncio.Future[Any]] = [died, caller]
            await asyncio.wait(first, timeout=DIAL_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
            if not caller.done():
                raise EngineUnavailable("The model's process does not start; its output above says why.")
            link = Link(process.pid, *caller.result())
            yield link
        except asyncio.CancelledError:
            if link and link.loaded:  # the service stops: the worker may keep its conversations
                link.send(p.Stop())
                await asyncio.wait({died}, timeout=KEEPING)
            raise
        finally:
            if link:
                link.hang_up()
            await _end(process, died)


async def _end(process: asyncio.subprocess.Process, died: "asyncio.Task[int]") -> None:
    """A worker leaves when the line is cut; one that can't (stopped, stuck in a driver) is killed."""
    await asyncio.wait({died}, timeout=1.0)
    if not died.done():
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    await died
