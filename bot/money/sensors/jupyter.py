"""Which kernels of the Jupyter servers on this machine compute.

Their terminals are pseudo-terminals of this machine, so that the logins' sensor sees them; it knows which of them
shows only this service's log.
"""

import asyncio
import errno
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec

from bot.errors import DswbotError
from bot.money.evidence import Signal
from bot.money.sensors.aside import Aside
from bot.money.sensors.jupyter_runtime import Server, running_servers
from bot.money.sensors.memory import LastUse
from bot.money.sensors.procfs import PROC

ANSWER = aiohttp.ClientTimeout(total=3)  # seconds
UNTRACKED = {"no_track_activity": "1"}  # asking must not look like use to whoever culls idle servers

T = TypeVar("T")


class Kernel(msgspec.Struct, frozen=True):
    """As `/api/kernels` tells it."""

    id: str
    execution_state: str = "unknown"
    last_activity: datetime | None = None


class Notebook(msgspec.Struct, frozen=True):
    """As `/api/sessions` tells it: what a kernel runs."""

    kernel: Kernel | None = None
    path: str = ""


class JupyterSilent(DswbotError):
    """A Jupyter server does not tell what its kernels do."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one server told. `reason`: of what is busy, or why that is not known."""

    busy: bool | None
    reason: str
    kernels: int = 0
    last_activity: datetime | None = None


class Kernels:
    """Whether a kernel computes. `folders`: where servers leave their runtime files."""

    name = "kernels"

    def __init__(self, folders: Sequence[Path], *, proc: Path = PROC) -> None:
        self._folders = folders
        self._proc = proc
        self._aside = Aside("jupyter")
        self._last_use = LastUse()

    async def look(self, at: datetime) -> Signal | None:
        """None where no server runs."""
        servers = await self._aside.run(lambda: running_servers(self._folders, self._proc))
        told = [seen for seen in await asyncio.gather(*map(_ask, servers)) if seen]
        last_used = self._last_use.seen(at, max((one.last_activity for one in told if one.last_activity), default=None))
        for seen in told:
            if seen.busy:
                return Signal(self.name, True, seen.reason, at, self._last_use.seen(at, at))
        for seen in told:
            if seen.busy is None:
                return Signal(self.name, None, seen.reason, at, last_used)
        count = sum(one.kernels for one in told)
        reason = f"no Jupyter kernel computes ({count} idle)" if count else "no Jupyter kernel runs"
        return Signal(self.name, False, reason, at, last_used) if told else None


async def _ask(server: Server) -> _Seen | None:
    """None where nothing listens any more: servers that are killed leave their files behind."""
    connector = aiohttp.UnixConnector(server.sock) if server.sock else aiohttp.TCPConnector()
    headers = {"Authorization": f"token {server.token}"} if server.token else {}
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=ANSWER) as session:
        try:
            kernels = await _get(session, server, "api/kernels", list[Kernel])
            return await _seen(session, server, kernels)
        except aiohttp.ClientConnectorError as error:
            if error.os_error.errno in (errno.ECONNREFUSED, errno.ENOENT):
                return None
            return _Seen(None, f"{server.label} can't be reached: {error.os_error.strerror or error}")
        except (aiohttp.ClientError, TimeoutError, JupyterSilent) as error:
            return _Seen(None, f"{server.label} does not tell: {str(error) or 'no answer'}")


async def _seen(session: aiohttp.ClientSession, server: Server, kernels: list[Kernel]) -> _Seen:
    last = max((kernel.last_activity for kernel in kernels if kernel.last_activity), default=None)
    if busy := {kernel.id for kernel in kernels if kernel.execution_state == "busy"}:
        return _Seen(True, f"{await _name(session, server, busy)} is running", len(kernels), last)
    if any(kernel.execution_state == "unknown" for kernel in kernels):
        return _Seen(None, f"{server.label} does not know what a kernel does", len(kernels), last)
    return _Seen(False, "", len(kernels), last)


async def _name(session: aiohttp.ClientSession, server: Server, busy: set[str]) -> str:
    """The notebook that a busy kernel runs, where one is told."""
    try:
        notebooks = await _get(session, server, "api/sessions", list[Notebook])
    except (aiohttp.ClientError, TimeoutError, JupyterSilent):  # only the name is missing
        notebooks = []
    names = [one.path for one in notebooks if one.kernel and one.kernel.id in busy and one.path]
    return names[0] if names else "a Jupyter kernel"


async def _get(session: aiohttp.ClientSession, server: Server, path: str, kind: type[T]) -> T:
    """Raises aiohttp.ClientError, TimeoutError or JupyterSilent."""
    # The token goes to this machine only: no redirect is followed, and certificates for localhost are self-signed.
    async with session.get(server.url + path, params=UNTRACKED, allow_redirects=False, ssl=False) as response:
        if response.status != 200:
            wants = ": it wants a password or another token" if response.status in (302, 401, 403) else ""
            raise JupyterSilent(f"it answers {response.status}{wants}")
        try:
            return msgspec.json.decode(await response.read(), type=kind)
        except msgspec.DecodeError as error:
            raise JupyterSilent(f"its answer makes no sense: {error}") from None
