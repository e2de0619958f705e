"""A line to a server that can be cut, or go dead: bytes are taken and nothing comes back."""

import asyncio
import contextlib
import threading
from typing import Literal, Self

Mode = Literal["open", "cut", "dead"]


class TcpProxy:
    """Listens on a port of its own, in a thread of its own. Use as `with`; `set` may be called from anywhere."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._mode: Mode = "open"
        self._lines: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp proxy", daemon=True)
        self.port = 0
        self.accepted = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def set(self, mode: Mode) -> None:
        """`cut` also ends the connections that there are; `dead` keeps them, silent."""
        self._call(self._change(mode))

    def _call(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _change(self, mode: Mode) -> None:
        self._mode = mode
        if mode == "cut":
            self._drop()

    def _drop(self) -> None:
        for line in list(self._lines):
            line.transport.abort()

    async def _close(self) -> None:
        self._server.close()
        self._drop()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self._mode == "cut":
            writer.transport.abort()
            return
        self._lines.add(writer)
        with contextlib.suppress(OSError):
            if self._mode == "dead":
                while await reader.read(65536):
                    pass
                return
            there, back = await asyncio.open_connection(*self._target)
            self._lines.add(back)
            await asyncio.gather(self._pass_on(reader, back), self._pass_on(there, writer))
            self._lines.discard(back)
        self._lines.discard(writer)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What comes while the line is dead is lost; a connection that has lost something ends with the silence."""
        lost = False
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                lost |= self._mode == "dead"
                if lost:
                    if self._mode == "open":
                        break
                    continue
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
