"""A machine at home or in another cloud: a configured program stops it, and nothing else is known of it."""

import asyncio
import os
import signal
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import BinaryIO

from bot.money.instance import CallFailed, Culler, Subscription, Usage, View
from storage.timeline import Lived, Price

LIMIT = 60.0  # seconds
TAIL = 4096  # bytes of its output, of which the last line is told


class StopCommand:
    """`argv`: the program and its arguments; there is no shell. `limit`: seconds that it may take.

    It is told DSWBOT_INSTANCE and DSWBOT_REASON in its environment, and none of the service's settings.
    `reason`: why the machine is stopped; may be set before each stop.
    """

    def __init__(self, argv: Sequence[str], instance: str, *, limit: float = LIMIT) -> None:
        self._argv = tuple(argv)
        self._instance = instance
        self._limit = limit
        self.reason = "idle"

    @property
    def instance(self) -> str:
        return self._instance

    async def stop(self) -> None:
        """Returns when the program has ended well. One that takes too long is killed, with all that it started."""
        with tempfile.TemporaryFile() as output:  # not a pipe, which what it leaves running would keep open
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._argv, env=self._environment(), stdin=asyncio.subprocess.DEVNULL,
                    stdout=output, stderr=output, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise CallFailed(f"the stop command {self._argv[0]} can't be run: {error.strerror}") from None
            await self._finish(process)
            if process.returncode:
                raise CallFailed(f"the stop command failed (exit code {process.returncode}): {_last_line(output)}")

    async def _finish(self, process: asyncio.subprocess.Process) -> None:
        try:
            async with asyncio.timeout(self._limit):
                await process.wait()
        except TimeoutError:
            raise CallFailed(f"the stop command was killed: it took more than {self._limit:g} s") from None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DSWBOT_")}
        return inherited | {"DSWBOT_INSTANCE": self._instance, "DSWBOT_REASON": self.reason}

    # What only DSW can do

    async def view(self) -> View:
        return View(None)

    async def lived(self, since: datetime) -> Sequence[Lived]:
        return ()

    async def usage(self, since: datetime) -> Usage | None:
        return None

    async def price(self, spec: str) -> Price | None:
        return None

    async def stock(self, spec: str) -> bool | None:
        return None

    async def subscription(self) -> Subscription | None:
        return None

    async def save(self, name: str) -> None:
        raise CallFailed("only a DSW instance's image can be saved: set dsw.save_image to false")

    async def start(self) -> None:
        raise CallFailed("only DSW instances can be started: start it by hand")

    async def arm(self, after: timedelta) -> None:
        raise CallFailed("only DSW instances have a shutdown timer")

    async def disarm(self) -> None:
        """There is none."""

    async def guard(self, culler: Culler | None) -> None:
        if culler:
            raise CallFailed("only DSW instances have an idle rule")


def _last_line(output: BinaryIO) -> str:
    output.seek(max(output.seek(0, os.SEEK_END) - TAIL, 0))
    lines = output.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip()[:200] if lines else "it printed nothing"
