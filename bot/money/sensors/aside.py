"""Blocking calls beside the event loop."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Aside:
    """Makes blocking calls, one at a time, in threads that no exit waits for.

    A driver or a network disk may hang for ever: then later calls wait behind that one, and hold nothing else up.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._under_way: asyncio.Future[object] | None = None

    async def run(self, call: Callable[[], T]) -> T:
        """What `call` returns or raises. Cancelled, it leaves the call to end by itself."""
        while self._under_way and not self._under_way.done():
            await asyncio.wait({self._under_way})
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be there to ask
        self._under_way = future  # type: ignore[assignment]  # only whether it is done matters here

        def target() -> None:
            try:
                settle, outcome = future.set_result, call()
            except BaseException as error:  # noqa: BLE001 - boundary: raised again where it is awaited
                settle, outcome = future.set_exception, error  # type: ignore[assignment]
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, outcome)

        threading.Thread(target=target, name=self._name, daemon=True).start()
        return await asyncio.shield(future)
