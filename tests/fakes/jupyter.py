"""A strict Jupyter server: what jupyter_server 2 answers under /api to who knows the token, with faults on request.

Like the real one it counts every call as use, unless that asks it not to with `no_track_activity`; /api/status never.
"""

import asyncio
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from aiohttp import web

VERSION = "2.21.1"


def stamp(time: datetime) -> str:
    """As Jupyter writes it."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


@dataclass
class FakeKernel:
    """A kernel; with `notebook` set, the one of that notebook."""

    id: str
    state: str = "idle"
    last_activity: datetime = field(default_factory=lambda: datetime.now(UTC))
    notebook: str = ""

    def model(self) -> dict[str, object]:
        return {
            "id": self.id, "name": "python3", "last_activity": stamp(self.last_activity),
            "execution_state": self.state, "connections": 1,
        }  # fmt: skip


@dataclass
class Faults:
    """What goes wrong, until set back."""

    status: int | None = None
    hangs: bool = False
    body: bytes | None = None


@dataclass
class FakeJupyter:
    """Start it with `async with`; `write` leaves its runtime file."""

    token: str = "6f1d0c"
    base_url: str = "/dsw-1/"
    kernels: list[FakeKernel] = field(default_factory=list)
    faults: Faults = field(default_factory=Faults)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    api_activity: datetime | None = None  # the newest call that counted as use
    asked: list[str] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._gate])
        app.router.add_get(f"{self.base_url}api/status", self._status)
        app.router.add_get(f"{self.base_url}api/kernels", self._kernels)
        app.router.add_get(f"{self.base_url}api/sessions", self._sessions)
        app.router.add_get(f"{self.base_url}api/terminals", self._terminals)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port: int = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def write(self, folder: Path, pid: int, **other: object) -> Path:
        """The file that a server leaves when it starts."""
        folder.mkdir(parents=True, exist_ok=True)
        info = {
            "base_url": self.base_url, "hostname": "localhost", "password": False, "pid": pid, "port": self.port,
            "root_dir": "/mnt/workspace", "secure": False, "sock": "", "token": self.token,
            "url": f"http://localhost:{self.port}{self.base_url}", "version": VERSION,
        }  # fmt: skip
        path = folder / f"jpserver-{pid}.json"
        path.write_text(json.dumps({**info, **other}, indent=2, sort_keys=True), encoding="utf-8")
        return path

    @web.middleware
    async def _gate(self, request: web.Request, handler: object) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        given = request.headers.get("Authorization", "").removeprefix("token ") or request.query.get("token")
        if self.faults.hangs:
            await asyncio.sleep(60)
        if self.token and given != self.token:
            return web.json_response({"message": "Forbidden", "reason": None}, status=403)
        if self.faults.status:
            return web.json_response({"message": "fault", "reason": None}, status=self.faults.status)
        if "no_track_activity" not in request.query and not request.path.endswith("/api/status"):
            self.api_activity = datetime.now(UTC)
        if self.faults.body is not None:
            return web.Response(body=self.faults.body, content_type="application/json")
        return await handler(request)  # type: ignore[operator]

    async def _status(self, _: web.Request) -> web.Response:
        last = max(
            [self.started, *(kernel.last_activity for kernel in self.kernels), self.api_activity or self.started]
        )
        return web.json_response(
            {
                "connections": len(self.kernels), "kernels": len(self.kernels), "last_activity": stamp(last),
                "started": stamp(self.started),
            }
        )  # fmt: skip

    async def _kernels(self, _: web.Request) -> web.Response:
        return web.json_response([kernel.model() for kernel in self.kernels])

    async def _sessions(self, _: web.Request) -> web.Response:
        return web.json_response(
            [
                {
                    "id": f"session-of-{kernel.id}", "path": kernel.notebook, "name": Path(kernel.notebook).name,
                    "type": "notebook", "kernel": kernel.model(),
                    "notebook": {"path": kernel.notebook, "name": Path(kernel.notebook).name},
                }
                for kernel in self.kernels
                if kernel.notebook
            ]
        )  # fmt: skip

    async def _terminals(self, _: web.Request) -> web.Response:
        return web.json_response([])
